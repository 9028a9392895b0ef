"""A Python that plays a device with a GPU: libcuda is the scripted driver. Python reads this as it starts."""

from __future__ import annotations

import ctypes
import importlib.util
from pathlib import Path
from typing import Any

_load = ctypes.CDLL


def _library(name: Any, *arguments: Any, **options: Any) -> Any:
    if name != "libcuda.so.1":
        return _load(name, *arguments, **options)
    path = Path(__file__).parents[1] / "fake_cuda.py"
    spec = importlib.util.spec_from_file_location("fake_cuda", path)
    if spec is None or spec.loader is None:
        raise ImportError(f"cannot import {path}")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.FakeDriver()


ctypes.CDLL = _library  # type: ignore[assignment,misc]

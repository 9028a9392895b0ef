"""The runtimes that serve an artefact: one row each, imported only when one is used.

A row names the file that runs on the device (`ort.py`, `ov.py`, `trt.py`: standard library, numpy and the
runtime, nothing of edgeprune), what it loads and how it is installed. To add one: write the session
file with a `Runner` like its neighbours, add the row here and in `devices.agent.SESSIONS`, add the
extra in pyproject.toml. `tests/runtimes/test_contract.py` then tests it by itself.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

from edgeprune.errors import InputError, MissingExtraError


@dataclass(frozen=True)
class Runtime:
    """One runtime.

    file: the session file beside this one that runs on the device.
    suffix: of the artefact that edgeprune writes for it.
    accepts: suffixes it can load.
    imports: the module whose import proves that it is installed.
    extra: of edgeprune, that installs it.
    beside: other files that the session file needs on the device.
    host: runtimes that the host needs instead of this one, when the device builds its own engine: where the
        export is proven equal, and where the build is proven without a GPU.
    """

    name: str
    file: str
    suffix: str
    accepts: tuple[str, ...]
    imports: str
    extra: str
    beside: tuple[str, ...] = ()
    host: tuple[str, ...] = ()

    @property
    def path(self) -> Path:
        return Path(__file__).parent / self.file

    @property
    def pip(self) -> str:
        """The line that installs it."""
        return f"pip install 'edgeprune[{self.extra}]'"


_TENSORRT = ("gpu.py", "trt_build.py", "trt_layers.py")
_ROWS = (
    Runtime("onnxruntime", "ort.py", ".onnx", (".onnx",), "onnxruntime", "ort"),
    Runtime("openvino", "ov.py", ".xml", (".onnx", ".xml"), "openvino", "openvino"),
    Runtime(
        *("tensorrt", "trt.py", ".onnx", (".onnx", ".plan"), "tensorrt", "tensorrt"),
        beside=_TENSORRT,
        host=("onnxruntime", "tensorrt-rtx"),
    ),
    Runtime(
        *("tensorrt-rtx", "trt.py", ".onnx", (".onnx", ".plan"), "tensorrt_rtx_bindings", "rtx"),
        beside=_TENSORRT,
        host=("onnxruntime", "tensorrt-rtx"),
    ),
)
TABLE: Mapping[str, Runtime] = MappingProxyType({row.name: row for row in _ROWS})


def find(name: str) -> Runtime:
    """The row of `name`. Raises `InputError` when there is none."""
    if name not in TABLE:
        raise InputError(f"There is no runtime {name!r}.", f"Choose one of: {', '.join(TABLE)}.")
    return TABLE[name]


def version(name: str) -> str | None:
    """The version of a runtime in this interpreter, found by importing it; None when it does not import."""
    try:
        module = importlib.import_module(find(name).imports)
    except ImportError:
        return None
    return str(getattr(module, "__version__", "unknown")).split("-")[0]  # OpenVINO appends its build


def require(name: str) -> str:
    """The version of a runtime that must be here. Raises `MissingExtraError` with the pip line."""
    found = version(name)
    if found is None:
        raise MissingExtraError(f"{name} is not installed in this Python.", f"Run: {find(name).pip}")
    return found


def require_host(name: str) -> None:
    """Raise `MissingExtraError` when this Python lacks what fitting for a runtime needs."""
    for needed in find(name).host or (name,):
        require(needed)


__all__ = ["TABLE", "Runtime", "find", "require", "require_host", "version"]

"""Fixtures that several rooms share."""

from __future__ import annotations

import importlib.util
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import hypothesis
import pytest

# How long an example takes says something about the machine's other work, nothing about the example.
hypothesis.settings.register_profile("untimed", deadline=None)
hypothesis.settings.load_profile("untimed")
# pytest-xdist tells its workers a narrow terminal; what is printed without one is wider.
os.environ.pop("COLUMNS", None)

SUPPORT = Path(__file__).parent / "support"


def load_support(name: str) -> ModuleType:
    """Import tests/support/NAME.py; tests are no package, so it has no import path of its own."""
    full = f"edgeprune_tests_{name}"
    if full not in sys.modules:
        spec = importlib.util.spec_from_file_location(full, SUPPORT / f"{name}.py")
        if spec is None or spec.loader is None:
            raise ImportError(f"there is no tests/support/{name}.py")
        module = importlib.util.module_from_spec(spec)
        sys.modules[full] = module
        spec.loader.exec_module(module)
    return sys.modules[full]


@pytest.fixture(scope="session", autouse=True)
def cache_folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """No test reads or writes the user's own cache."""
    folder = tmp_path_factory.mktemp("cache")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(folder))
        yield folder


@pytest.fixture(scope="session")
def scripted() -> ModuleType:
    """tests/support/scripted.py: `scripted.ScriptedDevice` plays a device without a process or a clock."""
    return load_support("scripted")


@pytest.fixture(scope="session")
def tiny() -> ModuleType:
    """tests/support/tiny.py: a task on real digits that fits in seconds."""
    return load_support("tiny")


@pytest.fixture(scope="session")
def stored() -> ModuleType:
    """tests/support/stored.py: keys of stored records, beside those that a schema promises to read."""
    return load_support("stored")


@pytest.fixture(scope="session")
def throwaway_sshd() -> ModuleType:
    """tests/support/throwaway_sshd.py: an sshd of our own on the loopback interface."""
    return load_support("throwaway_sshd")


@pytest.fixture(scope="session")
def small_onnx() -> ModuleType:
    """tests/support/small_onnx.py: ONNX files made by hand, with what they compute in numpy."""
    return load_support("small_onnx")


@pytest.fixture(scope="session")
def nets() -> ModuleType:
    """tests/support/nets.py: small networks that hold what export and INT8 must carry."""
    return load_support("nets")


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real data sets, $EDGEPRUNE_DATA or ../shared/data beside the checkout; skips without."""
    folder = Path(os.environ.get("EDGEPRUNE_DATA", Path(__file__).parents[2] / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip(f"shared_data: no folder of data sets at {folder} (set EDGEPRUNE_DATA)")
    return folder


@pytest.fixture
def make_run(tmp_path: Path) -> Callable[..., Any]:
    """`make_run(budget=...)`: a run folder as fit leaves it, of tests/support/runs.py."""
    return lambda **options: load_support("runs").make_run(tmp_path / "tiny", **options)


@pytest.fixture(scope="session")
def networks() -> ModuleType:
    """tests/support/networks.py: random small networks."""
    return load_support("networks")


@pytest.fixture(scope="session")
def references() -> ModuleType:
    """tests/support/references.py: what a cut must equal, computed on the dense graph."""
    return load_support("references")


@pytest.fixture(scope="session")
def fake_cuda() -> ModuleType:
    """tests/support/fake_cuda.py: libcuda played in this process."""
    return load_support("fake_cuda")

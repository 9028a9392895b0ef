"""Fixtures that several rooms share, and the order of files.

Helpers are modules of tests.support: `pythonpath` in pyproject.toml holds the folder above. Those that need
torch are imported by the fixtures here, so that a lab machine's tests run without it.
"""

from __future__ import annotations

import gc
import os
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

# By CPU seconds. They begin first, or one process would work on them alone long after the others are done.
LONGEST = (
    "tests/test_zoo.py",
    "tests/fitting/test_killed.py",
    "tests/fitting/test_roads.py",
    "tests/fitting/test_loop.py",
    "tests/cli/test_fit.py",
    "tests/fitting/test_dense_forms.py",
    "tests/fitting/trials/test_lost_layers.py",
    "tests/quantize/simulate/test_written.py",
    "tests/fitting/test_tiers.py",
    "tests/recover/test_workers.py",
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    rank = {name: place for place, name in enumerate(LONGEST)}
    items.sort(key=lambda item: rank.get(item.nodeid.split("::")[0], len(rank)))


def pytest_collection_finish() -> None:
    """What was imported stays, and torch.export makes objects by the million: gc took a tenth of the time."""
    gc.freeze()
    gc.set_threshold(50_000, 20, 100)


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
    from tests.support import scripted

    return scripted


@pytest.fixture(scope="session")
def tiny() -> ModuleType:
    """tests/support/tiny.py: a task on real digits that fits in seconds."""
    from tests.support import tiny

    return tiny


@pytest.fixture(scope="session")
def stored() -> ModuleType:
    """tests/support/stored.py: keys of stored records, beside those that a schema promises to read."""
    from tests.support import stored

    return stored


@pytest.fixture(scope="session")
def throwaway_sshd() -> ModuleType:
    """tests/support/throwaway_sshd.py: an sshd of our own on the loopback interface."""
    from tests.support import throwaway_sshd

    return throwaway_sshd


@pytest.fixture(scope="session")
def small_onnx() -> ModuleType:
    """tests/support/small_onnx.py: ONNX files made by hand, with what they compute in numpy."""
    from tests.support import small_onnx

    return small_onnx


@pytest.fixture(scope="session")
def nets() -> ModuleType:
    """tests/support/nets.py: small networks that hold what export and INT8 must carry."""
    from tests.support import nets

    return nets


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
    from tests.support import runs

    return lambda **options: runs.make_run(tmp_path / "tiny", **options)


@pytest.fixture(scope="session")
def networks() -> ModuleType:
    """tests/support/networks.py: random small networks."""
    from tests.support import networks

    return networks


@pytest.fixture(scope="session")
def pyramids() -> ModuleType:
    """tests/support/pyramids.py: small U-Nets and feature pyramids."""
    from tests.support import pyramids

    return pyramids


@pytest.fixture(scope="session")
def references() -> ModuleType:
    """tests/support/references.py: what a cut must equal, computed on the dense graph."""
    from tests.support import references

    return references


@pytest.fixture(scope="session")
def calls() -> ModuleType:
    """tests/support/calls.py: random calls of an ATen operation."""
    from tests.support import calls

    return calls


@pytest.fixture(scope="session")
def fake_cuda() -> ModuleType:
    """tests/support/fake_cuda.py: libcuda played in this process."""
    from tests.support import fake_cuda

    return fake_cuda


@pytest.fixture(scope="module")
def exports_once() -> Iterator[None]:
    """tests/support/exports.py: no program is translated to ONNX twice in this process."""
    from tests.support import exports

    with pytest.MonkeyPatch.context() as patch:
        exports.remember(patch.setattr)
        yield


@pytest.fixture(scope="session")
def doors() -> ModuleType:
    """tests/support/doors.py: the command line's help and the document that follow the tables."""
    from tests.support import doors

    return doors

"""What fits in these tests find must depend neither on the processor that they run on nor on each other."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest


@pytest.fixture(scope="module", autouse=True)
def every_export_once(exports_once: None) -> None:
    """Fits of one network under many budgets try the same candidates."""


@pytest.fixture(scope="module", autouse=True)
def exact_processor() -> Iterator[None]:
    """A processor with VNNI: 7-bit forms are not tried. Scripted devices compute exactly anyway."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("edgeprune.fitting.dense_forms.saturates", lambda isa: False)
        yield


@pytest.fixture(scope="module", autouse=True)
def no_table_of_another_module(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Scripted devices have one name and different times: what one has measured is wrong for the next."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(autouse=True)
def no_table_of_another_test(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "own cache"))

"""The cache of latency tables: measured once, and again when it cannot be trusted."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from edgeprune.latency.cache import TABLE_VERSION, Key, cached
from edgeprune.latency.curves import LatencyTable, Row, Whole

KEY = Key("local: Some CPU, Linux", "onnxruntime 1.0", "int8", 1, 1, "abc")
TABLE = LatencyTable((Row("Conv 1", "conv1", 8, 16, 0.25),), (Whole((("conv1", 16),), 0.3),))


@pytest.fixture(autouse=True)
def own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))


def _ask(key: Key = KEY) -> tuple[LatencyTable, int, list[str]]:
    """The table, how often it was measured for that, and what was told."""
    measured, told = [], []

    def measure() -> LatencyTable:
        measured.append(key)
        return TABLE

    return cached(key, measure, told.append), len(measured), told


def test_a_table_is_measured_once() -> None:
    assert _ask() == (TABLE, 1, [])
    assert _ask() == (TABLE, 0, [])


@pytest.mark.parametrize(
    "other",
    [
        replace(KEY, device="other"),
        replace(KEY, runtime="onnxruntime 2.0"),
        replace(KEY, precision="float32"),
        replace(KEY, threads=2),
        replace(KEY, batch=2),
        replace(KEY, model="abd"),
    ],
    ids=["device", "runtime", "precision", "threads", "batch", "model"],
)
def test_another_key_is_another_table(other: Key) -> None:
    _ask()
    assert _ask(other) == (TABLE, 1, [])


@pytest.mark.parametrize("damage", [b"", b"{", b"[]", b'{"version": 1}', b"\xff\x00"])
def test_a_damaged_table_is_measured_again_with_a_sentence(damage: bytes) -> None:
    _ask()
    KEY.path.write_bytes(damage)
    table, measured, told = _ask()
    assert (table, measured) == (TABLE, 1)
    assert len(told) == 1
    assert "damaged and is measured again" in told[0]
    assert _ask() == (TABLE, 0, [])


def test_a_table_of_another_version_is_measured_again_with_a_sentence() -> None:
    _ask()
    KEY.path.write_bytes(
        KEY.path.read_bytes().replace(b'"version":%d' % TABLE_VERSION, b'"version":%d' % (TABLE_VERSION + 1))
    )
    _, measured, told = _ask()
    assert measured == 1
    assert "another version" in told[0]


def test_a_cache_that_cannot_be_written_only_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    table, measured, told = _ask()
    assert (table, measured) == (TABLE, 1)
    assert "not kept" in told[0]

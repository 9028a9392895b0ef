"""The error bars of predictions are the spreads of docs/predicted.md, row by row."""

from __future__ import annotations

from pathlib import Path

import pytest

from edgeprune.runtimes import TABLE

DOCS = Path(__file__).parents[2] / "docs" / "predicted.md"

pytestmark = pytest.mark.skipif(not DOCS.is_file(), reason="docs/predicted.md is not beside the tests")
# Columns of the table: the model, then measured ms, ratio of latencies, ratio of memories for each runtime.
COLUMNS = {"onnxruntime": (2, 3), "openvino": (5, 6)}


def ratios(column: int) -> list[float]:
    rows = [line.strip("| \n").split(" | ") for line in DOCS.read_text().splitlines() if line.startswith("|")]
    found = [float(row[column]) for row in rows if len(row) == 7 and row[1].replace(".", "").isdigit()]
    assert len(found) == 22
    return found


@pytest.mark.parametrize("runtime", COLUMNS)
def test_the_error_bar_of_a_row_is_the_spread_of_its_column(runtime: str) -> None:
    attained = TABLE[runtime].attained
    assert attained is not None
    latency, memory = (ratios(column) for column in COLUMNS[runtime])
    assert attained.latency_off == (min(latency), max(latency))
    assert attained.memory_off == (min(memory), max(memory))


def test_what_was_not_measured_is_thought_no_better_than_what_was() -> None:
    known = [TABLE[runtime].attained for runtime in COLUMNS]
    for row in TABLE.values():
        if row.attained is None or row.attained in known:
            continue
        for off in ("latency_off", "memory_off"):
            least, most = zip(*(getattr(each, off) for each in known), strict=True)
            assert getattr(row.attained, off) == (min(least), max(most)), (row.name, off)
        assert row.attained.borrowed, row.name
    assert not any(each.borrowed for each in known if each is not None)


def test_every_spread_holds_the_figure_itself() -> None:
    for row in TABLE.values():
        if row.attained is not None:
            assert row.attained.latency_off[0] < 1 < row.attained.latency_off[1]
            assert row.attained.memory_off[0] < 1 < row.attained.memory_off[1]

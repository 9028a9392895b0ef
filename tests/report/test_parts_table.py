"""Whole queries are shown part by part: in the tables, on the page, in the model card."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from edgeprune.bundle import open_bundle
from edgeprune.records.machine import Budget
from edgeprune.records.trial import FitResult
from edgeprune.records.whole_query import PartTimes, WholeQueries
from edgeprune.report import parts_table, verdict_lines
from edgeprune.report.asked import budget_words
from edgeprune.report.html.sections import latency_section
from edgeprune.report.parts_table import parts_rows

BUDGET = Budget(latency_ms=16.0, whole_ms=20.0, percentile=90)


def queries(name: str, after: PartTimes | None = None) -> WholeQueries:
    return WholeQueries(
        name=name,
        before=PartTimes(3.0, 3.5),
        model=PartTimes(8.0, 9.0),
        after=after,
        whole=PartTimes(11.5, 12.25),
        percentile=90,
        bound_ms=12.5,
        beside_ms=3.75,
        runs=662,
    )


@pytest.fixture
def run(make_run: Callable[..., Any]) -> Any:
    found = make_run(budget=BUDGET)
    result = found.result
    chosen = replace(
        result.chosen, measurement=replace(result.chosen.measurement, whole=queries(result.chosen.name))
    )
    whole = (queries("dense", PartTimes(0.5, 0.75)), queries(chosen.name))
    return replace(found, result=replace(result, chosen=chosen, whole=whole))


def test_each_part_has_its_two_percentiles(run: Any) -> None:
    dense, chosen = parts_rows(run.result)
    assert dense == ("dense", "3.000", "3.500", "8.000", "9.000", "0.500", "0.750", "11.500", "12.250")
    assert chosen[5:7] == ("-", "-")
    table = parts_table(run.result)
    assert [column.header for column in table.columns][:3] == ["whole queries", "before p50", "before p90"]
    assert table.row_count == 2


def test_a_fit_without_parts_has_no_rows(make_run: Callable[..., Any]) -> None:
    result: FitResult = make_run().result
    assert parts_table(result).row_count == 0
    assert "whole" not in " ".join(verdict_lines(result))


def test_the_answer_tells_the_budget_of_whole_queries_and_what_it_leaves(run: Any) -> None:
    told = "p90 latency of 20 ms of whole queries, which leave 16 ms to the model"
    assert budget_words(run.result).startswith(told)
    assert "  whole queries: the bound of p90 is 12.5 of 20 ms" in verdict_lines(run.result)


def test_the_page_has_the_parts_where_there_are_any(run: Any) -> None:
    latency = run.result.chosen.measurement.latency
    drawn = replace(latency, quantiles_ms=tuple(float(at) for at in range(1, 102)))
    measured = replace(run.result.chosen.measurement, latency=drawn)
    result = replace(run.result, chosen=replace(run.result.chosen, measurement=measured))
    (table,) = latency_section(result).tables
    assert table.rows == tuple(parts_rows(result))
    assert latency_section(replace(result, whole=())).tables == ()


def test_the_card_says_what_is_not_in_the_bundle(run: Any, tmp_path: Path) -> None:
    with open_bundle(run.bundle(tmp_path / "one.edgeprune.zip")) as bundle:
        card = (bundle.folder / "README.md").read_text()
    assert "| before the model | 3 | 3.5 |" in card
    assert "after the model" not in card
    assert "whole queries is 12.5 ms, and their budget 20 ms" in card

"""Table of whole queries: what comes before the model, the model, what comes after it, and their sum."""

from __future__ import annotations

from collections.abc import Iterator

from rich import box
from rich.markup import escape
from rich.table import Table

from edgeprune.records.trial import FitResult
from edgeprune.records.whole_query import WholeQueries
from edgeprune.report.figures import milliseconds

SHOWN_PARTS = ("before", "model", "after", "whole")
TIMED = "each part's own percentiles, timed one after the other on this machine; they do not add up"


def parts_table(result: FitResult) -> Table:
    """Table with a row of whole queries for the dense model and each chosen one; no rows without any."""
    made = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    made.add_column("whole queries")
    for column in parts_head():
        made.add_column(escape(column), justify="right", no_wrap=True)
    for name, *figures in parts_rows(result):
        made.add_row(escape(name), *figures)
    made.caption = f"ms, {TIMED}"
    return made


def parts_head() -> list[str]:
    """Titles of the figures of whole queries."""
    return [f"{part} {percentile}" for part in SHOWN_PARTS for percentile in ("p50", "p90")]


def parts_rows(result: FitResult) -> Iterator[tuple[str, ...]]:
    """Name of each trial whose whole queries were timed, and its figures."""
    for queries in result.whole:
        yield queries.name, *parts_figures(queries)


def parts_figures(queries: WholeQueries) -> list[str]:
    """Percentiles of each part and of the whole, in ms; "-" for a part that the task has not."""
    found: list[str] = []
    for part in SHOWN_PARTS:
        times = getattr(queries, part)
        pair = (None, None) if times is None else (times.p50_ms, times.p90_ms)
        found += map(milliseconds, pair)
    return found


def whole_lines(result: FitResult) -> list[str]:
    """Sentence about the bound of the chosen one's whole queries against a budget that is about them."""
    queries = result.chosen.measurement.whole
    limit_ms = result.budget.whole_ms
    if queries is None or queries.bound_ms is None or limit_ms is None:
        return []
    return [
        f"whole queries: the bound of p{queries.percentile} is {queries.bound_ms:.4g} of {limit_ms:.4g} ms"
    ]

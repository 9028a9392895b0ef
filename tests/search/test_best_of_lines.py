"""The best of each line alone: of latency, memory, size and the metric in its own direction."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from edgeprune.records.direction import HIGHER, Direction
from edgeprune.records.machine import Budget
from edgeprune.records.trial import Report
from edgeprune.search.best_of_lines import best_of_lines


@pytest.fixture
def reports(make_run: Callable[..., Any]) -> list[Report]:
    """Ever quicker and lower in memory; the second has the highest metric, the third the lowest."""
    found = list(make_run().result.trials)
    changed = zip(found, (0.95, 0.97, 0.91), (30.0, 20.0, 10.0), strict=True)
    return [
        replace(one, metric=metric, measurement=replace(one.measurement, process_mib=memory))
        for one, metric, memory in changed
    ]


def test_each_line_has_its_own_best_with_value_and_limit(reports: list[Report]) -> None:
    budget = Budget(latency_ms=1.0, memory_mib=5.0, max_drop=0.01)
    latency, memory, metric = best_of_lines(reports, budget, HIGHER, 0.99)
    assert (latency.line, latency.report.name, latency.limit) == ("latency_ms", "trial-02", 1.0)
    assert (memory.line, memory.report.name, memory.value) == ("memory_mib", "trial-02", 10.0)
    assert (metric.report.name, metric.value, metric.limit) == ("trial-01", 0.97, pytest.approx(0.98))


def test_an_error_is_best_when_it_is_lowest(reports: list[Report]) -> None:
    (metric,) = best_of_lines(reports, Budget(max_drop=0.01), Direction(lower_is_better=True), 0.9)
    assert (metric.report.name, metric.limit) == ("trial-02", pytest.approx(0.91))

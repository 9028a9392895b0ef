"""What budget would have been met, from reports alone."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from edgeprune.records.machine import Budget
from edgeprune.records.trial import Report
from edgeprune.search.bracketing import LANDING
from edgeprune.search.feasible import feasible


@pytest.fixture
def reports(make_run: Callable[..., Any]) -> tuple[Report, ...]:
    """Latency bounds of 4.2, 2.8 and 2.1 ms."""
    found: tuple[Report, ...] = make_run().result.trials
    return found


def test_the_nearest_candidate_names_the_latency_that_would_be_met(reports: tuple[Report, ...]) -> None:
    budget = Budget(latency_ms=1.0)
    found = feasible(reports, budget)
    assert found is not None
    assert found.name == "trial-02"
    assert found.budget == replace(budget, latency_ms=reports[-1].measurement.latency.bound_ms / LANDING)


def test_a_machine_whose_speed_varies_needs_more_room(reports: tuple[Report, ...]) -> None:
    """The dense model took 10 ms beside the nearest, 11 ms usually, and 12 ms at times."""

    def beside(report: Report, reference_ms: float) -> Report:
        return replace(report, measurement=replace(report.measurement, reference_ms=reference_ms))

    found = feasible(
        [beside(report, ms) for report, ms in zip(reports, (12.0, 11.0, 10.0), strict=True)],
        Budget(latency_ms=1.0),
    )
    bound = reports[-1].measurement.latency.bound_ms
    assert found is not None
    assert bound is not None
    assert found.budget.latency_ms is not None
    noise = 2 / 11
    aim = 1 / (1 + noise)
    assert found.budget.latency_ms == pytest.approx(bound * 1.1 / (aim - (1 - LANDING) / 2))


def test_a_fit_with_the_budget_that_is_named_would_land(reports: tuple[Report, ...]) -> None:
    found = feasible(reports, Budget(latency_ms=1.0, size_mib=1e-9))
    assert found is not None
    assert feasible(reports, found.budget) is None


def test_lines_that_were_met_keep_their_limit(reports: tuple[Report, ...]) -> None:
    found = feasible(reports, Budget(latency_ms=1.0, memory_mib=2000.0))
    assert found is not None
    assert found.budget.memory_mib == 2000.0
    assert found.budget.size_mib is None


def test_a_miss_of_the_metric_alone_asks_for_no_other_budget(reports: tuple[Report, ...]) -> None:
    assert feasible(reports, Budget(latency_ms=100.0)) is None

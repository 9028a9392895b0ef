"""Pareto frontier of the trials."""

from __future__ import annotations

from collections.abc import Sequence

from edgeprune.records.direction import HIGHER, Direction
from edgeprune.records.trial import Report

Costs = tuple[float, float, float, float]


def frontier(reports: Sequence[Report], direction: Direction = HIGHER) -> tuple[Report, ...]:
    """Non-dominated reports by metric, latency, memory and size, fastest first. direction: of the metric."""
    costs = [_costs(report, direction) for report in reports]
    kept = [at for at in range(len(reports)) if not any(_dominates(other, costs[at]) for other in costs)]
    return tuple(reports[at] for at in sorted(kept, key=lambda at: costs[at][1:]))


def _costs(report: Report, direction: Direction) -> Costs:
    measured = report.measurement
    bound_ms, max_ms = measured.latency.bound_ms, measured.latency.max_ms
    latency_ms = max_ms if bound_ms is None else bound_ms
    return direction.cost(report.metric), latency_ms, measured.memory_mib, measured.size_mib


def _dominates(ours: Costs, theirs: Costs) -> bool:
    return all(a <= b for a, b in zip(ours, theirs, strict=True)) and ours != theirs

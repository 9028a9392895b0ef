"""Pareto frontier of the trials."""

from __future__ import annotations

from collections.abc import Sequence

from edgeprune.records.trial import Report


def frontier(reports: Sequence[Report]) -> tuple[Report, ...]:
    """Non-dominated reports by metric, latency, memory and size, fastest first."""
    kept = [report for report in reports if not any(_dominates(other, report) for other in reports)]
    return tuple(sorted(kept, key=lambda report: _costs(report)[1:]))


def _costs(report: Report) -> tuple[float, float, float, float]:
    measured = report.measurement
    bound_ms, max_ms = measured.latency.bound_ms, measured.latency.max_ms
    latency_ms = max_ms if bound_ms is None else bound_ms
    return -report.metric, latency_ms, measured.memory_mib, measured.size_mib


def _dominates(one: Report, other: Report) -> bool:
    ours, theirs = _costs(one), _costs(other)
    return all(a <= b for a, b in zip(ours, theirs, strict=True)) and ours != theirs

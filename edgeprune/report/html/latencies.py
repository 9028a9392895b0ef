"""Latency distributions of the dense model, its INT8 form and the chosen candidates, as a page draws them."""

from __future__ import annotations

from dataclasses import dataclass

from edgeprune.records.trial import FitResult, Latency
from edgeprune.report.html.trade_off import Role, leading, role_of


@dataclass(frozen=True)
class Spread:
    """Measured latency of one candidate. latency.quantiles_ms is empty where a run stored no more than p50,
    p90, p99 and the slowest run."""

    name: str
    role: Role
    latency: Latency


def spreads(result: FitResult) -> tuple[Spread, ...]:
    """Measured latencies, in the order of the tables; none where all are predicted."""
    return tuple(
        Spread(report.name, role_of(report, result), report.measurement.latency)
        for report in leading(result)
        if report.measurement.latency.runs
    )

"""Metric against latency of all trials, with budgets and tiers, as a page draws it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from edgeprune.records.trial import DENSE_INT8, FitResult, Report, percentile_ms
from edgeprune.report.html.budget_use import each_budget

Role = Literal["dense", "INT8", "trial", "chosen"]


@dataclass(frozen=True)
class TradePoint:
    """One trial.

    ms: at the budget's percentile, or predicted. bound_ms: upper bound of it; None where there is none.
    """

    name: str
    role: Role
    ms: float
    bound_ms: float | None
    metric: float
    on_frontier: bool
    verdict: str


@dataclass(frozen=True)
class Limit:
    """Limits of one budget.

    ms: None where latency is not limited. floor: the worst metric allowed.
    """

    name: str
    ms: float | None
    floor: float


@dataclass(frozen=True)
class TradeOff:
    """All trials of a fit, and its budgets from the loosest to the tightest."""

    metric: str
    percentile: int
    predicted: bool
    points: tuple[TradePoint, ...]
    limits: tuple[Limit, ...]

    @property
    def latency(self) -> str:
        """Name of the axis of milliseconds."""
        return "predicted latency, ms" if self.predicted else f"p{self.percentile} latency, ms"


def trade_off(result: FitResult) -> TradeOff:
    """Trade-off of a fit: every trial once, the dense model first."""
    chosen = {one.chosen.name: one.chosen for _, one in each_budget(result)}
    reports = {each.name: each for each in (result.baseline, *result.trials)} | chosen
    best = {report.name for report in result.frontier}
    points = [
        TradePoint(
            name=name,
            role=role_of(report, result),
            ms=percentile_ms(report.measurement.latency),
            bound_ms=report.measurement.latency.bound_ms,
            metric=report.metric,
            on_frontier=name in best,
            verdict=report.verdict.kind,
        )
        for name, report in reports.items()
    ]
    limits = tuple(
        Limit(
            name,
            one.budget.latency_ms,
            one.direction.limit(one.baseline.metric, one.budget.max_drop),
        )
        for name, one in each_budget(result)
    )
    measured = result.chosen.measurement
    return TradeOff(result.metric, result.budget.percentile, measured.predicted, tuple(points), limits)


def role_of(report: Report, result: FitResult) -> Role:
    """Part of a report in a page: what answers a budget is chosen, whatever else it is."""
    if report.name in {one.chosen.name for _, one in each_budget(result)}:
        return "chosen"
    if report.name == result.baseline.name:
        return "dense"
    return "INT8" if report.name.startswith(DENSE_INT8) else "trial"


def leading(result: FitResult) -> tuple[Report, ...]:
    """Reports of the dense model, its last INT8 form and every chosen candidate, each once."""
    int8 = [trial for trial in result.trials if trial.name.startswith(DENSE_INT8)]
    found = [result.baseline, *int8[-1:], *(one.chosen for _, one in each_budget(result))]
    return tuple({report.name: report for report in found}.values())

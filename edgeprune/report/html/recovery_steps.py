"""Error and metric before and after each recovery step of a candidate, as a page draws them."""

from __future__ import annotations

from dataclasses import dataclass

from edgeprune.records.trial import FitResult, Report
from edgeprune.report.missed import is_trained


@dataclass(frozen=True)
class RecoveryStep:
    """One rung, with the error on held-back data before and after it, and whether its weights were kept."""

    rung: str
    before: float
    after: float
    kept: bool


@dataclass(frozen=True)
class MetricStep:
    """Metric of one state of the network, as the device served it."""

    state: str
    metric: float


def recovery_steps(report: Report) -> tuple[RecoveryStep, ...]:
    """Rungs that a candidate went through, in order."""
    return tuple(RecoveryStep(*each) for each in report.recovered)


def metric_steps(result: FitResult) -> tuple[MetricStep, ...]:
    """Metric of the dense model, then of all trials with the units of the chosen candidate, in their order.

    These are the network as it was cut, and what training made of it.
    """
    units = result.chosen.candidate.kept
    same = [one for one in result.trials if units and one.candidate.kept == units]
    reports = {one.name: one for one in (result.baseline, *same, result.chosen)}
    return tuple(
        MetricStep(name + (", trained" if is_trained(one) else ""), one.metric)
        for name, one in reports.items()
    )

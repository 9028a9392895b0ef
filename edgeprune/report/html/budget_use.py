"""Use of each budget line by the chosen candidates, as a page draws it."""

from __future__ import annotations

from dataclasses import dataclass

from edgeprune.records.trial import FitResult, limited_lines
from edgeprune.report.asked import LINES
from edgeprune.report.figures import score


@dataclass(frozen=True)
class LineUse:
    """One budget line of one candidate.

    share: of the limit that is used, above 1 where the line is broken; None where the limit is 0.
    value, limit: in words, with their unit.
    """

    label: str
    value: str
    limit: str
    share: float | None
    broken: bool

    @property
    def words(self) -> str:
        used = "broken" if self.broken else "kept"
        share = used if self.share is None else f"{self.share:.1%}"
        return f"{self.label}: {share} ({self.value} of {self.limit})"


def each_budget(result: FitResult) -> tuple[tuple[str, FitResult], ...]:
    """Results of one budget each, with the tier's name; of a fit with one budget its own, without a name."""
    tiers = tuple((tier.name, result.of_tier(at)) for at, tier in enumerate(result.tiers, 1))
    return tiers or (("", result),)


def budget_uses(result: FitResult) -> tuple[LineUse, ...]:
    """Uses of all lines that are limited: latency, memory, size, then the metric; tier by tier."""
    found: list[LineUse] = []
    for tier, one in each_budget(result):
        before = f"{tier}, " if tier else ""
        measured = one.chosen.measurement
        for line, (value, limit) in limited_lines(measured, one.budget).items():
            name, unit, _ = LINES[line]
            told = f"{before}{_latency_name(one) if line == 'latency_ms' else name}"
            share = value / limit if limit else None
            found.append(LineUse(told, f"{value:.4g} {unit}", f"{limit:.4g} {unit}", share, value > limit))
        found.append(_metric_use(one, before))
    return tuple(found)


def _latency_name(result: FitResult) -> str:
    latency = result.chosen.measurement.latency
    if result.chosen.measurement.predicted:
        return "predicted latency"
    return f"p{latency.percentile} bound" if latency.bound_ms is not None else "slowest run"


def _metric_use(result: FitResult, before: str) -> LineUse:
    change = "rise" if result.lower_is_better else "drop"
    drop, allowed = (
        result.direction.drop(result.baseline.metric, result.chosen.metric),
        result.budget.max_drop,
    )
    lost = max(0.0, drop)
    value = f"{change} of {score(drop, result)}" if drop > 0 else f"no {change}"
    return LineUse(
        label=f"{before}{result.metric}",
        value=value,
        limit=score(allowed, result),
        share=lost / allowed if allowed else None,
        broken=any(breach.line == "metric" for breach in result.verdict.breaches),
    )

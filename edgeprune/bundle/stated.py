"""Figures that a bundle states about its artefact: in the model card, and in the bill of materials."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from edgeprune.records.trial import FitResult, Latency, Report, percentile_ms
from edgeprune.search.judge import CONFIDENCE


@dataclass(frozen=True)
class Stated:
    """One figure: what it is about, the dense model's own, confidence bounds where there are any, the limit.

    dense: None where no dense model was measured for it. confidence: of those of `low` and `high` that are.
    """

    what: str
    value: float
    unit: str = ""
    dense: float | None = None
    low: float | None = None
    high: float | None = None
    confidence: float | None = None
    limit: float | None = None

    @property
    def title(self) -> str:
        """Subject of the figure, and its unit."""
        return f"{self.what}, {self.unit}" if self.unit else self.what

    @property
    def bounds(self) -> str:
        """Words about the confidence bounds; empty without any."""
        ends = [
            f"{word} {end:.4g}" for word, end in (("from", self.low), ("to", self.high)) if end is not None
        ]
        sure = "" if self.confidence is None else f" ({self.confidence:.0%} confidence)"
        return " ".join(ends) + sure if ends else ""


def stated(result: FitResult, report: Report) -> Iterator[Stated]:
    """The figures of a candidate: metric, latency, memory and size."""
    yield _metric(result, report)
    yield from _latencies(result, report)
    yield from _at_lengths(result, report)
    budget, measured, dense = result.budget, report.measurement, result.baseline.measurement
    low, high = bar.memory_mib if (bar := measured.error_bar) else (None, None)
    yield Stated(
        *("peak memory", measured.memory_mib, "MiB", dense.memory_mib, low, high),
        limit=budget.memory_mib,
    )
    yield Stated("size of the files", measured.size_mib, "MiB", dense.size_mib, limit=budget.size_mib)


def _metric(result: FitResult, report: Report) -> Stated:
    direction, dense = result.direction, result.baseline.metric
    limit = direction.limit(dense, result.budget.max_drop)
    drop = report.drop
    if drop is None:
        return Stated(result.metric, report.metric, dense=dense, limit=limit)
    low, high = sorted(dense + direction.change(end) for end in (drop.low, drop.high))
    return Stated(result.metric, report.metric, "", dense, low, high, drop.confidence, limit)


def _latencies(result: FitResult, report: Report) -> Iterator[Stated]:
    """Three percentiles, and the budget's."""
    latency, bar = report.measurement.latency, report.measurement.error_bar
    dense = result.baseline.measurement.latency
    low, high = bar.latency_ms if bar else (None, None)
    for percentile in sorted({50, 90, 99, latency.percentile}):
        binds = percentile == latency.percentile
        bound = latency.bound_ms if binds else None
        yield Stated(
            *(f"latency p{percentile}", _at(latency, percentile), "ms", _at(dense, percentile), low),
            high=high if bound is None else bound,
            confidence=None if bound is None else CONFIDENCE,
            limit=result.budget.latency_ms if binds else None,
        )


def _at_lengths(result: FitResult, report: Report) -> Iterator[Stated]:
    """Two percentiles at each of the shorter lengths, where they vary."""
    timed = {(each.name, each.length): each.latency for each in result.at_lengths}
    for length in result.lengths[:-1]:
        latency, dense = (timed.get((name, length)) for name in (report.name, result.baseline.name))
        if latency is None:
            continue
        for percentile in (50, 90):
            yield Stated(
                f"latency p{percentile} at length {length}",
                _at(latency, percentile),
                "ms",
                None if dense is None else _at(dense, percentile),
            )


def _at(latency: Latency, percentile: int) -> float:
    """Latency at one of the percentiles that every measurement has, or at the budget's."""
    if percentile in (50, 90, 99):
        return float(getattr(latency, f"p{percentile}_ms"))
    return percentile_ms(latency)

"""Feasible budget: what the nearest candidate would meet, told when nothing fits."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from statistics import median
from typing import Any, cast

from edgeprune.records.machine import Budget
from edgeprune.records.trial import DraftReport, Report, limited_lines
from edgeprune.search.bracketing import LANDING, zone


@dataclass(frozen=True)
class Feasible:
    """Budget for latency, memory and size that a candidate or draft, `name`, meets.

    Limits that the candidate met stay; one that it broke becomes what was measured (latency at the machine's
    usual speed) and the margin that a fit leaves on this machine, so that a fit with this budget lands.
    """

    name: str
    budget: Budget


def feasible(
    reports: Sequence[Report], budget: Budget, drafts: Sequence[DraftReport] = ()
) -> Feasible | None:
    """Budget of the candidate or draft that comes nearest to all limits; None when one is within them.

    A search that finds nothing has measured the smallest legal candidate: no smaller budget can be met.
    """
    measured: list[Report | DraftReport] = [*reports, *drafts]
    nearest = min(measured, key=lambda each: worst_use(each, budget))
    if worst_use(nearest, budget) <= 1:
        return None
    margins: dict[str, float] = {"latency_ms": _slower(nearest, reports)}
    needed = {
        line: limit if value <= limit else value * margins.get(line, 1 / LANDING)
        for line, (value, limit) in limited_lines(nearest.measurement, budget).items()
    }
    return Feasible(nearest.name, replace(budget, **cast("Any", needed)))


def nearer_draft(chosen: Report, budget: Budget, drafts: Sequence[DraftReport]) -> DraftReport | None:
    """The draft that comes nearest to the limits of latency, memory and size, if nearer than a report."""
    nearest = min(drafts, key=lambda each: worst_use(each, budget), default=None)
    if nearest is None or worst_use(chosen, budget) <= max(1.0, worst_use(nearest, budget)):
        return None
    return nearest


def worst_use(measured: Report | DraftReport, budget: Budget) -> float:
    """Largest share of a limit of latency, memory or size that was measured."""
    lines = limited_lines(measured.measurement, budget).values()
    return max((value / limit for value, limit in lines), default=0.0)


def _slower(report: Report | DraftReport, reports: Sequence[Report]) -> float:
    """Factor by which a later session may be slower, from the reference's sessions; at least 1 / LANDING."""
    found = [ms for each in reports if (ms := each.measurement.reference_ms) is not None]
    own = report.measurement.reference_ms
    usually = max(1.0, median(found) / own) if own else 1.0
    return usually / zone(found).low

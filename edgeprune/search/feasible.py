"""Feasible budget: what the nearest candidate would meet, told when nothing fits."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from statistics import median
from typing import Any, cast

from edgeprune.records.machine import Budget
from edgeprune.records.trial import Report, limited_lines
from edgeprune.search.bracketing import LANDING, zone


@dataclass(frozen=True)
class Feasible:
    """Budget for latency, memory and size that candidate `name` meets.

    Limits that the candidate met stay; one that it broke becomes what was measured (latency at the machine's
    usual speed) and the margin that a fit leaves on this machine, so that a fit with this budget lands.
    """

    name: str
    budget: Budget


def feasible(reports: Sequence[Report], budget: Budget) -> Feasible | None:
    """Budget of the candidate that comes nearest to every limit; None when one is within all of them.

    A search that finds nothing has built the smallest legal candidate: no smaller budget can be met.
    """

    def worst(report: Report) -> float:
        lines = limited_lines(report.measurement, budget).values()
        return max((value / limit for value, limit in lines), default=0.0)

    nearest = min(reports, key=worst)
    if worst(nearest) <= 1:
        return None
    margins: dict[str, float] = {"latency_ms": _slower(nearest, reports)}
    needed = {
        line: limit if value <= limit else value * margins.get(line, 1 / LANDING)
        for line, (value, limit) in limited_lines(nearest.measurement, budget).items()
    }
    return Feasible(nearest.name, replace(budget, **cast("Any", needed)))


def _slower(report: Report, reports: Sequence[Report]) -> float:
    """Factor by which a later session may be slower, from the reference's sessions; at least 1 / LANDING."""
    found = [ms for each in reports if (ms := each.measurement.reference_ms) is not None]
    own = report.measurement.reference_ms
    usually = max(1.0, median(found) / own) if own else 1.0
    return usually / zone(found).low

"""When nothing fits: what comes nearest to every line at once, and the budget that it would meet. Pure."""

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
    """A budget that candidate `name` is found to meet, as far as latency, memory and size go.

    Lines that it met keep their limit; one that it broke gets what was measured, latency at the machine's
    usual speed, and the margin that a fit leaves on this machine, so that a fit with this budget lands.
    """

    name: str
    budget: Budget


def feasible(reports: Sequence[Report], budget: Budget) -> Feasible | None:
    """The nearest of what was tried; None when some candidate is within all of these lines.

    A search that finds nothing has built the smallest candidate that is legal, so that no smaller budget can
    be met.
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
    """Times the latency that a later session may find, by the dense model's; at least 1 / LANDING."""
    found = [ms for each in reports if (ms := each.measurement.reference_ms) is not None]
    own = report.measurement.reference_ms
    usually = max(1.0, median(found) / own) if own else 1.0
    return usually / zone(found).low

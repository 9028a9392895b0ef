"""Lagrange multipliers of resources at which the bound of an allocation is the lowest.

Costs are in shares of their limits, so a multiplier is the value of a whole limit.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import linprog

from edgeprune.search.elimination import Elimination, Options, Table

MOST_CUTS = 60
CONVERGED = 1e-7  # relative: the bound moves no further


@dataclass(frozen=True)
class LowestBound:
    """Bound on the value within the limits, at these multipliers.

    multipliers: [resources]. seen: the allocations that were met, the last the closest.
    """

    multipliers: Table
    bound: float
    seen: list[Options]


def lowest_bound(plan: Elimination, allowed: Table, start: Sequence[Options]) -> LowestBound:
    """Lowest bound by cutting planes (Kelley 1960): each allocation is a line under it, over multipliers.

    allowed: [resources], what may be spent; start: allocations whose lines are known, one that fits among
    them when there is one resource.
    """
    seen = list(start)
    lines = [plan.planes_of(options) for options in seen]
    best = LowestBound(np.zeros(allowed.size), np.inf, seen)
    for _ in range(MOST_CUTS):
        values = np.array([line[0] for line in lines])
        spare = allowed - np.array([line[1:] for line in lines])
        multipliers, expected = _lowest(values, spare)
        if np.isfinite(best.bound) and best.bound - expected <= CONVERGED * abs(best.bound):
            break
        here = plan.maximise([1.0, *-multipliers])
        bound = here.bound + float(multipliers @ allowed)
        if bound < best.bound:
            best = LowestBound(multipliers, bound, seen)
        options = here.assignment()
        if any(np.array_equal(options, other) for other in seen):
            break
        seen.append(options)
        lines.append(plan.planes_of(options))
    return best


def least_overrun(plan: Elimination, spent: Table, start: Sequence[Options]) -> list[Options]:
    """Allocations whose largest use of any limit is low, by cutting planes over mixtures of resources.

    spent: [resources], the share of each limit that the constant takes.
    """
    if spent.size < 2:
        return []
    seen = list(start)
    uses = [plan.planes_of(options)[1:] + spent for options in seen]
    for _ in range(MOST_CUTS):
        # The mixture of resources in which the cheapest allocation seen costs the most.
        solved = linprog(
            np.array([*np.zeros(spent.size), -1.0]),
            A_ub=np.column_stack([-np.array(uses), np.ones(len(uses))]),
            b_ub=np.zeros(len(uses)),
            A_eq=np.array([[*np.ones(spent.size), 0.0]]),
            b_eq=np.ones(1),
            bounds=[(0.0, 1.0)] * spent.size + [(None, None)],
            method="highs",
        )
        mixture = np.maximum(solved.x[:-1], 0.0)
        options = plan.maximise([0.0, *-mixture]).assignment()
        if any(np.array_equal(options, other) for other in seen):
            break
        seen.append(options)
        uses.append(plan.planes_of(options)[1:] + spent)
    return seen[len(start) :]


def _lowest(values: Table, spare: Table) -> tuple[Table, float]:
    """Multipliers >= 0 where the highest line, value + multipliers * spare, is lowest; and its height there.

    values: [lines]; spare: [lines, resources], below 0 where a limit is broken.
    """
    span = max(float(np.ptp(values)), 1e-12 * float(np.abs(values).max()), 1e-300)
    if spare.shape[1] == 1:
        multiplier, height = _lowest_of_lines(values, spare[:, 0])
        return np.array([multiplier]), height
    count = spare.shape[1]
    solved = linprog(
        np.array([*np.zeros(count), 1.0]),
        A_ub=np.column_stack([spare, -np.ones(values.size)]),
        b_ub=(values.max() - values) / span,
        bounds=[(0.0, 1e5)] * count + [(None, None)],
        method="highs",
    )
    return np.maximum(solved.x[:-1], 0.0) * span, float(solved.x[-1]) * span + float(values.max())


def _lowest_of_lines(values: NDArray[np.float64], spare: NDArray[np.float64]) -> tuple[float, float]:
    """Lowest point of the upper envelope of lines over multipliers >= 0: at 0, or where two lines cross."""
    falling, rising = np.flatnonzero(spare < 0), np.flatnonzero(spare >= 0)
    cross = (values[falling, None] - values[rising]) / (spare[rising] - spare[falling, None])
    candidates = np.concatenate([[0.0], cross[cross > 0].ravel()])
    heights = (values[:, None] + spare[:, None] * candidates).max(axis=0)
    at = int(np.argmin(heights))
    return float(candidates[at]), float(heights[at])

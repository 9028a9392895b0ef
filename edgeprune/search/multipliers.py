"""Prices of resources (Lagrange multipliers) at which the bound of an allocation is the lowest.

Costs are in shares of their limits, so a price is the value of a whole limit.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import linprog

from edgeprune.search.elimination import Elimination, Options, Table

ROUNDS = 60
CLOSE = 1e-7  # relative: the bound moves no further


@dataclass(frozen=True)
class Prices:
    """prices: [resources]; bound: on the value within the limits; seen: allocations, the last the closest."""

    prices: Table
    bound: float
    seen: list[Options]


def lowest_bound(plan: Elimination, allowed: Table, start: Sequence[Options]) -> Prices:
    """Cutting planes (Kelley 1960): every allocation seen is a line under the bound as a function of prices.

    allowed: [resources], what may be spent; start: allocations whose lines are known, one that fits among
    them when there is one resource.
    """
    seen = list(start)
    lines = [plan.planes_of(options) for options in seen]
    best = Prices(np.zeros(allowed.size), np.inf, seen)
    for _ in range(ROUNDS):
        values = np.array([line[0] for line in lines])
        spare = allowed - np.array([line[1:] for line in lines])
        prices, expected = _lowest(values, spare)
        if np.isfinite(best.bound) and best.bound - expected <= CLOSE * abs(best.bound):
            break
        here = plan.maximise([1.0, *-prices])
        bound = here.bound + float(prices @ allowed)
        if bound < best.bound:
            best = Prices(prices, bound, seen)
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
    for _ in range(ROUNDS):
        # The mixture of resources for which the cheapest allocation seen is as dear as possible.
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
    """Prices >= 0 where the highest line, value + prices * spare, is lowest; and its height there.

    values: [lines]; spare: [lines, resources], below 0 where a limit is broken.
    """
    span = max(float(np.ptp(values)), 1e-12 * float(np.abs(values).max()), 1e-300)
    if spare.shape[1] == 1:
        price, height = _lowest_of_lines(values, spare[:, 0])
        return np.array([price]), height
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
    """The lowest point of the upper envelope of lines over prices >= 0: at 0, or where two of them cross."""
    falling, rising = np.flatnonzero(spare < 0), np.flatnonzero(spare >= 0)
    cross = (values[falling, None] - values[rising]) / (spare[rising] - spare[falling, None])
    candidates = np.concatenate([[0.0], cross[cross > 0].ravel()])
    heights = (values[:, None] + spare[:, None] * candidates).max(axis=0)
    at = int(np.argmin(heights))
    return float(candidates[at]), float(heights[at])

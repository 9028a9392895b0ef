"""Local search: single moves that bring an allocation into its limits, then raise its value."""

from __future__ import annotations

import numpy as np

from edgeprune.search.elimination import Elimination, Options, Table

SLACK = 1e-9  # of a limit: sums of the same costs in another order differ by less
MOST_MOVES = 500


class _MoveGains:
    """Allocation on its way, and the change of value and costs by every next move.

    change: [planes, options of all decisions in a row], computed anew for the neighbours of every move.
    """

    def __init__(self, plan: Elimination, options: Options) -> None:
        self.options = options.copy()
        self.costs = plan.planes_of(options)[1:]
        self._plan = plan
        self._ends = np.cumsum(plan.sizes)
        self.change = np.concatenate([self._of(v) for v in range(options.size)], axis=1)

    def step(self, move: int) -> None:
        """Take the move at this column of `change`."""
        self.costs = self.costs + self.change[1:, move]
        v = int(np.searchsorted(self._ends, move, side="right"))
        self.options[v] = move - int(self._ends[v]) + self._plan.sizes[v]
        for u in self._plan.neighbours[v]:
            self.change[:, self._ends[u] - self._plan.sizes[u] : self._ends[u]] = self._of(u)

    def _of(self, v: int) -> Table:
        table = self._plan.moves(v, self.options)
        return table - table[:, [self.options[v]]]


def repair(plan: Elimination, options: Options, allowed: Table) -> Options | None:
    """Allocation within the limits, by moves that lose the least value for the overrun that they remove.

    None when no single move helps.

    allowed: [resources], what may be spent.
    """
    walk = _MoveGains(plan, options)
    limit = (allowed + SLACK)[:, None]
    for _ in range(MOST_MOVES):
        over = float(np.maximum(walk.costs[:, None] - limit, 0.0).sum())
        if over == 0.0:
            return walk.options
        rest = np.maximum(walk.costs[:, None] + walk.change[1:] - limit, 0.0).sum(axis=0)
        less = np.where(np.isfinite(walk.change[0]), over - rest, 0.0)
        less[less <= SLACK * over] = 0.0
        rate = less / (np.maximum(-walk.change[0], 0.0) + 1e-12)
        move = int(np.argmax(rate))
        if not rate[move] > 0:
            return None
        walk.step(move)
    return None


def improve(plan: Elimination, options: Options, allowed: Table) -> Options:
    """Allocation after the single moves that gain most within the limits; `options` must fit."""
    walk = _MoveGains(plan, options)
    limit = (allowed + SLACK)[:, None]
    for _ in range(MOST_MOVES):
        fits = (walk.costs[:, None] + walk.change[1:] <= limit).all(axis=0)
        gain = np.where(fits, walk.change[0], -np.inf)
        move = int(np.argmax(gain))
        if not gain[move] > 1e-12:
            break
        walk.step(move)
    return walk.options


def overrun(plan: Elimination, options: Options, spent: Table) -> float:
    """Largest use of any limit, as a share of it; spent: [resources], the share that the constant takes."""
    return float((plan.planes_of(options)[1:] + spent).max())

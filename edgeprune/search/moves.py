"""Better allocations one decision at a time: into the limits, then up within them."""

from __future__ import annotations

import numpy as np

from edgeprune.search.elimination import Elimination, Options, Table

SLACK = 1e-9  # of a limit: sums of the same costs in another order differ by less
STEPS = 500


class _MoveGains:
    """Allocations that differ by single moves, and what every next move would change.

    change: [planes, options of all decisions in a row], kept up to date where a move was felt.
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
    """Away from the overrun, always where least value is lost for it; None when no single move helps.

    allowed: [resources], what may be spent.
    """
    walk = _MoveGains(plan, options)
    room = (allowed + SLACK)[:, None]
    for _ in range(STEPS):
        over = float(np.maximum(walk.costs[:, None] - room, 0.0).sum())
        if over == 0.0:
            return walk.options
        left = np.maximum(walk.costs[:, None] + walk.change[1:] - room, 0.0).sum(axis=0)
        less = np.where(np.isfinite(walk.change[0]), over - left, 0.0)
        less[less <= SLACK * over] = 0.0
        rate = less / (np.maximum(-walk.change[0], 0.0) + 1e-12)
        move = int(np.argmax(rate))
        if not rate[move] > 0:
            return None
        walk.step(move)
    return None


def improve(plan: Elimination, options: Options, allowed: Table) -> Options:
    """Up, by the single move that gains most within the limits, until none does; `options` must fit."""
    walk = _MoveGains(plan, options)
    room = (allowed + SLACK)[:, None]
    for _ in range(STEPS):
        fits = (walk.costs[:, None] + walk.change[1:] <= room).all(axis=0)
        gain = np.where(fits, walk.change[0], -np.inf)
        move = int(np.argmax(gain))
        if not gain[move] > 1e-12:
            break
        walk.step(move)
    return walk.options


def overrun(plan: Elimination, options: Options, spent: Table) -> float:
    """The largest use of any limit, as a share; spent: [resources], what the constant takes of it."""
    return float((plan.planes_of(options)[1:] + spent).max())

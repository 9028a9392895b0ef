"""Better allocations one decision at a time: into the limits, then up within them."""

from __future__ import annotations

import numpy as np

from edgeprune.search.elimination import Elimination, Options, Table

SLACK = 1e-9  # of a limit: sums of the same costs in another order differ by less
STEPS = 500


def repair(plan: Elimination, options: Options, allowed: Table) -> Options | None:
    """Away from the overrun, always where least value is lost for it; None when no single move helps.

    allowed: [resources], what may be spent.
    """
    options = options.copy()
    costs = plan.planes_of(options)[1:]
    for _ in range(STEPS):
        over = float(np.maximum(costs - allowed - SLACK, 0.0).sum())
        if over == 0.0:
            return options
        best, move = 0.0, None
        for v in range(options.size):
            change = _change(plan, v, options)
            left = np.maximum(costs[:, None] + change[1:] - allowed[:, None] - SLACK, 0.0).sum(axis=0)
            gain = np.where(np.isfinite(change[0]), over - left, 0.0)
            rate = gain / (np.maximum(-change[0], 0.0) + 1e-12)
            at = int(np.argmax(rate))
            if gain[at] > SLACK * over and rate[at] > best:
                best, move = float(rate[at]), (v, at, change[1:, at])
        if move is None:
            return None
        options[move[0]] = move[1]
        costs = costs + move[2]
    return None


def improve(plan: Elimination, options: Options, allowed: Table) -> Options:
    """Up, by the single move that gains most within the limits, until none does; `options` must fit."""
    options = options.copy()
    costs = plan.planes_of(options)[1:]
    for _ in range(STEPS):
        best, move = 0.0, None
        for v in range(options.size):
            change = _change(plan, v, options)
            fits = (costs[:, None] + change[1:] <= allowed[:, None] + SLACK).all(axis=0)
            gain = np.where(fits, change[0], -np.inf)
            at = int(np.argmax(gain))
            if gain[at] > max(best, 1e-12):
                best, move = float(gain[at]), (v, at, change[1:, at])
        if move is None:
            break
        options[move[0]] = move[1]
        costs = costs + move[2]
    return options


def overrun(plan: Elimination, options: Options, spent: Table) -> float:
    """The largest use of any limit, as a share; spent: [resources], what the constant takes of it."""
    return float((plan.planes_of(options)[1:] + spent).max())


def _change(plan: Elimination, v: int, options: Options) -> Table:
    """[planes, options]: what another option of one decision adds to the value and to each cost."""
    table = plan.moves(v, options)
    return table - table[:, [options[v]]]

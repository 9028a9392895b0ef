"""Sweep over partial allocations, decision by decision: all that may become the best, or a beam of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edgeprune.search.elimination import Elimination, Maximum, Options, Table
from edgeprune.search.moves import SLACK

Index = NDArray[np.intp]
MOST_FOUND = 4
MOST_COMPARED = 16


@dataclass(frozen=True)
class Swept:
    """Result of a sweep.

    found: complete allocations, the most valuable first.
    bound: on the value of the allocations that were dropped unfinished; -inf when none was, so that nothing
        but `found` has more value than what was known.
    """

    found: list[Options]
    bound: float


def sweep(
    plan: Elimination,
    guide: Maximum,
    least: Sequence[Maximum],
    multipliers: Table,
    allowed: Table,
    known: float,
    beam: int,
) -> Swept:
    """Allocations of more value than `known`: partial ones, extended by every option, last eliminated first.

    guide: maximum of value - multipliers * costs; least: per resource, maximum of -cost. They bound the value
        of a partial allocation's completions from above, their costs from below.
    beam: partial allocations kept.
    """
    chosen: Options = np.zeros((len(plan.sizes), 1), np.int32)
    tops = np.array([[guide.bound + float(multipliers @ allowed)]])  # [1, labels]
    costs = np.array([[-each.bound] for each in least]).reshape(len(least), 1)  # [resources, labels]
    dropped = -np.inf
    contexts = _contexts(plan)
    threshold = known + 1e-12 * abs(known) if np.isfinite(known) else -np.inf
    for v in reversed(plan.order):
        size, labels = plan.sizes[v], chosen.shape[1]
        top = (tops + guide.losses(v, chosen)).reshape(-1)
        cost = np.stack([now - each.losses(v, chosen) for now, each in zip(costs, least, strict=True)])
        cost = cost.reshape(len(least), size * labels)
        keep = np.flatnonzero((top > threshold) & (cost <= allowed[:, None] + SLACK).all(axis=0))
        if keep.size > 4 * beam:
            order = np.argsort(-top[keep], kind="stable")
            dropped = max(dropped, float(top[keep[order[4 * beam]]]))
            keep = keep[order[: 4 * beam]]
        if not keep.size:
            return Swept([], dropped)
        chosen = chosen[:, keep % labels]
        chosen[v] = keep // labels
        top, cost = top[keep], cost[:, keep]
        # With the same context what follows is the same, so these differ as value and costs do.
        best = _undominated(_keys(chosen, contexts[v], plan.sizes), top + multipliers @ cost, cost)
        best = best[np.argsort(-top[best], kind="stable")]
        if best.size > beam:
            dropped = max(dropped, float(top[best[beam]]))
            best = best[:beam]
        chosen, tops, costs = chosen[:, best], top[None, best], cost[:, best]
    values = tops[0] + multipliers @ (costs - allowed[:, None])
    order = np.argsort(-values, kind="stable")[:MOST_FOUND]
    return Swept([chosen[:, at].copy() for at in order], dropped)


def _contexts(plan: Elimination) -> dict[int, list[int]]:
    """Per decision, once it is chosen: the chosen decisions that the tables of the others depend on."""
    contexts: dict[int, list[int]] = {}
    needed: set[int] = set()
    for v in plan.order:
        contexts[v] = sorted(needed)
        needed.discard(v)
        needed.update(u for _, bucket in plan.buckets[v] for u in bucket.scope[1:])
    return contexts


def _keys(chosen: Options, context: Sequence[int], sizes: Sequence[int]) -> Index:
    """[labels], equal where the options of the context are equal."""
    keys = np.zeros(chosen.shape[1], np.int64)
    radix = 1
    for u in context:
        if radix * sizes[u] >= 1 << 62:
            keys = np.unique(keys, return_inverse=True)[1].astype(np.int64)
            radix = int(keys.max()) + 1
        keys = keys * sizes[u] + chosen[u]
        radix *= sizes[u]
    return keys


def _undominated(keys: Index, values: Table, costs: Table) -> Index:
    """Labels that no other of the same key dominates: as valuable, and no more costly in any resource.

    Exact for one resource; for several a label is compared with the few that are next in value.
    """
    if len(costs) <= 1:
        spent = costs[0] if len(costs) else np.zeros_like(values)
        order = np.lexsort((-values, spent, keys))
        # Ranks instead of values, so that a key's offset and the running maximum are exact.
        ranks = np.unique(values[order], return_inverse=True)[1].astype(np.int64)
        starts = np.concatenate([[0], np.cumsum(np.diff(keys[order]) != 0)])
        level = ranks + 1 + starts * (len(order) + 1)
        before = np.concatenate([[-1], np.maximum.accumulate(level)[:-1]])
        return np.asarray(order[level > before], np.intp)
    order = np.lexsort((costs[0], -values, keys))
    keys, costs = keys[order], costs[:, order]
    beaten = np.zeros(order.size, bool)
    for step in range(1, min(MOST_COMPARED, order.size - 1) + 1):
        same = keys[step:] == keys[:-step]
        beaten[step:] |= same & (costs[:, :-step] <= costs[:, step:]).all(axis=0)
    return np.asarray(order[~beaten], np.intp)

"""Variable elimination: the largest sum of tables over shared decisions, exact while the tables stay small.

Decisions leave one by one: all tables about one are added up and maximised over it, which leaves a table (a
*message*) about its neighbours (Bertele and Brioschi 1972; Dechter's buckets 1999). On chains, residual
stages and transformer blocks the tables stay as small as the layers' own. Where they would not, a bucket is
split into mini-buckets that are maximised apart, which can only give more: an upper bound (Dechter and Rish
2003), tightened by shifts that let mini-buckets agree about the decision that leaves (Ihler et al. 2012).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from math import prod

import numpy as np
from numpy.typing import NDArray

Table = NDArray[np.float64]
Scope = tuple[int, ...]
Shape = tuple[int, ...]
Options = NDArray[np.int32]  # [decisions], an option of each; or [decisions, assignments]

WHOLE_CELLS = 1 << 21  # of all tables together: below, nothing is split
SPLIT_CELLS = 1 << 16  # of one table, when something must be


@dataclass(frozen=True)
class _Bucket:
    """Tables about one decision that are added up and maximised over it.

    scope: the decision first, then its neighbours in the order of elimination.
    planes: [planes, cells of the scope], the sum of the problem's own tables here, or None.
    messages: (bucket it comes from, shape that broadcasts it to the scope).
    """

    scope: Scope
    shape: Shape
    planes: Table | None
    messages: tuple[tuple[int, Shape], ...]


class Elimination:
    """Order of elimination and the places of all tables in it, planned once for many weights.

    sizes: options per decision.
    factors: (positions of decisions, [planes, options of each]).
    exact: nothing had to be split, so every bound is attained.
    neighbours: per decision, itself and those that share a table of the problem with it.
    """

    def __init__(self, sizes: Sequence[int], factors: Sequence[tuple[Scope, Table]]) -> None:
        self.sizes = tuple(sizes)
        self.order = elimination_order(self.sizes, [scope for scope, _ in factors])
        placed = _in_order(factors, {v: place for place, v in enumerate(self.order)})
        whole = _cells(self.order, placed, self.sizes) <= WHOLE_CELLS
        self.buckets = self._plan(placed, None if whole else SPLIT_CELLS)
        self.exact = all(len(each) <= 1 for each in self.buckets.values())
        self._about = [
            [(scope, scope.index(v), planes) for scope, planes in placed.items() if v in scope]
            for v in range(len(self.sizes))
        ]
        self.neighbours = [
            tuple(sorted({v}.union(*(scope for scope, _, _ in about)))) for v, about in enumerate(self._about)
        ]

    def _plan(self, placed: dict[Scope, Table], limit: int | None) -> dict[int, list[tuple[int, _Bucket]]]:
        """Per decision its (mini-)buckets, each with a number by which its message is known."""
        place = {v: at for at, v in enumerate(self.order)}
        waiting: dict[int, list[tuple[Scope, Table | None, int]]] = {v: [] for v in self.order}
        for scope, planes in placed.items():
            waiting[scope[0]].append((scope, planes, -1))
        plan: dict[int, list[tuple[int, _Bucket]]] = {}
        number = 0
        for v in self.order:
            plan[v] = []
            for parts in _split(waiting[v], self.sizes, limit):
                scope = tuple(sorted({u for part, _, _ in parts for u in part}, key=place.__getitem__))
                shape = tuple(self.sizes[u] for u in scope)
                spread = [
                    own.reshape(len(own), *_broadcast(part, scope, self.sizes))
                    for part, own, _ in parts
                    if own is not None
                ]
                together = None
                if spread:
                    together = np.zeros((len(spread[0]), *shape))
                    for own in spread:
                        together += own
                    together = together.reshape(len(together), -1)
                messages = tuple(
                    (source, _broadcast(part, scope, self.sizes))
                    for part, own, source in parts
                    if own is None
                )
                plan[v].append((number, _Bucket(scope, shape, together, messages)))
                if len(scope) > 1:
                    waiting[scope[1]].append((scope[1:], None, number))
                number += 1
        return plan

    def maximise(self, weights: Sequence[float]) -> Maximum:
        """Upper bound on the weighted sum of planes over all assignments; attained when `exact`.

        weights: [planes].
        """
        mix = np.asarray(weights, np.float64)
        messages: dict[int, Table] = {}
        totals: dict[int, Table] = {}
        bound = 0.0
        for v in self.order:
            here = self.buckets[v]
            for number, bucket in here:
                totals[number] = _total(bucket, mix, messages)
            if len(here) > 1:
                _agree([totals[number] for number, _ in here])
            for number, bucket in here:
                messages[number] = totals[number].max(axis=0)
                if len(bucket.scope) == 1:
                    bound += float(messages[number])
        return Maximum(self, bound, totals, messages)

    def planes_of(self, assignment: Options) -> Table:
        """[planes] sums of one assignment over all tables."""
        total = np.zeros(0)
        for v in self.order:
            for _, bucket in self.buckets[v]:
                if bucket.planes is not None:
                    cell = np.ravel_multi_index([int(assignment[u]) for u in bucket.scope], bucket.shape)
                    total = bucket.planes[:, cell] + (total if total.size else 0.0)
        return total

    def moves(self, v: int, assignment: Options) -> Table:
        """[planes, options]: the sum over the tables about one decision, for each of its options."""
        total = np.zeros(0)
        for scope, axis, planes in self._about[v]:
            cut = tuple(slice(None) if at == axis else int(assignment[u]) for at, u in enumerate(scope))
            total = planes[(slice(None), *cut)] + (total if total.size else 0.0)
        return total


@dataclass(frozen=True)
class Maximum:
    """Upper bound on one weighted sum, and the loss of every partial assignment against it."""

    plan: Elimination
    bound: float
    totals: dict[int, Table]
    messages: dict[int, Table]

    def assignment(self) -> Options:
        """[decisions], options chosen greedily, last eliminated first; a maximum when the plan is exact."""
        chosen = np.zeros(len(self.plan.sizes), np.int32)
        for v in reversed(self.plan.order):
            scores = sum(
                self.totals[number][(slice(None), *(chosen[u] for u in bucket.scope[1:]))]
                for number, bucket in self.plan.buckets[v]
            )
            chosen[v] = int(np.argmax(scores))
        return chosen

    def losses(self, v: int, chosen: Options) -> Table:
        """[options, assignments] <= 0: change of the bound by each option of the next decision.

        chosen: assignments in which every decision that is eliminated after `v` has its option.
        """
        lost = np.zeros((self.plan.sizes[v], chosen.shape[1]))
        for number, bucket in self.plan.buckets[v]:
            total, message = self.totals[number], self.messages[number]
            if len(bucket.scope) == 1:
                lost += (total - message)[:, None]
                continue
            cells = np.ravel_multi_index([chosen[u] for u in bucket.scope[1:]], bucket.shape[1:])
            best = message.reshape(-1)[cells]
            with np.errstate(invalid="ignore"):  # -inf - -inf: a context that is forbidden already
                lost += total.reshape(len(total), -1)[:, cells] - best
        return np.nan_to_num(lost, nan=-np.inf, neginf=-np.inf)


def elimination_order(sizes: Sequence[int], scopes: Sequence[Scope]) -> tuple[int, ...]:
    """Order that always eliminates the decision with the smallest table, then the fewest newly coupled pairs.

    Ties go to the first decision, so the order is repeatable.
    """
    near = [0] * len(sizes)  # bit u of near[v]: v and u share a table
    for scope in scopes:
        mask = sum(1 << v for v in scope)
        for v in scope:
            near[v] |= mask & ~(1 << v)
    order = []
    cells = {v: prod(sizes[u] for u in (v, *_bits(near[v]))) for v in range(len(sizes))}
    while cells:
        least = min(cells.values())
        tied = (v for v, size in cells.items() if size == least)
        v = min(tied, key=lambda v: (sum((near[v] & ~near[u]).bit_count() - 1 for u in _bits(near[v])), v))
        del cells[v]
        for u in _bits(near[v]):
            near[u] = (near[u] | near[v]) & ~(1 << u) & ~(1 << v)
            cells[u] = prod(sizes[w] for w in (u, *_bits(near[u])))
        order.append(v)
    return tuple(order)


def _bits(mask: int) -> list[int]:
    found = []
    while mask:
        low = mask & -mask
        found.append(low.bit_length() - 1)
        mask ^= low
    return found


def _in_order(factors: Sequence[tuple[Scope, Table]], place: dict[int, int]) -> dict[Scope, Table]:
    """Tables with their axes in the order of elimination; tables within a larger one are added to it."""
    placed: dict[Scope, Table] = {}
    for scope, planes in factors:
        axes = sorted(range(len(scope)), key=lambda axis: place[scope[axis]])
        ordered = tuple(scope[axis] for axis in axes)
        table = planes.transpose(0, *(axis + 1 for axis in axes))
        placed[ordered] = placed[ordered] + table if ordered in placed else table
    merged: dict[Scope, Table] = {}
    about: dict[int, list[Scope]] = {}
    for scope in sorted(placed, key=lambda scope: (-len(scope), scope)):
        table = placed[scope]
        larger = (other for other in about.get(scope[0], ()) if len(other) > len(scope))
        home = next((other for other in larger if set(scope) <= set(other)), None)
        if home is None:
            merged[scope] = table
            for v in scope:
                about.setdefault(v, []).append(scope)
        else:
            sizes = merged[home].shape[1:]
            shape = tuple(size if u in scope else 1 for u, size in zip(home, sizes, strict=True))
            merged[home] = merged[home] + table.reshape(len(table), *shape)
    return merged


def _cells(order: Sequence[int], scopes: Iterable[Scope], sizes: Sequence[int]) -> int:
    """Cells of all tables when nothing is split."""
    left = {v: {v} for v in order}
    place = {v: at for at, v in enumerate(order)}
    for scope in scopes:
        left[scope[0]].update(scope)
    total = 0
    for v in order:
        total += prod(sizes[u] for u in left[v])
        rest = left[v] - {v}
        if rest:
            left[min(rest, key=place.__getitem__)].update(rest)
    return total


def _split(
    parts: list[tuple[Scope, Table | None, int]], sizes: Sequence[int], limit: int | None
) -> list[list[tuple[Scope, Table | None, int]]]:
    """All parts together, or sets of them whose joint tables have at most `limit` cells."""
    if limit is None or not parts:
        return [parts] * bool(parts)
    bins: list[tuple[set[int], list[tuple[Scope, Table | None, int]]]] = []
    for part in sorted(parts, key=lambda part: (-len(part[0]), part[0], part[2])):
        for scope, held in bins:
            if prod(sizes[u] for u in scope | set(part[0])) <= limit:
                scope.update(part[0])
                held.append(part)
                break
        else:
            bins.append((set(part[0]), [part]))
    return [held for _, held in bins]


def _broadcast(part: Scope, scope: Scope, sizes: Sequence[int]) -> Shape:
    return tuple(sizes[u] if u in part else 1 for u in scope)


def _total(bucket: _Bucket, mix: Table, messages: dict[int, Table]) -> Table:
    if bucket.planes is None:
        total = np.zeros(bucket.shape)
    elif mix[0] == 0:  # 0 * -inf would be no number; what is forbidden stays forbidden
        total = (mix[1:] @ bucket.planes[1:]).reshape(bucket.shape)
        total[np.isneginf(bucket.planes[0]).reshape(bucket.shape)] = -np.inf
    else:
        total = (mix @ bucket.planes).reshape(bucket.shape)
    for source, shape in bucket.messages:
        total += messages[source].reshape(shape)
    return total


def _agree(totals: list[Table]) -> None:
    """Shift mini-buckets so that they rate their shared decision alike: the sum stays, the bound falls."""
    rated = [total.reshape(len(total), -1).max(axis=1) for total in totals]
    if not all(np.isfinite(each).all() for each in rated):
        return
    mean = sum(rated) / len(rated)
    for total, own in zip(totals, rated, strict=True):
        total += (mean - own).reshape(-1, *([1] * (total.ndim - 1)))

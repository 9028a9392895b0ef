"""Blocks: the parameter indices behind each position of a tensor, and unions of those removed together.

An *atom* is one index of one parameter dimension. A tensor in the graph carries *blocks*: a block
covers one or more of the tensor's dimensions and gives, for every position along them, the atom that this
position stands for. Dimensions without a block are not prunable (batch, time, space).

    conv.weight [8, 4, 3, 3]      blocks (0,): atoms 0..7     (1,): atoms 8..11
    activation  [B, 8, H, W]      block  (1,): atoms 0..7
    .view(B, 2, 4, H, W)          block  (1, 2): atoms 0..7 as a 2 x 4 array: a *joint* block

A joint block keeps the finest grain until an operation needs one of its dimensions whole; then it is
collapsed: all positions of one index are united. `Book` only records unions; the classes are computed
once at the end by connected components, so the cost is linear in the number of atoms and unions.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

# The integer in place of the symbolic batch size, so that views can be factored. A prime larger than any
# layer's factor is never confused with a width.
SYMBOLIC_BATCH = 1_000_003

Ids = NDArray[np.int64]
Label = Any  # any hashable that names a dimension inside one `merge`


@dataclass(frozen=True)
class Block:
    """Atoms along some dimensions of a tensor.

    `ids[i, j, ...]` is the atom at position i of `dims[0]`, j of `dims[1]`, ...; dims ascend.
    """

    dims: tuple[int, ...]
    ids: Ids


Blocks = tuple[Block, ...]  # of one tensor; their dims are disjoint


@dataclass(frozen=True)
class Frozen:
    """Atoms that may not be removed, with the operation that needs them all and the reason."""

    ids: Ids
    node: str
    op: str
    reason: str


@dataclass(frozen=True)
class Operand:
    """A tensor inside `merge`: one label per dimension, None where it is broadcast (size 1)."""

    blocks: Blocks
    labels: tuple[Label | None, ...]
    weight: bool = False  # a parameter, possibly transposed: its contracted side consumes units

    def labelled(self) -> list[tuple[tuple[Label, ...], Ids]]:
        found = []
        for block in self.blocks:
            labels = tuple(self.labels[dim] for dim in block.dims)
            if None not in labels:
                found.append((labels, block.ids))
        return found


class Book:
    """Record of the atoms, their unions and the frozen ones, filled while the graph is walked."""

    def __init__(self) -> None:
        self.count = 0
        self.frozen: list[Frozen] = []
        self._left: list[Ids] = []
        self._right: list[Ids] = []
        self._scratch = np.zeros(0, np.int8)
        self._following: list[tuple[int, int]] = []  # atoms of no parameter, from and to

    def fresh(self, size: int) -> Ids:
        """`size` new atoms."""
        ids = np.arange(self.count, self.count + size, dtype=np.int64)
        self.count += size
        return ids

    def filler(self, size: int) -> Ids:
        """`size` new atoms of no parameter: a dimension of any size, which follows what it meets."""
        self._following.append((self.count, self.count + size))
        return self.fresh(size)

    def follows(self, ids: Ids) -> bool:
        """Whether the first of some atoms is of no parameter."""
        first = int(ids.flat[0]) if ids.size else 0
        place = bisect_right(self._following, (first, self.count)) - 1
        return place >= 0 and first < self._following[place][1]

    def mark(self) -> tuple[int, int]:
        """Place in the record, from which `lost` looks at what was added."""
        return len(self._left), len(self.frozen)

    def lost(self, sides: Sequence[Ids], known: Sequence[Ids], since: tuple[int, int]) -> Ids:
        """Atoms of an operation's arguments that came to nothing since a mark.

        sides: atoms of each argument. known: atoms that are accounted for, beside those frozen since. An atom
        that was united with an atom of another argument, or with one of none, is accounted for as well.
        """
        if len(self._scratch) < self.count:
            self._scratch = np.zeros(2 * self.count, np.int8)
        state = self._scratch  # 0 unless an atom is touched here: 1 + its argument, -1 once accounted for
        frozen = [entry.ids for entry in self.frozen[since[1] :]]
        touched = [*sides, *known, *frozen]
        unions = list(zip(self._left[since[0] :], self._right[since[0] :], strict=True))
        try:
            for number, ids in enumerate(sides):
                again = ids[state[ids] > 0]
                state[ids] = min(number + 1, 100)
                state[again] = 101  # of several arguments
            for ids in (*known, *frozen):
                state[ids] = -1
            open_ = unions
            while any((state[ids] > 0).any() for ids in sides):
                count = len(touched)
                for left, right in open_:
                    a, b = state[left], state[right]
                    found = (a != b) | (a == 101)
                    for ids, own in ((left, a), (right, b)):
                        new = ids[found & (own > 0)]
                        if new.size:
                            touched.append(new)
                            state[new] = -1
                if len(touched) == count:
                    break
            return np.unique(np.concatenate([ids[state[ids] > 0] for ids in sides]))
        finally:
            for ids in touched:
                state[ids] = 0

    def unite(self, left: Ids, right: Ids) -> None:
        """Record that atoms at equal positions of two arrays must be removed together."""
        self._left.append(np.ravel(left))
        self._right.append(np.ravel(np.broadcast_to(right, left.shape)))

    def freeze(self, ids: Ids, node: str, op: str, reason: str) -> None:
        self.frozen.append(Frozen(np.unique(ids), node, op, reason))

    def classes(self) -> Ids:
        """[atoms]: the number of each atom's class; atoms of one class must be removed together."""
        from scipy.sparse import coo_array
        from scipy.sparse.csgraph import connected_components

        left = np.concatenate([*self._left, np.empty(0, np.int64)])
        right = np.concatenate([*self._right, np.empty(0, np.int64)])
        graph = coo_array((np.ones(len(left), np.int8), (left, right)), shape=(self.count, self.count))
        _, labels = connected_components(graph, directed=False)
        return np.asarray(labels, dtype=np.int64)

    def collapse(self, ids: Ids, axis: int) -> Ids:
        """Unite all positions that share an index of `axis`, and return one atom for each index."""
        rows = np.moveaxis(ids, axis, 0).reshape(ids.shape[axis], -1)
        self.unite(rows[:, 1:], rows[:, :1])
        return rows[:, 0].copy()


def merge(
    book: Book,
    operands: Sequence[Operand],
    order: Sequence[Label],
    node: str,
    op: str,
    *,
    inner: bool = False,
) -> Mapping[tuple[Label, ...], Ids]:
    """Unite what operands have at equal labels (the einsum view of an operation).

    q [H, S, 64] and k [H, T, 64] meet in "h" and in "d": both labels are joint in q and in k, so the operands
    are united position by position. Where operands differ in which labels are joint, one label is kept that
    every operand with this label also has in a block: the outermost in `order`, or the innermost with
    `inner`. The other labels are united where they are joint with the kept label, and frozen where they stand
    alone. Returns the resulting blocks, by labels in `order`.
    """
    rank = {label: position for position, label in enumerate(order)}
    result: dict[tuple[Label, ...], Ids] = {}
    for labels in _overlapping(operands, rank):
        involved = [operand for operand in operands if any(label in labels for label in operand.labels)]
        pieces = [
            [(names, ids) for names, ids in operand.labelled() if set(names) <= set(labels)]
            for operand in involved
        ]
        if all(len(piece) == 1 and set(piece[0][0]) == set(labels) for piece in pieces):
            aligned = [_transpose(names, ids, labels) for ((names, ids),) in pieces]
            for other in aligned[1:]:
                book.unite(aligned[0], other)
            result[labels] = aligned[0]
            continue
        tracked = [{name for names, _ in piece for name in names} for piece in pieces]
        keepable = [
            label
            for label in labels
            if all(
                label in names or label not in o.labels for o, names in zip(involved, tracked, strict=True)
            )
        ]
        kept = (keepable[-1] if inner else keepable[0]) if keepable else None
        rows = []
        for names, ids in (entry for piece in pieces for entry in piece):
            if kept in names:
                rows.append(book.collapse(ids, names.index(kept)))
            else:
                book.freeze(ids, node, op, "meets a tensor in which this dimension cannot be cut")
        for other in rows[1:]:
            book.unite(rows[0], other)
        if rows:
            result[(kept,)] = rows[0]
    return result


def _overlapping(operands: Iterable[Operand], rank: Mapping[Label, int]) -> list[tuple[Label, ...]]:
    """Sets of labels that some block has in common, each in order."""
    sets: list[set[Label]] = []
    for operand in operands:
        for names, _ in operand.labelled():
            touching = [known for known in sets if known & set(names)]
            sets = [known for known in sets if not known & set(names)]
            sets.append(set(names).union(*touching))
    return [tuple(sorted(labels, key=rank.__getitem__)) for labels in sets]


def _transpose(names: tuple[Label, ...], ids: Ids, order: tuple[Label, ...]) -> Ids:
    return ids.transpose([names.index(label) for label in order])


def project(
    book: Book,
    merged: Mapping[tuple[Label, ...], Ids],
    output: Sequence[Label | None],
    *,
    inner: bool = False,
) -> Blocks:
    """Blocks of an operation's output: labels that the operation sums over disappear.

    A block that is joint over kept and contracted labels (query times key: head and head dimension) is
    collapsed on to the kept ones, or with `inner` on to the contracted ones.
    """
    blocks = []
    for labels, ids in merged.items():
        kept = [axis for axis, label in enumerate(labels) if label in output]
        if not kept:
            continue
        if len(kept) < len(labels):
            if inner:
                gone = next(axis for axis in range(len(labels)) if axis not in kept)
                book.collapse(ids, gone)
                continue
            flat = np.moveaxis(ids, kept, range(len(kept)))
            rows = flat.reshape(*flat.shape[: len(kept)], -1)
            book.unite(rows[..., 1:], rows[..., :1])
            ids = rows[..., 0]
        dims = [output.index(labels[axis]) for axis in kept]
        order = np.argsort(dims)
        blocks.append(Block(tuple(sorted(dims)), ids.transpose(order)))
    return tuple(sorted(blocks, key=lambda block: block.dims))


def reshape(
    blocks: Blocks,
    old: Sequence[int],
    new: Sequence[int],
    *,
    inner: bool = False,
    last: Callable[[Ids], bool] = lambda ids: False,
) -> tuple[Blocks, tuple[Block, ...]]:
    """Blocks after a view from shape `old` to `new`, and those that the view makes impossible to follow.

    A dimension of batch times width, [B, C] -> [B*C], has the atoms of one sample, repeated for every sample.
    Such a dimension needs the batch as its outer factor; otherwise the block is lost. A dimension that the
    block leaves may hold the batch anywhere: [S, B*H, D] -> [S*B, H*D].
    Where two blocks meet in one dimension, the outer block is followed (with `inner`, the inner block),
    one whose atoms are `last` only where it meets no other.
    """
    if 0 in old:
        return (), blocks
    chunks = _chunks(old, new)
    scattered = {n for n, sides in enumerate(chunks) if not _batch_leads(old, new, *sides)}
    shapes = (old, new)
    old, new = ([per_sample(size) for size in sizes] for sizes in (old, new))
    carried: list[Block] = []
    lost: list[Block] = []
    by_dims: dict[int, int] = {}  # old dim -> chunk
    for number, (old_dims, _) in enumerate(chunks):
        by_dims.update(dict.fromkeys(old_dims, number))
    merged: set[int] = set()  # chunks that end in one dimension and already carry a block
    ordered = reversed(blocks) if inner else blocks
    for block in sorted(ordered, key=lambda block: last(block.ids)):
        touched = sorted({by_dims[dim] for dim in block.dims})
        single = {number for number in touched if len(chunks[number][1]) == 1}
        inside = [_batch_inside(*shapes, *chunks[number], block.dims) for number in scattered & set(touched)]
        if merged & set(touched) or None in inside:
            lost.append(block)
            continue
        merged |= single
        old_dims = [dim for number in touched for dim in chunks[number][0]]
        new_dims = [dim for number in touched for dim in chunks[number][1]]
        ids = block.ids.reshape([old[dim] if dim in block.dims else 1 for dim in old_dims])
        ids = np.broadcast_to(ids, [old[dim] for dim in old_dims]).reshape([new[dim] for dim in new_dims])
        kept = _drop_constant(tuple(new_dims), ids)
        if kept is None or set(kept.dims) & set(inside):
            lost.append(block)
        else:
            carried.append(kept)
    dims = [dim for block in carried for dim in block.dims]
    if len(dims) != len(set(dims)):
        return (), blocks
    return tuple(sorted(carried, key=lambda block: block.dims)), tuple(lost)


def per_sample(size: int) -> int:
    """Size of a dimension in one sample: [batch * width] holds `width`, and the batch alone 1."""
    return size // SYMBOLIC_BATCH if size % SYMBOLIC_BATCH == 0 else size


def _batch_leads(old: Sequence[int], new: Sequence[int], old_dims: list[int], new_dims: list[int]) -> bool:
    """Whether the batch, where a chunk contains the batch, is the outermost factor before and after."""
    for sizes, dims in ((old, old_dims), (new, new_dims)):
        inner = [size for size in (sizes[dim] for dim in dims) if size != 1][1:]
        if any(size % SYMBOLIC_BATCH == 0 for size in inner):
            return False
    return True


def _batch_inside(
    old: Sequence[int], new: Sequence[int], old_dims: list[int], new_dims: list[int], covered: Sequence[int]
) -> int | None:
    """The new dimension that the batch is a factor of, at a place that the old shape tells; else None.

    covered: dimensions of a block, in which the batch, if it is there, is the outer factor.
    """
    places, targets = (
        [d for d in dims if shape[d] % SYMBOLIC_BATCH == 0]
        for shape, dims in ((old, old_dims), (new, new_dims))
    )
    if (
        len(places) != 1
        or len(targets) != 1
        or not (old[places[0]] == SYMBOLIC_BATCH or places[0] in covered)
    ):
        return None
    stride = prod(per_sample(old[dim]) for dim in old_dims if dim >= places[0])
    within, rest = divmod(stride, prod(new[dim] for dim in new_dims if dim > targets[0]))
    return None if rest or within == 0 or per_sample(new[targets[0]]) % within else targets[0]


def _chunks(old: Sequence[int], new: Sequence[int]) -> list[tuple[list[int], list[int]]]:
    """Cut both shapes into the shortest runs of dimensions with equal products."""
    chunks: list[tuple[list[int], list[int]]] = []
    i = j = 0
    while i < len(old) or j < len(new):
        left, right = [], []
        a = b = 1
        if i < len(old):
            left, a, i = [i], old[i], i + 1
        if j < len(new):
            right, b, j = [j], new[j], j + 1
        while a != b:
            if a < b:
                left.append(i)
                a, i = a * old[i], i + 1
            else:
                right.append(j)
                b, j = b * new[j], j + 1
        chunks.append((left, right))
    return chunks


def _drop_constant(dims: tuple[int, ...], ids: Ids) -> Block | None:
    """Block without the axes along which the atom does not change; None when the atom never changes."""
    kept = []
    for axis, dim in enumerate(dims):
        first = np.take(ids, [0], axis=axis)
        if ids.shape[axis] > 1 and not np.array_equal(np.broadcast_to(first, ids.shape), ids):
            kept.append((axis, dim))
    if not kept:
        return None
    index = tuple(slice(None) if axis in [a for a, _ in kept] else 0 for axis in range(ids.ndim))
    return Block(tuple(dim for _, dim in kept), np.ascontiguousarray(ids[index]))

"""Coupling rules of operations that only move or select positions: views, permutations, slices, indexing."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import numpy as np
import torch
from torch.fx import GraphModule, Node

from edgeprune.graph.blocks import SYMBOLIC_BATCH, Block, Blocks, Ids, Operand, per_sample
from edgeprune.graph.fx import argument, aten, attribute, concrete, op_name
from edgeprune.graph.rules import rule
from edgeprune.graph.walk import Walk


@rule("getitem")
def getitem(walk: Walk, node: Node) -> Any:
    walk.unread(node.args[0])  # the other outputs are another node's business
    source_node, part = cast(tuple[Node, int], node.args)
    source = walk.values.get(source_node, ())
    return source[part] if isinstance(source, list) else ()


@rule(*aten("view reshape _unsafe_view flatten unflatten ravel squeeze unsqueeze"))
@rule(*aten("atleast_1d atleast_2d atleast_3d"))
def view(walk: Walk, node: Node) -> Blocks:
    return walk.reshaped(node, node.args[0])


@rule("aten.view_as", "aten.reshape_as")
def view_as(walk: Walk, node: Node) -> Blocks:
    """View in the shape of another tensor: after a cut the other one's shape decides."""
    labels = range(len(walk.shape(node)))
    like = walk.operand(node.args[1], labels)
    carried = walk.reshaped(node, node.args[0])
    return walk.contract(node, [Operand(carried, like.labels), like], labels)


def moved(blocks: Blocks, order: Sequence[int]) -> Blocks:
    """Blocks after a permutation: output dimension i is input dimension order[i]."""
    found = []
    for block in blocks:
        dims = [order.index(dim) for dim in block.dims]
        rank = np.argsort(dims)
        found.append(Block(tuple(sorted(dims)), block.ids.transpose(rank)))
    return tuple(sorted(found, key=lambda block: block.dims))


def permutation(node: Node, rank: int) -> list[int]:
    """Order in which a permuting node puts its input's dimensions."""
    name = op_name(node).removeprefix("aten.")
    order = list(range(rank))
    if name == "permute":
        dims: Any = argument(node, 1, "dims")
        return [int(dim) % rank for dim in dims]
    if name == "numpy_T":
        return order[::-1]
    if name in ("movedim", "moveaxis"):
        sources, targets = (_dims(argument(node, place, ""), rank) for place in (1, 2))
        rest = [dim for dim in order if dim not in sources]
        for target, source in sorted(zip(targets, sources, strict=True)):
            rest.insert(target, source)
        return rest
    first, second = -2, -1
    if name in ("transpose", "swapaxes", "swapdims"):
        word = "axis" if name == "swapaxes" else "dim"
        first, second = (argument(node, place, f"{word}{place - 1}") for place in (1, 2))
    if rank > 1:
        order[first % rank], order[second % rank] = order[second % rank], order[first % rank]
    return order


def _dims(chosen: Any, rank: int) -> list[int]:
    return [int(dim) % rank for dim in (chosen if isinstance(chosen, list | tuple) else [chosen])]


@rule(*aten("permute transpose t mT numpy_T adjoint mH matrix_H swapaxes swapdims movedim moveaxis"))
def permute(walk: Walk, node: Node) -> Blocks:
    return moved(walk.blocks(node.args[0]), permutation(node, len(walk.shape(node.args[0]))))


@rule("aten.expand", "aten.broadcast_to")
def expand(walk: Walk, node: Node) -> Blocks:
    """Broadcast: a dimension that was 1 long, or is new, can have any size and follows what it meets."""
    old, new = walk.shape(node.args[0]), walk.shape(node)
    shift = len(new) - len(old)
    blocks = [Block(tuple(d + shift for d in b.dims), b.ids) for b in walk.blocks(node.args[0])]
    for dim, size in enumerate(new):
        if per_sample(size) > 1 and (dim < shift or old[dim - shift] == 1):
            blocks.append(Block((dim,), walk.book.filler(per_sample(size))))
    return tuple(sorted(blocks, key=lambda block: block.dims))


@rule("aten.expand_as")
def expand_as(walk: Walk, node: Node) -> Blocks:
    """Broadcast to the shape of another tensor: after a cut the other one's shape decides."""
    return walk.elementwise(node, node.args[:2])


@rule("aten.repeat", "aten.tile")
def repeat(walk: Walk, node: Node) -> Blocks:
    """Tiling: a prunable dimension's atoms are repeated; as often as there are samples, once for each."""
    shape, times = (
        walk.shape(node.args[0]),
        list(argument(node, 1, "dims" if "tile" in op_name(node) else "repeats")),
    )
    times = [1] * (len(walk.shape(node)) - len(times)) + times
    shift = len(times) - len(shape)
    blocks = []
    for block in walk.blocks(node.args[0]):
        tiles = [times[dim + shift] for dim in block.dims]
        tiles = [concrete(count.meta["val"]) if isinstance(count, Node) else count for count in tiles]
        both = any(
            count % SYMBOLIC_BATCH == 0 == shape[d] % SYMBOLIC_BATCH
            for count, d in zip(tiles, block.dims, strict=True)
        )
        if all(tiles) and not both:
            ids = np.tile(block.ids, [per_sample(count) for count in tiles])
            blocks.append(Block(tuple(d + shift for d in block.dims), ids))
        else:
            walk.freeze(node, op_name(node), "repeated a variable number of times", (block,))
    return tuple(blocks)


@rule("aten.repeat_interleave")
def repeat_interleave(walk: Walk, node: Node) -> Blocks:
    times, dim = argument(node, 1, "repeats"), argument(node, 2, "dim")
    value = node.args[0]
    if dim is None or not isinstance(times, int):
        walk.freeze(node, "aten.repeat_interleave", "repeats are not a constant", walk.blocks(value))
        return ()
    dim = int(dim) % len(walk.shape(value))
    return tuple(
        Block(b.dims, np.repeat(b.ids, times, axis=b.dims.index(dim)) if dim in b.dims else b.ids)
        for b in walk.blocks(value)
    )


# Selecting -----------------------------------------------------------------------------------------


def select_positions(walk: Walk, value: Any, dim: int, index: Any) -> Blocks:
    """Blocks of value[..., index, ...] at `dim`; `index` is a slice or an array of positions."""
    blocks = walk.blocks(value)
    walk.check_width(value, dim)
    walk.leave_out(tuple(block for block in blocks if dim in block.dims))
    found = []
    for block in blocks:
        if dim in block.dims:
            axes = tuple(index if d == dim else slice(None) for d in block.dims)
            block = Block(block.dims, block.ids[axes])
        found.append(block)
    return tuple(found)


@rule("aten.slice", "aten.narrow")
def slice_(walk: Walk, node: Node) -> Blocks:
    value = node.args[0]
    dim = int(argument(node, 1, "dim", 0)) % len(walk.shape(value))
    start, end, step = slice_bounds(walk, node)
    if not any(dim in block.dims for block in walk.blocks(value)):
        return walk.blocks(value)
    if start is None or step != 1:
        return walk.close(node, walk.blocks(value), dim, "cut at positions that are not one constant run")
    return select_positions(walk, value, dim, slice(start, end, step))


def slice_bounds(walk: Walk, node: Node) -> tuple[int | None, int, int]:
    """Start, end and step of a slice as non-negative integers; start is None when one of them is symbolic."""
    value = node.args[0]
    size = walk.shape(value)[int(argument(node, 1, "dim", 0))]
    start, end = argument(node, 2, "start", 0), argument(node, 3, "end")
    if str(node.target).startswith("aten.narrow"):
        end = start + argument(node, 3, "length") if isinstance(start, int) else start
    step = argument(node, 4, "step", 1)
    start = 0 if start is None else start
    end = size if end is None else end
    if not all(isinstance(bound, int) for bound in (start, end, step)):
        return None, size, 1
    bounds = slice(start, end, step).indices(size)
    return bounds[0], bounds[1], bounds[2]


@rule("aten.select")
def select(walk: Walk, node: Node) -> Blocks:
    value, index = node.args[0], argument(node, 2, "index")
    rank = len(walk.shape(value))
    dim = int(argument(node, 1, "dim")) % rank
    return _selected(walk, node, dim, index)


def _selected(walk: Walk, node: Node, dim: int, index: Any) -> Blocks:
    """Blocks of one position of `dim`, which must stay; a dimension that is joint with others is closed."""
    blocks = walk.blocks(node.args[0])
    walk.check_width(node.args[0], dim)
    alone = [block for block in blocks if block.dims == (dim,)]
    if not isinstance(index, int):
        blocks = walk.close(node, blocks, dim, "selected at a position that is not a constant")
    elif alone:
        walk.freeze(node, op_name(node), "a single position is taken", (Block((0,), alone[0].ids[[index]]),))
        walk.leave_out((alone[0],))
        blocks = tuple(block for block in blocks if block is not alone[0])
    else:
        blocks = walk.close(node, blocks, dim, "a single position is taken")
    return tuple(Block(tuple(d - (d > dim) for d in b.dims), b.ids) for b in blocks)


@rule("aten.unbind")
def unbind(walk: Walk, node: Node) -> list[Blocks]:
    dim = int(argument(node, 1, "dim", 0)) % len(walk.shape(node.args[0]))
    return [_selected(walk, node, dim, index) for index in range(len(node.meta["val"]))]


@rule(*aten("split split_with_sizes chunk unsafe_split unsafe_split_with_sizes unsafe_chunk tensor_split"))
def split(walk: Walk, node: Node) -> list[Blocks]:
    value = node.args[0]
    dim = int(argument(node, 2, "dim", 0)) % len(walk.shape(value))
    parts = []
    start = 0
    for meta in node.meta["val"]:
        size = concrete(meta.shape[dim])
        parts.append(select_positions(walk, value, dim, slice(start, start + size)))
        start += size
    return parts


def constant_positions(module: GraphModule, index: Any, size: int) -> Ids | None:
    """Positions in `range(size)` that a constant vector contains; None for any other index."""
    copies = ("aten.lift_fresh_copy", "aten.clone", "aten.detach", "aten.detach_")
    while isinstance(index, Node) and index.op == "call_function" and op_name(index) in copies:
        index = index.args[0]
    if not isinstance(index, Node) or index.op != "get_attr":
        return None
    tensor = attribute(module, str(index.target))
    if not isinstance(tensor, torch.Tensor) or tensor.dim() != 1 or tensor.dtype != torch.int64:
        return None
    return np.asarray(tensor.detach().cpu().numpy() % size, dtype=np.int64)


def looked_up(node: Node) -> tuple[int, Any] | None:
    """Dimension and index of a node that indexes one dimension only; None for any other node."""
    if op_name(node) == "aten.index_select":
        return int(argument(node, 1, "dim")), argument(node, 2, "index")
    indices = argument(node, 1, "indices")
    chosen = [dim for dim, index in enumerate(indices) if index is not None]
    return (chosen[0], indices[chosen[0]]) if len(chosen) == 1 else None


def _constant_rows(walk: Walk, node: Node) -> Blocks | None:
    """Blocks after indexing at constant positions; None when the positions are not constants."""
    one = looked_up(node)
    shape = walk.shape(node.args[0])
    if one is None:
        return None
    dim = one[0] % len(shape)
    positions = constant_positions(walk.module, one[1], shape[dim])
    return None if positions is None else select_positions(walk, node.args[0], dim, positions)


@rule("aten.index_select")
def index_select(walk: Walk, node: Node) -> Blocks:
    value = node.args[0]
    dim = int(argument(node, 1, "dim")) % len(walk.shape(value))
    constant = _constant_rows(walk, node)
    return (
        constant
        if constant is not None
        else walk.close(node, walk.blocks(value), dim, "positions are looked up by index")
    )


@rule("aten.index")
def index(walk: Walk, node: Node) -> Blocks:
    """Advanced indexing: dimensions indexed by anything but constants are frozen, the others pass.

    The broadcast index dimensions stand where the indexed ones stood, or in front when those are not
    adjacent (NumPy's rule).
    """
    constant = _constant_rows(walk, node)
    if constant is not None:
        return constant
    value, indices = node.args[0], list(argument(node, 1, "indices"))
    blocks = walk.blocks(value)
    indexed = [dim for dim, chosen in enumerate(indices) if chosen is not None]
    if any(indices[dim].meta["val"].dtype in (torch.bool, torch.uint8) for dim in indexed):
        raise ValueError("a mask takes the place of one dimension or several")
    for dim in indexed:
        blocks = walk.close(node, blocks, dim, "positions are looked up by index")
    extra = len(walk.shape(node)) - (len(walk.shape(value)) - len(indexed))
    adjacent = indexed == list(range(indexed[0], indexed[-1] + 1))
    front = indexed[0] if adjacent else 0
    place = {}
    rest = [dim for dim in range(len(walk.shape(value))) if dim not in indexed]
    for number, dim in enumerate(rest):
        place[dim] = number if number < front else number + extra
    for chosen in indices:
        if chosen is not None:
            walk.freeze(node, "aten.index", "used as an index", walk.blocks(chosen))
    return tuple(Block(tuple(place[d] for d in b.dims), b.ids) for b in blocks)


@rule("aten.gather")
def gather(walk: Walk, node: Node) -> Blocks:
    """Positions along one dimension by index, at equal positions of all other dimensions."""
    value, index = node.args[0], argument(node, 2, "index")
    shape, wanted = walk.shape(value), walk.shape(index)
    dim = int(argument(node, 1, "dim")) % len(shape)
    blocks = walk.close(node, walk.blocks(value), dim, "positions are looked up by index")
    for other in range(len(shape)):
        if other != dim and wanted[other] != shape[other]:
            blocks = walk.close(node, blocks, other, "only some of its positions are looked up")
    labels = range(len(shape))
    taken = [("looked up", dim) if other == dim else other for other in labels]
    return walk.contract(node, [walk.operand(value, taken, blocks), walk.operand(index, labels)], labels)

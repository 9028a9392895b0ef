"""Coupling rules of operations that join tensors, and of constants."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from torch.fx import Node

from edgeprune.graph.blocks import Block, Blocks, Operand, merge, per_sample, project
from edgeprune.graph.fx import argument, aten, op_name
from edgeprune.graph.rules import rule
from edgeprune.graph.walk import Walk


@rule("aten.cat", "aten.concat", "aten.concatenate")
def cat(walk: Walk, node: Node) -> Blocks:
    values: Any = node.args[0]
    values = [value for value in values if walk.shape(value) != (0,)]
    rank = len(walk.shape(node))
    dim = int(argument(node, 1, "dim", 0)) % rank
    for value in values:
        walk.check_width(value, dim)
    along = [next((b for b in walk.blocks(value) if dim in b.dims), None) for value in values]
    layouts = {block.dims if block is not None else None for block in along}
    if any(block is not None and len(block.dims) > 1 for block in along) and len(layouts) > 1:
        # Joint in one part and not in another: no common grain, so the joined dimension stays whole.
        operands = [
            walk.close(node, walk.blocks(value), dim, "joined with a part that cannot be cut")
            for value in values
        ]
        return _merged(walk, node, operands, rank, dim)
    joined: Blocks = ()
    if layouts != {None}:
        joined = (_concatenated(walk, node, values, along, dim),)
    others = [
        tuple(b for b in walk.blocks(value) if b is not block)
        for value, block in zip(values, along, strict=True)
    ]
    merged = _merged(walk, node, others, rank, dim)
    return tuple(sorted([*joined, *merged], key=lambda block: block.dims))


def _concatenated(walk: Walk, node: Node, values: Any, along: Any, dim: int) -> Block:
    """Block of the joined dimension; parts that cannot be cut get frozen atoms of their own."""
    dims = next(block.dims for block in along if block is not None)
    parts = []
    for value, block in zip(values, along, strict=True):
        if block is not None:
            parts.append(block.ids)
            continue
        filler = walk.book.fresh(walk.shape(value)[dim])
        walk.book.freeze(filler, node.name, "aten.cat", "joined with a part that cannot be cut")
        parts.append(filler)
    return Block(dims, np.concatenate(parts, axis=dims.index(dim)))


def _merged(walk: Walk, node: Node, operands: Sequence[Blocks], rank: int, dim: int) -> Blocks:
    """Blocks of every dimension but the joined one, at which the parts are united."""
    shapes = [shape for shape in map(walk.shape, argument(node, 0, "tensors")) if shape != (0,)]
    labels = [
        tuple(None if size == 1 or axis == dim else axis for axis, size in enumerate(shape))
        for shape in shapes
    ]
    prepared = [Operand(blocks, names) for blocks, names in zip(operands, labels, strict=True)]
    merged = merge(walk.book, prepared, range(rank), node.name, "aten.cat")
    return project(walk.book, merged, range(rank))


@rule("aten.stack")
def stack(walk: Walk, node: Node) -> Blocks:
    values: Any = node.args[0]
    rank = len(walk.shape(node))
    dim = int(argument(node, 1, "dim", 0)) % rank
    labels = [axis for axis in range(rank) if axis != dim]
    return walk.contract(node, [walk.operand(value, labels) for value in values], range(rank))


# Constants -----------------------------------------------------------------------------------------


@rule(*aten("zeros ones full empty new_zeros new_ones new_full new_empty"))
def filled(walk: Walk, node: Node) -> Blocks:
    """Constant tensor: its dimensions can have any size, so they follow the tensors that they meet."""
    for value in node.all_input_nodes:
        walk.unread(value)
    sizes = [per_sample(size) for size in walk.shape(node)]
    return tuple(Block((dim,), walk.book.filler(size)) for dim, size in enumerate(sizes) if size > 1)


@rule("aten.arange", "aten.sym_size", "aten.eye", "aten.scalar_tensor")
def fixed(walk: Walk, node: Node) -> Blocks:
    for value in node.all_input_nodes:
        if op_name(node) == "aten.sym_size":
            walk.unread(value)  # a size that is no number is the batch's, or has the batch as a factor
        else:
            walk.freeze(
                node, op_name(node), "depends on every position of its dimensions", walk.blocks(value)
            )
    return ()

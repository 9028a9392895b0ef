"""Coupling rules of convolutions, pooling, resizing and padding."""

from __future__ import annotations

from typing import Any

import numpy as np
from torch.fx import Node

from edgeprune.graph.blocks import Block, Blocks
from edgeprune.graph.fx import argument, aten, op_name
from edgeprune.graph.rules import rule
from edgeprune.graph.walk import Walk


@rule(*aten("conv1d conv2d conv3d conv_transpose1d conv_transpose2d conv_transpose3d"))
def convolution(walk: Walk, node: Node) -> Blocks:
    """Convolution: x [B, I, ...], weight [O, I/g, ...], or [I, O/g, ...] when transposed."""
    x, weight, bias = node.args[0], node.args[1], argument(node, 2, "bias")
    transposed = "transpose" in op_name(node)
    groups = int(argument(node, 6, "groups", 1))
    space = [("space", axis) for axis in range(len(walk.shape(x)) - 2)]
    kernel = [("kernel", axis) for axis in range(len(space))]
    channels = _channels(walk, node, x)
    filters = _channels(walk, node, weight)
    if groups > 1:
        return _grouped(walk, node, groups, transposed, channels, filters)
    sides = ["in", "out"] if transposed else ["out", "in"]
    operands = [
        walk.operand(x, ["batch", "in", *space], channels),
        walk.operand(weight, [*sides, *kernel], filters),
    ]
    if bias is not None:
        operands.append(walk.operand(bias, ["out"]))
    return walk.contract(node, operands, ["batch", "out", *space])


def _channels(walk: Walk, node: Node, value: Any) -> Blocks:
    """Blocks of the first two dimensions; kernel and image positions are closed."""
    blocks = walk.blocks(value)
    for dim in range(2, len(walk.shape(value))):
        blocks = walk.close(node, blocks, dim, "kernel and image positions are not prunable")
    return blocks


def _grouped(
    walk: Walk, node: Node, groups: int, transposed: bool, channels: Blocks, filters: Blocks
) -> Blocks:
    """Grouped convolution: a convolution group is removed whole; a depthwise channel is such a group.

    For a node in `walk.inner`, position j of every convolution group is a unit: all groups are kept, each
    narrower.
    """
    name, op = node.name, op_name(node)
    x_ids = dict(_single(walk, channels)).get(1)
    sides = dict(_single(walk, filters))
    if 0 not in sides:  # the filters come out of an operation that could not be followed
        walk.freeze(node, op, "its filters cannot be cut", (*channels, *filters))
        return ()
    first, inside = sides[0], sides.get(1)
    if transposed:  # weight [I, O/g, ...]
        if x_ids is not None:
            walk.book.unite(first, x_ids)
        out_ids = walk.book.fresh(walk.shape(node)[1])
    else:
        out_ids = first
    bias = argument(node, 2, "bias")
    if bias is not None:
        for block in walk.blocks(bias):
            walk.book.unite(out_ids, block.ids)
    if x_ids is None:
        for ids in (first, out_ids, *([] if inside is None else [inside])):
            walk.book.freeze(ids, name, op, "its input channels cannot be cut")
        return (Block((1,), out_ids),)
    rows_in, rows_out = x_ids.reshape(groups, -1), out_ids.reshape(groups, -1)
    if name in walk.inner and inside is not None:
        aligned, other = (rows_out, rows_in) if transposed else (rows_in, rows_out)
        walk.book.unite(aligned, inside)
        walk.book.unite(other[1:], other[:1])
        return (Block((1,), out_ids),)
    walk.book.unite(rows_in, rows_in[:, :1])
    walk.book.unite(rows_out, rows_in[:, :1])
    if inside is not None:
        walk.book.freeze(inside, name, op, "lies inside a group, and groups stay whole")
    return (Block((1,), out_ids),)


def _single(walk: Walk, blocks: Blocks) -> list[tuple[int, Any]]:
    """Blocks as (dimension, atoms); joint blocks are collapsed on to their outermost dimension."""
    found = []
    for block in blocks:
        ids = block.ids if len(block.dims) == 1 else walk.book.collapse(block.ids, 0)
        found.append((block.dims[0], ids))
    return found


@rule(
    *aten(
        "max_pool1d max_pool2d max_pool3d avg_pool1d avg_pool2d avg_pool3d adaptive_avg_pool1d"
        " adaptive_avg_pool2d adaptive_avg_pool3d adaptive_max_pool2d upsample_nearest1d upsample_nearest2d"
        " upsample_bilinear2d upsample_bicubic2d upsample_linear1d _upsample_nearest_exact2d"
    )
)
def per_channel(walk: Walk, node: Node) -> Any:
    """Pooling and resizing inside each [H, W] plane (or row); leading dimensions pass through."""
    value = node.args[0]
    rank = len(walk.shape(value))
    space = 3 if "3d" in op_name(node) else 2 if "2d" in op_name(node) else 1
    blocks = walk.blocks(value)
    for dim in range(rank - space, rank):
        blocks = walk.close(node, blocks, dim, "pooled or resized")
    return [blocks, ()] if isinstance(node.meta["val"], tuple | list) else blocks


@rule("aten.pad", "aten.constant_pad_nd")
def pad(walk: Walk, node: Node) -> Blocks:
    """Padding: new positions of a prunable dimension get atoms of their own, without parameters."""
    value, amounts = node.args[0], list(node.args[1])  # type: ignore[arg-type]
    mode = argument(node, 2, "mode", "constant") if op_name(node) == "aten.pad" else "constant"
    rank = len(walk.shape(value))
    blocks = walk.blocks(value)
    for pair in range(len(amounts) // 2):
        dim, (low, high) = rank - 1 - pair, amounts[2 * pair : 2 * pair + 2]
        if low == 0 and high == 0:
            continue
        alone = next((b for b in blocks if b.dims == (dim,)), None)
        if alone is None or mode != "constant" or min(low, high) < 0:
            blocks = walk.close(node, blocks, dim, "padded")
            continue
        ids = np.concatenate([walk.book.fresh(low), alone.ids, walk.book.fresh(high)])
        blocks = tuple(Block((dim,), ids) if b is alone else b for b in blocks)
    return blocks

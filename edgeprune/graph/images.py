"""Coupling rules of convolutions, pooling, resizing and padding."""

from __future__ import annotations

from typing import Any

import numpy as np
from torch.fx import Node

from edgeprune.graph.blocks import Block, Blocks, Operand
from edgeprune.graph.fx import argument, arguments, aten, op_name
from edgeprune.graph.layout import moved
from edgeprune.graph.rules import rule
from edgeprune.graph.walk import Walk


@rule(*aten("conv1d conv2d conv3d conv_transpose1d conv_transpose2d conv_transpose3d convolution"))
def convolution(walk: Walk, node: Node) -> Blocks:
    """Convolution: x [B, I, ...], weight [O, I/g, ...], or [I, O/g, ...] when transposed."""
    x, weight, bias = node.args[0], node.args[1], argument(node, 2, "bias")
    given = arguments(node)
    groups, transposed = int(given["groups"]), given.get("transposed", "transpose" in op_name(node))
    sides = ["in", "out"] if transposed else ["out", "in"]
    space = [("space", axis) for axis in range(len(walk.shape(x)) - 2)]
    kernel = [("kernel", axis) for axis in range(len(space))]
    channels = _channels(walk, node, x)
    filters = _channels(walk, node, weight)
    if groups > 1:
        return _grouped(walk, node, groups, sides, channels, filters)
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
    walk: Walk, node: Node, groups: int, sides: list[str], channels: Blocks, filters: Blocks
) -> Blocks:
    """Grouped convolution: a convolution group is removed whole; a depthwise channel is such a group.

    The channels are seen as [group, inside], and a sum of products runs within each group. For a node in
    `walk.inner`, position j of every convolution group is a unit: all groups are kept, each narrower.
    """
    x, weight, bias = node.args[0], node.args[1], argument(node, 2, "bias")
    rows, outputs = walk.shape(x)[:2], walk.shape(node)[:2]
    split = [groups, walk.shape(weight)[0] // groups, walk.shape(weight)[1]]
    seen = [
        ((rows[0], groups, rows[1] // groups), ["batch", "group", "in"], channels, rows),
        (tuple(split), ["group", *sides], filters, walk.shape(weight)[:2]),
    ]
    if bias is not None:
        seen.append(((groups, outputs[1] // groups), ["group", "out"], walk.blocks(bias), outputs[1:]))
    operands = []
    narrower = node.name in walk.inner and min(split[1:]) > 1
    for shape, labels, blocks, whole in seen:
        found = walk.viewed(node, blocks, whole, shape)
        if narrower:
            found = walk.close(node, found, labels.index("group"), "every group keeps equally many")
        # One group's channels may be one, and nothing is broadcast along them.
        named = tuple(label if size != 1 else None for label, size in zip(labels, shape, strict=True))
        operands.append(Operand(found, named, weight=labels[0] == "group" and len(labels) == 3))
    result = walk.contract(node, operands, ["batch", "group", "out"])
    whole = (outputs[0], groups, outputs[1] // groups)
    return walk.viewed(node, result, whole, outputs)


_IN_PLANES = aten(
    "max_pool1d max_pool2d max_pool3d max_pool1d_with_indices max_pool2d_with_indices max_pool3d_with_indices"
    " avg_pool1d avg_pool2d avg_pool3d adaptive_avg_pool1d adaptive_avg_pool2d adaptive_avg_pool3d"
    " adaptive_max_pool1d adaptive_max_pool2d adaptive_max_pool3d _adaptive_avg_pool2d _adaptive_avg_pool3d"
    " upsample_nearest1d upsample_nearest2d upsample_nearest3d upsample_linear1d upsample_bilinear2d"
    " upsample_bicubic2d upsample_trilinear3d _upsample_nearest_exact1d _upsample_nearest_exact2d"
    " _upsample_nearest_exact3d _upsample_bilinear2d_aa _upsample_bicubic2d_aa reflection_pad1d"
    " reflection_pad2d reflection_pad3d replication_pad1d replication_pad2d replication_pad3d"
)


@rule(*_IN_PLANES)
def per_channel(walk: Walk, node: Node) -> Any:
    """Pooling and resizing inside each [H, W] plane (or row); leading dimensions pass through.

    The places of maxima, a second output, are counted within a plane: they have the same channels.
    """
    blocks = _planes_closed(walk, node, node.args[0], "pooled or resized")
    return [blocks, blocks] if isinstance(node.meta["val"], tuple | list) else blocks


@rule("aten.max_unpool2d", "aten.max_unpool3d")
def unpool(walk: Walk, node: Node) -> Blocks:
    value, places = (_planes_closed(walk, node, node.args[i], "unpooled") for i in (0, 1))
    labels = range(len(walk.shape(node)))
    return walk.contract(
        node,
        [walk.operand(node.args[0], labels, value), walk.operand(node.args[1], labels, places)],
        labels,
    )


def _planes_closed(walk: Walk, node: Node, value: Any, reason: str) -> Blocks:
    rank = len(walk.shape(value))
    space = next(count for count in (3, 2, 1) if f"{count}d" in op_name(node))
    blocks = walk.blocks(value)
    for dim in range(rank - space, rank):
        blocks = walk.close(node, blocks, dim, reason)
    return blocks


@rule("aten.pixel_shuffle", "aten.pixel_unshuffle", "aten.channel_shuffle", "aten.native_channel_shuffle")
def shuffled(walk: Walk, node: Node) -> Blocks:
    """Depth to space and back, and channels of groups interleaved: views and permutations of channels.

    pixel_shuffle: [.., C * r * r, H, W] -> [.., C, H * r, W * r]; a channel leaves with its r * r planes.
    """
    value, by = node.args[0], int(node.args[1])  # type: ignore[arg-type]
    old, new = walk.shape(value), walk.shape(node)
    at = 1 if "channel" in op_name(node) else len(old) - 3
    blocks = walk.blocks(value)
    lead, (width, *planes) = old[:at], old[at:]
    if "channel" in op_name(node):
        parts = walk.viewed(node, blocks, old, (*lead, by, width // by, *planes))
        walk.inside.extend(block for block in parts if len(block.dims) > 1)
        order = [*range(at), at + 1, at, *range(at + 2, len(old) + 1)]
        middle: tuple[int, ...] = (*lead, width // by, by, *planes)
        return walk.viewed(node, moved(parts, order), middle, new)
    for dim in (at + 1, at + 2):
        blocks = walk.close(node, blocks, dim, "image positions are not prunable")
    square = by * by
    if op_name(node) == "aten.pixel_shuffle":
        parts = walk.viewed(node, blocks, old, (*lead, width // square, square, *planes))
        parts = walk.close(node, parts, at + 1, "its planes become one image")
        return tuple(Block(tuple(d - (d > at) for d in b.dims), b.ids) for b in parts)
    parts = tuple(Block(tuple(d + (d > at) for d in b.dims), b.ids) for b in blocks)
    return walk.viewed(node, parts, (*lead, width, square, *new[at + 1 :]), new)


@rule("aten.im2col", "aten.col2im")
def columns(walk: Walk, node: Node) -> Blocks:
    """Patches of an image as columns, [B, C, H, W] -> [B, C * kh * kw, L], and back.

    A channel is a run of kh * kw rows.
    """
    value = node.args[0]
    kernel: Any = argument(node, 1 if op_name(node) == "aten.im2col" else 2, "kernel_size")
    area = int(np.prod([int(size) for size in kernel]))
    old, new = walk.shape(value), walk.shape(node)
    blocks = walk.blocks(value)
    folded = op_name(node) == "aten.im2col"
    at = len(old) - (3 if folded else 2)
    for dim in range(at + 1, len(old)):
        blocks = walk.close(node, blocks, dim, "image positions are not prunable")
    if folded:
        return walk.viewed(node, blocks, (*old[: at + 1], area), (*old[:at], old[at] * area))
    parts = walk.viewed(node, blocks, old[: at + 1], (*old[:at], new[at], area))
    return walk.close(node, parts, at + 1, "patches become one image")


@rule("aten.pad", "aten.constant_pad_nd")
def pad(walk: Walk, node: Node) -> Blocks:
    """Padding: new positions of a prunable dimension get atoms of their own, without parameters."""
    value, amounts = node.args[0], list(argument(node, 1, "pad"))
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
        ids = np.concatenate([walk.book.filler(low), alone.ids, walk.book.filler(high)])
        blocks = tuple(Block((dim,), ids) if b is alone else b for b in blocks)
    return blocks

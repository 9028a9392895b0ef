"""Coupling rules of operations that write into a tensor, sample it, or compare all its rows."""

from __future__ import annotations

from typing import Any

from torch.fx import Node

from edgeprune.graph.blocks import Block, Blocks
from edgeprune.graph.fx import argument, arguments, aten, op_name
from edgeprune.graph.rules import rule
from edgeprune.graph.walk import Walk


@rule(*aten("scatter scatter_add scatter_reduce scatter_ scatter_add_ scatter_reduce_"))
def scatter(walk: Walk, node: Node) -> Blocks:
    """Positions of one dimension written to by index, at equal positions of all other dimensions."""
    value, dim, index = node.args[0], argument(node, 1, "dim"), argument(node, 2, "index")
    shape, wanted = walk.shape(value), walk.shape(index)
    dim = int(dim) % len(shape)
    source = arguments(node).get("src")
    operands = []
    for tensor in (value, index, source):
        if not isinstance(tensor, Node):
            continue
        blocks = walk.close(node, walk.blocks(tensor), dim, "positions are written to by index")
        for other in range(len(shape)):
            if other != dim and wanted[other] != walk.shape(tensor)[other]:
                blocks = walk.close(node, blocks, other, "only some of its positions are written to")
        operands.append(walk.operand(tensor, range(len(shape)), blocks))
    return walk.contract(node, operands, range(len(shape)))


@rule(*aten("index_add index_copy index_fill index_add_ index_copy_ index_fill_ slice_scatter"))
def written(walk: Walk, node: Node) -> Blocks:
    """Some positions of one dimension written to; at all other dimensions the parts are united."""
    given = arguments(node)
    value, source = given["self"], given.get("source", given.get("src"))
    rank = len(walk.shape(value))
    dim = int(given["dim"]) % rank
    if isinstance(given.get("index"), Node):
        walk.freeze(node, op_name(node), "used as an index", walk.blocks(given["index"]))
    operands = []
    for tensor in (value, source):
        if isinstance(tensor, Node) and walk.shape(tensor):
            blocks = walk.close(node, walk.blocks(tensor), dim, "only some of its positions are written to")
            operands.append(walk.operand(tensor, range(rank), blocks))
    return walk.contract(node, operands, range(rank))


@rule("aten.select_scatter")
def select_scatter(walk: Walk, node: Node) -> Blocks:
    value, source = node.args[:2]
    labels = list(range(len(walk.shape(value))))
    dim = int(argument(node, 2, "dim")) % len(labels)
    blocks = walk.close(node, walk.blocks(value), dim, "a single position is written to")
    rest = [label for label in labels if label != dim]
    return walk.contract(node, [walk.operand(value, labels, blocks), walk.operand(source, rest)], labels)


@rule("aten.unfold")
def windows(walk: Walk, node: Node) -> Blocks:
    """Sliding windows over one dimension; their positions are a new last dimension."""
    value = node.args[0]
    dim = int(argument(node, 1, "dimension")) % len(walk.shape(value))
    return walk.close(node, walk.blocks(value), dim, "windows slide over this dimension")


@rule("aten.diagonal")
def diagonal(walk: Walk, node: Node) -> Blocks:
    value = node.args[0]
    rank = len(walk.shape(value))
    dims = sorted(int(argument(node, place, name)) % rank for place, name in ((2, "dim1"), (3, "dim2")))
    blocks = walk.blocks(value)
    for dim in dims:
        blocks = walk.close(node, blocks, dim, "a diagonal is taken")
    return tuple(Block(tuple(d - sum(g < d for g in dims) for d in b.dims), b.ids) for b in blocks)


@rule("aten.grid_sampler", "aten.grid_sampler_2d", "aten.grid_sampler_3d")
def sampled(walk: Walk, node: Node) -> Blocks:
    """Images [N, C, ...] sampled at the places of as many grids, [N, ..., 2]: N and the channels pass.

    N may hold the heads of every sample, as in deformable attention: a head leaves with its image and grid.
    """
    value, grid = node.args[:2]
    images, grids = walk.blocks(value), walk.blocks(grid)
    space = [("space", axis) for axis in range(len(walk.shape(value)) - 2)]
    for axis in range(len(space)):
        images = walk.close(node, images, 2 + axis, "sampled at places of a grid")
    for axis in range(len(space) + 1):
        grids = walk.close(node, grids, 1 + axis, "used as places of an image")
    operands = [
        walk.operand(value, ["image", "channel", *space], images),
        walk.operand(grid, ["image", *space, "place"], grids),
    ]
    return walk.contract(node, operands, ["image", "channel", *space])


@rule("aten.bucketize")
def bucketize(walk: Walk, node: Node) -> Blocks:
    walk.freeze(node, op_name(node), "is searched in order", walk.blocks(node.args[1]))
    return walk.elementwise(node, node.args[:1])


@rule("aten._cdist_forward", "aten._euclidean_dist", "aten.cdist")
def distances(walk: Walk, node: Node) -> Blocks:
    """Distances of all rows, [.., P, M] and [.., R, M]: a coordinate that both lose adds nothing."""
    left, right = node.args[:2]
    batch = [("batch", axis) for axis in range(len(walk.shape(node)) - 2)]
    ranks = [len(walk.shape(value)) for value in (left, right)]
    operands = [
        walk.operand(value, [*batch[len(batch) + 2 - rank :], side, "coordinate"])
        for value, side, rank in zip((left, right), ("row", "column"), ranks, strict=True)
    ]
    return walk.contract(node, operands, [*batch, "row", "column"])


@rule("aten.view_as_real", "aten.view_as_complex")
def paired(walk: Walk, node: Node) -> Any:
    """Complex numbers as pairs of real ones, along the last dimension, and back."""
    value = node.args[0]
    if op_name(node) == "aten.view_as_real":
        return walk.blocks(value)
    return walk.close(node, walk.blocks(value), len(walk.shape(value)) - 1, "its pairs become numbers")

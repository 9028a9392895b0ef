"""Coupling rules of norms, softmax, reductions and other operations along a dimension."""

from __future__ import annotations

from typing import Any

import numpy as np
from torch.fx import Node

from edgeprune.graph.blocks import Block, Blocks
from edgeprune.graph.fx import argument, aten, op_name
from edgeprune.graph.rules import rule
from edgeprune.graph.walk import Walk


@rule("aten.batch_norm", "aten.instance_norm")
def batch_norm(walk: Walk, node: Node) -> Blocks:
    rank = len(walk.shape(node))
    affine = [walk.operand(value, [1]) for value in node.args[1:5] if isinstance(value, Node)]
    return walk.contract(node, [walk.operand(node.args[0], range(rank)), *affine], range(rank))


@rule("aten.layer_norm", "aten.rms_norm")
def layer_norm(walk: Walk, node: Node) -> Blocks:
    rank = len(walk.shape(node))
    normalised: Any = node.args[1]
    dims = range(rank - len(normalised), rank)
    affine = [walk.operand(value, dims) for value in node.args[2:4] if isinstance(value, Node)]
    blocks = walk.contract(node, [walk.operand(node.args[0], range(rank)), *affine], range(rank))
    for block in blocks:
        if set(block.dims) & set(dims):
            walk.normed.append((block.ids, node))
    return blocks


@rule("aten._weight_norm")
def weight_norm(walk: Walk, node: Node) -> Blocks:
    """Weight norm g * v / |v|, the norm over every dimension of v but one (Salimans and Kingma 2016).

    Removed indices count as zero in the norm, so the kept weights grow as they do when the others are zeroed.
    """
    return walk.elementwise(node, node.args[:2])


@rule("aten.group_norm")
def group_norm(walk: Walk, node: Node) -> Blocks:
    """Group norm: a normalisation group is removed whole, which changes no statistic of the others.

    With a single normalisation group the rule is that of a layer norm.
    """
    rank = len(walk.shape(node))
    groups = int(argument(node, 1, "num_groups"))
    affine = [walk.operand(value, [1]) for value in node.args[2:4] if isinstance(value, Node)]
    blocks = walk.contract(node, [walk.operand(node.args[0], range(rank)), *affine], range(rank))
    for block in blocks:
        if 1 in block.dims:
            rows = np.moveaxis(block.ids, block.dims.index(1), 0).reshape(groups, -1)
            if groups == 1 or node.name in walk.inner:
                walk.book.unite(rows[1:], rows[:1])
                walk.normed.append((block.ids, node))
            else:
                walk.book.unite(rows[:, 1:], rows[:, :1])
    return blocks


@rule(*aten("softmax _softmax log_softmax _log_softmax _safe_softmax"))
def softmax(walk: Walk, node: Node) -> Blocks:
    """Softmax over units (experts, channels of an attention): a removed unit counts as minus infinity."""
    dim = int(argument(node, 1, "dim", -1)) % len(walk.shape(node))
    return _over_kept_units(walk, node, dim)


@rule("aten.topk")
def topk(walk: Walk, node: Node) -> list[Blocks]:
    """Best k of a router's units: removed units are never among them.

    Where the graph reads the indices of the best units the dimension is closed: a cut would change them.
    """
    value = node.args[0]
    dim = int(argument(node, 2, "dim", -1)) % len(walk.shape(value))
    numbers = any(argument(user, 1, "index") == 1 and user.users for user in node.users)
    if numbers or not argument(node, 3, "largest", True):
        blocks = walk.close(node, walk.blocks(value), dim, "depends on every position of this dimension")
        return [blocks, blocks]
    blocks = _over_kept_units(walk, node, dim)
    walk.taken.extend((block.ids, int(argument(node, 1, "k"))) for block in blocks if dim in block.dims)
    blocks = tuple(block for block in blocks if dim not in block.dims)
    return [blocks, blocks]


def _over_kept_units(walk: Walk, node: Node, dim: int) -> Blocks:
    """Blocks of an operation over the kept units of `dim`; a joint `dim` is united, lest it become ragged."""
    blocks = walk.blocks(node.args[0])
    joint = tuple(block for block in blocks if dim in block.dims and len(block.dims) > 1)
    alone = tuple(block for block in blocks if block not in joint)
    walk.normed.extend((block.ids, node) for block in alone if dim in block.dims)
    united = walk.close(node, joint, dim, "depends on every position of this dimension")
    return tuple(sorted((*alone, *united), key=lambda block: block.dims))


@rule(*aten("cumsum cumprod sort argsort flip roll"))
def along_a_dimension(walk: Walk, node: Node) -> Any:
    value = node.args[0]
    rank = len(walk.shape(value))
    name = op_name(node)
    dims: Any = argument(node, 2, "dims") if name == "aten.roll" else argument(node, 1, "dim", -1)
    if name == "aten.sort" and len(node.args) == 1:
        dims = node.kwargs.get("dim", -1)
    blocks = walk.blocks(value)
    for dim in dims if isinstance(dims, list | tuple) else [dims]:
        blocks = walk.close(node, blocks, int(dim) % rank, "depends on every position of this dimension")
    return [blocks, blocks] if name == "aten.sort" else blocks


# Reductions ----------------------------------------------------------------------------------------

_STATISTICS = aten("mean sum var std var_mean linalg_vector_norm norm")
_EXTREMES = aten("amax amin any all argmax argmin prod logsumexp")


@rule(*_STATISTICS, *_EXTREMES)
def reduction(walk: Walk, node: Node) -> Any:
    """Reduction: sums, means and norms run over the kept units; extremes freeze their dimension."""
    value = node.args[0]
    name = op_name(node)
    rank = len(walk.shape(value))
    position = 2 if name in ("aten.linalg_vector_norm", "aten.norm") else 1
    chosen: Any = argument(node, position, "dim")
    if chosen is None:
        chosen = list(range(rank))
    dims = sorted({int(d) % rank for d in (chosen if isinstance(chosen, list | tuple) else [chosen])})
    blocks = walk.blocks(value)
    if name in _EXTREMES:
        for dim in dims:
            blocks = walk.close(node, blocks, dim, "depends on every position of this dimension")
    else:
        for block in blocks:
            if set(block.dims) & set(dims):
                walk.normed.append((block.ids, node))
    meta = node.meta["val"]
    output_rank = len((meta[0] if isinstance(meta, tuple | list) else meta).shape)
    keepdim = output_rank == rank
    output = [dim if dim not in dims else ("gone", dim) for dim in range(rank) if keepdim or dim not in dims]
    if name in _EXTREMES:
        kept = {dim: place for place, dim in enumerate(output)}
        return tuple(
            Block(tuple(kept[d] for d in b.dims), b.ids) for b in blocks if all(d in kept for d in b.dims)
        )
    result = walk.contract(node, [walk.operand(value, range(rank))], output)
    return [result, result] if isinstance(meta, tuple | list) else result

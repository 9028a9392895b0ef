"""Coupling rules of norms, softmax, reductions and other operations along a dimension."""

from __future__ import annotations

from typing import Any

import numpy as np
from torch.fx import Node

from edgeprune.graph.blocks import Block, Blocks
from edgeprune.graph.fx import argument, arguments, aten, op_name
from edgeprune.graph.rules import rule
from edgeprune.graph.walk import Walk


@rule("aten.batch_norm", "aten.instance_norm")
def batch_norm(walk: Walk, node: Node) -> Blocks:
    """Batch and instance norm: with the statistics of the input, those over the positions of each channel."""
    rank = len(walk.shape(node.args[0]))
    affine = [walk.operand(value, [1]) for value in node.args[1:5] if isinstance(value, Node)]
    blocks = walk.contract(node, [walk.operand(node.args[0], range(rank)), *affine], range(rank))
    given = arguments(node)
    if given.get("use_input_stats", given.get("training")):
        own = {1} if op_name(node) == "aten.batch_norm" else {0, 1}
        walk.normed.extend((block.ids, node) for block in blocks if not set(block.dims) <= own)
    return blocks


@rule("aten._native_batch_norm_legit_no_training")
def evaluated_batch_norm(walk: Walk, node: Node) -> list[Blocks]:
    """Batch norm with running statistics, of a graph in core operations; two more outputs are empty."""
    return [batch_norm(walk, node), (), ()]


@rule("aten.native_layer_norm")
def native_layer_norm(walk: Walk, node: Node) -> list[Blocks]:
    """Layer norm of a graph in core operations, with its means and deviations."""
    blocks = layer_norm(walk, node)
    first = len(walk.shape(node.args[0])) - len(node.args[1])  # type: ignore[arg-type]
    outside = tuple(block for block in blocks if max(block.dims) < first)
    return [blocks, outside, outside]


@rule("aten.layer_norm", "aten.rms_norm")
def layer_norm(walk: Walk, node: Node) -> Blocks:
    rank = len(walk.shape(node.args[0]))
    normalised: Any = argument(node, 1, "normalized_shape")
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


def _chosen_dims(node: Node, rank: int) -> list[int]:
    """Dimensions that a node names; all of them where it names none."""
    given = arguments(node)
    chosen = given.get("dims", given.get("dim"))
    if chosen is None or chosen == []:
        return list(range(rank))
    return sorted({int(dim) % rank for dim in (chosen if isinstance(chosen, list | tuple) else [chosen])})


@rule(*aten("cumsum cumprod cummax cummin logcumsumexp sort argsort flip roll _fft_r2c _fft_c2r _fft_c2c"))
def along_a_dimension(walk: Walk, node: Node) -> Any:
    """Operations on runs of positions, whose order and number count: their dimensions are closed."""
    value = node.args[0]
    blocks = walk.blocks(value)
    for dim in _chosen_dims(node, len(walk.shape(value))):
        blocks = walk.close(node, blocks, dim, "depends on every position of this dimension")
    return _for_each_output(node, blocks)


@rule("aten.tril", "aten.triu")
def triangle(walk: Walk, node: Node) -> Blocks:
    value = node.args[0]
    rank, blocks = len(walk.shape(value)), walk.blocks(value)
    for dim in (rank - 2, rank - 1):
        blocks = walk.close(node, blocks, dim, "depends on every position of this dimension")
    return blocks


def _for_each_output(node: Node, blocks: Blocks) -> Any:
    meta = node.meta["val"]
    return [blocks] * len(meta) if isinstance(meta, tuple | list) else blocks


# Reductions ----------------------------------------------------------------------------------------


@rule(*aten("amax amin any all argmax argmin prod logsumexp max min aminmax median nanmedian mode kthvalue"))
def extreme(walk: Walk, node: Node) -> Any:
    """Reductions that a position at zero may decide: the reduced dimensions are closed."""
    value = node.args[0]
    rank = len(walk.shape(value))
    if "other" in arguments(node):  # the larger of two, position by position
        return walk.elementwise(node, node.args[:2])
    dims = _chosen_dims(node, rank)
    blocks = walk.blocks(value)
    for dim in dims:
        blocks = walk.close(node, blocks, dim, "depends on every position of this dimension")
    if _output_rank(node) < rank:
        blocks = tuple(Block(tuple(d - sum(g < d for g in dims) for d in b.dims), b.ids) for b in blocks)
    return _for_each_output(node, blocks)


@rule(*aten("mean sum nansum var std var_mean std_mean linalg_vector_norm norm"))
def statistic(walk: Walk, node: Node) -> Any:
    """Sums, means, variances and norms: they run over the kept units."""
    value = node.args[0]
    rank = len(walk.shape(value))
    dims = _chosen_dims(node, rank)
    correction = _correction(node)
    for block in walk.blocks(value):
        if set(block.dims) & set(dims):
            walk.normed.append((block.ids, node))
            walk.taken.append((block.ids, correction + 1))  # of fewer there is no variance
    keepdim = _output_rank(node) == rank
    output = [dim if dim not in dims else ("gone", dim) for dim in range(rank) if keepdim or dim not in dims]
    return _for_each_output(node, walk.contract(node, [walk.operand(value, range(rank))], output))


def _correction(node: Node) -> int:
    """By how much a variance's divisor is less than the number of positions; 0 for any other statistic."""
    given = arguments(node)
    if op_name(node).rpartition(".")[2].partition("_")[0] not in ("var", "std"):
        return 0
    unbiased = int(given.get("unbiased", True))
    return unbiased if given.get("correction") is None else int(given["correction"])


def _output_rank(node: Node) -> int:
    meta = node.meta["val"]
    return len((meta[0] if isinstance(meta, tuple | list) else meta).shape)

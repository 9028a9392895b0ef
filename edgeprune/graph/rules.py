"""Coupling rules of ATen operations: how each carries blocks from its inputs to its outputs.

A rule takes the walk and the node and returns the blocks of the node's output (a list of them for several
outputs). Unions and freezes are recorded through the walk. An operation without a rule freezes whatever the
operation touches, so a missing rule costs compression and never correctness.

To teach edgeprune a new operation, write its rule and put it into RULES:

    @rule("aten.my_gate")                       # my_gate(x, scale), broadcasting
    def my_gate(walk: Walk, node: Node) -> Blocks:
        return walk.elementwise(node, node.args)

If the operation carries a size or an index that changes when a dimension is cut, add it to
`size_rewrites.REWRITES` as well.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from torch.fx import Node

from edgeprune.graph.blocks import Block, Blocks, Operand
from edgeprune.graph.fx import argument, aten, op_name
from edgeprune.graph.walk import Rule, Walk

RULES: dict[str, Rule] = {}


def rule(*names: str) -> Callable[[Rule], Rule]:
    """Decorator that registers a function as the rule of these operations."""

    def register(function: Rule) -> Rule:
        for name in names:
            RULES[name] = function
        return function

    return register


# Position by position ------------------------------------------------------------------------------


# Most of them need no rule: `Walk` knows PyTorch's tag of pointwise operations. These have no such tag.
@rule(
    *aten(
        "where masked_fill masked_fill_ rsub floor_divide zeros_like ones_like full_like zero_ fill fill_"
        " empty_like copy copy_"
        " rrelu hardswish hardswish_ relu6 relu6_ mish mish_ gelu gelu_ log_sigmoid clamp_min clamp_max"
        " dropout dropout_ feature_dropout alpha_dropout complex polar"
        " clone contiguous detach detach_ lift_fresh_copy alias conj real resolve_conj resolve_neg"
        " multiply multiply_ subtract subtract_ divide divide_ true_divide negative absolute"
        " greater greater_equal less less_equal not_equal __and__ __or__"
    )
)
def elementwise(walk: Walk, node: Node) -> Blocks:
    return walk.elementwise(node, node.all_input_nodes)


@rule("aten.to", "aten._to_copy", "aten.type_as")
def converted(walk: Walk, node: Node) -> Blocks:
    for value in node.all_input_nodes[1:]:
        walk.unread(value)
    return walk.elementwise(node, node.args[:1])


@rule("aten.prelu")
def prelu(walk: Walk, node: Node) -> Blocks:
    rank = len(walk.shape(node))
    operands = [walk.operand(node.args[0], range(rank)), walk.operand(node.args[1], [1])]
    return walk.contract(node, operands, range(rank))


@rule("aten.glu")
def glu(walk: Walk, node: Node) -> Blocks:
    value = node.args[0]
    dim = int(argument(node, 1, "dim", -1)) % len(walk.shape(value))
    walk.check_width(value, dim)
    blocks = []
    for block in walk.blocks(value):
        if dim in block.dims:
            left, right = np.split(block.ids, 2, axis=block.dims.index(dim))
            walk.book.unite(left, right)
            block = Block(block.dims, left)
        blocks.append(block)
    return tuple(blocks)


# Sums of products ----------------------------------------------------------------------------------


@rule("aten.linear")
def linear(walk: Walk, node: Node) -> Blocks:
    x, weight = node.args[0], node.args[1]
    lead = [("lead", axis) for axis in range(len(walk.shape(x)) - 1)]
    operands = [walk.operand(x, [*lead, "in"]), walk.operand(weight, ["out", "in"])]
    if argument(node, 2, "bias") is not None:
        operands.append(walk.operand(argument(node, 2, "bias"), ["out"]))
    return walk.contract(node, operands, [*lead, "out"])


def _matmul(walk: Walk, node: Node, left: Any, right: Any, extra: Sequence[Any] = ()) -> Blocks:
    a, b = walk.shape(left), walk.shape(right)
    rank = max(len(a), len(b))
    batch = [("batch", axis) for axis in range(rank - 2)]
    labels_a = [*batch[rank - len(a) :], "row", "sum"] if len(a) > 1 else ["sum"]
    labels_b = [*batch[rank - len(b) :], "sum", "column"] if len(b) > 1 else ["sum"]
    output = [*batch, *(["row"] if len(a) > 1 else []), *(["column"] if len(b) > 1 else [])]
    operands = [walk.operand(left, labels_a), walk.operand(right, labels_b)]
    for value in extra:
        operands.append(walk.operand(value, output[len(output) - len(walk.shape(value)) :]))
    return walk.contract(node, operands, output)


@rule(*aten("matmul mm bmm mv dot vdot linalg_matmul"))
def matmul(walk: Walk, node: Node) -> Blocks:
    return _matmul(walk, node, node.args[0], node.args[1])


@rule("aten.outer", "aten.ger")
def outer(walk: Walk, node: Node) -> Blocks:
    operands = [
        walk.operand(value, [label]) for value, label in zip(node.args[:2], ("row", "column"), strict=True)
    ]
    return walk.contract(node, operands, ["row", "column"])


@rule("aten._grouped_mm", "transformers.grouped_mm_fallback")  # the same, where a device has no kernel
def grouped_mm(walk: Walk, node: Node) -> Blocks:
    """Products of experts: rows [R, I] in runs, given by their ends, each with an expert's matrix [E, I, O].

    Two tensors of rank 3 are a batched product. Experts are as many as the runs, which data decide.
    """
    left, right, ends, bias = (argument(node, *each) for each in enumerate(("self", "mat2", "offs", "bias")))
    if bias is not None or len(walk.shape(right)) != 3:
        raise ValueError("a grouped product with a bias, or whose runs lie along the sum")
    if len(walk.shape(left)) == 3:
        return _matmul(walk, node, left, right)
    walk.freeze(node, op_name(node), "used as an index", walk.blocks(ends))
    experts = walk.close(node, walk.blocks(right), 0, "rows of data go to every expert")
    operands = [walk.operand(left, ["row", "sum"]), walk.operand(right, ["expert", "sum", "column"], experts)]
    return walk.contract(node, operands, ["row", "column"])


@rule("aten.addmm", "aten.baddbmm", "aten.addmv")
def addmm(walk: Walk, node: Node) -> Blocks:
    return _matmul(walk, node, node.args[1], node.args[2], [node.args[0]])


@rule("aten.einsum")
def einsum(walk: Walk, node: Node) -> Blocks:
    values: Any = node.args[1]
    inputs, output = einsum_labels(str(node.args[0]), [len(walk.shape(value)) for value in values])
    if any(len(set(labels)) < len(labels) for labels in inputs):
        raise ValueError("an einsum that takes a diagonal")
    operands = [walk.operand(value, labels) for value, labels in zip(values, inputs, strict=True)]
    return walk.contract(node, operands, output)


def einsum_labels(equation: str, ranks: Sequence[int]) -> tuple[list[list[str]], list[str]]:
    """Labels of every operand's dimensions and of the output's; an ellipsis stands for numbered labels.

    Without an arrow the output has the labels that occur once, by the alphabet, behind an ellipsis.
    """
    left, arrow, right = equation.replace(" ", "").partition("->")
    inputs = [einsum_operand(text, rank) for text, rank in zip(left.split(","), ranks, strict=True)]
    hidden = max((sum(label.isdigit() for label in labels) for labels in inputs), default=0)
    if arrow:
        return inputs, einsum_operand(right, len(right.replace("...", "")) + hidden * ("..." in right))
    letters = [label for labels in inputs for label in labels if not label.isdigit()]
    once = sorted(label for label in letters if letters.count(label) == 1)
    return inputs, [*(str(place) for place in reversed(range(hidden))), *once]


def einsum_operand(text: str, rank: int) -> list[str]:
    """Labels of one einsum operand; the dimensions under an ellipsis are counted from the right."""
    before, dots, after = text.partition("...")
    hidden = rank - len(before) - len(after) if dots else 0
    return [*before, *(str(place) for place in reversed(range(hidden))), *after]


@rule("aten.embedding")
def embedding(walk: Walk, node: Node) -> Blocks:
    weight, index = node.args[0], node.args[1]
    lead = [("lead", axis) for axis in range(len(walk.shape(index)))]
    walk.close(node, walk.blocks(weight), 0, "rows are looked up by index")
    operands = [walk.operand(index, lead), walk.operand(weight, ["row", "width"])]
    return walk.contract(node, operands, [*lead, "width"])


@rule("aten.scaled_dot_product_attention")
def attention(walk: Walk, node: Node) -> Blocks:
    """Attention: q [.., H, S, D], k [.., K, T, D], v [.., K, T, E]; with enable_gqa K divides H."""
    query, key, value = node.args[:3]
    mask = argument(node, 3, "attn_mask")
    batch = [("batch", axis) for axis in range(len(walk.shape(query)) - 2)]
    scores_labels = [*batch, "s", "t"]
    q = walk.operand(query, [*batch, "s", "d"])
    k = _served(walk, query, key, [*batch, "t", "d"])
    v = _served(walk, query, value, [*batch, "t", "e"])
    scores = walk.contract(node, [q, k], scores_labels)
    shape = [*walk.shape(query)[:-1], walk.shape(key)[-2]]
    named = tuple(label if size != 1 else None for label, size in zip(scores_labels, shape, strict=True))
    if mask is not None:
        over = walk.operand(mask, scores_labels[len(scores_labels) - len(walk.shape(mask)) :])
        scores = walk.contract(node, [Operand(scores, named), over], scores_labels)
    for dim in (len(batch), len(batch) + 1):
        scores = walk.close(node, scores, dim, "softmax runs over this dimension")
    return walk.contract(node, [Operand(scores, named), v], [*batch, "s", "e"])


def _served(walk: Walk, query: Any, value: Any, labels: Sequence[Any]) -> Operand:
    """Keys or values with each KV head repeated for every query head that reads the KV head."""
    operand = walk.operand(value, labels)
    head = len(labels) - 3
    if head < 0:
        return operand
    times = walk.shape(query)[head] // walk.shape(value)[head]
    if times == 1 or walk.shape(value)[head] == 1:  # one of each, or one for all: broadcast
        return operand
    blocks = tuple(
        Block(b.dims, np.repeat(b.ids, times, axis=b.dims.index(head)) if head in b.dims else b.ids)
        for b in operand.blocks
    )
    return Operand(blocks, (*operand.labels[:head], labels[head], *operand.labels[head + 1 :]))

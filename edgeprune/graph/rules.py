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


def _nodes(node: Node) -> list[Any]:
    found: list[Any] = []
    for value in [*node.args, *node.kwargs.values()]:
        found.extend(value if isinstance(value, list | tuple) else [value])
    return [value for value in found if isinstance(value, Node)]


# Position by position ------------------------------------------------------------------------------


@rule(
    *aten(
        "add add_ sub sub_ mul mul_ div div_ pow maximum minimum where neg exp log log1p sqrt rsqrt abs"
        " relu relu_ gelu silu silu_ sigmoid sigmoid_ tanh tanh_ hardswish hardswish_ hardsigmoid"
        " hardsigmoid_ hardtanh hardtanh_ relu6 relu6_ leaky_relu leaky_relu_ elu elu_ celu selu softplus"
        " mish mish_ log_sigmoid erf clamp clamp_ clamp_min clamp_max dropout dropout_ feature_dropout"
        " alpha_dropout clone contiguous to _to_copy type_as detach detach_ lift_fresh_copy alias"
        " eq ne lt le gt ge bitwise_and bitwise_or bitwise_not logical_and logical_or logical_not __and__"
        " __or__ masked_fill masked_fill_ sin cos floor ceil round reciprocal square sign rsub addcmul"
        " addcdiv lerp isnan isinf float_power fmod remainder zeros_like ones_like full_like"
    )
)
def elementwise(walk: Walk, node: Node) -> Blocks:
    return walk.elementwise(node, _nodes(node))


@rule("aten.prelu")
def prelu(walk: Walk, node: Node) -> Blocks:
    rank = len(walk.shape(node))
    operands = [walk.operand(node.args[0], range(rank)), walk.operand(node.args[1], [1])]
    return walk.contract(node, operands, range(rank))


@rule("aten.glu")
def glu(walk: Walk, node: Node) -> Blocks:
    value = node.args[0]
    dim = int(argument(node, 1, "dim", -1)) % len(walk.shape(value))
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


@rule("aten.matmul", "aten.mm", "aten.bmm", "aten.mv", "aten.dot")
def matmul(walk: Walk, node: Node) -> Blocks:
    return _matmul(walk, node, node.args[0], node.args[1])


@rule("aten.addmm", "aten.baddbmm")
def addmm(walk: Walk, node: Node) -> Blocks:
    return _matmul(walk, node, node.args[1], node.args[2], [node.args[0]])


@rule("aten.einsum")
def einsum(walk: Walk, node: Node) -> Blocks:
    equation = str(node.args[0]).replace(" ", "")
    tensors: Any = node.args[1]
    if "->" not in equation or "..." in equation:
        walk.freeze(
            node, op_name(node), "einsum without explicit labels", sum(map(walk.all_blocks, tensors), ())
        )
        return ()
    inputs, output = equation.split("->")
    operands = [
        walk.operand(value, list(names)) for value, names in zip(tensors, inputs.split(","), strict=True)
    ]
    return walk.contract(node, operands, list(output))


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

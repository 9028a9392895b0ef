"""Operators of a program in forms that the ONNX exporter writes rightly, and that runtimes take.

Behind the exporter a form can no longer be told from what it means; repairs of the file are in
`onnx_repairs`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from math import prod
from string import ascii_letters
from typing import Any

import torch
from torch.export import ExportedProgram
from torch.fx import Graph, Node
from torch.fx.node import map_arg

from edgeprune.graph.fx import argument, op_name

aten = torch.ops.aten


def plain_forms(program: ExportedProgram) -> None:
    """Rewrite every operator of `FORMS` in place. Nodes keep their names, so outputs keep theirs."""
    for node in list(program.graph.nodes):
        if node.op == "call_function" and op_name(node) in FORMS:
            FORMS[op_name(node)](program.graph, node)
    program.graph_module.recompile()


def mean_pool(graph: Graph, node: Node) -> None:
    """An adaptive average pool to one value -> the mean that it is.

    For channels-last values torch (2.13) decomposes such a pool into a mean and `as_strided`, and onnxscript
    writes `as_strided` as a loop over a sequence, which few runtimes take.
    """
    sizes: Any = argument(node, 1, "output_size")
    if set(sizes) == {1}:
        dims = list(range(-len(sizes), 0))
        _become(node, aten.mean.dim, node.args[0], dims, True)


def own_divisor(graph: Graph, node: Node) -> None:
    """An average pool that divides by a number of the user's own -> a pool, and a factor behind it.

    onnxscript (0.7) ignores the number.
    """
    divisor, window = argument(node, 6, "divisor_override"), node.args[1]
    if divisor is None or argument(node, 4, "ceil_mode", False):
        return
    sizes: Any = window
    space = 3 if "3d" in op_name(node) else 2
    area = prod(sizes) if len(sizes) > 1 else sizes[0] ** space
    with graph.inserting_before(node):
        pool = graph.call_function(node.target, (*node.args[:4], False, True))  # type: ignore[arg-type]
    pool.meta = dict(node.meta)
    _become(node, aten.mul.Tensor, pool, area / divisor)


def spelled_out(graph: Graph, node: Node) -> None:
    """An einsum with an ellipsis -> one with a letter for each of its dimensions.

    ONNX has no ellipsis that is summed over.
    """
    equation, values = str(node.args[0]).replace(" ", ""), node.args[1]
    left, arrow, right = equation.partition("->")
    if "..." not in left or not arrow:
        return
    ranks = [value.meta["val"].dim() for value in values]  # type: ignore[union-attr]
    hidden = [
        rank - len(text.replace("...", ""))
        for text, rank in zip(left.split(","), ranks, strict=True)
        if "..." in text
    ]
    spare = "".join(letter for letter in ascii_letters if letter not in equation)[: max(hidden)]
    counts = iter(hidden)
    inputs = [
        text.replace("...", spare[len(spare) - next(counts) :]) if "..." in text else text
        for text in left.split(",")
    ]
    node.update_arg(0, f"{','.join(inputs)}->{right.replace('...', spare)}")


def mean_slope(graph: Graph, node: Node) -> None:
    """A randomised leaky ReLU -> in evaluation mode, the leaky ReLU of its mean slope."""
    at = 2 if op_name(node) == "aten.rrelu_with_noise" else 1
    low, high = argument(node, at, "lower", 1 / 8), argument(node, at + 1, "upper", 1 / 3)
    if not argument(node, at + 2, "training", False):
        _become(node, aten.leaky_relu.default, node.args[0], (low + high) / 2)


def looked_up(graph: Graph, node: Node) -> None:
    """A product of runs of rows, each with its expert's matrix -> of every row with the matrix looked up.

    Neither ONNX nor the runtimes have products whose groups are known only when they run. ends: [experts], of
    each run the row behind its last; rows behind all of them are zero.
    """
    rows, matrices = node.args[:2]
    ends = argument(node, 2, "offs")
    extras = [argument(node, at, name) for at, name in ((3, "bias"), (4, "out_dtype"))]
    sizes = [value.meta["val"].dim() for value in (rows, matrices)]  # type: ignore[union-attr]
    if sizes != [2, 3] or ends is None or extras != [None, None]:
        return
    experts = matrices.meta["val"].shape[0]  # type: ignore[union-attr]

    def put(target: Any, *args: Any, **kwargs: Any) -> Node:
        made = graph.call_function(target, args, kwargs)
        values = map_arg((args, kwargs), lambda each: each.meta["val"])
        made.meta = {**node.meta, "val": target(*values[0], **values[1])}
        return made

    with graph.inserting_before(node):
        ones = put(aten.ones_like.default, put(aten.select.int, rows, 1, 0), dtype=torch.int64)
        place = put(aten.cumsum.default, ones, 0)  # from 1
        behind = put(aten.gt.Tensor, put(aten.unsqueeze.default, place, 1), ends)  # [rows, experts]
        expert = put(aten.sum.dim_IntList, behind, [1])
        own = put(aten.clamp_max.default, expert, experts - 1)
        matrix = put(aten.index_select.default, matrices, 0, own)
        product = put(aten.bmm.default, put(aten.unsqueeze.default, rows, 1), matrix)
        beyond = put(aten.unsqueeze.default, put(aten.ge.Scalar, expert, experts), 1)
        product = put(aten.squeeze.dim, product, 1)
    _become(node, aten.masked_fill.Scalar, product, beyond, 0.0)


def sorted_anyhow(graph: Graph, node: Node) -> None:
    """A stable sort -> a sort, which ONNX has in one form alone: of equal values the first comes first."""
    plain = {aten.sort.stable: aten.sort.default, aten.argsort.stable: aten.argsort.default}
    if node.target in plain:
        dim, descending = argument(node, 1, "dim", -1), argument(node, 2, "descending", False)
        _become(node, plain[node.target], node.args[0], dim, descending)


def _become(node: Node, target: Any, *args: Any) -> None:
    node.target, node.args, node.kwargs = target, args, {}


FORMS: Mapping[str, Callable[[Graph, Node], None]] = {
    **dict.fromkeys([f"aten.adaptive_avg_pool{space}d" for space in (1, 2, 3)], mean_pool),
    "aten.avg_pool2d": own_divisor,
    "aten.avg_pool3d": own_divisor,
    "aten.einsum": spelled_out,
    "aten.rrelu": mean_slope,
    "aten.rrelu_with_noise": mean_slope,
    **dict.fromkeys(("aten.sort", "aten.argsort"), sorted_anyhow),
    **dict.fromkeys(("aten._grouped_mm", "transformers.grouped_mm_fallback"), looked_up),
}

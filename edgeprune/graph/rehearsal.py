"""Rehearsal of a cut on shapes alone, before any unit is chosen: nodes that could not be cut are found.

Every operation runs once on fake tensors of the shapes that the masks promise, with the sizes that surgery
would write. An operation that fails, or whose result has another shape than its blocks say, is a misfit: the
analysis freezes what it touches, so that no plan is refused or wrong later.
"""

from __future__ import annotations

import logging
import operator
from collections.abc import Mapping
from typing import Any

import torch
from torch._subclasses.fake_tensor import FakeTensorMode, unset_fake_temporarily
from torch.fx import Graph, GraphModule, Node
from torch.fx.node import map_arg

from edgeprune.graph.fx import attribute, op_name
from edgeprune.graph.masks import Description, Masks, described
from edgeprune.graph.size_rewrites import REWRITES
from edgeprune.quiet import quiet

log = logging.getLogger(__name__)


def misfits(masks: Masks) -> list[str]:
    """Names of the nodes that a cut by these masks would break, in the graph's order."""
    graph = Graph()
    graph.graph_copy(masks.module.graph, {})
    module = GraphModule(masks.module, graph)  # rewrites may add constants to it
    with quiet("torch", below=logging.CRITICAL), FakeTensorMode(), torch.no_grad():
        rehearsal = _Rehearsal(masks, module)
        return [node.name for node in list(graph.nodes) if not rehearsal.fits(node)]


class _Rehearsal:
    """Shapes of a graph's values before the cut and after, as fake tensors; the batch is SYMBOLIC_BATCH."""

    def __init__(self, masks: Masks, module: GraphModule) -> None:
        self._masks, self._module = masks, module
        # Of a tensor its (shape, dtype, device), a list of them, or a plain value.
        self._whole: dict[Node, Any] = {}
        self._cut: dict[Node, Any] = {}
        self._touched: set[Node] = set()
        self._made: dict[Any, torch.Tensor] = {}

    def fits(self, node: Node) -> bool:
        """Whether an operation runs after the cut, and gives what its blocks say."""
        self._promise(node)
        if node.op != "call_function" or node.target is operator.getitem:
            return True
        if not self._touched.intersection([node, *node.all_input_nodes]):
            return True
        whole = (node.target, node.args, node.kwargs)
        before = node.prev
        try:
            if op_name(node) in REWRITES:
                with unset_fake_temporarily():
                    REWRITES[op_name(node)](self._masks, node)
            while before.next is not node:  # a size or a constant that the rewrite computes
                before = before.next
                stored = before.op == "get_attr"
                value = (
                    self._stored(before) if stored else self._run(before.target, before.args, before.kwargs)
                )
                self._cut[before] = described(value)
            result = self._run(node.target, node.args, node.kwargs)
            return bool(_shapes(described(result)) == _shapes(self._cut[node]))
        except Exception as error:
            log.debug("%s (%s) cannot be cut", node.name, node.target, exc_info=error)
            return not self._runs_whole(*whole)

    def _promise(self, node: Node) -> None:
        """Note the values of a node that the dense graph has, and those that the masks promise."""
        self._whole[node] = described(self._stored(node) if node.op == "get_attr" else node.meta.get("val"))
        self._cut[node] = self._masks.promised(node, self._whole[node])
        if self._whole[node] != self._cut[node]:
            self._touched.add(node)

    def _stored(self, node: Node) -> Any:
        return attribute(self._module, str(node.target))

    def _run(self, target: Any, args: Any, kwargs: Any, values: Mapping[Node, Any] | None = None) -> Any:
        if target is torch.ops.aten.view.default:  # as surgery does
            target = torch.ops.aten.reshape.default
        known = self._cut if values is None else values
        args, kwargs = map_arg((args, kwargs), lambda node: self._fake(known[node]))
        return target(*args, **kwargs)

    def _fake(self, value: Any) -> Any:
        if isinstance(value, list):
            return [self._fake(each) for each in value]
        if not isinstance(value, Description):
            return value
        if value not in self._made:
            self._made[value] = torch.empty(value.shape, dtype=value.dtype, device=value.device)
        return self._made[value]

    def _runs_whole(self, target: Any, args: Any, kwargs: Any) -> bool:
        """Whether an operation that fails after the cut runs without it, so that the cut is to blame."""
        try:
            self._run(target, args, kwargs, self._whole)
        except Exception as error:
            log.debug("%s cannot be rehearsed", target, exc_info=error)
            return False
        return True


def _shapes(value: Any) -> Any:
    if isinstance(value, list):
        return [_shapes(each) for each in value]
    return value.shape if isinstance(value, Description) else None

"""Rehearsal of a cut on shapes alone, before any unit is chosen: nodes that could not be cut are found.

Every operation runs once on fake tensors of the shapes that the masks promise, with the sizes that surgery
would write. An operation that fails, or whose result has another shape than its blocks say, is a misfit: the
analysis freezes what it touches, so that no plan is refused or wrong later.
"""

from __future__ import annotations

import logging
import operator
from typing import Any

import torch
from torch._subclasses.fake_tensor import FakeTensorMode, unset_fake_temporarily
from torch.fx import Graph, GraphModule, Node
from torch.fx.node import map_arg

from edgeprune.graph.fx import attribute, concrete, op_name
from edgeprune.graph.masks import Masks
from edgeprune.graph.size_rewrites import REWRITES, Mask
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
    """Values of a graph as fake tensors, before the cut and after; the batch is SYMBOLIC_BATCH."""

    def __init__(self, masks: Masks, module: GraphModule) -> None:
        self._masks, self._module = masks, module
        self._whole: dict[Node, Any] = {}
        self._cut: dict[Node, Any] = {}
        self._touched: set[Node] = set()

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
                if before.op == "get_attr":
                    self._cut[before] = _fake(self._stored(before), [None])
                else:
                    self._cut[before] = self._run(before)
            return bool(_shapes(self._run(node)) == _shapes(self._cut[node]))
        except Exception as error:
            log.debug("%s (%s) cannot be cut", node.name, node.target, exc_info=error)
            return not self._runs_whole(*whole)

    def _promise(self, node: Node) -> None:
        """Note the values of a node that the dense graph has, and those that the masks promise."""
        meta = self._stored(node) if node.op == "get_attr" else node.meta.get("val")
        if isinstance(meta, tuple | list):
            self._whole[node] = [_fake(value, [None] * _rank(value)) for value in meta]
            self._cut[node] = [
                _fake(value, [self._masks.part_mask(node, part, dim) for dim in range(_rank(value))])
                for part, value in enumerate(meta)
            ]
        else:
            self._whole[node] = _fake(meta, [None] * _rank(meta))
            self._cut[node] = _fake(meta, [self._masks.mask(node, dim) for dim in range(_rank(meta))])
        if _shapes(self._whole[node]) != _shapes(self._cut[node]):
            self._touched.add(node)

    def _stored(self, node: Node) -> Any:
        return attribute(self._module, str(node.target))

    def _run(self, node: Node) -> Any:
        target: Any = node.target
        if target is torch.ops.aten.view.default:  # as surgery does
            target = torch.ops.aten.reshape.default
        args, kwargs = map_arg((node.args, node.kwargs), lambda each: self._cut[each])
        return target(*args, **kwargs)

    def _runs_whole(self, target: Any, args: Any, kwargs: Any) -> bool:
        """Whether an operation that fails after the cut runs without it, so that the cut is to blame."""
        try:
            target(*map_arg(args, self._whole.__getitem__), **map_arg(kwargs, self._whole.__getitem__))
        except Exception as error:
            log.debug("%s cannot be rehearsed", target, exc_info=error)
            return False
        return True


def _rank(value: Any) -> int:
    return value.dim() if isinstance(value, torch.Tensor) else 0


def _fake(value: Any, masks: list[Mask | None]) -> Any:
    """Fake tensor of a tensor's shape, with the masked positions gone; a size as a number."""
    if isinstance(value, torch.Tensor):
        sizes = [concrete(size) for size in value.shape]
        # A dimension of batch times width holds the width of every sample.
        cut = [
            size if keep is None else size // len(keep) * int(keep.sum())
            for size, keep in zip(sizes, masks, strict=True)
        ]
        return torch.empty(cut, dtype=value.dtype, device=value.device)
    return concrete(value) if isinstance(value, torch.SymInt) else value


def _shapes(value: Any) -> Any:
    if isinstance(value, torch.Tensor):
        return tuple(value.shape)
    return [_shapes(each) for each in value] if isinstance(value, tuple | list) else None

"""Shapes of a graph's values, derived again after the graph was cut: no value keeps the dense model's."""

from __future__ import annotations

import logging
from typing import Any

import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx import GraphModule, Interpreter, Node
from torch.fx.experimental.symbolic_shapes import ShapeEnv

from edgeprune.graph.fx import concrete
from edgeprune.graph.masks import Description, Masks, described
from edgeprune.quiet import quiet

log = logging.getLogger(__name__)


def derive_shapes(module: GraphModule, masks: Masks) -> None:
    """Set what every node tells of its value (`meta["val"]`) to what it gives now, without computing it.

    The batch is SYMBOLIC_BATCH, a plain number: with a symbol, torch takes five times as long.
    masks: those of the cut, which tell of operations that need values, or another batch.
    """
    _Shapes(module, masks).derive()


class _Shapes(Interpreter):
    def __init__(self, module: GraphModule, masks: Masks) -> None:
        super().__init__(module)
        self._masks = masks
        self._inputs = [node.meta["val"] for node in module.graph.nodes if node.op == "placeholder"]
        # The environment holds the sizes that depend on values, such as those of `nonzero`.
        self._mode = FakeTensorMode(shape_env=ShapeEnv(), static_shapes=True)

    def derive(self) -> None:
        with quiet("torch", below=logging.CRITICAL), self._mode, torch.no_grad():
            inputs = [
                torch.empty([concrete(size) for size in value.shape], dtype=value.dtype, device=value.device)
                for value in self._inputs
            ]
            self.run(*inputs, enable_io_processing=False)

    def run_node(self, n: Node) -> Any:
        try:
            value = super().run_node(n)
        except Exception as error:
            log.debug("%s is told by its masks", n.name, exc_info=error)
            value = _empty(self._masks.promised(n, described(n.meta["val"])))
        if n.op == "get_attr" and isinstance(value, torch.Tensor):
            value = self._mode.from_tensor(value, static_shapes=True)
        if n.op != "output":
            n.meta["val"] = value
        return value


def _empty(value: Any) -> Any:
    if isinstance(value, list):
        return [_empty(each) for each in value]
    if isinstance(value, Description):
        return torch.empty(value.shape, dtype=value.dtype, device=value.device)
    return value

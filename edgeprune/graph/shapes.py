"""Shapes of a graph's values, derived again after the graph was cut: no value keeps the dense model's."""

from __future__ import annotations

from typing import Any

import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx import GraphModule, Interpreter, Node
from torch.fx.experimental.symbolic_shapes import ShapeEnv

from edgeprune.graph.fx import concrete


def derive_shapes(module: GraphModule) -> None:
    """Set what every node tells of its value (`meta["val"]`) to what it gives now, without computing it.

    The batch is SYMBOLIC_BATCH, a plain number: with a symbol, torch takes five times as long.
    """
    _Shapes(module).derive()


class _Shapes(Interpreter):
    def __init__(self, module: GraphModule) -> None:
        super().__init__(module)
        self._inputs = [node.meta["val"] for node in module.graph.nodes if node.op == "placeholder"]
        # The environment holds the sizes that depend on values, such as those of `nonzero`.
        self._mode = FakeTensorMode(shape_env=ShapeEnv(), static_shapes=True)

    def derive(self) -> None:
        with self._mode, torch.no_grad():
            inputs = [
                torch.empty([concrete(size) for size in value.shape], dtype=value.dtype, device=value.device)
                for value in self._inputs
            ]
            self.run(*inputs, enable_io_processing=False)

    def run_node(self, n: Node) -> Any:
        value = super().run_node(n)
        if n.op == "get_attr" and isinstance(value, torch.Tensor):
            value = self._mode.from_tensor(value, static_shapes=True)
        if n.op != "output":
            n.meta["val"] = value
        return value

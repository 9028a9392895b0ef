"""Checks for outputs that no runtime can serve: NaN, infinity, and sizes that depend on values."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch.fx import Interpreter, Node
from torch.fx.experimental.symbolic_shapes import free_unbacked_symbols

from edgeprune.errors import InputError
from edgeprune.graph.capture import Captured, flatten


def check_finite(captured: Captured, batches: Iterable[tuple[torch.Tensor, ...]]) -> None:
    """Raise `InputError` naming the first layer that makes an output of the model NaN or infinite.

    Infinity inside the model, as in an attention mask, is no error while the outputs are finite.
    """
    with torch.no_grad():
        for index, batch in enumerate(batches):
            if not all(is_finite(output) for output in captured.run(*batch)):
                raise InputError(
                    f"Calibration batch {index} makes the model compute NaN or infinity, first in "
                    f"{_First(captured).found(batch)}.",
                    "Check the model's weights and that this batch is preprocessed like the training data.",
                )


def check_sized(captured: Captured) -> None:
    """Raise `InputError` naming an output whose size depends on the values of the inputs.

    Rows of such outputs belong to no sample, and runtimes that plan their memory refuse them.
    """
    last = next(node for node in captured.module.graph.nodes if node.op == "output")
    for node in last.all_input_nodes:
        value = node.meta.get("val")
        if isinstance(value, torch.Tensor) and free_unbacked_symbols(value):
            raise InputError(
                f"The size of the model's output {in_module(node, node.name)} depends on the values given.",
                "Return tensors of one size per sample, and select from them outside the model.",
            )


def in_module(node: Node, name: str) -> str:
    """`name` behind the module of the model that a node belongs to: `layer1.0 (relu_1)`."""
    modules = [path for path, _ in node.meta.get("nn_module_stack", {}).values() if path]
    return f"{modules[-1].removeprefix('L__self__.')} ({name})" if modules else name


def is_finite(value: Any) -> bool:
    """Whether a value is no float tensor, or one whose elements are all finite.

    A finite sum proves it in much less time than a look at each element.
    """
    if not isinstance(value, torch.Tensor) or not value.is_floating_point():
        return True
    return bool(value.sum().isfinite()) or bool(value.isfinite().all())


class _First(Interpreter):
    """Interpreter that remembers the first operation whose value is not finite."""

    def __init__(self, captured: Captured) -> None:
        super().__init__(captured.module)
        self._node: Node | None = None

    def found(self, inputs: tuple[torch.Tensor, ...]) -> str:
        self.run(*inputs, enable_io_processing=False)
        return "the output" if self._node is None else in_module(self._node, self._node.name)

    def run_node(self, n: Node) -> Any:
        value = super().run_node(n)
        computed = n.op == "call_function"
        if self._node is None and computed and not all(is_finite(tensor) for tensor in flatten(value)):
            self._node = n
        return value

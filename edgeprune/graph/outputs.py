"""Checks for outputs that cannot be served: NaN, infinity, sizes by values, and rows that are no samples."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch.fx import Interpreter, Node
from torch.fx.experimental.symbolic_shapes import free_unbacked_symbols

from edgeprune.errors import InputError
from edgeprune.graph.blocks import SYMBOLIC_BATCH
from edgeprune.graph.capture import Captured, flatten
from edgeprune.graph.fx import shape_of, varies_with_length


def check_finite(captured: Captured, batches: Iterable[tuple[torch.Tensor, ...]]) -> None:
    """Raise `InputError` naming the first layer that makes an output of the model NaN or infinite.

    Infinity inside the model, as in an attention mask, is no error while the outputs are finite.
    """
    with torch.no_grad():
        for index, batch in enumerate(batches):
            if not all(is_finite(output) for output in captured.run(*batch)):
                queries = captured.queries(batch)
                bad = next(one for one in queries if not all(map(is_finite, captured.run(*one))))
                raise InputError(
                    f"Calibration batch {index} makes the model compute NaN or infinity, first in "
                    f"{_First(captured).found(bad)}.",
                    "Check the model's weights and that this batch is preprocessed like the training data.",
                )


def check_sized(captured: Captured) -> None:
    """Raise `InputError` naming an output that has not one row of one size for each sample.

    Where a size depends on values, runtimes that plan their memory refuse it, too; what belongs to no sample
    cannot be compared with another model's answer to it.
    """
    batch = 1 if captured.fixed_batch else SYMBOLIC_BATCH
    last = next(node for node in captured.module.graph.nodes if node.op == "output")
    for node in last.all_input_nodes:
        value, name = node.meta.get("val"), in_module(node, node.name)
        if isinstance(value, torch.Tensor) and free_unbacked_symbols(value):
            raise InputError(
                f"The size of the model's output {name} depends on the values given.",
                "Return tensors of one size per sample, and select from them outside the model.",
            )
        shape = shape_of(captured.module, node)
        tensor = node.op == "get_attr" or isinstance(value, torch.Tensor)
        if tensor and shape[:1] != (batch,):
            told = ", ".join(map(_in_batches, shape))
            raise InputError(
                f"The model's output {name} has shape [{told}], where N is the batch and has to come first.",
                "Return one row for each sample; keep a mean over the batch or a table of anchors outside of "
                "what forward returns.",
            )


def check_lengths_apart(captured: Captured) -> None:
    """Raise `InputError` naming an output that has a value for each position, where lengths vary."""
    last = next(node for node in captured.module.graph.nodes if node.op == "output")
    for node in last.all_input_nodes:
        value = node.meta.get("val")
        if isinstance(value, torch.Tensor) and any(map(varies_with_length, value.shape)):
            raise InputError(
                f"The model's output {in_module(node, node.name)} is as long as the sequence, and lengths "
                "may vary in inputs alone.",
                "Leave lengths out and pad all sequences to one, or return as much for each sample.",
            )


def _in_batches(size: int) -> str:
    many, rest = divmod(size, SYMBOLIC_BATCH)
    return str(size) if rest or not many else f"{many if many > 1 else ''}N"


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

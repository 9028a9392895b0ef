"""The first operator of a model that an ONNX file computes otherwise: what a failed proof names."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import onnx
import torch
from torch.fx import Interpreter, Node

from edgeprune.graph import onnxfile
from edgeprune.graph.capture import Captured
from edgeprune.graph.fx import written_at

Same = Callable[[torch.Tensor, torch.Tensor], bool]


def first_difference(
    captured: Captured,
    model: onnx.ModelProto,
    tensors: Sequence[torch.Tensor],
    run: Callable[[onnx.ModelProto, Sequence[str]], Sequence[Any]],
    same: Same,
) -> str | None:
    """` first in operator aten.foo.default (FILE, line N: CODE)`: where the file leaves the captured graph.

    Values of the file that are known by their captured node are computed beside the graph's own, in the
    graph's order. tensors: flat inputs. run: (model, names of values) -> arrays, of those inputs.
    Returns None when every such value is the same: the fault is behind the last of them.
    """
    stages = {node: name for name, node in onnxfile.captured_names(model).items()}
    inside = onnxfile.copied(model)
    ends = {value.name for value in inside.graph.output}
    wanted = [name for name in stages.values() if name not in captured.input_names]
    inside.graph.output.extend(onnx.ValueInfoProto(name=name) for name in wanted if name not in ends)
    found = dict(zip(wanted, run(inside, wanted), strict=True))

    def differs(node: Node, value: torch.Tensor) -> bool:
        name = stages.get(node.name)
        return name in found and not same(value.cpu(), torch.from_numpy(found[name]))

    node = _FirstDifference(captured, differs).first(tensors)
    return None if node is None else f"operator {node.target}{written_at(node)}"


class _FirstDifference(Interpreter):
    """Interpreter that stops caring once a value differs; in-place operators change no value seen before."""

    def __init__(self, captured: Captured, differs: Callable[[Node, torch.Tensor], bool]) -> None:
        super().__init__(captured.module)
        self._differs = differs
        self._found: Node | None = None

    def first(self, tensors: Sequence[torch.Tensor]) -> Node | None:
        with torch.no_grad():
            self.run(*tensors, enable_io_processing=False)
        return self._found

    def run_node(self, n: Node) -> Any:
        value = super().run_node(n)
        computed = self._found is None and n.op == "call_function" and isinstance(value, torch.Tensor)
        if computed and self._differs(n, value):
            self._found = n
        return value

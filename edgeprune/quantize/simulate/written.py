"""Fake quantisation from a written file: the captured graph with the integers of an artefact, run in torch.

Every Q/DQ pair of the file rounds the captured value at the same place, and every layer has the weight and
the bias of the file. Where the file has ranges of each query, or weights in blocks, the layer's input is
rounded as ONNX defines the operator (`inputs`). A runtime in exact arithmetic differs from these outputs by
the order of its sums and by values on the edge between two integers; a runtime that fuses wrongly, or that
saturates, differs by far more.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from onnx import numpy_helper
from torch.fx import Interpreter, Node

from edgeprune.errors import EdgepruneError
from edgeprune.graph import onnxfile
from edgeprune.graph.capture import Captured, flatten
from edgeprune.graph.fx import op_name
from edgeprune.quantize.emit import RAW
from edgeprune.quantize.simulate.inputs import range_of_query, rounded_input
from edgeprune.quantize.simulate.planned import LAYERS
from edgeprune.quantize.weight_only import read_blocks
from edgeprune.runtimes import ort
from edgeprune.search.agreement import agrees, relative_error

Arrays = Sequence[NDArray[Any]]


def fake_quantised(
    captured: Captured, model: onnx.ModelProto, inputs: tuple[torch.Tensor, ...], batch: int | None = None
) -> Arrays:
    """Outputs of a captured graph with the integers of the ONNX model that was emitted from it.

    inputs: flat, in placeholder order. batch: rows of a query, on which ranges of each query depend; None for
    all rows in one query.
    """
    graph = FakeQuantised(captured, model)
    with torch.no_grad():
        queries = _queries(inputs, 1 if captured.fixed_batch else batch)
        found = [flatten(graph.run(*query, enable_io_processing=False)) for query in queries]
    return [torch.cat(parts).numpy(force=True) for parts in zip(*found, strict=True)]


def proven_integers(
    captured: Captured, model: onnx.ModelProto, inputs: tuple[torch.Tensor, ...], batch: int | None = None
) -> Arrays:
    """Outputs of `fake_quantised`, proven equal to those of ONNX Runtime in exact arithmetic.

    Raises `EdgepruneError` where the two differ by more than rounding: if a runtime fuses wrongly, or a file
    is not what was calibrated, every measured metric would be that of another model.
    """
    reference = fake_quantised(captured, model, inputs, batch)
    with torch.no_grad():
        unrounded = [output.numpy(force=True) for output in captured.run(*inputs)]
    runner = ort.Runner(onnxfile.content(model), torch.get_num_threads(), exact=True)
    names = captured.input_names
    answers = [
        runner.run({name: x.numpy(force=True) for name, x in zip(names, query, strict=True)})
        for query in _queries(inputs, 1 if captured.fixed_batch else batch)
    ]
    served = [np.concatenate(parts) for parts in zip(*answers, strict=True)]
    error, rounding = relative_error(served, reference), relative_error(reference, unrounded)
    if not agrees(error, rounding):
        raise EdgepruneError(
            f"ONNX Runtime {ort.version()} computes the INT8 model with a relative error of {error:.2%} "
            f"to its own integers in exact arithmetic, where INT8 itself accounts for {rounding:.2%}.",
            "Deploy in float32 (or with another version of the runtime), and report the model.",
        )
    return reference


def _queries(inputs: tuple[torch.Tensor, ...], batch: int | None) -> Iterator[tuple[torch.Tensor, ...]]:
    """Rows of the inputs, `batch` at a time."""
    rows = len(inputs[0])
    size = batch or rows
    for start in range(0, rows, size):
        yield tuple(tensor[start : start + size] for tensor in inputs)


@dataclass(frozen=True)
class _Rounding:
    """Rounding of one Q/DQ pair."""

    scale: float
    zero_point: int
    low: int
    high: int

    def __call__(self, value: torch.Tensor) -> torch.Tensor:
        return torch.fake_quantize_per_tensor_affine(value, self.scale, self.zero_point, self.low, self.high)


@dataclass(frozen=True)
class _RealWeight:
    """Weight and bias of a layer as real numbers; transposed: stored as [inputs, outputs].

    rounded: rounding of the operator's input from query to query; None where a Q/DQ pair rounds it.
    """

    weight: torch.Tensor
    bias: torch.Tensor | None
    transposed: bool
    rounded: Callable[[torch.Tensor], torch.Tensor] | None = None


class _WrittenGraph:
    """Roundings and weights of a Q/DQ file, by the names of the captured graph.

    always: captured node -> rounding of its value for all readers.
    once: reader -> captured node -> rounding of the node's value for this reader alone.
    sigmoids: captured node of a SiLU -> rounding of the sigmoid that it multiplies its input with.
    layers: captured node -> weights; for a layer with a folded BatchNorm, by the node of the BatchNorm.
    """

    def __init__(self, model: onnx.ModelProto) -> None:
        self.always: dict[str, _Rounding] = {}
        self.once: dict[str, dict[str, _Rounding]] = defaultdict(dict)
        self.sigmoids: dict[str, _Rounding] = {}
        self.layers: dict[str, _RealWeight] = {}
        self._stored = {each.name: numpy_helper.to_array(each) for each in model.graph.initializer}
        self._made = {value: node for node in model.graph.node for value in node.output}
        self._readers: dict[str, list[onnx.NodeProto]] = defaultdict(list)
        for node in model.graph.node:
            for value in node.input:
                self._readers[value].append(node)
        self._names = onnxfile.captured_names(model)
        self._known = set(self._names.values())
        for node in model.graph.node:
            if node.op_type == "QuantizeLinear":
                self._pair(node)
            elif node.op_type in ("MatMulInteger", "MatMulNBits"):
                self._product(node)
            elif onnxfile.metadata(node, onnxfile.LAYER) is not None:
                self._layer(node)

    def is_same_value(self, node: Node, name: str) -> bool:
        """Whether a node is `name`, or follows `name` through nodes that the exporter removes (dropout)."""
        while node.name != name:
            if node.name in self._known or len(node.all_input_nodes) != 1:
                return False
            node = node.all_input_nodes[0]
        return True

    def _pair(self, node: onnx.NodeProto) -> None:
        value, rounding = node.input[0], self._rounding(node)
        restored = self._readers[node.output[0]][0].output[0]
        name = self._names.get(value)
        if name is not None and value.endswith(RAW):
            self.always[name] = rounding
        elif name is not None:
            for reader in self._readers[restored]:
                self.once[self._reader(reader)][name] = rounding
        elif self._made[value].op_type == "Sigmoid":
            for reader in self._readers[restored]:
                self.sigmoids[self._reader(reader)] = rounding

    def _reader(self, node: onnx.NodeProto) -> str:
        """Captured node that an ONNX node (or a MatMul together with the addition behind it) computes."""
        value = node.output[0]
        if node.op_type == "MatMul" and value not in self._names:
            value = self._readers[value][0].output[0]
        return self._names.get(value, "")

    def _rounding(self, node: onnx.NodeProto) -> _Rounding:
        scale, point = (self._stored[name] for name in node.input[1:3])
        limits = np.iinfo(point.dtype)
        return _Rounding(float(scale), int(point), int(limits.min), int(limits.max))

    def _layer(self, node: onnx.NodeProto) -> None:
        weight = self._real(node.input[1])
        if weight is None:
            return
        bias = self._real(node.input[2]) if len(node.input) > 2 and node.input[2] else None
        if node.op_type == "MatMul" and node.output[0] not in self._names:  # a linear layer in two nodes
            bias = self._added(node.output[0])
        straight = node.op_type == "Conv" or any(a.name == "transB" and a.i for a in node.attribute)
        self.layers[self._reader(node)] = _RealWeight(weight, bias, not straight)

    def _product(self, node: onnx.NodeProto) -> None:
        """Read a layer in dynamic INT8 or with weights in blocks, whose bias is added behind the product."""
        value, bias = node.output[0], None
        while value not in self._names:
            follower = self._readers[value][0]
            if follower.op_type == "Add":
                bias = next(found for name in follower.input if (found := self._real(name)) is not None)
            value = follower.output[0]
        if node.op_type == "MatMulInteger":
            integers, scale = (self._stored[node.input[1] + end] for end in ("", ".scale"))
            real = _RealWeight(torch.from_numpy(integers * scale), bias, True, range_of_query)
        else:
            blocks = read_blocks(node, self._stored)
            real = _RealWeight(torch.from_numpy(blocks.restored()), bias, True, rounded_input(node))
        self.layers[self._names[value]] = real

    def _added(self, product: str) -> torch.Tensor | None:
        """Stored vector that the only reader of a product adds to the product; None without one."""
        readers = self._readers[product]
        if len(readers) != 1 or readers[0].op_type != "Add":
            return None
        found = [self._real(name) for name in readers[0].input if name != product]
        return found[0] if found[0] is not None and found[0].dim() == 1 else None

    def _real(self, name: str) -> torch.Tensor | None:
        """Stored tensor, or the DequantizeLinear of a stored one, as float32; None for a computed value."""
        if name in self._stored:
            return torch.from_numpy(self._stored[name].astype(np.float32))
        node = self._made.get(name)
        if node is None or node.op_type != "DequantizeLinear" or node.input[0] not in self._stored:
            return None
        integers, scale = (self._stored[each].astype(np.float32) for each in node.input[:2])
        axis = next((entry.i for entry in node.attribute if entry.name == "axis"), 1)
        shape = [1] * integers.ndim
        if scale.ndim:
            shape[axis] = -1
            scale = scale.reshape(shape)
        return torch.from_numpy(integers * scale)


class FakeQuantised(Interpreter):
    """Interpreter of the captured graph with the roundings, weights and biases of a Q/DQ file."""

    def __init__(self, captured: Captured, model: onnx.ModelProto) -> None:
        super().__init__(captured.module)
        self._file = _WrittenGraph(model)
        nodes = {node.name: node for node in captured.module.graph.nodes}
        ends = [nodes[name] for name in self._file.layers if name in nodes]
        # The file's weights have BatchNorm in them already.
        self._folded = {node for node in ends if op_name(node) == "aten.batch_norm"}
        self._layers = {node.args[0] if node in self._folded else node: node.name for node in ends}

    def run_node(self, n: Node) -> Any:
        value = self._value(n)
        rounding = self._file.always.get(n.name)
        return value if rounding is None else rounding(value)

    def _value(self, n: Node) -> Any:
        if n in self._folded:
            return self.env[n.all_input_nodes[0]]
        if n.op != "call_function":
            return super().run_node(n)
        reader = self._layers.get(n, n.name)
        rounded = {
            source: rounding(self.env[source])
            for name, rounding in self._file.once.get(reader, {}).items()
            for source in n.all_input_nodes
            if self._file.is_same_value(source, name)
        }
        before = {source: self.env[source] for source in rounded}
        self.env.update(rounded)
        try:
            if n in self._layers and op_name(n) in LAYERS:
                return self._layer(n, self._file.layers[reader])
            if n.name in self._file.sigmoids:
                x = self.env[n.all_input_nodes[0]]
                return x * self._file.sigmoids[n.name](x.sigmoid())
            return super().run_node(n)
        finally:
            self.env.update(before)

    def _layer(self, n: Node, stored: _RealWeight) -> Any:
        """Value of a layer with the file's weight and bias."""
        args, kwargs = self.fetch_args_kwargs_from_env(n)
        x_at, weight_at, _ = LAYERS[op_name(n)]
        x = args[x_at] if stored.rounded is None else stored.rounded(args[x_at])
        if op_name(n).startswith("aten.conv"):
            unbiased = (*args[:weight_at], stored.weight, None, *args[weight_at + 2 :])
            named = {name: value for name, value in kwargs.items() if name != "bias"}
            value = self.call_function(n.target, unbiased, named)
            shape = (-1, *[1] * (value.dim() - 2))
        else:
            value = x @ (stored.weight if stored.transposed else stored.weight.T)
            shape = (-1,)
        return value if stored.bias is None else value + stored.bias.reshape(shape)

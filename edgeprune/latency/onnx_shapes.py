"""Shapes, types and multiply-accumulates of an ONNX graph with its batch fixed and its constants folded."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
from onnx import helper, numpy_helper, shape_inference

from edgeprune.errors import EdgepruneError
from edgeprune.files import scratch
from edgeprune.graph import onnxfile
from edgeprune.records.lengths import LENGTH_NAME

Shape = tuple[int, ...]
_CONTROL = ("If", "Loop", "Scan")


@dataclass(frozen=True)
class Typed:
    """Shape of a value and bytes of one element."""

    shape: Shape
    width: int

    @property
    def elements(self) -> int:
        return prod(self.shape)


class FixedGraph:
    """Graph of an ONNX file for one batch size, and for one length of sequences where it has several.

    constants: values that no query changes: weights, values computed from weights, and shape arithmetic.
    Raises `EdgepruneError` naming the node whose work depends on the data (a loop, a shape that only a run
    shows): such a model has to be measured.
    """

    def __init__(self, path: Path, batch: int, length: int | None = None) -> None:
        self.name = path.name
        sizes = {onnxfile.BATCH_NAME: batch} | ({} if length is None else {LENGTH_NAME: length})
        self._read(onnxfile.load(path), sizes)
        if self._unknown() is not None:
            self._read(_folded(path, sizes), sizes)
        for node in self.nodes:
            if node.op_type in _CONTROL:
                raise self._unpredictable(node, "repeats or chooses by the data")
        unknown = self._unknown()
        if unknown is not None:
            raise self._unpredictable(unknown[0], f"has the value {unknown[1]}, whose shape only a run shows")

    def typed(self, name: str) -> Typed:
        """Shape and width of a value; a scalar of four bytes where a computed constant's are not known."""
        return self._typed.get(name, Typed((), 4))

    def macs(self, node: onnx.NodeProto) -> int:
        """Multiply-accumulates of one node; 0 unless it multiplies matrices or filters."""
        kind = node.op_type.removeprefix("QLinear").removesuffix("Integer").removeprefix("Q")
        kind = kind.removesuffix("NBits")  # a MatMul whose weights are in blocks
        if kind not in ("Conv", "ConvTranspose", "Gemm", "MatMul", "Einsum", "LSTM", "GRU", "RNN"):
            return 0
        first = self.typed(node.input[0]).shape
        second = self.typed(node.input[3 if node.op_type.startswith("Q") else 1]).shape
        made = self.typed(node.output[0]).elements
        if kind == "Conv":
            return made * prod(second[1:])
        if kind == "ConvTranspose":
            return prod(first) * prod(second[1:])
        if kind == "MatMul":
            return made * first[-1]
        if kind == "Gemm":
            return made * first[0 if _number(node, "transA") else -1]
        if kind == "Einsum":
            return self._einsum(node)
        steps, rows = first[:2]  # recurrent: every step multiplies by every weight matrix once
        return steps * rows * (prod(second) + self.typed(node.input[2]).elements)

    def is_depthwise(self, node: onnx.NodeProto) -> bool:
        """Whether a convolution has a filter per channel and no sum over channels."""
        weight = node.input[3 if node.op_type.startswith("Q") else 1] if len(node.input) > 1 else ""
        shape = self.typed(weight).shape
        return "Conv" in node.op_type and _number(node, "group") > 1 and len(shape) > 2 and shape[1] == 1

    def _read(self, model: onnx.ModelProto, sizes: Mapping[str, int]) -> None:
        self.graph = model.graph
        self.constants = _constants(model.graph)
        self.nodes = [node for node in model.graph.node if not set(node.output) <= self.constants]
        self._typed = _typed(model, sizes)

    def _unknown(self) -> tuple[onnx.NodeProto, str] | None:
        for node in self.nodes:
            for name in (*node.input, *node.output[:1]):
                if name and name not in self.constants and name not in self._typed:
                    return node, name
        return None

    def _einsum(self, node: onnx.NodeProto) -> int:
        text = next(helper.get_attribute_value(entry) for entry in node.attribute if entry.name == "equation")
        sizes: dict[str, int] = {}
        for labels, name in zip(text.decode().partition("->")[0].split(","), node.input, strict=True):
            sizes.update(zip(labels.replace(" ", ""), self.typed(name).shape, strict=False))
        return prod(sizes.values())

    def _unpredictable(self, node: onnx.NodeProto, why: str) -> EdgepruneError:
        return EdgepruneError(
            f"{self.name} cannot be predicted: node {node.name or node.op_type} ({node.op_type}) {why}.",
            "Attach a device and measure it: --device ssh://user@host, or a NAME of your lab.",
        )


def _folded(path: Path, sizes: Mapping[str, int]) -> onnx.ModelProto:
    """Model after ONNX Runtime computed, for these sizes, the values that do not depend on the data."""
    with scratch() as folder:
        folded = folder / "folded.onnx"
        _fold(path, sizes, folded)
        model = onnxfile.load(folded)
        while _store_sizes(model):  # ONNX Runtime (1.32) leaves these, and values computed from them
            onnxfile.save(model, folded)
            _fold(folded, sizes, folded)
            model = onnxfile.load(folded)
    return model


def _fold(path: Path, sizes: Mapping[str, int], folded: Path) -> None:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = 1
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
    for name, size in sizes.items():
        options.add_free_dimension_override_by_name(name, size)
    options.optimized_model_filepath = str(folded)
    try:
        onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime's errors share no base but Exception
        raise EdgepruneError(
            f"ONNX Runtime does not load {path.name} for {_words(sizes)}: {error}",
            "Look for a size in the model that was written as a number.",
        ) from error


def _words(sizes: Mapping[str, int]) -> str:
    return " and ".join(f"a {name} of {size}" for name, size in sizes.items())


def _store_sizes(model: onnx.ModelProto) -> int:
    """Replace every Size whose input's shape is known by its result, and return how many there were."""
    known = {value.name: value.type.tensor_type.shape.dim for value in model.graph.value_info}
    found = [
        (node, [dim.dim_value for dim in known[node.input[0]]])
        for node in model.graph.node
        if node.op_type == "Size" and node.input[0] in known
    ]
    found = [(node, sizes) for node, sizes in found if all(sizes)]
    for node, sizes in found:
        stored = numpy_helper.from_array(np.array(prod(sizes), np.int64), node.output[0])
        model.graph.initializer.append(stored)
        model.graph.node.remove(node)
    return len(found)


def _constants(graph: onnx.GraphProto) -> set[str]:
    """Values that a runtime computes before the first query, once the batch is fixed."""
    found = {tensor.name for tensor in graph.initializer}
    for node in graph.node:
        inputs = [name for name in node.input if name]
        if node.op_type in ("Constant", "Shape", "Size") or (inputs and found.issuperset(inputs)):
            found.update(node.output)
    return found


def _typed(model: onnx.ModelProto, sizes: Mapping[str, int]) -> Mapping[str, Typed]:
    """Shapes and widths of the values that are known for these sizes of dimensions."""
    foreign = {name for node in model.graph.node if node.domain for name in node.output}
    told = [value for value in model.graph.value_info if value.name in foreign]  # ONNX infers none of these
    del model.graph.value_info[:]
    model.graph.value_info.extend(told)
    for value in (*model.graph.input, *model.graph.output, *model.graph.value_info):
        for dim in value.type.tensor_type.shape.dim:
            if dim.dim_param in sizes:
                dim.dim_value = sizes[dim.dim_param]
            elif dim.dim_param:
                dim.ClearField("dim_param")
    inferred = shape_inference.infer_shapes(model, data_prop=True).graph
    found = {}
    for value in (*inferred.input, *inferred.value_info, *inferred.output):
        tensor = value.type.tensor_type
        known = [dim.dim_value if dim.HasField("dim_value") else None for dim in tensor.shape.dim]
        if tensor.HasField("shape") and None not in known:
            shape = tuple(size for size in known if size is not None)
            found[value.name] = Typed(shape, _width(tensor.elem_type))
    stored = {tensor.name for tensor in model.graph.initializer}
    for tensor in model.graph.initializer:
        found[tensor.name] = Typed(tuple(tensor.dims), _width(tensor.data_type))
    for node in model.graph.node:  # weights stay the integers that they are stored as
        if node.op_type == "DequantizeLinear" and node.input[0] in stored:
            found[node.output[0]] = found[node.input[0]]
    return found


def _width(kind: int) -> int:
    try:
        return max(1, int(np.dtype(helper.tensor_dtype_to_np_dtype(kind)).itemsize))
    except KeyError:
        return 4


def _number(node: onnx.NodeProto, name: str) -> int:
    return int(next((entry.i for entry in node.attribute if entry.name == name), 0))

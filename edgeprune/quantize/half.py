"""Float16 conversion of an ONNX model outside Q/DQ, for runtimes that take each type from the file.

TensorRT 11 and TensorRT for RTX know no "fastest of FP16 and FP32": a network is strongly typed, and what
the file calls float32 runs as float32. docs/decisions/007-float16.md says why no library does this.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, defs, helper, numpy_helper

from edgeprune.graph import onnxfile

LARGEST = float(np.finfo(np.float16).max)  # 65504
HEADROOM = 2.0  # how far an unseen input may go beyond a calibrated range
_NORMAL = float(np.finfo(np.float16).smallest_normal)
_HALF, _FLOAT = TensorProto.FLOAT16, TensorProto.FLOAT

# Sums of many terms, squares and what grows exponentially leave float16's range or its 11 bits; the angle
# of a sine needs more bits than its value; a cast from integers may hold indices above 2048.
KEPT = frozenset(
    {"ReduceMean", "ReduceSum", "ReduceL1", "ReduceL2", "ReduceSumSquare", "ReduceLogSum", "ReduceProd"}
    | {"ReduceLogSumExp", "Pow", "Exp", "Log", "Sqrt", "Reciprocal", "Sin", "Cos", "CumSum", "Range", "Cast"}
    | {"Constant", "ConstantOfShape"}  # their values are in an attribute
)
_WITHIN_ONE = frozenset({"Cos", "Erf", "HardSigmoid", "Sigmoid", "Sin", "Softmax", "Softsign", "Tanh"})


def halve(model: onnx.ModelProto, bounds: Mapping[str, tuple[float, float]]) -> tuple[str, ...]:
    """Convert a model in place to float16 between its inputs and outputs, which stay float32.

    bounds: calibrated (low, high) by the name that a value had before Q/DQ. What would overflow, and the
    operators in `KEPT`, stay float32 between casts; below opset 19 so does every Q/DQ.
    Returns the names of the nodes that stay float32 because of a range or a constant, in order.
    """
    graph = _TypedGraph(model, bounds)
    wide = _wide(graph)
    _CastWriter(graph, _kept(graph, wide)).write()
    onnxfile.mark_half(model)
    return tuple(wide.values())


def fits_half(array: NDArray[np.float32]) -> bool:
    """Whether a constant keeps its meaning in float16: no overflow, and not all of it below its normals.

    An epsilon of 1e-12 would become 0; a few tiny weights among larger ones may.
    """
    return _exact(array) or (_small(array) and bool(np.abs(array).max(initial=0.0) >= _NORMAL))


class _TypedGraph:
    """Look-ups of the graph that is converted; nodes are known by their index."""

    def __init__(self, model: onnx.ModelProto, bounds: Mapping[str, tuple[float, float]]) -> None:
        self.model, self.nodes, self.bounds = model, list(model.graph.node), bounds
        self.opset = next(each.version for each in model.opset_import if each.domain in ("", "ai.onnx"))
        inferred = onnx.shape_inference.infer_shapes(model).graph
        self.types = {
            value.name: value.type.tensor_type.elem_type
            for value in (*inferred.value_info, *inferred.input, *inferred.output)
        }
        self.weights = {t.name: t for t in model.graph.initializer if t.data_type == _FLOAT}
        self.types.update((tensor.name, tensor.data_type) for tensor in model.graph.initializer)
        # What must keep its name and be float32: outputs, and what branches and loops take.
        self.outside = {value.name for value in model.graph.output}
        self.producer: dict[str, int] = {}
        self.consumers: dict[str, list[int]] = defaultdict(list)
        for index, node in enumerate(self.nodes):
            self.producer.update(dict.fromkeys(node.output, index))
            for name in node.input:
                self.consumers[name].append(index)
            self.outside.update(onnxfile.reads_inside(node))

    def reads(self, index: int) -> list[str]:
        """The computed float32 values that a node takes."""
        names = self.nodes[index].input
        return [name for name in names if self.types.get(name) == _FLOAT and name not in self.weights]

    def writes(self, index: int) -> list[str]:
        return [name for name in self.nodes[index].output if self.types.get(name) == _FLOAT]

    def bound(self, value: str) -> tuple[float, float] | None:
        made = self.producer.get(value)
        if made is not None and self.nodes[made].op_type in _WITHIN_ONE:
            return (-1.0, 1.0)
        return self.bounds.get(value.removesuffix(".int8.float").removesuffix(".raw"))

    def takes_half(self, index: int, slot: str, at: int) -> bool:
        """Whether the operator's definition allows float16 for its input or output ("inputs") `at`."""
        node = self.nodes[index]
        try:
            schema = defs.get_schema(node.op_type, self.opset, node.domain)
        except defs.SchemaError:
            return False
        formal = getattr(schema, slot)
        kind = formal[min(at, len(formal) - 1)].type_str  # the last one may be repeated
        allowed = {each.type_param_str: each.allowed_type_strs for each in schema.type_constraints}
        return "tensor(float16)" in allowed.get(kind, ())


def _exact(array: NDArray[np.float32]) -> bool:
    with np.errstate(over="ignore"):
        return np.array_equal(array.astype(np.float16).astype(np.float32), array)


def _small(array: NDArray[np.float32]) -> bool:
    """Whether all of it that is finite is in float16's range."""
    return bool((np.abs(array[np.isfinite(array)]) <= LARGEST).all())


def _wide(graph: _TypedGraph) -> dict[int, str]:
    """Node index -> name, for nodes that take or write what float16 cannot hold."""
    found: dict[int, str] = {}
    spread: set[str] = set()  # values without a range of their own behind something wide

    def beyond(value: str) -> bool:
        bound = graph.bound(value)
        return value in spread if bound is None else max(-bound[0], bound[1]) * HEADROOM > LARGEST

    for index, node in enumerate(graph.nodes):
        constants = [numpy_helper.to_array(graph.weights[n]) for n in node.input if n in graph.weights]
        if node.op_type in ("QuantizeLinear", "DequantizeLinear"):
            # Both sides of a pair, and the integers behind them, belong to this very scale.
            good = all(_exact(scale) and scale.max(initial=0) * 128 <= LARGEST for scale in constants)
        else:
            good = all(map(fits_half, constants))
        touched = [*graph.reads(index), *graph.writes(index)]
        large = any(map(beyond, touched)) or any(not _small(constant) for constant in constants)
        if touched and (large or not good):
            found[index] = node.name or node.output[0]
            spread.update(graph.writes(index) if large else ())
    return found


def _kept(graph: _TypedGraph, wide: Mapping[int, str]) -> set[int]:
    """The nodes that stay float32."""
    kept = set(wide)
    for index, node in enumerate(graph.nodes):
        halves = any(
            graph.types.get(name) == _FLOAT and graph.takes_half(index, slot, at)
            for slot, names in (("inputs", node.input), ("outputs", node.output))
            for at, name in enumerate(names)
        )
        unknown = any(name and name not in graph.types for name in (*node.input, *node.output))
        if node.op_type in KEPT or not halves or unknown or onnxfile.inner_graphs(node):
            kept.add(index)
    while more := {
        index for index in range(len(graph.nodes)) if index not in kept and _joins(graph, index, kept)
    }:
        kept |= more
    return kept


def _joins(graph: _TypedGraph, index: int, kept: set[int]) -> bool:
    """Whether a node had better be float32 because of its neighbours: a cast less, and bits more."""
    node = graph.nodes[index]
    reads = [graph.producer.get(value) for value in graph.reads(index)]
    users = [user for value in graph.writes(index) for user in graph.consumers[value]]
    if node.op_type == "QuantizeLinear":  # a graph's input needs no cast before it is rounded to integers
        return all(maker is None or maker in kept for maker in reads)
    if node.op_type == "DequantizeLinear":
        return all(user in kept for user in users)
    if node.op_type in onnxfile.WEIGHTED:
        return False
    between = [*reads, *users]
    return bool(reads and users) and all(neighbour in kept for neighbour in between)


class _CastWriter:
    """Inserts casts where float32 and float16 meet, and stores constants in the type that is read."""

    def __init__(self, graph: _TypedGraph, kept: set[int]) -> None:
        self.graph, self.kept = graph, kept
        self.made: dict[str, str] = {}  # (value, type) as a name -> the value that holds it
        self.stored: dict[str, onnx.TensorProto] = {}
        self.wide = {  # constants that something reads as float32
            name
            for index, node in enumerate(graph.nodes)
            for at, name in enumerate(node.input)
            if name in graph.weights and not self._half(index, "inputs", at, name)
        } | graph.outside
        self.halved = {
            name
            for index, node in enumerate(graph.nodes)
            for at, name in enumerate(node.output)
            if self._half(index, "outputs", at, name)
        }

    def write(self) -> None:
        model, ordered = self.graph.model, list[onnx.NodeProto]()
        for index, node in enumerate(self.graph.nodes):
            for at, name in enumerate(node.input):
                if self.graph.types.get(name) == _FLOAT:
                    node.input[at] = self._as(name, self._half(index, "inputs", at, name), ordered)
            ordered.append(node)
            for at, name in enumerate(node.output):
                if name in self.halved and name in self.graph.outside:
                    node.output[at] = self.made[f"{name}.half"] = f"{name}.half"
                    ordered.append(_cast(f"{name}.half", name, _FLOAT))
        del model.graph.node[:]
        model.graph.node.extend(ordered)
        kept = [tensor for tensor in model.graph.initializer if tensor.name not in self.stored]
        del model.graph.initializer[:]
        model.graph.initializer.extend([*kept, *self.stored.values()])
        del model.graph.value_info[:]  # it speaks of float32; runtimes infer it again
        onnxfile.drop_unused(model)
        onnx.checker.check_model(model, full_check=True)

    def _half(self, index: int, slot: str, at: int, name: str) -> bool:
        graph = self.graph
        return (
            index not in self.kept and graph.types.get(name) == _FLOAT and graph.takes_half(index, slot, at)
        )

    def _as(self, name: str, half: bool, ordered: list[onnx.NodeProto]) -> str:
        """The name under which a value or a constant has the wished type; a cast is added once."""
        is_half = name in self.halved and name not in self.graph.outside
        if half == is_half:
            return name
        wished = f"{name}.{'half' if half else 'float'}"
        if wished in self.made:
            return self.made[wished]
        if name in self.graph.weights:
            array = numpy_helper.to_array(self.graph.weights[name]).astype(np.float16)
            self.made[wished] = stored = wished if name in self.wide else name
            self.stored[stored] = numpy_helper.from_array(array, stored)
            return stored
        ordered.append(_cast(name, wished, _HALF if half else _FLOAT))
        self.made[wished] = wished
        return wished


def _cast(value: str, result: str, kind: int) -> onnx.NodeProto:
    return helper.make_node("Cast", [value], [result], f"{result}.cast", to=kind)


__all__ = ["HEADROOM", "KEPT", "LARGEST", "fits_half", "halve"]

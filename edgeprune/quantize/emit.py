"""Emission of the Q/DQ ONNX file: a float ONNX file with ranges, in a runtime's dialect."""

from __future__ import annotations

import difflib
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from edgeprune.errors import InputError, NothingToQuantise
from edgeprune.graph import onnxfile
from edgeprune.quantize.dialects import Dialect, dialect_for
from edgeprune.quantize.half import halve
from edgeprune.quantize.plan import Graph, Plan, plan
from edgeprune.quantize.ranges import Ranges
from edgeprune.quantize.scales import Scale, quantise_bias, quantise_weight

RAW = ".raw"  # ending of a kernel's output in front of the Q/DQ pair behind the kernel
_ACTIVATIONS: dict[str, type[np.generic]] = {"uint8": np.uint8, "int8": np.int8}


@dataclass(frozen=True)
class Quantised:
    """A Q/DQ model, with its layers in INT8 and in float; a layer has the name of its weight's module.

    wide: nodes that stay float32 in a dialect of float16, where float16 would overflow.
    """

    model: onnx.ModelProto
    layers_int8: tuple[str, ...]
    layers_float: tuple[str, ...]
    wide: tuple[str, ...] = ()


def quantise(
    exported: onnx.ModelProto,
    ranges: Ranges,
    dialect: Dialect | str,
    *,
    reduce_range: bool = False,
    float_layers: Sequence[str] = (),
) -> Quantised:
    """Make an INT8 Q/DQ model of an exported one, which stays as it is, in a runtime's dialect.

    exported: from `to_onnx`. dialect: a row of `dialects.TABLE` or its name.
    reduce_range: 7-bit weights, exact on x86 machines without VNNI.
    float_layers: layers that stay float, by their weight's module ("layer1.0.conv1").
    A tensor without a range stays float. Raises `InputError` for an unknown dialect or layer,
    `NothingToQuantise` when no layer can become INT8.
    """
    spoken = dialect_for(dialect, "") if isinstance(dialect, str) else dialect
    model = onnxfile.copied(exported)
    graph, layers = Graph(model, ranges), onnxfile.layers(model)
    check_known(float_layers, set(layers.values()))
    planned = plan(graph, spoken, {at: name for at, name in layers.items() if name not in float_layers})
    if not planned.layers:
        raise NothingToQuantise(
            f"No layer of the model can become INT8 in the dialect {spoken.name}.",
            "Calibrate the captured model that was exported, and leave some layers out of float_layers.",
        )
    _QdqWriter(graph, planned, spoken, reduce_range).write(model)
    onnx.checker.check_model(model)
    wide = halve(model, graph.bounds) if spoken.half else ()
    return Quantised(
        model,
        tuple(name for at, name in layers.items() if at in planned.layers),
        tuple(name for at, name in layers.items() if at not in planned.layers),
        wide,
    )


class _QdqWriter:
    """Writer of a plan: Q/DQ pairs around values, INT8 initialisers in front of a DequantizeLinear."""

    def __init__(self, graph: Graph, planned: Plan, dialect: Dialect, reduce_range: bool) -> None:
        self.graph, self.planned, self.dialect, self.reduce_range = graph, planned, dialect, reduce_range
        self.stored: dict[str, onnx.TensorProto] = {}
        self.named: set[str] = set()

    def write(self, model: onnx.ModelProto) -> None:
        """Rewrite `model` in place."""
        behind = self._pairs()  # value -> nodes to place behind the value's producer
        ordered = [node for value in model.graph.input for node in behind.get(value.name, ())]
        for index, node in enumerate(self.graph.nodes):
            following = [extra for value in node.output for extra in behind.get(value, ())]
            if index in self.planned.layers:
                ordered += self._layer(index)
            if self._is_integer_follower(node):
                self._move_integers(node)
                ordered += [node, following[1]]  # the node's output is integer already
                continue
            node.output[:] = [
                _raw(value) if value in self.planned.written else value for value in node.output
            ]
            ordered += [node, *following]
        del model.graph.node[:]
        model.graph.node.extend(ordered)
        model.graph.initializer.extend(self.stored.values())
        onnxfile.drop_unused(model)
        del model.graph.value_info[:]  # types of the float graph; runtimes infer them again

    def _pairs(self) -> dict[str, list[onnx.NodeProto]]:
        pairs = {
            value: self._pair(_raw(value), value, scale) for value, scale in self.planned.written.items()
        }
        for value, (scale, readers) in self.planned.read.items():
            pairs[value] = self._pair(value, f"{value}.int8.float", scale)
            for index, at in readers:
                self.graph.nodes[index].input[at] = f"{value}.int8.float"
        return pairs

    def _pair(self, value: str, result: str, scale: Scale) -> list[onnx.NodeProto]:
        integer = f"{value}.int8"
        operands = [
            self._store(f"{integer}.scale", np.array(scale.scale, np.float32)),
            self._store(
                f"{integer}.zero_point", np.array(scale.zero_point, _ACTIVATIONS[self.dialect.activation])
            ),
        ]
        return [
            helper.make_node("QuantizeLinear", [value, *operands], [integer], f"{integer}.quantize"),
            helper.make_node("DequantizeLinear", [integer, *operands], [result], f"{integer}.dequantize"),
        ]

    def _layer(self, index: int) -> list[onnx.NodeProto]:
        """Replace a layer's weight (and bias) by integers, and return the nodes that dequantise them."""
        node, graph = self.graph.nodes[index], self.graph
        value = str(node.input[0]).removesuffix(".int8.float")
        scale = self.planned.scale(value)
        if scale is None:
            raise ValueError(
                f"layer {self.planned.layers[index]} reads {value}, which was not planned as integer"
            )
        # A layer that is called twice is stored twice: the scale of the bias depends on that of the input.
        name = self.planned.layers[index]
        name = name if name not in self.named else f"{name}#{index}"
        self.named.add(name)
        bias = self._bias(node, name)
        axis = _channel_axis(node)
        weight = quantise_weight(
            numpy_helper.to_array(graph.weights[node.input[1]]),
            axis,
            self.dialect.per_channel,
            self.reduce_range,
            bias if self.dialect.quantised_bias else None,
            scale,
            half=self.dialect.half,
        )
        added = [self._stored(f"{name}.weight", weight.integers, weight.scale, axis)]
        node.input[1] = added[0].output[0]
        if bias is not None and self.dialect.quantised_bias:
            accumulator = weight.scale * scale.scale
            integers = quantise_bias(bias, weight, scale)
            added.append(self._stored(f"{name}.bias", integers, accumulator, 0))
            node.input[2:] = [added[1].output[0]]
        elif bias is not None:
            node.input[2:] = [self._store(f"{name}.bias.float", bias)]
        return added

    def _bias(self, node: onnx.NodeProto, name: str) -> NDArray[np.float32] | None:
        """Bias of a layer, less the mean error of INT8; that of a MatMul is in the Add behind the MatMul."""
        if node.op_type == "MatMul":
            self._correct_addition(str(node.output[0]), name)
            return None
        stored = node.input[2] if len(node.input) > 2 else ""
        bias = numpy_helper.to_array(self.graph.weights[stored]) if stored else None
        shift = self.graph.shifts.get(str(node.output[0]))
        return bias if shift is None else np.asarray((0.0 if bias is None else bias) - shift, np.float32)

    def _correct_addition(self, product: str, name: str) -> None:
        readers = self.graph.consumers[product]
        add = self.graph.nodes[readers[0]] if len(readers) == 1 else None
        shift = self.graph.shifts.get(str(add.output[0]).removesuffix(RAW)) if add is not None else None
        if add is None or shift is None or add.op_type != "Add":
            return
        for at, operand in enumerate(add.input):
            stored = self.graph.weights.get(operand)
            if stored is not None and list(stored.dims) == list(shift.shape):
                corrected = np.asarray(numpy_helper.to_array(stored) - shift, np.float32)
                add.input[at] = self._store(f"{name}.bias.float", corrected)

    def _is_integer_follower(self, node: onnx.NodeProto) -> bool:
        return node.op_type in self.dialect.integer_followers and node.output[0] in self.planned.written

    def _move_integers(self, node: onnx.NodeProto) -> None:
        """Let a Pad read and write integers, and pad with the zero point, the integer for 0.0."""
        source = _raw(node.input[0])
        padding = [f"{source}.int8.zero_point", *node.input[3:]]
        node.input[:] = [f"{source}.int8", node.input[1], *padding]
        node.output[0] = f"{_raw(node.output[0])}.int8"

    def _stored(
        self, name: str, integers: NDArray[Any], scale: NDArray[np.float32], axis: int
    ) -> onnx.NodeProto:
        suffix = integers.dtype.name
        operands = [
            self._store(f"{name}.{suffix}", integers),
            self._store(f"{name}.{suffix}.scale", scale),
            self._store(f"{name}.{suffix}.zero_point", np.zeros_like(scale, integers.dtype)),
        ]
        attributes = {"axis": axis} if scale.ndim else {}
        return helper.make_node(
            "DequantizeLinear", operands, [f"{name}.{suffix}.float"], f"{name}.dequantize", **attributes
        )

    def _store(self, name: str, array: NDArray[Any]) -> str:
        self.stored[name] = numpy_helper.from_array(np.asarray(array, order="C"), name)
        return name


def _channel_axis(node: onnx.NodeProto) -> int:
    """Dimension of the output channels in a layer's weight."""
    if node.op_type == "Conv":
        return 0
    transposed = any(entry.name == "transB" and entry.i for entry in node.attribute)
    return 0 if transposed else 1


def _raw(value: str) -> str:
    return f"{value}{RAW}"


def check_known(float_layers: Iterable[str], known: Collection[str]) -> None:
    """Raise `InputError` for a name that is no layer of the model, with the most similar names."""
    for name in float_layers:
        if name not in known:
            near = difflib.get_close_matches(name, known, n=3) or sorted(known)[:3]
            raise InputError(
                f'float_layers names "{name}", which is no layer of this model.',
                f"Did you mean {' or '.join(near)}? A layer has the name of its weight's module.",
            )

"""Plan of the values of an ONNX graph that become integers in a dialect, which `emit` then writes.

    Conv -> Relu -> Conv       the value between the layers is written once, as integers
    Conv -> Add(skip) -> Conv  both operands of the addition become integers

Integers flow from layer to layer, by way of joins and followers; a value that reaches no other layer this way
stays float. (The class token of a ViT is far smaller than the patches next to it, and would be rounded to
zero at the scale of the patches.)
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field

import onnx
from onnx import numpy_helper

from edgeprune.graph import onnxfile
from edgeprune.quantize.dialects import Dialect
from edgeprune.quantize.products import is_plain
from edgeprune.quantize.ranges import Ranges
from edgeprune.quantize.scales import Scale, activation_scale


@dataclass
class Plan:
    """Values and layers of one graph that become INT8.

    layers: names of the INT8 layers, by node index.
    written: values that their producer's kernel writes as integers, for all consumers.
    read: values that stay float and are quantised for the listed (node, input position) pairs.
    """

    layers: dict[int, str] = field(default_factory=dict)
    written: dict[str, Scale] = field(default_factory=dict)
    read: dict[str, tuple[Scale, list[tuple[int, int]]]] = field(default_factory=dict)

    def scale(self, value: str) -> Scale | None:
        """Scale of an integer value; None for a float value."""
        if value in self.written:
            return self.written[value]
        return self.read[value][0] if value in self.read else None


class Graph:
    """An ONNX graph with the look-ups that planning needs; a node is identified by its index."""

    def __init__(self, model: onnx.ModelProto, ranges: Ranges) -> None:
        self.nodes = list(model.graph.node)
        self.weights = {tensor.name: tensor for tensor in model.graph.initializer}
        self.outputs = {value.name for value in model.graph.output}
        self.consumers: dict[str, list[int]] = defaultdict(list)
        for index, node in enumerate(self.nodes):
            for name in node.input:
                self.consumers[name].append(index)
        captured = onnxfile.captured_names(model)
        self.bounds = {
            value: ranges.bounds[name] for value, name in captured.items() if name in ranges.bounds
        }
        self.shifts = {
            value: ranges.shifts[name] for value, name in captured.items() if name in ranges.shifts
        }
        for node in self.nodes:
            if node.op_type == "Sigmoid":  # one inside a SiLU is no captured node, and needs no calibration
                self.bounds.setdefault(node.output[0], (0.0, 1.0))

    def computed(self, index: int) -> list[tuple[int, str]]:
        """(position, value) of the inputs of a node that are computed, not stored."""
        return [(at, name) for at, name in enumerate(self.nodes[index].input) if name not in self.weights]

    def result(self, index: int, fused: frozenset[str]) -> str:
        """Value that a kernel writes: the output of the node, or of an activation function fused into it."""
        value = str(self.nodes[index].output[0])
        following = self.consumers[value]
        if len(following) == 1 and value not in self.outputs and self.nodes[following[0]].op_type in fused:
            return str(self.nodes[following[0]].output[0])
        return value


def plan(graph: Graph, dialect: Dialect, layers: dict[int, str]) -> Plan:
    """Decide, node by node in execution order, which of `layers` and which values become integers."""
    found, wanted = Plan(), _wanted(graph, dialect, layers)
    for index, node in enumerate(graph.nodes):
        if index in layers:
            _layer(graph, dialect, found, wanted, index, layers[index])
        elif node.op_type in dialect.joins or node.op_type in dialect.reductions:
            _join(graph, dialect, found, wanted, index)
        elif node.op_type in dialect.followers and node.input[0] in found.written and _moves(node, graph):
            found.written.update(
                {value: found.written[node.input[0]] for value in node.output if value in wanted}
            )
    return found


def _wanted(graph: Graph, dialect: Dialect, layers: dict[int, str]) -> set[str]:
    """Values that some layer reads directly, or by way of joins, reductions and followers."""
    found: set[str] = set()
    for index in reversed(range(len(graph.nodes))):
        node = graph.nodes[index]
        carries = node.op_type in dialect.joins | dialect.reductions | dialect.followers
        if index in layers:
            found.add(node.input[0])
        elif carries and found.intersection((*node.output, graph.result(index, dialect.fused))):
            found.update(value for _, value in graph.computed(index))
    return found


def _layer(graph: Graph, dialect: Dialect, found: Plan, wanted: set[str], index: int, name: str) -> None:
    node = graph.nodes[index]
    value, result = str(node.input[0]), graph.result(index, dialect.fused)
    writes = node.op_type in dialect.integer_output and not (dialect.float_output and result not in wanted)
    if (
        node.op_type not in dialect.layers
        or not is_plain(node, graph.weights[node.input[1]])
        or not _has_stored_bias(node, graph)
        or (found.scale(value) is None and value not in graph.bounds)
        or (writes and result not in graph.bounds)
    ):
        return
    found.layers[index] = name
    _read(graph, dialect, found, index, 0)
    if writes:
        found.written[result] = activation_scale(*graph.bounds[result], dialect)


def _join(graph: Graph, dialect: Dialect, found: Plan, wanted: set[str], index: int) -> None:
    """Plan a join or reduction on integers when one input is integer and the others have a range."""
    inputs, result = graph.computed(index), graph.result(index, dialect.fused)
    affine = graph.nodes[index].op_type in dialect.joins and len(inputs) < len(graph.nodes[index].input)
    if (
        affine  # one operand is stored: additions of a bias and products with a scale stay float
        or result not in wanted
        or not any(value in found.written for _, value in inputs)
        or any(found.scale(value) is None and value not in graph.bounds for _, value in inputs)
        or result not in graph.bounds
    ):
        return
    for at, _ in inputs:
        _read(graph, dialect, found, index, at)
    found.written[result] = activation_scale(*graph.bounds[result], dialect)


def _read(graph: Graph, dialect: Dialect, found: Plan, index: int, at: int) -> None:
    value = str(graph.nodes[index].input[at])
    if value in found.written:
        return
    if value not in found.read:
        found.read[value] = (activation_scale(*graph.bounds[value], dialect), [])
    found.read[value][1].append((index, at))


def _has_stored_bias(node: onnx.NodeProto, graph: Graph) -> bool:
    """Whether a layer has no bias, or a stored vector, as integer kernels need it."""
    bias = node.input[2] if len(node.input) > 2 and node.input[2] else None
    return bias is None or (bias in graph.weights and len(graph.weights[bias].dims) == 1)


def _moves(node: onnx.NodeProto, graph: Graph) -> bool:
    """Whether a follower's output contains nothing but its input's values (and zeros, which are exact)."""
    if node.op_type == "Resize":
        return all(entry.s == b"nearest" for entry in node.attribute if entry.name == "mode")
    if node.op_type == "Pad" and len(node.input) > 2 and node.input[2]:
        padding = graph.weights.get(node.input[2])
        return padding is not None and not numpy_helper.to_array(padding).any()
    return True

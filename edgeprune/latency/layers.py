"""Milliseconds of each layer in float and in INT8, from profiles of both precisions in their runtime.

A *part* is a layer, or an operator over activations that has an integer kernel of its own (an addition, say).
Operators that a runtime fuses into a part or runs behind it (activations, copies, the conversion of its
result to float) are counted with the part. So are operators behind it that are float in any case; where such
an operator is slower because its result is read as integers, the difference is the cost of a conversion,
counted with the readers.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from math import prod

import onnx

from edgeprune.devices import Operator
from edgeprune.graph import onnxfile
from edgeprune.latency.min_cut import ALWAYS_FLOAT, Times, Value
from edgeprune.latency.operators import START, Owners
from edgeprune.quantize.dialects import Dialect

Shares = Mapping[str, float]  # milliseconds by node of the float graph


class Parts:
    """Parts of a float ONNX model in a dialect, and the values between them."""

    def __init__(self, model: onnx.ModelProto, dialect: Dialect) -> None:
        """model: as `export_onnx` writes it. Layers are named by their weight's module."""
        self._owners = Owners(model.graph)
        self._nodes = {node.name: node for node in model.graph.node}
        self._dialect = dialect
        self._elements = _elements(model)
        self._part: dict[str, str] = {START: ALWAYS_FLOAT}  # node -> the part that it is counted with
        self._maker: dict[str, str] = {}  # value -> the part that writes it as integers, if any
        self._reads: dict[str, list[str]] = defaultdict(list)  # value -> parts that read it
        self._origin: dict[str, str] = {}  # value -> the value that it is a view of
        self._source: dict[str, str] = {}  # value -> the node that makes it
        named, stored = onnxfile.layers(model), {tensor.name for tensor in model.graph.initializer}
        self.layers = tuple(dict.fromkeys(named.values()))
        for at, node in enumerate(model.graph.node):
            self._place(node, named.get(at), [name for name in node.input if name and name not in stored])

    def shares(self, measured: Sequence[Operator]) -> Shares:
        return self._owners.shares(measured)

    def times(self, in_float: Shares, in_int8: Shares) -> Mapping[str, Times]:
        """Milliseconds by part, of the model with every part in float, and in INT8."""
        one, other = self.by_part(in_float), self.by_part(in_int8)
        for node, ms in self._converting(in_float, in_int8).items():  # counted with the readers
            other[self._part[node]] -= ms
        parts = dict.fromkeys(part for part in self._part.values() if part != ALWAYS_FLOAT)
        return {part: Times(one.get(part, 0.0), max(other.get(part, 0.0), 0.0)) for part in parts}

    def by_part(self, shares: Shares) -> dict[str, float]:
        """Milliseconds by part; nodes in front of the first part count as ALWAYS_FLOAT."""
        found: dict[str, float] = defaultdict(float)
        for node, ms in shares.items():
            found[self._part[node]] += ms
        return found

    def values(self, in_float: Shares, in_int8: Shares, ms_per_element: float) -> list[Value]:
        """Values between parts, with the cost of a conversion.

        ms_per_element: of a value that a part writes as integers; for values that are float in any case the
        profiles of both precisions show the cost.
        """
        slower = self._converting(in_float, in_int8)
        found = []
        for name, readers in self._reads.items():
            maker = self._maker.get(name, ALWAYS_FLOAT)
            ms = self._elements.get(name, 0) * ms_per_element
            if maker == ALWAYS_FLOAT:
                ms = slower.get(self._source.get(name, START), 0.0)
            followers = [part for part in readers if part not in self.layers]
            found.append(Value(maker, tuple(dict.fromkeys(readers)), ms, tuple(dict.fromkeys(followers))))
        return found

    def _converting(self, in_float: Shares, in_int8: Shares) -> Mapping[str, float]:
        """Extra milliseconds of nodes that are float in any case, where their result is read as integers."""
        makers = {
            self._source.get(name, START)
            for name in self._reads
            if self._maker.get(name, ALWAYS_FLOAT) == ALWAYS_FLOAT
        }
        alone = {node for node in makers if node == START or in_float.get(node, 0.0) > 0}  # not fused away
        longer = {node: in_int8.get(node, 0.0) - in_float.get(node, 0.0) for node in alone}
        return {node: ms for node, ms in longer.items() if ms > 0}

    def _place(self, node: onnx.NodeProto, layer: str | None, inputs: list[str]) -> None:
        origins = [self._origin.get(name, name) for name in inputs]
        makers = [self._maker.get(name, ALWAYS_FLOAT) for name in origins]
        part, kind = ALWAYS_FLOAT, node.op_type
        if layer is not None:
            part = layer
        elif (
            kind in self._dialect.joins | self._dialect.reductions
            and any(makers)
            and len(inputs) == len([name for name in node.input if name])
        ):
            part = node.name
        if part != ALWAYS_FLOAT:
            self._part[node.name] = part
            for name in origins:
                self._reads[name].append(part)
            integer = layer is None or kind in self._dialect.integer_output
            self._maker.update(dict.fromkeys(node.output, part if integer else ALWAYS_FLOAT))
        else:
            behind = [self._part.get(self._source.get(name, START), ALWAYS_FLOAT) for name in inputs]
            self._part[node.name] = behind[0] if behind else ALWAYS_FLOAT
            if kind in self._dialect.followers | self._dialect.fused and origins:
                self._origin.update(dict.fromkeys(node.output, origins[0]))
        self._source.update(dict.fromkeys(node.output, node.name))


def _elements(model: onnx.ModelProto) -> Mapping[str, int]:
    """Elements of each value, for one sample."""
    graph = model.graph
    return {
        value.name: prod(dim.dim_value for dim in value.type.tensor_type.shape.dim if dim.dim_value > 0)
        for value in (*graph.input, *graph.value_info, *graph.output)
    }

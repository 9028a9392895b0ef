"""Map from the operators of a runtime's profile to nodes of the float ONNX graph and their widths.

A runtime fuses nodes and names an operator after one of them: `relu_5_nchwc`, `conv1/WithoutBiases`,
`conv1_token_12`. Operators that it adds (a copy into another layout) have no such name, and are counted with
the node in front of them. So every millisecond belongs to one node of the float ONNX graph; a node that is
fused into another has none, and may have some at widths at which it is not fused.
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import onnx
from onnx import helper

from edgeprune.devices import Operator
from edgeprune.graph import onnxfile
from edgeprune.graph.resize import Resizable, Size, Widths

START = "start"  # name for all that runs in front of the first known node
_KINDS = {"Conv": "Conv", "Gemm": "Gemm", "MatMul": "MatMul", "FullyConnected": "Gemm"}
_ENDINGS = "_/."  # characters in front of a runtime's addition to a name


@dataclass(frozen=True)
class Node:
    """Node of the float ONNX graph.

    operator: its signature; nodes with one signature take nearly the same time at the same widths.
    reads, writes: width of its input and output; None where the width is fixed, or `reads` is the same.
    """

    name: str
    operator: str
    reads: Size | None
    writes: Size | None

    def widths(self, widths: Widths) -> tuple[int, int]:
        return (
            self.reads.at(widths) if self.reads is not None else 0,
            self.writes.at(widths) if self.writes is not None else 0,
        )

    @property
    def groups(self) -> tuple[str, ...]:
        """Groups whose widths the node's time follows."""
        sizes = [size for size in (self.reads, self.writes) if size is not None]
        return tuple(dict.fromkeys(group for size in sizes for group in size.groups))


class Owners:
    """Map from a runtime's operators to the nodes of a float ONNX graph."""

    def __init__(self, graph: onnx.GraphProto) -> None:
        self._makers = {name: node for node in graph.node for name in node.output}
        self._known: dict[str, onnx.NodeProto] = {}
        for node in graph.node:
            self._known[node.name] = node
            for name in node.output:
                self._known.setdefault(name, node)

    def shares(self, measured: Sequence[Operator]) -> dict[str, float]:
        """Milliseconds by node, of every node that has any."""
        found: dict[str, float] = defaultdict(float)
        for node, operator in zip(self.owners(measured), measured, strict=True):
            found[node] += operator.ms
        return dict(found)

    def owners(self, measured: Sequence[Operator]) -> list[str]:
        """Node that each operator is counted with, by its name."""
        found: list[str] = []
        for operator in measured:
            node = self._match(operator)
            found.append(node.name if node is not None else found[-1] if found else START)
        return found

    def _match(self, operator: Operator) -> onnx.NodeProto | None:
        for text in (operator.name, *operator.sources):
            name = text
            while name and name not in self._known:
                name = name[: max(0, *(name.rfind(ending) for ending in _ENDINGS))]
            if name in self._known:
                return self._worker(operator, self._known[name])
        return None

    def _worker(self, operator: Operator, named: onnx.NodeProto) -> onnx.NodeProto:
        """Node that does the work, where the operator is named after an activation fused into it."""
        kinds = {kind for word, kind in _KINDS.items() if word in operator.kind}
        if not kinds or named.op_type in onnxfile.WEIGHTED:
            return named
        front = [named]
        while front:
            node = front.pop(0)
            if node.op_type in onnxfile.WEIGHTED:
                return node
            front += [self._makers[name] for name in node.input if name in self._makers]
        return named


class Nodes:
    """Nodes of a model at any widths, and the map from a runtime's operators to them."""

    def __init__(self, model: Resizable) -> None:
        graph = model.model.graph
        self._resizable = model
        self._owners = Owners(graph)
        self._readers: dict[str, list[onnx.NodeProto]] = defaultdict(list)
        self._stored = {tensor.name for tensor in graph.initializer}
        for node in graph.node:
            for name in node.input:
                self._readers[name].append(node)
        self.nodes: Mapping[str, Node] = {
            START: Node(START, START, None, None),
            **{node.name: self._node(index, node) for index, node in enumerate(graph.node)},
        }

    def shares(self, measured: Sequence[Operator]) -> dict[str, float]:
        """Milliseconds by node, of every node that has any."""
        return self._owners.shares(measured)

    def _node(self, index: int, node: onnx.NodeProto) -> Node:
        reads = next(
            (size for name in node.input if name not in self._stored for size in self._varying(name)), None
        )
        writes = next((size for name in node.output for size in self._varying(name)), None)
        if reads == writes or writes is None:
            reads, writes = None, writes or reads
        return Node(node.name, self._signature(index, node), reads, writes)

    def _varying(self, value: str) -> list[Size]:
        return [size for size in self._resizable.shapes.get(value, ()) if size.each]

    def _signature(self, index: int, node: onnx.NodeProto) -> str:
        """Operator, attributes, shapes with the widths left open, and the next nodes, which may be fused."""
        attributes = [
            (entry.name, "?" if (index, entry.name) in self._resizable.attributes else _text(entry))
            for entry in node.attribute
        ]
        shapes = [
            ["?" if size.each else size.fixed for size in self._resizable.shapes.get(name, ())]
            for name in (*node.input, *node.output)
        ]
        after = [reader for name in node.output for reader in self._readers[name]]
        later = [
            reader.op_type for each in after[:1] for name in each.output for reader in self._readers[name]
        ]
        parts = (attributes, shapes, [reader.op_type for reader in after], later)
        return f"{node.op_type} {hashlib.sha256(repr(parts).encode()).hexdigest()[:10]}"


def _text(entry: onnx.AttributeProto) -> str:
    if entry.type in (entry.GRAPH, entry.GRAPHS, entry.TENSOR):
        return hashlib.sha256(entry.SerializeToString()).hexdigest()
    return repr(helper.get_attribute_value(entry))

"""Which of a model's nodes an operator of a runtime is, and which widths its time follows.

A runtime fuses nodes and names what it runs after one of them: `relu_5_nchwc`, `conv1/WithoutBiases`,
`conv1_token_12`. What it adds of its own (a copy into another layout) has no such name, and is counted with
the node it comes behind. So every millisecond belongs to one node of the float ONNX graph; a node that has
been fused away has none, and may have some at widths at which it is not.
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

START = "start"  # what runs in front of the first node that can be told
_WEIGHTED = {"Conv": "Conv", "Gemm": "Gemm", "MatMul": "MatMul", "FullyConnected": "Gemm"}
_ENDINGS = "_/."  # in front of what a runtime adds to a name


@dataclass(frozen=True)
class Node:
    """One node of the float ONNX graph.

    operator: its signature; nodes with the same one take the same time at the same widths, or nearly so.
    reads, writes: the width of what it reads and writes; None where that is fixed, or `reads` the same.
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
        """Groups whose widths its time follows."""
        sizes = [size for size in (self.reads, self.writes) if size is not None]
        return tuple(dict.fromkeys(group for size in sizes for group in size.groups))


class Owners:
    """The way from a runtime's operators to the nodes of a float ONNX graph."""

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
        last = START
        for operator in measured:
            node = self._match(operator)
            last = node.name if node is not None else last
            found[last] += operator.ms
        return dict(found)

    def _match(self, operator: Operator) -> onnx.NodeProto | None:
        for text in (operator.name, *operator.sources):
            name = text
            while name and name not in self._known:
                name = name[: max(0, *(name.rfind(ending) for ending in _ENDINGS))]
            if name in self._known:
                return self._worker(operator, self._known[name])
        return None

    def _worker(self, operator: Operator, named: onnx.NodeProto) -> onnx.NodeProto:
        """The node that does the work, where the operator is named after an activation that it swallowed."""
        kinds = {kind for word, kind in _WEIGHTED.items() if word in operator.kind}
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
    """The nodes of a model at any widths, and the way from a runtime's operators to them."""

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
        """Operator, attributes, shapes with the widths left open, and what follows and may be fused."""
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

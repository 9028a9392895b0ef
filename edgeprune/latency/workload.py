"""Workload of an ONNX file: the operations that share a launch, and each launch's traffic and arithmetic.

    Conv -> Relu -> Add with the skip       one launch
    Q K^T -> scale -> mask -> softmax -> V  one launch: attention never writes its products
    Mul -> Add -> Sigmoid ...               one launch: a chain of element-wise operations
    MatMul -> Reshape -> Transpose          one launch: it writes its result in the other order
    Reshape, Squeeze, ...                   none: another name for the same bytes
    QuantizeLinear, DequantizeLinear        none: part of the writer or reader; the bytes shrink to a quarter

Close to the fusions of TensorRT and OpenVINO; ONNX Runtime fuses a little less. All of it is arithmetic over
the file: no weight is read and nothing is run.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import onnx

from edgeprune.latency.kernel import Kernel, NumberType, Workload
from edgeprune.latency.onnx_shapes import FixedGraph

_VIEWS = frozenset({"Reshape", "Flatten", "Squeeze", "Unsqueeze", "Identity", "Dropout"})
_PAIRS = frozenset({"QuantizeLinear", "DequantizeLinear"})
_POINTWISE = frozenset(
    {"Add", "Sub", "Mul", "Div", "Mod", "Pow", "Sqrt", "Reciprocal", "Exp", "Log", "Sin", "Cos", "Erf", "Neg"}
    | {"Abs", "Sign", "Floor", "Ceil", "Round", "Min", "Max", "Clip", "Cast", "Where", "And", "Or", "Not"}
    | {"Equal", "Less", "LessOrEqual", "Greater", "GreaterOrEqual", "IsNaN", "IsInf", "BatchNormalization"}
    | {"Relu", "LeakyRelu", "PRelu", "Elu", "Selu", "Gelu", "Mish", "Swish", "HardSwish", "Softplus", "Tanh"}
    | {"Sigmoid", "HardSigmoid", "ThresholdedRelu", "QLinearAdd", "QLinearMul", "QLinearSigmoid"}
)
_FUNCTIONS = frozenset(
    {"Softmax", "LogSoftmax", "LayerNormalization", "InstanceNormalization", "GroupNormalization"}
    | {"RMSNormalization", "Gelu", "Erf", "Exp", "Log", "Sigmoid", "Tanh", "Softplus", "Mish", "Swish", "Elu"}
    | {"Selu", "Sin", "Cos", "Pow", "Sqrt", "Reciprocal", "Div", "QLinearSigmoid", "QLinearSoftmax"}
)
_EPILOGUES = _POINTWISE | {"Transpose"}  # applied to a launch's result before it is written
_LOOKUPS = frozenset({"Gather", "GatherElements", "GatherND", "Slice"})  # they read as much as they return


def read_workload(path: Path, batch: int, length: int | None = None) -> Workload:
    """Launches of one query of `batch` rows, in order. length: of its sequences, where they have several.

    Raises `EdgepruneError` naming the node whose work depends on the data.
    """
    graph = FixedGraph(path, batch, length)
    fused = _Fusion(graph)
    for node in graph.nodes:
        fused.add(node)
    return Workload(fused.kernels(), fused.weight_bytes(), fused.peak())


@dataclass
class _Launch:
    """Nodes that run together, and the values that they read and write: root value -> bytes read."""

    nodes: list[onnx.NodeProto] = field(default_factory=list)
    reads: dict[str, int] = field(default_factory=dict)
    weights: dict[str, int] = field(default_factory=dict)
    made: set[str] = field(default_factory=set)
    macs: int = 0
    numbers: NumberType = "float32"
    functions: int = 0
    products: int = 0  # matrix products of two activations: attention has two of them
    softmax: bool = False

    @property
    def takes_epilogue(self) -> bool:
        return self.nodes[0].op_type in _EPILOGUES or self.macs > 0


class _Fusion:
    """Launches of a graph, to which nodes are added in order."""

    def __init__(self, graph: FixedGraph) -> None:
        self._graph = graph
        self._root: dict[str, str] = {}  # value -> the value whose bytes it shares
        self._integer: set[str] = set()  # values between a QuantizeLinear and what reads it
        self._narrow: dict[str, set[int]] = {}  # root -> widths at which it is read
        self._launches: list[_Launch] = []
        self._maker: dict[str, int] = {}  # root -> the launch that writes it

    def add(self, node: onnx.NodeProto) -> None:
        """Put a node into the launch that it shares, or into a new one."""
        data = [name for name in node.input if name and name not in self._graph.constants]
        if node.op_type in _PAIRS | _VIEWS and data:
            self._root[node.output[0]] = self._bytes_of(data[0])
            if node.op_type in _PAIRS or data[0] in self._integer:
                self._integer.add(node.output[0])
            return
        at = self._joined(node, data)
        if at is None:
            at = len(self._launches)
            self._launches.append(_Launch())
        self._extend(at, node, data)

    def kernels(self) -> tuple[Kernel, ...]:
        readers = self._readers()
        found = []
        for at, launch in enumerate(self._launches):
            written = sum(self._written(root) for root in launch.made if readers.get(root, at) > at)
            traffic = sum(launch.reads.values()) + sum(launch.weights.values()) + written
            name = launch.nodes[0].name or launch.nodes[0].op_type
            found.append(Kernel(name, launch.macs, launch.numbers, launch.functions, traffic))
        return tuple(found)

    def weight_bytes(self) -> int:
        """Bytes of the constants that launches read, each constant once."""
        whole: dict[str, int] = {}
        for launch in self._launches:
            for node in launch.nodes:
                whole.update((name, self._size(name)) for name in node.input if self._is_weight(name))
        return sum(whole.values())

    def peak(self) -> int:
        """Most bytes of activations that are alive at one time, launch by launch."""
        readers = self._readers()
        first = {root: at for at, launch in enumerate(self._launches) for root in launch.made}
        inputs = {name for launch in self._launches for name in launch.reads if name not in first}
        alive = dict.fromkeys(inputs, 0) | {
            root: at for root, at in first.items() if readers.get(root, at) > at
        }
        peak = 0
        for at in range(len(self._launches)):
            now = (root for root, born in alive.items() if born <= at <= readers.get(root, at))
            peak = max(peak, sum(self._written(root) for root in now))
        return peak

    # ------------------------------------------------------------------------------------------------

    def _joined(self, node: onnx.NodeProto, data: Iterable[str]) -> int | None:
        """Launch of the node's latest input, when runtimes fuse the node into it."""
        makers = [self._maker[root] for root in map(self._bytes_of, data) if root in self._maker]
        if not makers:
            return None
        latest = max(makers)
        launch = self._launches[latest]
        shared = (
            (node.op_type in _EPILOGUES and launch.takes_epilogue)
            or (node.op_type == "Softmax" and launch.products == 1 and not launch.softmax)
            or (self._is_product(node) and launch.products == 1 and launch.softmax)
        )
        return latest if shared else None

    def _extend(self, at: int, node: onnx.NodeProto, data: Iterable[str]) -> None:
        launch = self._launches[at]
        made = self._graph.typed(node.output[0])
        looked_up = node.input[0] if node.op_type in _LOOKUPS else None
        for name in data:
            root = self._bytes_of(name)
            width = 1 if name in self._integer else self._graph.typed(root).width
            self._narrow.setdefault(root, set()).add(width)
            if root not in launch.made:
                elements = made.elements if name == looked_up else self._graph.typed(root).elements
                launch.reads[root] = max(launch.reads.get(root, 0), elements * width)
        for name in filter(self._is_weight, node.input):
            whole = self._size(name)
            launch.weights[name] = min(whole, self._size(node.output[0])) if name == looked_up else whole
        macs = self._graph.macs(node)
        if macs:
            launch.numbers = self._numbers(node)
            launch.macs += macs
            launch.products += self._is_product(node)
        if node.op_type in _FUNCTIONS:
            launch.functions += made.elements
        launch.softmax |= node.op_type == "Softmax"
        launch.nodes.append(node)
        for name in filter(None, node.output):
            launch.made.add(name)
            self._maker[name] = at

    def _numbers(self, node: onnx.NodeProto) -> NumberType:
        if self._graph.is_depthwise(node):
            return "float32"
        if node.op_type.startswith("QLinear") or node.op_type.endswith("Integer") or node.op_type == "QGemm":
            return "int8"
        sides = node.input[:2]
        if all(name in self._integer or self._graph.typed(name).width == 1 for name in sides):
            return "int8"
        return "float16" if self._graph.typed(node.output[0]).width == 2 else "float32"

    def _is_product(self, node: onnx.NodeProto) -> bool:
        return node.op_type == "MatMul" and not any(name in self._graph.constants for name in node.input)

    def _is_weight(self, name: str) -> bool:
        return name in self._graph.constants and self._graph.typed(name).elements > 1

    def _bytes_of(self, name: str) -> str:
        return self._root.get(name, name)

    def _size(self, name: str) -> int:
        typed = self._graph.typed(name)
        return typed.elements * typed.width

    def _written(self, root: str) -> int:
        """Bytes of a value as it is stored: at the widest type that something reads."""
        typed = self._graph.typed(root)
        return typed.elements * max(self._narrow.get(root, {typed.width}))

    def _readers(self) -> Mapping[str, int]:
        """Last launch that reads each value; one past the end for the model's outputs."""
        last = {root: at for at, launch in enumerate(self._launches) for root in launch.reads}
        last.update((self._bytes_of(value.name), len(self._launches)) for value in self._graph.graph.output)
        return last

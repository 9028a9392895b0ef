"""Rewriting of INT8 matrix products as 1x1 convolutions, for which a runtime may have a quicker kernel.

OpenVINO (2026.4) multiplies 8-bit matrices on AVX2 by `jit_gemm_I8`, slower than it multiplies floats, and
convolves 8-bit images by `jit_avx2_1x1_I8`, twice as fast. A token is a pixel: [batch, tokens, channels]
becomes [batch, channels, 1, tokens]. Such kernels keep the channels last in memory, so the runtime finds that
the transposes move nothing.

Between two products everything that works value by value (bias, GELU, Q/DQ) is kept with channels first:
there it is fused into the convolution in front of it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from edgeprune.graph import onnxfile

# Operators whose output at a place depends on their inputs at that place alone.
_VALUE_BY_VALUE = frozenset(
    {"Abs", "Add", "Clip", "DequantizeLinear", "Div", "Elu", "Erf", "Exp", "Gelu", "HardSigmoid", "HardSwish"}
    | {
        "LeakyRelu",
        "Mish",
        "Mul",
        "Neg",
        "Pow",
        "QuantizeLinear",
        "Relu",
        "Sigmoid",
        "Softplus",
        "Sqrt",
        "Sub",
    }
    | {"Tanh"}
)
_RANKS = (3, 4)  # [batch, tokens, channels] and [batch, height, width, channels]


def convolve_products(model: onnx.ModelProto) -> int:
    """Rewrite the INT8 products of a Q/DQ model in place, and return the number of rewritten products.

    Requires weights as `quantize.emit` writes them, ensures the same outputs. A product of a matrix (one row
    per sample) is left alone: a convolution would gain nothing.
    """
    rewriter = _Rewriter(model)
    rewriter.run()
    return rewriter.changed


class _Rewriter:
    def __init__(self, model: onnx.ModelProto) -> None:
        self.changed = 0
        self._model = model
        self._ranks = _ranks(model)
        self._stored = {tensor.name: tensor for tensor in model.graph.initializer}
        self._makers = {name: node for node in model.graph.node for name in node.output}
        self._nodes: list[onnx.NodeProto] = []
        self._first: dict[str, str] = {}  # value -> the same value with channels first
        self._last: set[str] = {value.name for value in model.graph.input}  # values in their own layout

    def run(self) -> None:
        graph = self._model.graph
        for node in list(graph.node):
            if self._is_product(node):
                self._product(node)
            elif self._stays_first(node):
                self._value_by_value(node)
            else:
                for name in onnxfile.reads(node):
                    self._channels_last(name)
                self._nodes.append(node)
                self._last.update(node.output)
        for output in graph.output:
            self._channels_last(output.name)
        del graph.node[:]
        graph.node.extend(self._nodes)
        del graph.value_info[:]
        onnxfile.drop_unused(self._model)

    def _is_product(self, node: onnx.NodeProto) -> bool:
        if node.op_type != "MatMul" or self._ranks.get(node.input[0]) not in _RANKS:
            return False
        read, weight = (self._makers.get(name) for name in node.input)
        if read is None or weight is None or {read.op_type, weight.op_type} != {"DequantizeLinear"}:
            return False
        integers = self._stored.get(weight.input[0])
        return integers is not None and integers.data_type == TensorProto.INT8 and len(integers.dims) == 2

    def _product(self, node: onnx.NodeProto) -> None:
        dequantise = self._makers[node.input[1]]
        integers = numpy_helper.to_array(self._stored[dequantise.input[0]])  # [inputs, outputs]
        filters = np.ascontiguousarray(integers.T).reshape(*integers.T.shape, 1, 1)
        name = f"{dequantise.input[0]}.filters"
        self._model.graph.initializer.append(numpy_helper.from_array(filters, name))
        per_channel = any(entry.name == "axis" for entry in dequantise.attribute)
        weight, result = f"{node.input[1]}.filters", f"{node.output[0]}.first"
        self._nodes += [
            helper.make_node(
                *("DequantizeLinear", [name, *dequantise.input[1:]], [weight], f"{dequantise.name}.filters"),
                **({"axis": 0} if per_channel else {}),
            ),
            self._like(node, "Conv", [self._channels_first(node.input[0]), weight], [result]),
        ]
        self._first[node.output[0]] = result
        self.changed += 1

    def _stays_first(self, node: onnx.NodeProto) -> bool:
        """Whether a node works value by value, on constants and on values that exist with channels first."""
        computed = [name for name in node.input if name and name not in self._stored]
        return (
            node.op_type in _VALUE_BY_VALUE
            and bool(computed)
            and all(name in self._first for name in computed)
            and len({self._ranks.get(name) for name in computed}) == 1
            and all(
                self._spread(node, name, self._ranks[computed[0]]) is not None
                for name in self._constants(node)
            )
        )

    def _value_by_value(self, node: onnx.NodeProto) -> None:
        rank = self._ranks[next(name for name in node.input if name in self._first)]
        inputs = []
        for name in node.input:
            spread = self._spread(node, name, rank) if name in self._stored else None
            if spread is not None and list(spread.shape) != list(self._stored[name].dims):
                stored = f"{name}.first{rank}"
                if stored not in self._stored:
                    self._stored[stored] = numpy_helper.from_array(spread, stored)
                    self._model.graph.initializer.append(self._stored[stored])
                inputs.append(stored)
            else:
                inputs.append(self._first.get(name, name))
        results = [f"{name}.first" for name in node.output]
        self._nodes.append(self._like(node, node.op_type, inputs, results, node.attribute))
        self._first.update(zip(node.output, results, strict=True))

    def _constants(self, node: onnx.NodeProto) -> Iterable[str]:
        return (name for name in node.input if name in self._stored)

    def _spread(self, node: onnx.NodeProto, name: str, rank: int) -> NDArray[np.generic] | None:
        """Constant of one number, or of one per channel, for channels first; None for any other constant."""
        array: NDArray[np.generic] = numpy_helper.to_array(self._stored[name])
        if array.size == 1 and array.ndim <= 1:
            return array
        if node.op_type.endswith("Linear") or array.ndim == 0 or array.size != array.shape[-1]:
            return None
        return array.reshape(array.size, 1, 1)

    def _channels_first(self, name: str) -> str:
        if name not in self._first:
            source = name
            if self._ranks[name] == 3:
                source = f"{name}.image"
                self._nodes.append(helper.make_node("Unsqueeze", [name, self._axes()], [source], source))
            self._first[name] = f"{name}.first"
            self._nodes.append(
                helper.make_node("Transpose", [source], [f"{name}.first"], f"{name}.first", perm=[0, 3, 1, 2])
            )
        return self._first[name]

    def _channels_last(self, name: str) -> None:
        """Add the nodes that give a value in its own layout."""
        if name in self._last or name not in self._first:
            return
        flat = self._ranks[name] == 3
        result = f"{name}.image" if flat else name
        self._nodes.append(
            helper.make_node("Transpose", [self._first[name]], [result], f"{name}.last", perm=[0, 2, 3, 1])
        )
        if flat:
            self._nodes.append(
                helper.make_node("Squeeze", [result, self._axes()], [name], f"{name}.last.flat")
            )
        self._last.add(name)

    def _axes(self) -> str:
        name = "edgeprune.row"
        if name not in self._stored:
            self._stored[name] = numpy_helper.from_array(np.array([1], np.int64), name)
            self._model.graph.initializer.append(self._stored[name])
        return name

    def _like(
        self,
        node: onnx.NodeProto,
        operator: str,
        inputs: list[str],
        outputs: list[str],
        attributes: Iterable[onnx.AttributeProto] = (),
    ) -> onnx.NodeProto:
        made = helper.make_node(operator, inputs, outputs, node.name)
        made.attribute.extend(attributes)
        made.metadata_props.extend(node.metadata_props)
        return made


def _ranks(model: onnx.ModelProto) -> Mapping[str, int]:
    found = onnx.shape_inference.infer_shapes(model, data_prop=True).graph
    return {
        value.name: len(value.type.tensor_type.shape.dim)
        for value in (*found.input, *found.value_info, *found.output)
        if value.type.tensor_type.HasField("shape")
    }

"""Weight-only quantisation: matrix products keep float activations and read weights of 4 or 8 bits in blocks.

Both ONNX Runtime and OpenVINO read the operator that is written here, com.microsoft's MatMulNBits. ONNX
Runtime has a kernel for MatMulNBits. OpenVINO converts it to a u4 or u8 constant behind Convert, Subtract
and Multiply, which IR files keep and the CPU plug-in does not unpack before the product. ONNX Runtime's own
writer (`matmul_nbits_quantizer`) rounds without a search for the range, so the weights are rounded here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper, shape_inference

from edgeprune.errors import InputError, NothingToQuantise
from edgeprune.graph import onnxfile
from edgeprune.quantize.emit import Quantised, check_known
from edgeprune.quantize.products import Product, products
from edgeprune.quantize.weight_blocks import Blocks, to_blocks
from edgeprune.records.machine import Precision

_DOMAIN = "com.microsoft"
_UNBIASED = ".unbiased"
_SHORTEST_BLOCK = 16  # of MatMulNBits
_LEAST_WEIGHTS = 2**14  # a layer with fewer weights gains nothing


@dataclass(frozen=True)
class WeightFormat:
    """Storage of weights as integers: `block` weights share a scale and, unless symmetric, a zero point.

    Measured in docs/int8.md: 4 bits need short blocks and zero points, 8 bits neither.
    """

    bits: int
    block: int
    symmetric: bool

    def rounded(self, weight: NDArray[np.float32]) -> Blocks:
        """Weights [inputs, outputs] in blocks, shorter than `block` if these alone divide the inputs evenly.

        OpenVINO unpacks weights whose last block is not full before the product.
        """
        shorter = [self.block >> step for step in range(4) if self.block >> step >= _SHORTEST_BLOCK]
        block = next((size for size in shorter if weight.shape[0] % size == 0), self.block)
        return to_blocks(weight, self.bits, block, symmetric=self.symmetric)


TABLE: Mapping[Precision, WeightFormat] = {
    "int8-weights": WeightFormat(bits=8, block=128, symmetric=True),
    "int4-weights": WeightFormat(bits=4, block=32, symmetric=False),
}
# The runtime may round activations to 8 bits, block by block, before a product: two to four times as fast as
# float in ONNX Runtime. OpenVINO rounds them without being asked.
_ROUNDED_ACTIVATIONS = 4


def compress_weights(
    exported: onnx.ModelProto,
    weights: WeightFormat | Precision,
    *,
    float_layers: Sequence[str] = (),
    accuracy_level: int = _ROUNDED_ACTIVATIONS,
) -> Quantised:
    """Make a model that holds the weights of its large products as integers in blocks.

    exported: from `to_onnx`; it stays as it is. weights: a weight format or its name in TABLE.
    accuracy_level: of MatMulNBits; 1 keeps activations float.
    float_layers: as for `emit.quantise`. `layers_int8` of the result are the compressed layers.
    Raises `InputError` for an unknown format or layer, and when no product is large enough.
    """
    stored_as = weights if isinstance(weights, WeightFormat) else find_weight_format(weights)
    model = onnxfile.copied(exported)
    layers = onnxfile.layers(model)
    check_known(float_layers, set(layers.values()))
    wanted = {
        at: product
        for at, product in products(model).items()
        if layers[at] not in float_layers and _is_large(product.weight.shape, stored_as)
    }
    if not wanted:
        raise NothingToQuantise(
            f"No layer of the model is a matrix product with {_LEAST_WEIGHTS} weights or more.",
            "Weight-only precision is for large matrices; quantise this model to INT8.",
        )
    nodes, stored = [], []
    for at, node in enumerate(model.graph.node):
        if at not in wanted:
            nodes.append(node)
            continue
        product = wanted[at]
        blocks = stored_as.rounded(product.weight)
        added, tensors = _product(node, product, layers[at], at, blocks, accuracy_level)
        nodes += added
        stored += tensors
    _tell_shapes(model, nodes)
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    model.graph.initializer.extend(stored)
    if _DOMAIN not in {opset.domain for opset in model.opset_import}:
        model.opset_import.append(helper.make_opsetid(_DOMAIN, 1))
    onnxfile.drop_unused(model)
    onnx.checker.check_model(model)
    return Quantised(
        model,
        tuple(name for at, name in layers.items() if at in wanted),
        tuple(name for at, name in layers.items() if at not in wanted),
    )


def find_weight_format(precision: Precision) -> WeightFormat:
    """Weight format of a weight-only precision. Raises `InputError` for any other precision."""
    if precision not in TABLE:
        raise InputError(
            f"There is no weight-only precision {precision!r}.", f"Choose one of: {', '.join(TABLE)}."
        )
    return TABLE[precision]


def _is_large(shape: Sequence[int], stored_as: WeightFormat) -> bool:
    """Whether a matrix [inputs, outputs] is large enough to gain from weight-only precision."""
    return shape[0] >= stored_as.block and shape[0] * shape[1] >= _LEAST_WEIGHTS


def _product(
    node: onnx.NodeProto, product: Product, layer: str, at: int, blocks: Blocks, accuracy_level: int
) -> tuple[list[onnx.NodeProto], list[onnx.TensorProto]]:
    """Nodes that replace a product, and the tensors that these nodes read."""
    name = f"{layer}#{at}.weight.int{blocks.bits}"
    arrays: dict[str, NDArray[Any]] = {
        name: _packed(blocks.integers, blocks.bits),
        f"{name}.scale": blocks.scales.reshape(-1),
    }
    if blocks.zero_points is not None:
        arrays[f"{name}.zero_point"] = _packed(blocks.zero_points, blocks.bits).reshape(-1)
    result = str(node.output[0])
    multiplied = f"{result}{_UNBIASED}" if product.bias else result
    inputs, outputs = product.weight.shape
    nodes = [
        helper.make_node(
            *("MatMulNBits", [str(node.input[0]), *arrays], [multiplied], layer),
            domain=_DOMAIN,
            K=inputs,
            N=outputs,
            bits=blocks.bits,
            block_size=blocks.integers.shape[2],
            accuracy_level=accuracy_level,
        )
    ]
    if product.bias:
        nodes.append(helper.make_node("Add", [multiplied, product.bias], [result]))
    onnxfile.keep_values(node, nodes[-1])
    return nodes, [numpy_helper.from_array(np.ascontiguousarray(a), n) for n, a in arrays.items()]


def read_blocks(node: onnx.NodeProto, stored: Mapping[str, NDArray[Any]]) -> Blocks:
    """Weights of a MatMulNBits node that `compress_weights` wrote; `stored`: tensors by name."""
    attributes = {entry.name: helper.get_attribute_value(entry) for entry in node.attribute}
    bits, block = attributes["bits"], attributes["block_size"]
    inputs, outputs = attributes["K"], attributes["N"]
    count = -(-inputs // block)
    zeros = stored[node.input[3]] if len(node.input) > 3 else None
    return Blocks(
        bits,
        inputs,
        _unpacked(stored[node.input[1]].reshape(outputs, count, -1), bits, block),
        stored[node.input[2]].reshape(outputs, count),
        None if zeros is None else _unpacked(zeros.reshape(outputs, -1), bits, count),
    )


def _tell_shapes(model: onnx.ModelProto, nodes: Sequence[onnx.NodeProto]) -> None:
    """Write down the shapes of the new nodes' outputs: ONNX infers none for operators of another domain."""
    inferred = shape_inference.infer_shapes(model).graph
    known = {value.name: value for value in (*inferred.value_info, *inferred.output)}
    told = {value.name for value in (*model.graph.value_info, *model.graph.output)}
    for node in nodes:
        made = str(node.output[0])
        source = known.get(made.removesuffix(_UNBIASED))
        if node.op_type == "MatMulNBits" and source is not None and made not in told:
            model.graph.value_info.add().CopyFrom(source)
            model.graph.value_info[-1].name = made


def _packed(integers: NDArray[np.uint8], bits: int) -> NDArray[np.uint8]:
    """Two integers of 4 bits in a byte along the last dimension, the first in the low half."""
    if bits == 8:
        return integers
    low, high = integers[..., ::2], np.zeros_like(integers[..., ::2])
    high[..., : integers.shape[-1] // 2] = integers[..., 1::2]
    return np.bitwise_or(low, np.left_shift(high, 4, dtype=np.uint8), dtype=np.uint8)


def _unpacked(packed: NDArray[np.uint8], bits: int, size: int) -> NDArray[np.uint8]:
    """The inverse of `_packed`, `size` integers along the last dimension."""
    if bits == 8:
        return packed
    return np.stack([packed & 15, packed >> 4], -1).reshape(*packed.shape[:-1], -1)[..., :size]


__all__ = ["TABLE", "WeightFormat", "compress_weights", "find_weight_format", "read_blocks"]

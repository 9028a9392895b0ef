"""Weight-only forms: products keep float activations, and read weights of 4 or 8 bits in blocks.

Both runtimes read the operator that is written here, com.microsoft's MatMulNBits: ONNX Runtime has a kernel
for it; OpenVINO makes it a u4 or u8 constant behind Convert, Subtract and Multiply, which IR keeps, and which
its CPU plug-in does not unpack before the product. ONNX Runtime's own writer (`matmul_nbits_quantizer`)
rounds without a search for the range, so the weights are rounded here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper, shape_inference

from edgeprune.errors import InputError, NothingToQuantise
from edgeprune.graph import onnxfile
from edgeprune.graph.onnx_repairs import drop_unused
from edgeprune.quantize.emit import Quantised, check_known
from edgeprune.quantize.products import Product, products
from edgeprune.quantize.weight_blocks import Blocks, to_blocks
from edgeprune.records.machine import Precision

_DOMAIN = "com.microsoft"
_UNBIASED = ".unbiased"
_SHORTEST = 16  # block that MatMulNBits takes
_LEAST = 2**14  # weights of a layer; fewer gain nothing


@dataclass(frozen=True)
class Form:
    """How weights are stored: `block` of them share a scale, and unless symmetric a zero point.

    Measured in docs/int8.md: 4 bits need short blocks and zero points, 8 bits neither.
    """

    bits: int
    block: int
    symmetric: bool

    def rounded(self, weight: NDArray[np.float32]) -> Blocks:
        """[inputs, outputs] in blocks; in shorter ones where those divide the inputs and `block` does not.

        OpenVINO unpacks weights whose last block is not full.
        """
        shorter = [self.block >> step for step in range(4) if self.block >> step >= _SHORTEST]
        block = next((size for size in shorter if weight.shape[0] % size == 0), self.block)
        return to_blocks(weight, self.bits, block, symmetric=self.symmetric)


TABLE: Mapping[Precision, Form] = {
    "int8-weights": Form(bits=8, block=128, symmetric=True),
    "int4-weights": Form(bits=4, block=32, symmetric=False),
}
# Activations may be rounded to 8 bits, block by block, on their way into a product: two to four times as
# fast as float in ONNX Runtime, and what OpenVINO does by itself.
_ACCURACY = 4


def compress_weights(
    float_onnx: Path,
    path: Path,
    form: Form | Precision,
    *,
    float_layers: Sequence[str] = (),
    accuracy_level: int = _ACCURACY,
) -> Quantised:
    """Write `float_onnx` (from `export_onnx`) with the weights of its large products in blocks.

    form: or its name in TABLE. accuracy_level: of MatMulNBits; 1 keeps activations float.
    float_layers: as for `emit.quantise`. `layers_int8` of the result are the compressed layers.
    Raises `InputError` for an unknown form or layer, and when no product is large enough.
    """
    form = form if isinstance(form, Form) else find_form(form)
    model = onnxfile.load(float_onnx)
    layers = onnxfile.layers(model)
    check_known(float_layers, set(layers.values()))
    wanted = {
        at: product
        for at, product in products(model).items()
        if layers[at] not in float_layers and large(product.weight.shape, form)
    }
    if not wanted:
        raise NothingToQuantise(
            f"No layer of {float_onnx.name} is a matrix product with {_LEAST} weights or more.",
            "Weight-only precision is for large matrices; quantise this model to INT8.",
        )
    nodes, stored = [], []
    for at, node in enumerate(model.graph.node):
        if at not in wanted:
            nodes.append(node)
            continue
        product = wanted[at]
        blocks = form.rounded(product.weight)
        added, tensors = _product(node, product, layers[at], at, blocks, accuracy_level)
        nodes += added
        stored += tensors
    _tell_shapes(model, nodes)
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    model.graph.initializer.extend(stored)
    if _DOMAIN not in {opset.domain for opset in model.opset_import}:
        model.opset_import.append(helper.make_opsetid(_DOMAIN, 1))
    drop_unused(model)
    onnx.checker.check_model(model)
    onnxfile.save(model, path)
    return Quantised(
        path,
        tuple(name for at, name in layers.items() if at in wanted),
        tuple(name for at, name in layers.items() if at not in wanted),
    )


def find_form(precision: Precision) -> Form:
    """The form of a weight-only precision. Raises `InputError` when it is none."""
    if precision not in TABLE:
        raise InputError(
            f"There is no weight-only precision {precision!r}.", f"Choose one of: {', '.join(TABLE)}."
        )
    return TABLE[precision]


def large(shape: Sequence[int], form: Form) -> bool:
    """Whether a matrix [inputs, outputs] is worth a weight-only form."""
    return shape[0] >= form.block and shape[0] * shape[1] >= _LEAST


def _product(
    node: onnx.NodeProto, product: Product, layer: str, at: int, blocks: Blocks, accuracy_level: int
) -> tuple[list[onnx.NodeProto], list[onnx.TensorProto]]:
    """The nodes that replace a product, and what they read."""
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
    """The weights of a MatMulNBits node, as `compress_weights` wrote them; `stored`: tensors by name."""
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
    """Write down the shapes of what the new nodes make: ONNX infers none for another domain's operator."""
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


__all__ = ["TABLE", "Form", "compress_weights", "find_form", "large", "read_blocks"]

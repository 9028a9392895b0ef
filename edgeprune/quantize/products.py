"""Finder of matrix products with a stored weight, for dynamic and weight-only quantisation."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from edgeprune.graph import onnxfile


@dataclass(frozen=True)
class Product:
    """A product x @ weight + bias.

    weight: [inputs, outputs]. bias: the value's name, "" for none.
    """

    weight: NDArray[np.float32]
    bias: str


def products(model: onnx.ModelProto) -> Mapping[int, Product]:
    """Matrix products among the MatMul and Gemm nodes, by the node's index."""
    weights = {tensor.name: tensor for tensor in model.graph.initializer}
    found = {}
    for at in onnxfile.layers(model):
        node = model.graph.node[at]
        stored = weights[node.input[1]]
        if node.op_type not in ("MatMul", "Gemm") or not is_plain(node, stored):
            continue
        weight = numpy_helper.to_array(stored)
        bias = str(node.input[2]) if node.op_type == "Gemm" and len(node.input) > 2 else ""
        transposed = any(entry.name == "transB" and entry.i for entry in node.attribute)
        found[at] = Product(weight.T if transposed else weight, bias)
    return found


def is_plain(node: onnx.NodeProto, weight: TensorProto) -> bool:
    """Whether a layer computes just x @ W + b, or a convolution, with a stored float32 weight."""
    attributes = {entry.name: helper.get_attribute_value(entry) for entry in node.attribute}
    return bool(
        weight.data_type == TensorProto.FLOAT
        and (node.op_type not in ("MatMul", "Gemm") or len(weight.dims) == 2)
        and not attributes.get("transA", 0)
        and attributes.get("alpha", 1.0) == attributes.get("beta", 1.0) == 1.0
    )

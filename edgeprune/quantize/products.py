"""Matrix products with a stored weight: what dynamic and weight-only quantisation can take."""

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
    """x @ weight + bias. weight: [inputs, outputs]; bias: the value's name, "" for none."""

    weight: NDArray[np.float32]
    bias: str


def products(model: onnx.ModelProto) -> Mapping[int, Product]:
    """The MatMul and Gemm nodes that are a plain x @ W + b, by their index."""
    weights = {tensor.name: tensor for tensor in model.graph.initializer}
    found = {}
    for at in onnxfile.layers(model):
        node = model.graph.node[at]
        stored = weights[node.input[1]]
        attributes = {entry.name: helper.get_attribute_value(entry) for entry in node.attribute}
        if (
            node.op_type not in ("MatMul", "Gemm")
            or stored.data_type != TensorProto.FLOAT
            or len(stored.dims) != 2
            or attributes.get("transA", 0)
            or attributes.get("alpha", 1.0) != 1.0
            or attributes.get("beta", 1.0) != 1.0
        ):
            continue
        weight = numpy_helper.to_array(stored)
        bias = str(node.input[2]) if node.op_type == "Gemm" and len(node.input) > 2 else ""
        found[at] = Product(weight.T if attributes.get("transB", 0) else weight, bias)
    return found

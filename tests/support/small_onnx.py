"""Small ONNX files made by hand, and what they compute, in numpy."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

Floats = NDArray[np.float32]

WEIGHT: Floats = np.random.default_rng(7).standard_normal((8, 5)).astype(np.float32)
BIAS: Floats = np.random.default_rng(8).standard_normal(5).astype(np.float32)


def linear(path: Path, *, batch: int | str = "N", relu: bool = True) -> Path:
    """y = relu(x @ WEIGHT + BIAS), x: [batch, 8]; the logits are a second output, "z"."""
    nodes = [
        helper.make_node("MatMul", ["x", "weight"], ["product"]),
        helper.make_node("Add", ["product", "bias"], ["z"]),
        helper.make_node("Relu" if relu else "Identity", ["z"], ["y"]),
    ]
    return _save(path, nodes, [("x", [batch, 8])], [("y", [batch, 5]), ("z", [batch, 5])])


def linear_in_numpy(x: Floats) -> tuple[Floats, Floats]:
    z = x @ WEIGHT + BIAS
    return np.maximum(z, 0), z


def difference(path: Path) -> Path:
    """out = left - right, both [N, 3]: two inputs whose order matters."""
    nodes = [helper.make_node("Sub", ["left", "right"], ["out"])]
    return _save(path, nodes, [("left", ["N", 3]), ("right", ["N", 3])], [("out", ["N", 3])])


def _save(
    path: Path,
    nodes: list[onnx.NodeProto],
    inputs: list[tuple[str, list[int | str]]],
    outputs: list[tuple[str, list[int | str]]],
) -> Path:
    used = {name for node in nodes for name in node.input}
    constants = [
        numpy_helper.from_array(value, name)
        for name, value in (("weight", WEIGHT), ("bias", BIAS))
        if name in used
    ]
    graph = helper.make_graph(
        nodes,
        "small",
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in inputs],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in outputs],
        constants,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    onnx.save(model, path)
    return path

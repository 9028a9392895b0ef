"""A runtime's profile is told by layer: every millisecond belongs to a layer or to what comes before all."""

from __future__ import annotations

import pytest

pytest.importorskip("onnx")

from pathlib import Path

from onnx import parser

from edgeprune.devices import Operator
from edgeprune.graph import onnxfile
from edgeprune.latency.layer_profile import (
    LayerOperators,
    layer_kernels,
    layer_nodes,
    layer_of_nodes,
    layer_operators,
)

MODEL = """
<ir_version: 8, opset_import: ["" : 17]>
quantised (float[1, 4] x) => (float[1, 4] y)
<float[4, 4] one_weight = {1,0,0,0, 0,1,0,0, 0,0,1,0, 0,0,0,1}, float scale = {0.1}, uint8 zero = {0},
 float[4, 4] two = {1,0,0,0, 0,1,0,0, 0,0,1,0, 0,0,0,1}>
{
    x_int8 = QuantizeLinear(x, scale, zero)
    x_float = DequantizeLinear(x_int8, scale, zero)
    a = MatMul(x_float, one_weight)
    b = Relu(a)
    two_float = Identity(two)
    c = MatMul(b, two_float)
    y = Add(c, b)
}
"""


def model() -> onnxfile.onnx.ModelProto:
    found = parser.parse_model(MODEL)
    for node in found.graph.node:
        node.name = node.output[0]
    # As an artefact has it: the weight is behind other nodes, and the metadata name the layer.
    found.graph.node[5].metadata_props.add(key=onnxfile.LAYER, value="blocks.two")
    return found


def test_a_node_belongs_to_the_layer_in_front_of_it() -> None:
    first, second = "one_weight", "blocks.two"
    assert layer_of_nodes(model()) == {"a": first, "b": first, "c": second, "y": second}


def test_every_millisecond_is_told_in_the_order_of_the_file() -> None:
    measured = [
        Operator(name, kind, ms, (), (), ())
        for name, kind, ms in (
            ("x_int8", "QuantizeLinear", 0.5),
            ("reorder", "Reorder", 0.25),
            ("c_quant", "QLinearMatMul", 2.0),
            ("a", "MatMul", 1.0),
            ("b", "Relu", 0.125),
        )
    ]
    assert layer_operators(model(), measured) == {
        "start": LayerOperators(0.75, 2, 0.75),
        "one_weight": LayerOperators(1.125, 2, 0.0),
        "blocks.two": LayerOperators(2.0, 1, 0.0),
    }


def test_without_operators_there_is_nothing_to_tell() -> None:
    assert layer_operators(model(), []) == {}


def test_a_layer_has_the_arithmetic_and_the_traffic_of_what_runs_behind_it(tmp_path: Path) -> None:
    found = layer_kernels(onnxfile.save(model(), tmp_path / "model.onnx"), 1)
    macs = {layer: sum(kernel.macs for kernel in kernels) for layer, kernels in found.items()}
    assert macs == {"one_weight": 16, "blocks.two": 16}
    # 16 weights of 4 bytes, 4 integers read, 4 floats written.
    assert sum(kernel.traffic for kernel in found["one_weight"]) == 64 + 4 + 16
    assert layer_nodes(model()) == {"one_weight": "MatMul", "blocks.two": "MatMul"}


def test_what_depends_on_the_data_is_not_told(tmp_path: Path) -> None:
    found = model()
    found.graph.node[2].op_type, found.graph.node[2].input[:] = "NonZero", ["x_float"]
    assert layer_kernels(onnxfile.save(found, tmp_path / "model.onnx"), 1) == {}

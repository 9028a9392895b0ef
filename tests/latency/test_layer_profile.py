"""A runtime's profile is told by layer: every millisecond belongs to a layer or to what comes before all."""

from __future__ import annotations

import pytest

pytest.importorskip("onnx")

from onnx import parser

from edgeprune.devices import Operator
from edgeprune.graph import onnxfile
from edgeprune.latency.layer_profile import layer_milliseconds, layer_of_nodes

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
    assert layer_milliseconds(model(), measured) == {"start": 0.75, "one_weight": 1.125, "blocks.two": 2.0}


def test_without_operators_there_is_nothing_to_tell() -> None:
    assert layer_milliseconds(model(), []) == {}

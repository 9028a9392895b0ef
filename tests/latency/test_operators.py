"""Operators of a profile as nodes of the float graph."""

from __future__ import annotations

from types import ModuleType

import pytest

from edgeprune.devices import Operator
from edgeprune.latency.operators import START, Nodes
from edgeprune.make import Workshop
from edgeprune.quantize.dialects import TABLE as DIALECTS


@pytest.fixture(scope="module")
def workshop(tiny: ModuleType) -> Workshop:
    return Workshop(tiny.task(), DIALECTS["onnxruntime-x86"])


def test_every_millisecond_belongs_to_a_node(workshop: Workshop) -> None:
    nodes = Nodes(workshop.resizable)
    conv = next(node for node in workshop.resizable.model.graph.node if node.op_type == "Conv")
    shares = nodes.shares(
        [
            Operator("copied_in", "Reorder", 0.5, (), (), ()),
            Operator(f"{conv.output[0]}_nchwc", "Conv", 1.0, (), (), ()),
            Operator("copied_out", "Reorder", 0.25, (), (), ()),
            Operator("fused", "Convolution brg", 2.0, (), (), (f"{conv.name}/WithoutBiases",)),
        ]
    )
    assert shares == {START: 0.5, conv.name: 3.25}


def test_an_operator_named_after_an_activation_is_the_layer_in_front_of_it(workshop: Workshop) -> None:
    graph = workshop.resizable.model.graph
    relu = next(node for node in graph.node if node.op_type == "Relu")
    (conv,) = (node for node in graph.node if relu.input[0] in node.output)
    shares = Nodes(workshop.resizable).shares([Operator(f"{relu.output[0]}_nchwc", "Conv", 1.0, (), (), ())])
    assert shares == {conv.name: 1.0}

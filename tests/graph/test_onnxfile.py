"""Nodes and initialisers stay while an output depends on them, wherever it reads them."""

from __future__ import annotations

import numpy as np
import onnxruntime
from onnx import parser

from edgeprune.graph import onnxfile

HEAD = '<ir_version: 10, opset_import: ["" : 20]>\n'
IMAGE = "agraph (float[batch, 4, 6, 6] x) => (float[batch, {}] y)\n"


def test_what_no_output_needs_is_dropped() -> None:
    text = (
        IMAGE.format("4, 6, 6") + "<float one = {1.0}, float two = {2.0}> { y = Add(x, one) z = Mul(x, two) }"
    )
    model = parser.parse_model(HEAD + text)
    assert onnxfile.drop_unused(model) == 2  # the product and its factor
    assert [node.op_type for node in model.graph.node] == ["Add"]
    assert [tensor.name for tensor in model.graph.initializer] == ["one"]


def test_what_only_a_branch_needs_is_kept() -> None:
    branch = "graph () => (float[batch, 4, 6, 6] {0}) {{ {0} = Mul({1}, x) }}"
    yes, no = branch.format("p", "a"), branch.format("q", "one")
    text = (
        IMAGE.format("4, 6, 6")
        + "<bool yes = {1}, float one = {1.0}, float two = {2.0}> { a = Add(x, one) b = Add(x, two) "
        + f"y = If(yes) <then_branch = {yes}, else_branch = {no}> }}"
    )
    model = parser.parse_model(HEAD + text)
    assert onnxfile.drop_unused(model) == 2  # b and its summand
    assert [node.op_type for node in model.graph.node] == ["Add", "If"]
    image = np.ones((1, 4, 6, 6), np.float32)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    np.testing.assert_array_equal(session.run(None, {"x": image})[0], 2 * image)

"""Each rewrite changes the operators it names, nothing that only looks alike, and no output."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import parser

from edgeprune.graph import onnx_repairs

HEAD = '<ir_version: 10, opset_import: ["" : 20]>\n'
IMAGE = "agraph (float[batch, 4, 6, 6] x) => (float[batch, {}] y)\n"


VIEW = (
    "<int64[1] rest = {{{rest}}}> {{ n = Shape<start: int = 0, end: int = {end}>(x) "
    "s = Concat<axis: int = 0>(n, rest) y = Reshape(x, s) }}"
)


@dataclass(frozen=True)
class Case:
    """A graph as text and the operators that are left when nothing unused is kept."""

    name: str
    apply: Callable[[onnx.ModelProto], int]
    text: str
    expected: list[str]
    changed: int = 1


CASES = (
    Case(
        "a mean over both image dimensions",
        onnx_repairs.pool_means,
        IMAGE.format(4) + "<int64[2] axes = {3, -2}> { y = ReduceMean<keepdims: int = 0>(x, axes) }",
        ["GlobalAveragePool", "Flatten"],
    ),
    Case(
        "a mean over channels is another thing",
        onnx_repairs.pool_means,
        IMAGE.format("4, 6, 1") + "<int64[1] axes = {3}> { y = ReduceMean<keepdims: int = 1>(x, axes) }",
        ["ReduceMean"],
        0,
    ),
    Case(
        "a window over the whole image",
        onnx_repairs.pool_whole_images,
        IMAGE.format("4, 1, 1") + "{ y = AveragePool<kernel_shape: ints = [6, 6]>(x) }",
        ["GlobalAveragePool"],
    ),
    Case(
        "a window far beyond the image",
        onnx_repairs.pool_whole_images,
        IMAGE.format("4, 1, 1")
        + "{ y = AveragePool<kernel_shape: ints = [9, 9], strides: ints = [9, 9], ceil_mode: int = 1>(x) }",
        ["GlobalAveragePool"],
    ),
    Case(
        "a window over a part of the image",
        onnx_repairs.pool_whole_images,
        IMAGE.format("4, 2, 1") + "{ y = AveragePool<kernel_shape: ints = [5, 6]>(x) }",
        ["AveragePool"],
        0,
    ),
    Case(
        "a window over the image and its margin",
        onnx_repairs.pool_whole_images,
        IMAGE.format("4, 3, 3")
        + "{ y = AveragePool<kernel_shape: ints = [6, 6], pads: ints = [1, 1, 1, 1]>(x) }",
        ["AveragePool"],
        0,
    ),
    Case(
        "a view that asks for the batch",
        onnx_repairs.fix_reshapes,
        IMAGE.format(144) + VIEW.format(rest=144, end=1),
        ["Reshape"],
    ),
    Case(
        "a view whose last size is left open, but known",
        onnx_repairs.fix_reshapes,
        IMAGE.format(144) + VIEW.format(rest=-1, end=1),
        ["Reshape"],
    ),
    Case(
        "a view that asks for two sizes at once",
        onnx_repairs.fix_reshapes,
        IMAGE.format("4, 36") + VIEW.format(rest=36, end=2),
        ["Shape", "Concat", "Reshape"],
        0,
    ),
    Case(
        "relu6 as the exporter writes it",
        onnx_repairs.join_clips,
        IMAGE.format("4, 6, 6") + "<float six = {6.0}> { r = Relu(x) y = Min(r, six) }",
        ["Clip"],
    ),
    Case(
        "a minimum below zero is no clip of relu",
        onnx_repairs.join_clips,
        IMAGE.format("4, 6, 6") + "<float low = {-1.0}> { r = Relu(x) y = Min(r, low) }",
        ["Relu", "Min"],
        0,
    ),
)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_a_rewrite(case: Case) -> None:
    model = parser.parse_model(HEAD + case.text)
    image = 5 * np.random.default_rng(0).standard_normal((3, 4, 6, 6), np.float32)
    before = run(model, image)
    assert case.apply(model) == case.changed
    onnx_repairs.drop_unused(model)
    onnx.checker.check_model(model)
    assert [node.op_type for node in model.graph.node] == case.expected
    np.testing.assert_allclose(run(model, image), before, rtol=1e-5, atol=1e-6)


def run(model: onnx.ModelProto, image: np.ndarray) -> np.ndarray:
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run(None, {"x": image})[0]


def test_a_gru_that_is_right_already_is_left_alone() -> None:
    text = (
        "agraph (float[5, batch, 4] x, float[1, 9, 4] w, float[1, 9, 3] r) => (float[5, 1, batch, 3] y) "
        "{{ y = GRU<hidden_size: int = 3{}>(x, w, r) }}"
    )
    for given, changed in (
        ("", 1),
        (", linear_before_reset: int = 0", 1),
        (", linear_before_reset: int = 1", 0),
    ):
        model = parser.parse_model(HEAD + text.format(given))
        assert onnx_repairs.repair_gru(model) == changed
        onnx.checker.check_model(model)
        attributes = {entry.name: entry.i for entry in model.graph.node[0].attribute}
        assert attributes == {"hidden_size": 3, "linear_before_reset": 1}


def test_what_no_output_needs_is_dropped() -> None:
    text = (
        IMAGE.format("4, 6, 6") + "<float one = {1.0}, float two = {2.0}> { y = Add(x, one) z = Mul(x, two) }"
    )
    model = parser.parse_model(HEAD + text)
    assert onnx_repairs.drop_unused(model) == 2  # the product and its factor
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
    assert onnx_repairs.drop_unused(model) == 2  # b and its summand
    assert [node.op_type for node in model.graph.node] == ["Add", "If"]
    image = np.ones((1, 4, 6, 6), np.float32)
    np.testing.assert_array_equal(run(model, image), 2 * image)

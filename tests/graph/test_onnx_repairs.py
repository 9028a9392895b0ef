"""Each rewrite changes the operators it names, nothing that only looks alike, and no output."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import pytest
import torch
from onnx import parser

from edgeprune.graph.onnx_repairs import repair

HEAD = '<ir_version: 10, opset_import: ["" : 20]>\n'
IMAGE = "agraph (float[batch, 4, 6, 6] x) => (float[batch, {}] y)\n"


VIEW = (
    "<int64[1] rest = {{{rest}}}> {{ n = Shape<start: int = 0, end: int = {end}>(x) "
    "s = Concat<axis: int = 0>(n, rest) y = Reshape(x, s) }}"
)


@dataclass(frozen=True)
class Case:
    """A graph as text and the operators that are left."""

    name: str
    text: str
    expected: list[str]
    changed: bool = True


CASES = (
    Case(
        "a mean over both image dimensions",
        IMAGE.format(4) + "<int64[2] axes = {3, -2}> { y = ReduceMean<keepdims: int = 0>(x, axes) }",
        ["GlobalAveragePool", "Flatten"],
    ),
    Case(
        "a mean over channels is another thing",
        IMAGE.format("4, 6, 1") + "<int64[1] axes = {3}> { y = ReduceMean<keepdims: int = 1>(x, axes) }",
        ["ReduceMean"],
        changed=False,
    ),
    Case(
        "a window over the whole image",
        IMAGE.format("4, 1, 1") + "{ y = AveragePool<kernel_shape: ints = [6, 6]>(x) }",
        ["GlobalAveragePool"],
    ),
    Case(
        "a window far beyond the image",
        IMAGE.format("4, 1, 1")
        + "{ y = AveragePool<kernel_shape: ints = [9, 9], strides: ints = [9, 9], ceil_mode: int = 1>(x) }",
        ["GlobalAveragePool"],
    ),
    Case(
        "a window over a part of the image",
        IMAGE.format("4, 2, 1") + "{ y = AveragePool<kernel_shape: ints = [5, 6]>(x) }",
        ["AveragePool"],
        changed=False,
    ),
    Case(
        "a window over the image and its margin",
        IMAGE.format("4, 3, 3")
        + "{ y = AveragePool<kernel_shape: ints = [6, 6], pads: ints = [1, 1, 1, 1]>(x) }",
        ["AveragePool"],
        changed=False,
    ),
    Case(
        "a view that asks for the batch",
        IMAGE.format(144) + VIEW.format(rest=144, end=1),
        ["Reshape"],
    ),
    Case(
        "a view whose last size is left open, but known",
        IMAGE.format(144) + VIEW.format(rest=-1, end=1),
        ["Reshape"],
    ),
    Case(
        "a view that asks for two sizes at once",
        IMAGE.format("4, 36") + VIEW.format(rest=36, end=2),
        ["Shape", "Concat", "Reshape"],
        changed=False,
    ),
    Case(
        "relu6 as the exporter writes it",
        IMAGE.format("4, 6, 6") + "<float six = {6.0}> { r = Relu(x) y = Min(r, six) }",
        ["Clip"],
    ),
    Case(
        "a minimum below zero is no clip of relu",
        IMAGE.format("4, 6, 6") + "<float low = {-1.0}> { r = Relu(x) y = Min(r, low) }",
        ["Relu", "Min"],
        changed=False,
    ),
)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_a_rewrite(case: Case) -> None:
    model = parser.parse_model(HEAD + case.text)
    image = 5 * np.random.default_rng(0).standard_normal((3, 4, 6, 6), np.float32)
    before = run(model, image)
    result = repair(ir.from_proto(model))
    assert result.modified == case.changed
    model = ir.to_proto(result.model)
    onnx.checker.check_model(model)
    assert [node.op_type for node in model.graph.node] == case.expected
    np.testing.assert_allclose(run(model, image), before, rtol=1e-5, atol=1e-6)


def repaired(text: str) -> tuple[np.ndarray, np.ndarray, list[str]]:
    """An image, what the repaired model makes of it, and the operators that are left."""
    result = repair(ir.from_proto(parser.parse_model(HEAD + text)))
    assert result.modified
    model = ir.to_proto(result.model)
    onnx.checker.check_model(model)
    image = np.random.default_rng(0).standard_normal((3, 4, 6, 6), np.float32)
    return image, run(model, image), [node.op_type for node in model.graph.node]


@pytest.mark.parametrize("size", [2, 3])
def test_space_to_depth_has_torchs_order_of_channels(size: int) -> None:
    shape = f"{4 * size**2}, {6 // size}, {6 // size}"
    image, found, left = repaired(IMAGE.format(shape) + f"{{ y = SpaceToDepth<blocksize: int = {size}>(x) }}")
    assert left == ["Reshape", "Transpose", "Reshape"]
    expected = torch.nn.functional.pixel_unshuffle(torch.from_numpy(image), size)
    np.testing.assert_array_equal(found, expected.numpy())


@pytest.mark.parametrize("mode", ["bilinear", "bicubic"])
@pytest.mark.parametrize("corners", [False, True])
@pytest.mark.parametrize("sizes", [(4, 3), (9, 5)])
def test_a_smooth_resize_weighs_pixels_as_torch_does(
    mode: str, corners: bool, sizes: tuple[int, int]
) -> None:
    rule = "align_corners" if corners else "pytorch_half_pixel"
    text = (
        IMAGE.format(f"4, {sizes[0]}, {sizes[1]}")
        + f"<int64[2] to = {{{sizes[0]}, {sizes[1]}}}> {{ y = Resize<antialias: int = 1, "
        f"axes: ints = [2, 3], "
        f'mode: string = "{mode.removeprefix("bi")}", coordinate_transformation_mode: string = "{rule}">'
        "(x, , , to) }"
    )
    image, found, left = repaired(text)
    assert left == ["MatMul", "MatMul"]
    kind = getattr(torch.ops.aten, f"_upsample_{mode}2d_aa")
    expected = kind(torch.from_numpy(image), list(sizes), corners)
    np.testing.assert_allclose(found, expected.numpy(), rtol=1e-5, atol=1e-6)


def run(model: onnx.ModelProto, image: np.ndarray) -> np.ndarray:
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run(None, {"x": image})[0]


def test_what_replaces_a_node_has_its_metadata() -> None:
    text = IMAGE.format(4) + "<int64[2] axes = {2, 3}> { y = ReduceMean<keepdims: int = 0>(x, axes) }"
    model = ir.from_proto(parser.parse_model(HEAD + text))
    model.graph[0].metadata_props["edgeprune.values"] = "mean"
    assert [dict(node.metadata_props) for node in repair(model).model.graph] == [
        {"edgeprune.values": "mean"},
        {"edgeprune.values": "mean"},
    ]


def test_a_gru_that_is_right_already_is_left_alone() -> None:
    text = (
        "agraph (float[5, batch, 4] x, float[1, 9, 4] w, float[1, 9, 3] r) => (float[5, 1, batch, 3] y) "
        "{{ y = GRU<hidden_size: int = 3{}>(x, w, r) }}"
    )
    for given, changed in (
        ("", True),
        (", linear_before_reset: int = 0", True),
        (", linear_before_reset: int = 1", False),
    ):
        result = repair(ir.from_proto(parser.parse_model(HEAD + text.format(given))))
        assert result.modified == changed
        model = ir.to_proto(result.model)
        onnx.checker.check_model(model)
        attributes = {entry.name: entry.i for entry in model.graph.node[0].attribute}
        assert attributes == {"hidden_size": 3, "linear_before_reset": 1}

"""Float16 outside Q/DQ: what is converted, what stays, and that the file still computes the same."""

from __future__ import annotations

import importlib.util
from collections import Counter
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, numpy_helper, parser

from edgeprune.devices import agent
from edgeprune.export import export_onnx
from edgeprune.graph import onnxfile
from edgeprune.quantize.calibrate import calibrate
from edgeprune.quantize.dialects import TABLE
from edgeprune.quantize.half import fits_half, halve
from edgeprune.quantize.scales import half_scale
from edgeprune.quantize.tensorrt.engines import build_engine, check_types
from tests.support.int8_files import quantise

HALF, FLOAT = TensorProto.FLOAT16, TensorProto.FLOAT
needs_rtx = pytest.mark.skipif(
    importlib.util.find_spec("tensorrt_rtx_bindings") is None, reason="TensorRT for RTX is not installed"
)


def graph(body: str, **constants: Any) -> onnx.ModelProto:
    model = parser.parse_model(
        '<ir_version: 10, opset_import: ["" : 20]>\nagraph (float[N, 4] x) => (float[N, 4] y)\n{' + body + "}"
    )
    for name, value in constants.items():
        model.graph.initializer.append(numpy_helper.from_array(np.asarray(value, np.float32), name))
    return model


def types(model: onnx.ModelProto) -> dict[str, int]:
    """The type of what each node writes, by the operator; an operator stands once in these graphs."""
    inferred = onnx.shape_inference.infer_shapes(model).graph
    known = {v.name: v.type.tensor_type.elem_type for v in (*inferred.value_info, *inferred.output)}
    return {node.op_type: known[node.output[0]] for node in model.graph.node if node.op_type != "Cast"}


def served(model: onnx.ModelProto, folder: Path, x: Any) -> Any:
    path = folder / "served.onnx"
    onnx.save(model, str(path))
    return agent.load_module("ort.py").Runner(str(path), 1, exact=True).run({"x": x})[0]


def test_a_chain_is_float16_between_float32_ends(tmp_path: Path) -> None:
    model = graph("a = MatMul(x, w)  b = Add(a, c)  y = Relu(b)", w=np.eye(4) * 0.3, c=np.arange(4))
    x = np.random.default_rng(0).standard_normal((3, 4)).astype(np.float32)
    want = served(model, tmp_path, x)
    assert halve(model, {}) == ()
    assert types(model) == {"MatMul": HALF, "Add": HALF, "Relu": HALF}
    assert [node.op_type for node in model.graph.node] == ["Cast", "MatMul", "Add", "Relu", "Cast"]
    assert {tensor.data_type for tensor in model.graph.initializer} == {HALF}
    assert [value.type.tensor_type.elem_type for value in (*model.graph.input, *model.graph.output)] == [1, 1]
    np.testing.assert_allclose(served(model, tmp_path, x), want, rtol=2e-3, atol=2e-3)


def test_a_value_whose_range_ends_beyond_float16_stays_float32_with_its_neighbours() -> None:
    model = graph("a = Mul(x, c)  b = Tanh(a)  y = Relu(b)", c=[4.0])
    assert len(halve(model, {"a": (0.0, 40_000.0)})) == 2  # 65504 leaves room for an unseen input
    assert types(model) == {"Mul": FLOAT, "Tanh": FLOAT, "Relu": HALF}


def test_a_constant_that_overflows_keeps_its_node_in_float32(tmp_path: Path) -> None:
    model = graph("a = Add(x, c)  b = Softmax(a)  y = Relu(b)", c=[0, -3.4e38, 0, 0])
    x = np.ones((1, 4), np.float32)
    want = served(model, tmp_path, x)
    halve(model, {})
    # What the mask wrote is as wide as the mask; a softmax brings it back between 0 and 1.
    assert types(model) == {"Add": FLOAT, "Softmax": FLOAT, "Relu": HALF}
    np.testing.assert_allclose(served(model, tmp_path, x), want, rtol=1e-3)


def test_an_epsilon_that_float16_would_lose_stays_float32() -> None:
    model = graph("a = Sigmoid(x)  b = Add(a, c)  y = Neg(b)", c=[1e-12])
    halve(model, {})
    assert types(model) == {"Sigmoid": HALF, "Add": FLOAT, "Neg": HALF}


def test_the_mean_square_of_a_norm_stays_float32_as_a_whole() -> None:
    model = graph(
        "s = Pow(x, two)  m = ReduceMean<keepdims: int = 1>(s, axes)  e = Add(m, c)  r = Sqrt(e)  "
        "d = Div(x, r)  y = Mul(d, g)",
        two=2.0,
        c=[1e-6],
        g=[1.5],
    )
    model.graph.initializer.append(numpy_helper.from_array(np.array([1]), "axes"))
    halve(model, {})
    assert {name for name, kind in types(model).items() if kind == HALF} == {"Div", "Mul"}
    casts = Counter(node.op_type for node in model.graph.node)["Cast"]
    assert casts == 3  # x in, the root to float16, y out


def test_a_constant_that_both_types_read_is_stored_in_both() -> None:
    model = graph("a = Pow(x, c)  b = Relu(a)  y = Mul(b, c)", c=[2.0])
    halve(model, {})
    assert sorted(tensor.data_type for tensor in model.graph.initializer) == [FLOAT, HALF]


def test_an_input_that_the_operator_wants_in_float32_gets_it() -> None:
    model = graph(
        "u = Unsqueeze(x, axes)  r = Resize(u, , s)  v = Squeeze(r, axes)  y = Relu(v)", s=[1, 1, 1]
    )
    model.graph.initializer.append(numpy_helper.from_array(np.array([1]), "axes"))
    halve(model, {})
    assert types(model)["Resize"] == HALF
    assert {tensor.name: tensor.data_type for tensor in model.graph.initializer}["s"] == FLOAT


def test_a_value_that_a_branch_takes_keeps_its_name_and_type(tmp_path: Path) -> None:
    model = graph(
        "a = Relu(x)  s = ReduceSum<keepdims: int = 0>(a)  c = Greater(s, zero)  "
        "b = If(c)<then_branch = t () => (float[N, 4] p) { p = Neg(a) }, "
        "else_branch = e () => (float[N, 4] q) { q = Identity(a) }>  y = Abs(b)",
        zero=0.0,
    )
    x = np.ones((2, 4), np.float32)
    halve(model, {})
    assert types(model)["Abs"] == HALF
    np.testing.assert_array_equal(served(model, tmp_path, x), x)


@given(st.lists(st.floats(2.0**-30, 1e4, width=32), min_size=1, max_size=8))
def test_a_scale_of_float16_is_never_smaller_and_exact(values: list[float]) -> None:
    wanted = np.array(values, np.float32)
    found = half_scale(wanted)
    assert (found >= wanted).all()
    np.testing.assert_array_equal(found.astype(np.float16).astype(np.float32), found)
    assert (found <= wanted * (1 + 2**-10) + 2**-24).all()


def test_a_scale_beyond_float16_stays_as_it_is() -> None:
    assert half_scale(np.array(7e4, np.float32)) == np.float32(7e4)


@pytest.mark.parametrize(
    ("array", "fits"),
    [
        ([0.0], True),
        ([7e4], False),
        ([1e-6], False),
        ([1e-6, 1.0], True),
        ([-np.inf, 1.0], True),
        ([6e-8], False),
    ],
    ids=str,
)
def test_a_constant_fits_when_it_keeps_its_meaning(array: list[float], fits: bool) -> None:
    assert fits_half(np.array(array, np.float32)) is fits


@pytest.fixture
def written(nets: ModuleType, tmp_path: Path) -> Any:
    """A residual net in INT8 for TensorRT, its float rest in float16 and in float32."""
    net, batches = nets.residual(), nets.images(4, 4)
    path = export_onnx(net, tmp_path / "float.onnx")
    ranges = calibrate(net, batches, "minmax")
    wide = replace(TABLE["tensorrt"], half=False)
    return (
        quantise(path, ranges, "tensorrt", tmp_path / "half.onnx"),
        quantise(path, ranges, wide, tmp_path / "wide.onnx"),
        batches[0][0].numpy(),
    )


def test_a_q_dq_file_of_float16_computes_what_the_one_of_float32_does(written: Any) -> None:
    half, wide, x = written
    load = agent.load_module("ort.py").Runner
    found, wanted = (load(str(each.path), 1, exact=True) for each in (half, wide))
    assert found.settings()["disable_quant_qdq"] == "1"
    assert wanted.settings()["disable_quant_qdq"] == "0"
    name = found.inputs[0][0]
    got, want = found.run({name: x})[0], wanted.run({name: x})[0]
    assert (
        np.abs(got - want).max() < 0.03 * np.abs(want).max()
    )  # a rounding falls the other way here and there
    assert half.path.stat().st_size < wide.path.stat().st_size


def test_the_graphs_input_is_rounded_to_integers_without_a_cast(written: Any) -> None:
    model = onnxfile.load(written[0].path)
    first = [node for node in model.graph.node if model.graph.input[0].name in node.input]
    assert [node.op_type for node in first] == ["QuantizeLinear"]
    assert Counter(node.op_type for node in model.graph.node)["Cast"] == 1  # the output


@needs_rtx
@pytest.mark.parametrize("capability", ["SM86", "SM89"])
def test_an_engine_runs_its_int8_layers_on_integers_and_the_rest_as_half(
    written: Any, capability: str
) -> None:
    half = written[0]
    engine = build_engine(half.path, capability)
    assert set(engine.int8) == set(half.layers_int8)
    assert engine.not_int8 == ()
    assert set(check_types(half.model, "half.onnx").values()) == set(half.layers_int8)


@needs_rtx
def test_an_engine_of_a_float16_file_multiplies_in_half(nets: ModuleType, tmp_path: Path) -> None:
    model = onnxfile.load(export_onnx(nets.residual(), tmp_path / "float.onnx"))
    halve(model, {})
    onnxfile.save(model, tmp_path / "half.onnx")
    engine = build_engine(tmp_path / "half.onnx", "SM86")
    kinds = {layer.inputs[0] for layer in engine.layers if layer.kind in ("correlation", "gemm")}
    assert kinds == {"Half"}

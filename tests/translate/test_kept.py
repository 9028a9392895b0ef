"""Operators without a translation are called as the file has them, exactly, and written back as they were."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

import edgeprune
from edgeprune import InputError
from edgeprune.export import to_onnx
from edgeprune.graph import onnxfile
from edgeprune.graph.capture import Captured
from edgeprune.graph.coupling import analyse
from edgeprune.graph.surgery import cut
from edgeprune.latency.layer_profile import layer_nodes
from edgeprune.tasks import TaskOptions, capture_pure, load_task

ROWS, WIDE = 24, 16
node = helper.make_node
numbers = np.random.default_rng(0)


def body(nodes: Sequence[Any], inputs: Sequence[Any], outputs: Sequence[Any]) -> onnx.GraphProto:
    return helper.make_graph(list(nodes), "body", list(inputs), list(outputs))


def value(
    name: str, kind: int = TensorProto.FLOAT, shape: Sequence[Any] | None = None
) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, kind, shape)


def loop() -> onnx.NodeProto:
    """Three times `total = total * 0.5 + h`, h taken from around the loop."""
    nodes = [
        node("Mul", ["before", "half"], ["halved"]),
        node("Add", ["halved", "h"], ["after"]),
        node("Identity", ["go"], ["on"]),
    ]
    inputs = [value("step", TensorProto.INT64, []), value("go", TensorProto.BOOL, []), value("before")]
    inside = body(nodes, inputs, [value("on", TensorProto.BOOL, []), value("after")])
    return node("Loop", ["three", "true", "h"], ["k"], "again", body=inside)


def branches() -> onnx.NodeProto:
    """h where its sum is positive, else twice h."""
    taken = body([node("Identity", ["h"], ["same"])], [], [value("same")])
    other = body([node("Add", ["h", "h"], ["twice"])], [], [value("twice")])
    return node("If", ["positive"], ["k"], "either", then_branch=taken, else_branch=other)


def scan() -> onnx.NodeProto:
    """Sums along the last dimension, one column after the other."""
    nodes = [node("Add", ["sum", "column"], ["next"]), node("Identity", ["next"], ["seen"])]
    inside = body(nodes, [value("sum"), value("column")], [value("next"), value("seen")])
    return node(
        "Scan",
        ["zeros", "h"],
        ["last", "k"],
        "along",
        body=inside,
        num_scan_inputs=1,
        scan_input_axes=[1],
        scan_output_axes=[1],
    )


# Nodes from h [batch, WIDE] to k, constants, and the operator that is kept.
CASES: Mapping[str, tuple[list[onnx.NodeProto], Mapping[str, Any], str]] = {
    "an attribute that torch has no form of": (
        [node("CumSum", ["h", "axis"], ["k"], "sums", exclusive=1)],
        {"axis": np.int64(1)},
        "CumSum",
    ),
    "a loop": (
        [loop()],
        {"three": np.int64(3), "true": np.bool_(True), "half": np.float32(0.5)},
        "Loop",
    ),
    "a branch that values choose": (
        [
            node("ReduceSum", ["h"], ["all"], keepdims=0),
            node("Greater", ["all", "zero"], ["positive"]),
            branches(),
        ],
        {"zero": np.float32(0)},
        "If",
    ),
    "a scan": (
        [
            node("ReduceMean", ["h"], ["mean"], axes=[1], keepdims=0),
            node("Sub", ["mean", "mean"], ["zeros"]),
            scan(),
        ],
        {},
        "Scan",
    ),
    "an operator of ONNX Runtime's own": (
        [node("BiasGelu", ["h", "bias"], ["k"], "gelu", domain="com.microsoft")],
        {"bias": numbers.standard_normal(WIDE).astype(np.float32)},
        "com.microsoft.BiasGelu",
    ),
    "one with a matrix of its own": (
        [node("FusedMatMul", ["h", "mixed.weight"], ["k"], "mixed", domain="com.microsoft", alpha=0.5)],
        {"mixed.weight": numbers.standard_normal((WIDE, WIDE)).astype(np.float32)},
        "com.microsoft.FusedMatMul",
    ),
    "one that leaves out an input and an output": (
        [
            node(
                *("SkipLayerNormalization", ["h", "h", "gamma", "", "bias"], ["k", "", "", "sum"], "norm"),
                domain="com.microsoft",
            ),
        ],
        {
            "gamma": numbers.standard_normal(WIDE).astype(np.float32),
            "bias": numbers.standard_normal(WIDE).astype(np.float32),
        },
        "com.microsoft.SkipLayerNormalization",
    ),
}


def written(path: Path, nodes: Sequence[onnx.NodeProto], stored: Mapping[str, Any], opset: int = 17) -> Path:
    """x [batch, 8] -> h -> the nodes -> k -> two layers -> y [batch, 3]."""
    weights = {
        "enter.weight": numbers.standard_normal((8, WIDE)),
        "inner.weight": numbers.standard_normal((WIDE, 20)) * 0.2,
        "leave.weight": numbers.standard_normal((20, 3)) * 0.2,
    }
    chain = [
        node("MatMul", ["x", "enter.weight"], ["h"]),
        *nodes,
        node("MatMul", ["k", "inner.weight"], ["i"]),
        node("Relu", ["i"], ["r"]),
        node("MatMul", ["r", "leave.weight"], ["y"]),
    ]
    arrays = {name: array.astype(np.float32) for name, array in weights.items()} | dict(stored)
    graph = helper.make_graph(
        chain,
        "small",
        [value("x", shape=["batch", 8])],
        [value("y", shape=["batch", 3])],
        [numpy_helper.from_array(np.asarray(array), name) for name, array in arrays.items()],
    )
    domains = [helper.make_opsetid("", opset), helper.make_opsetid("com.microsoft", 1)]
    onnx.save(helper.make_model(graph, opset_imports=domains, ir_version=9), str(path))
    return path


def captured_of(path: Path) -> Captured:
    x = np.random.default_rng(1).standard_normal((ROWS, 8)).astype(np.float32)
    np.savez(path.with_name("data.npz"), x=x, labels=np.arange(ROWS) % 3)
    task = load_task(str(path), TaskOptions(data=path.with_name("data.npz")))
    return capture_pure(task.model, task.example, 1)


def served(model: Path | bytes, x: torch.Tensor) -> np.ndarray:
    session = onnxruntime.InferenceSession(model if isinstance(model, bytes) else str(model))
    (found,) = session.run(None, {session.get_inputs()[0].name: x.numpy()})
    return np.asarray(found)


@pytest.mark.parametrize("name", CASES)
def test_an_operator_is_kept_exported_and_the_rest_is_pruned(name: str, tmp_path: Path) -> None:
    nodes, stored, operator = CASES[name]
    path = written(tmp_path / "model.onnx", nodes, stored)
    captured = captured_of(path)
    x = torch.randn(5, 8, generator=torch.Generator().manual_seed(3))
    with torch.no_grad():
        np.testing.assert_allclose(captured.run(x)[0].numpy(), served(path, x), rtol=1e-4, atol=1e-5)
    model = to_onnx(captured)  # which proves it on two batches
    assert operator in [onnxfile.operator_name(each) for each in model.graph.node]
    onnx.checker.check_model(model)
    np.testing.assert_allclose(served(onnxfile.content(model), x), served(path, x), rtol=1e-4, atol=1e-5)
    coupling = analyse(captured)
    frozen = {each.name: each.op for each in coupling.frozen}
    assert coupling.unknown == ()
    (group,) = coupling.groups
    assert {axis.parameter for axis in group.axes} == {"inner.weight", "leave.weight"}
    assert frozen["enter.weight"] in (operator, "aten.sum.dim_IntList", "aten.mean")
    small = cut(captured, coupling, {group.name: tuple(range(7))})
    with torch.no_grad():
        found = small.run(x)[0].numpy()
    np.testing.assert_allclose(served(onnxfile.content(to_onnx(small)), x), found, rtol=1e-4, atol=1e-5)


def test_a_fit_says_what_is_kept_and_trains_nothing(tmp_path: Path) -> None:
    pytest.importorskip("openvino")  # which the made-up device imports
    from tests.support import roads, scripted

    nodes, stored, _ = CASES["a loop"]
    path = written(tmp_path / "model.onnx", nodes, stored)
    x = np.random.default_rng(1).standard_normal((256, 8)).astype(np.float32)
    np.savez(tmp_path / "data.npz", x=x, labels=served(path, torch.from_numpy(x)).argmax(1))
    task = load_task(str(path), TaskOptions(data=tmp_path / "data.npz"))
    device = scripted.ScriptedDevice(roads.weights_ms)
    result = edgeprune.fit(task, speedup=1.15, max_drop=0.3, device=device, out=tmp_path / "run")
    assert result.verdict.kind == "fits"
    assert result.chosen.layers_int8
    assert result.chosen.candidate.recover in ("none", "reconstruct")
    assert any("are kept as the file has them (Loop): nothing" in remark for remark in result.remarks)
    with pytest.raises(InputError, match="Recovery 'distill' trains, and there is no gradient through Loop"):
        edgeprune.fit(task, speedup=1.5, recover="distill", device=device, out=tmp_path / "other")


def test_a_kept_operator_with_weights_is_a_layer_in_float(tmp_path: Path) -> None:
    nodes, stored, _ = CASES["one with a matrix of its own"]
    model = to_onnx(captured_of(written(tmp_path / "model.onnx", nodes, stored)))
    assert onnxfile.layers_without_integers(model) == ("mixed",)
    assert set(layer_nodes(model)) == {"enter", "mixed", "inner", "leave"}
    nodes, stored, _ = CASES["a loop"]
    without = to_onnx(captured_of(written(tmp_path / "other.onnx", nodes, stored)))
    assert onnxfile.layers_without_integers(without) == ()


def test_a_kept_operator_has_no_gradient_and_says_so(tmp_path: Path) -> None:
    nodes, stored, _ = CASES["a loop"]
    captured = captured_of(written(tmp_path / "model.onnx", nodes, stored))
    (answer,) = captured.run(torch.randn(2, 8))
    with pytest.raises(InputError, match=r"Operator Loop .node 'again'. .* has no gradient"):
        answer.sum().backward()


def test_sizes_that_values_decide_are_refused(tmp_path: Path) -> None:
    nodes = [
        node("ReduceMean", ["h"], ["mean"], axes=[1], keepdims=0),
        node("Unique", ["mean"], ["others"], "different"),
        node("ReduceSum", ["others"], ["one"], keepdims=0),
        node("Add", ["h", "one"], ["k"]),
    ]
    path = written(tmp_path / "model.onnx", nodes, {})
    x = np.random.default_rng(1).standard_normal((ROWS, 8)).astype(np.float32)
    x[1], x[4] = x[0], x[3]
    np.savez(tmp_path / "data.npz", x=x)
    with pytest.raises(InputError, match="the sizes of its output depend on values"):
        load_task(str(path), TaskOptions(data=tmp_path / "data.npz"))


def test_an_operator_of_an_older_form_is_refused_at_the_export(tmp_path: Path) -> None:
    """Until opset 10 the axes of a Slice were attributes; here they are inside of a branch."""
    taken = body([node("Slice", ["h"], ["part"], axes=[1], starts=[0], ends=[8])], [], [value("part")])
    other = body([node("Slice", ["h"], ["rest"], axes=[1], starts=[8], ends=[16])], [], [value("rest")])
    nodes = [
        node("ReduceSum", ["h"], ["all"], keepdims=0),
        node("Greater", ["all", "zero"], ["positive"]),
        node("If", ["positive"], ["half"], "either", then_branch=taken, else_branch=other),
        node("Concat", ["half", "half"], ["k"], axis=1),
    ]
    path = written(tmp_path / "model.onnx", nodes, {"zero": np.float32(0)}, opset=9)
    with pytest.raises(
        InputError, match=r"Slice .* of opset 9; the artefact is of opset \d+, where the operator"
    ):
        to_onnx(captured_of(path))

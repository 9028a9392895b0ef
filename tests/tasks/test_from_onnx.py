"""An ONNX file is a MODEL: what torch and others export is translated exactly, and pruned as its model is."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

import edgeprune
from edgeprune import InputError, Task
from edgeprune.graph.capture import capture
from edgeprune.graph.coupling import analyse
from edgeprune.tasks import TaskOptions, capture_pure, check_task, load_task
from edgeprune.validating import validate

ROWS = 24


@pytest.fixture(scope="module")
def made() -> ModuleType:
    """tests/support/onnx_exports.py: ONNX files as people have them."""
    from tests.support import onnx_exports

    return onnx_exports


@dataclass(frozen=True)
class Case:
    name: str
    net: str
    write: Callable[[ModuleType, Any, Any, Path], Path]


CASES = (
    Case("opset 11, BatchNorm folded", "residual", lambda m, net, x, p: m.scripted(net, x, p, 11)),
    Case(
        "opset 13, BatchNorm kept",
        "residual",
        lambda m, net, x, p: m.scripted(
            net, x, p, 13, training=torch.onnx.TrainingMode.PRESERVE, do_constant_folding=False
        ),
    ),
    Case(
        "weights as constants",
        "residual",
        lambda m, net, x, p: m.as_constants(m.scripted(net, x, p, 17)),
    ),
    Case(
        "converted to opset 21", "residual", lambda m, net, x, p: m.converted(m.scripted(net, x, p, 17), 21)
    ),
    Case("opset 18, the newer exporter", "residual", lambda m, net, x, p: m.exported(net, x, p, 18)),
    Case(
        "weights beside the file",
        "residual",
        lambda m, net, x, p: m.exported(net, x, p, 20, external_data=True),
    ),
    Case("a transformer in opset 14", "transformer", lambda m, net, x, p: m.scripted(net, x, p, 14)),
    Case("a transformer in opset 23", "transformer", lambda m, net, x, p: m.exported(net, x, p, 23)),
    Case(
        "a transformer in constants",
        "transformer",
        lambda m, net, x, p: m.as_constants(m.scripted(net, x, p, 17)),
    ),
)


def saved(folder: Path, **arrays: Any) -> Path:
    np.savez(folder / "data.npz", **{name: np.asarray(array) for name, array in arrays.items()})
    return folder / "data.npz"


def load(path: Path, data: Path | None, outputs: str | None = None) -> Task:
    return load_task(str(path), TaskOptions(data=data, outputs=outputs))


def served(path: Path, *inputs: torch.Tensor) -> list[np.ndarray]:
    session = onnxruntime.InferenceSession(str(path))
    names = [value.name for value in session.get_inputs()]
    return session.run(None, {name: x.numpy() for name, x in zip(names, inputs, strict=True)})


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_a_file_computes_what_it_did_and_is_pruned_as_its_model_is(
    case: Case, made: ModuleType, tmp_path: Path
) -> None:
    net = getattr(made, case.net)()
    inputs = made.images if case.net == "residual" else made.tokens
    path = case.write(made, net, inputs(2), tmp_path / "model.onnx")
    name = onnx.load(str(path), load_external_data=False).graph.input[0].name
    task = load(path, saved(tmp_path, **{name: inputs(ROWS), "labels": np.arange(ROWS) % 4}))
    check_task(task)
    captured = capture_pure(task.model, task.example, 1)
    for rows in (1, 7):
        with torch.no_grad():
            found = captured.run(inputs(rows, seed=5))[0].numpy()
        np.testing.assert_allclose(found, served(path, inputs(rows, seed=5))[0], rtol=1e-4, atol=1e-5)
    own, original = analyse(captured), analyse(capture(net, inputs(2)))
    assert task.metric == "top-1"
    assert own.unknown == ()
    assert sorted(one.size for one in own.frozen) == sorted(one.size for one in original.frozen)
    assert sorted(group.units for group in own.groups) == sorted(group.units for group in original.groups)
    assert len(own.branches) == len(original.branches)


def test_layers_have_the_names_of_the_files_weights_or_of_its_operators(
    made: ModuleType, tmp_path: Path
) -> None:
    path = made.scripted(made.transformer(), made.tokens(2), tmp_path / "model.onnx", 17)
    task = load(path, saved(tmp_path, tokens=made.tokens(ROWS)))
    names = dict(task.model.named_parameters())
    assert {"words.weight", "norm.weight", "qkv.weight", "qkv.bias", "up.weight"} <= names.keys()
    assert names["up.weight"].shape == (40, 16), "a matrix that the file has transposed is a layer's weight"


def test_batchnorm_keeps_its_statistics_apart_from_what_is_learned(made: ModuleType, tmp_path: Path) -> None:
    options = {"training": torch.onnx.TrainingMode.PRESERVE, "do_constant_folding": False}
    path = made.scripted(made.residual(), made.images(2), tmp_path / "model.onnx", 13, **options)
    task = load(path, saved(tmp_path, image=made.images(ROWS)))
    assert "stem.1.running_mean" in dict(task.model.named_buffers())
    assert "stem.1.running_mean" not in dict(task.model.named_parameters())


def test_a_file_for_one_row_is_served_row_by_row(made: ModuleType, tmp_path: Path) -> None:
    path = made.scripted(made.residual(), made.images(1), tmp_path / "model.onnx", 17, dynamic_axes=None)
    task = load(path, saved(tmp_path, image=made.images(ROWS), labels=np.arange(ROWS) % 4))
    captured = capture_pure(task.model, task.example, 1)
    assert captured.fixed_batch
    with torch.no_grad():
        found = captured.run(made.images(3, seed=5))[0].numpy()
    wanted = np.concatenate([served(path, row[None])[0] for row in made.images(3, seed=5)])
    np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-5)


def test_a_file_for_another_fixed_batch_is_refused(made: ModuleType, tmp_path: Path) -> None:
    path = made.scripted(made.residual(), made.images(4), tmp_path / "model.onnx", 17, dynamic_axes=None)
    with pytest.raises(InputError, match="dimension 0 of input 'image' is 4 in the file"):
        load(path, saved(tmp_path, image=made.images(ROWS)))


def test_a_batch_of_minus_one_varies(tmp_path: Path) -> None:
    path = small(tmp_path / "model.onnx", [node("MatMul", ["x", "w"], ["y"])], stored={"w": WEIGHT})
    model = onnx.load(str(path))
    model.graph.input[0].type.tensor_type.shape.dim[0].dim_value = -1
    path.write_bytes(model.SerializeToString())
    task = load(path, numbers(tmp_path))
    assert not capture_pure(task.model, task.example, 1).fixed_batch


@pytest.mark.parametrize(
    ("sizes", "told"),
    [
        ([], "input 'state' has no dimensions"),
        ([2, "batch", 8], "dimension 0 of input 'state' is 2"),
        ([1, 8], "takes one row of input 'state' and any number of rows of the others"),
    ],
)
def test_an_input_without_the_batch_is_refused(sizes: list[Any], told: str, tmp_path: Path) -> None:
    path = small(tmp_path / "model.onnx", [node("Add", ["x", "state"], ["y"])])
    model = onnx.load(str(path))
    model.graph.input.append(helper.make_tensor_value_info("state", TensorProto.FLOAT, sizes))
    onnx.save(model, str(path))
    with pytest.raises(InputError, match=told):
        load(path, numbers(tmp_path))


def test_an_if_that_always_takes_one_branch_is_that_branch(tmp_path: Path) -> None:
    def branch(name: str, op: str) -> Any:
        ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, None)]
        made = [node("MatMul", ["x", "w"], ["inner"]), node(op, ["inner"], [name])]
        return helper.make_graph(made, name, [], ends)

    nodes = [
        node("Shape", ["x"], ["s"]),
        node("Gather", ["s", "one"], ["width"]),
        node("Equal", ["width", "eight"], ["asked"]),
        node("If", ["asked"], ["y"], then_branch=branch("a", "Tanh"), else_branch=branch("b", "Relu")),
    ]
    stored = {"w": WEIGHT, "one": np.array(1), "eight": np.array(8)}
    path = small(tmp_path / "model.onnx", nodes, stored=stored)
    task = load(path, numbers(tmp_path))
    called = [str(each.target) for each in task.model.graph.nodes]
    assert "aten.tanh.default" in called
    assert "aten.relu.default" not in called


def test_a_recurrent_layer_has_its_gates_in_torchs_order(made: ModuleType, tmp_path: Path) -> None:
    torch.manual_seed(0)

    class Heard(torch.nn.Module):
        def __init__(self, kind: Any) -> None:
            super().__init__()
            self.rnn, self.head = kind(4, 8, batch_first=True, bidirectional=True), torch.nn.Linear(16, 3)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.head(self.rnn(x)[0][:, -1])

    x = torch.randn(ROWS, 5, 4)
    for kind in (torch.nn.LSTM, torch.nn.GRU, torch.nn.RNN):
        net = Heard(kind).eval()
        task = load(made.scripted(net, x[:2], tmp_path / "model.onnx", 17), saved(tmp_path, x=x))
        with torch.no_grad():
            torch.testing.assert_close(capture(task.model, x).run(x)[0], net(x), rtol=1e-4, atol=1e-5)
        assert "rnn.weight_hh_l0_reverse" in dict(task.model.named_parameters())


def test_what_another_tool_wrote_is_read(tmp_path: Path) -> None:
    """onnx ships files of torch's first exporter, in opset 6, which its converter raises."""
    folder = Path(onnx.__file__).parent / "backend" / "test" / "data" / "pytorch-converted"
    if not folder.is_dir():
        pytest.skip("this onnx ships no files of pytorch-converted")
    read = 0
    for name in ("test_Conv2d_padding", "test_BatchNorm2d_eval", "test_Conv2d_strided"):
        source = onnx.load(str(folder / name / "model.onnx"))
        source.graph.input[0].type.tensor_type.shape.dim[0].dim_param = "batch"
        path = tmp_path / f"{name}.onnx"
        onnx.save(onnx.version_converter.convert_version(source, 13), str(path))
        given = source.graph.input[0]
        sizes = [dim.dim_value for dim in given.type.tensor_type.shape.dim[1:]]
        x = np.random.default_rng(0).standard_normal((ROWS, *sizes)).astype(np.float32)
        task = load(path, saved(tmp_path, **{given.name: x}))
        read += bool(dict(task.model.named_parameters()))
    assert read == 3


def test_a_fit_of_a_file_ends_in_a_bundle_that_validates(made: ModuleType, tmp_path: Path) -> None:
    pytest.importorskip("openvino")  # which the made-up device imports
    from tests.support import roads, scripted

    path = made.scripted(made.residual(), made.images(2), tmp_path / "model.onnx", 17)
    task = load(path, saved(tmp_path, image=made.images(256), labels=np.arange(256) % 5))
    # Any INT8 form is as good on this subset: the first one is built, and no other.
    task = replace(task, evaluate_subset=lambda predict: 0.5)
    device = scripted.ScriptedDevice(roads.weights_ms)
    result = edgeprune.fit(task, speedup=2, max_drop=0.3, epochs=1, device=device, out=tmp_path / "run")
    assert result.verdict.kind == "fits"
    assert result.chosen.params < result.baseline.params
    assert result.chosen.layers_int8
    assert result.bundle is not None
    validation = validate(result.bundle, device)
    assert validation.verdict is not None
    assert validation.verdict.kind == "fits"


# Refusals --------------------------------------------------------------------------------------------


def small(
    path: Path,
    nodes: list[Any],
    *,
    stored: Mapping[str, np.ndarray] | None = None,
    kind: int = TensorProto.FLOAT,
    opset: int = 17,
) -> Path:
    """A file of x [batch, 8] -> y."""
    graph = helper.make_graph(
        nodes,
        "small",
        [helper.make_tensor_value_info("x", kind, ["batch", 8])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", "n"])],
        [numpy_helper.from_array(array, name) for name, array in (stored or {}).items()],
    )
    domains = [helper.make_opsetid("", opset), helper.make_opsetid("com.acme", 1)]
    onnx.save(helper.make_model(graph, opset_imports=domains, ir_version=9), str(path))
    return path


def numbers(folder: Path) -> Path:
    return saved(folder, x=np.random.default_rng(0).standard_normal((ROWS, 8)).astype(np.float32))


WEIGHT = np.random.default_rng(0).standard_normal((8, 3)).astype(np.float32)
node = helper.make_node
REFUSED: Mapping[str, tuple[list[Any], Mapping[str, np.ndarray], str]] = {
    "an operator that nobody knows": (
        [node("Frobnicate", ["x"], ["y"], "frob", domain="com.acme")],
        {},
        "does not load|com.acme.Frobnicate",
    ),
    "integers": (
        [
            node("QuantizeLinear", ["x", "s", "z"], ["q"], "quantise"),
            node("DequantizeLinear", ["q", "s", "z"], ["y"]),
        ],
        {"s": np.float32(0.1), "z": np.uint8(3)},
        "is quantised already: it has the operator QuantizeLinear",
    ),
    "halves": (
        [
            node("Cast", ["x"], ["h"], to=TensorProto.FLOAT16),
            node("Cast", ["h"], ["y"], to=TensorProto.FLOAT),
        ],
        {},
        "is float16",
    ),
    "noise": ([node("RandomNormalLike", ["x"], ["y"])], {}, "draws random numbers with RandomNormalLike"),
    "a sequence": (
        [node("SequenceConstruct", ["x"], ["s"], "list"), node("SequenceAt", ["s", "i"], ["y"])],
        {"i": np.int64(0)},
        "operator SequenceConstruct .node 'list'. makes no tensor",
    ),
    "sizes that values decide": (
        [
            node("ReduceSumSquare", ["x"], ["s"]),
            node("Cast", ["s"], ["n"], to=TensorProto.INT64),
            node("Reshape", ["n", "one"], ["shape"]),
            node("ConstantOfShape", ["shape"], ["y"], "made"),
        ],
        {"one": np.array([1])},
        "operator ConstantOfShape .node 'made'. is not translated: the sizes of its output depend on values",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_a_file_is_refused_with_the_operator(name: str, tmp_path: Path) -> None:
    nodes, stored, told = REFUSED[name]
    path = small(tmp_path / "model.onnx", nodes, stored={k: np.asarray(v) for k, v in stored.items()})
    with pytest.raises(InputError, match=told):
        load(path, numbers(tmp_path))


@pytest.mark.parametrize(
    "operator", ["DequantizeLinear", "DynamicQuantizeMatMul", "QEmbedLayerNormalization", "MatMulNBits"]
)
def test_operators_on_integers_are_no_operators_to_keep(operator: str, tmp_path: Path) -> None:
    """Whoever's they are: the dense model would be a quantised one."""
    domain = "" if operator == "DequantizeLinear" else "com.microsoft"
    path = small(tmp_path / "model.onnx", [node(operator, ["x", "s"], ["y"], "it", domain=domain)])
    model = onnx.load(str(path))
    model.opset_import.add(domain="com.microsoft", version=1)
    model.graph.initializer.append(numpy_helper.from_array(np.float32(0.1).reshape(()), "s"))
    onnx.save(model, str(path))
    with pytest.raises(InputError, match=rf"is quantised already: it has the operator \S*{operator}"):
        load(path, numbers(tmp_path))


def test_inputs_of_halves_and_texts_are_refused(tmp_path: Path) -> None:
    for kind, told in ((TensorProto.FLOAT16, "is float16"), (TensorProto.STRING, "is string")):
        path = small(tmp_path / "model.onnx", [node("Shape", ["x"], ["y"])], kind=kind)
        with pytest.raises(InputError, match=f"input 'x' {told}"):
            load(path, numbers(tmp_path))


def test_old_and_unknown_opsets_are_refused(tmp_path: Path) -> None:
    for opset in (6, 99):
        path = small(tmp_path / "model.onnx", [node("Relu", ["x"], ["y"])], opset=opset)
        with pytest.raises(InputError, match=r"opset|no valid ONNX model"):
            load(path, numbers(tmp_path))


@pytest.mark.parametrize("place", ["/etc/hostname", "../weights.bin", "sub/../../weights.bin", "gone.bin"])
def test_weights_outside_of_the_folder_are_refused(place: str, tmp_path: Path) -> None:
    folder = tmp_path / "files"
    folder.mkdir()
    (tmp_path / "weights.bin").write_bytes(WEIGHT.tobytes())
    path = small(folder / "model.onnx", [node("MatMul", ["x", "w"], ["y"])], stored={"w": WEIGHT})
    _moved(path, place)
    with pytest.raises(InputError, match="weight 'w' lies in"):
        load(path, numbers(tmp_path))


def test_a_link_out_of_the_folder_is_refused(tmp_path: Path) -> None:
    folder = tmp_path / "files"
    folder.mkdir()
    (tmp_path / "weights.bin").write_bytes(WEIGHT.tobytes())
    (folder / "weights.bin").symlink_to(tmp_path / "weights.bin")
    path = small(folder / "model.onnx", [node("MatMul", ["x", "w"], ["y"])], stored={"w": WEIGHT})
    _moved(path, "weights.bin")
    with pytest.raises(InputError, match="which is no file there"):
        load(path, numbers(tmp_path))


def test_a_weight_behind_the_end_of_its_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "weights.bin").write_bytes(WEIGHT.tobytes()[:-4])
    path = small(tmp_path / "model.onnx", [node("MatMul", ["x", "w"], ["y"])], stored={"w": WEIGHT})
    _moved(path, "weights.bin")
    with pytest.raises(InputError, match=r"cannot be read there|no valid ONNX model"):
        load(path, numbers(tmp_path))


def _moved(path: Path, place: str) -> None:
    """Move the weights of a file out of it, into `place`."""
    model = onnx.load(str(path))
    tensor = model.graph.initializer[0]
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    for key, value in (("location", place), ("offset", "0"), ("length", str(WEIGHT.nbytes))):
        tensor.external_data.add(key=key, value=value)
    path.write_bytes(model.SerializeToString())


def test_no_file_a_folder_and_no_data_are_refused(tmp_path: Path) -> None:
    path = small(tmp_path / "model.onnx", [node("MatMul", ["x", "w"], ["y"])], stored={"w": WEIGHT})
    (tmp_path / "folder.onnx").mkdir()
    (tmp_path / "text.onnx").write_text("no model")
    for name, told in (
        ("model", "was given without --data"),
        ("none", "does not exist"),
        ("folder", "is a folder"),
        ("text", "is not a file that onnx can read|holds no ONNX graph"),
    ):
        with pytest.raises(InputError, match=told):
            load(path.with_name(f"{name}.onnx"), None)
    assert load(path, numbers(tmp_path)).metric == "fidelity"


def test_several_outputs_have_the_names_of_the_file(tmp_path: Path) -> None:
    path = small(tmp_path / "model.onnx", [node("MatMul", ["x", "w"], ["y"])], stored={"w": WEIGHT})
    model = onnx.load(str(path))
    model.graph.node.append(node("Relu", ["y"], ["z"]))
    model.graph.output.append(helper.make_tensor_value_info("z", TensorProto.FLOAT, ["batch", "n"]))
    onnx.save(model, str(path))
    assert load(path, numbers(tmp_path), "y=classes,z=none").outputs == {"y": "classes", "z": "none"}
    assert load(path, numbers(tmp_path), "classes,none").outputs == ("classes", "none")


def test_a_wrong_translation_is_refused_where_it_first_differs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from edgeprune.translate.calls import TABLE, OnnxOperator

    monkeypatch.setitem(TABLE, "Tanh", OnnxOperator(lambda call, x: torch.sigmoid(x)))
    path = small(
        tmp_path / "model.onnx",
        [node("MatMul", ["x", "w"], ["a"]), node("Tanh", ["a"], ["b"], "squash"), node("Relu", ["b"], ["y"])],
        stored={"w": WEIGHT},
    )
    with pytest.raises(InputError, match=r"the first that differs is Tanh .node 'squash'."):
        load(path, numbers(tmp_path))


def test_the_verbs_take_an_onnx_file(made: ModuleType, tmp_path: Path) -> None:
    path = made.scripted(made.residual(), made.images(2), tmp_path / "model.onnx", 17)
    data = saved(tmp_path, image=made.images(ROWS), labels=np.arange(ROWS) % 4)
    line = [sys.executable, "-m", "edgeprune"]
    shown = subprocess.run(
        [*line, "inspect", str(path), "--data", str(data), "--json"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert '"units": 24' in shown.stdout
    out = tmp_path / "small.pt2"
    subprocess.run(
        [*line, "prune", str(path), "--data", str(data), "--ratio", "0.4", "-o", str(out)], check=True
    )
    assert load(out, data).metric == "top-1"

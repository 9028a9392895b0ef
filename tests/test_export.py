"""Export: the same function, traceable names, one clean file."""

from __future__ import annotations

import sys
import types
from collections import OrderedDict
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import numpy_helper
from torch import fx, nn

from edgeprune import export
from edgeprune.errors import EdgepruneError
from edgeprune.export import export_onnx, prove_equal, to_onnx
from edgeprune.graph import onnxfile
from edgeprune.graph.capture import Captured, capture
from tests.support import exports


@dataclass(frozen=True)
class Exported:
    captured: Captured
    path: Path

    @property
    def model(self) -> onnx.ModelProto:
        return onnxfile.load(self.path)


@pytest.fixture(scope="module", params=["residual", "masked"])
def exported(
    request: pytest.FixtureRequest, nets: ModuleType, tmp_path_factory: pytest.TempPathFactory
) -> Exported:
    captured = getattr(nets, request.param)()
    path = tmp_path_factory.mktemp("export") / f"{request.param}.onnx"
    export_onnx(captured, path)
    return Exported(captured, path)


def rows(captured: Captured, count: int) -> tuple[torch.Tensor, ...]:
    return tuple(tensor[:1].expand(count, *tensor.shape[1:]).contiguous() for tensor in captured.inputs)


def run(path: Path | bytes, captured: Captured, tensors: tuple[torch.Tensor, ...]) -> list[np.ndarray]:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    return session.run(None, {n: t.numpy() for n, t in zip(captured.input_names, tensors, strict=True)})


def test_the_file_computes_the_same_at_a_batch_that_was_never_traced(exported: Exported) -> None:
    tensors = rows(exported.captured, 5)
    expected = exported.captured.run(*tensors)
    for one, other in zip(expected, run(exported.path, exported.captured, tensors), strict=True):
        np.testing.assert_allclose(one.detach().numpy(), other, rtol=1e-3, atol=1e-5)


def test_inputs_outputs_and_the_batch_have_the_names_that_a_user_knows(exported: Exported) -> None:
    graph = exported.model.graph
    assert tuple(value.name for value in graph.input) == exported.captured.input_names
    expected = ["output", "output_1"][: len(graph.output)]
    assert [value.name for value in graph.output] == expected
    for value in (*graph.input, *graph.output):
        assert value.type.tensor_type.shape.dim[0].dim_param == "batch"


def test_every_named_value_is_what_its_captured_node_computes(exported: Exported) -> None:
    model = exported.model
    names = onnxfile.captured_names(model)
    computed = [name for node in model.graph.node for name in node.output if name in names]
    known = {value.name for value in model.graph.output}
    for name in computed:
        if name not in known:
            model.graph.output.append(onnx.ValueInfoProto(name=name))
    tensors = rows(exported.captured, 2)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    feeds = {n: t.numpy() for n, t in zip(exported.captured.input_names, tensors, strict=True)}
    found = session.run(computed, feeds)
    truth = Values(exported.captured.module).collect(tensors)
    assert len(computed) >= 12
    for name, array in zip(computed, found, strict=True):
        expected = truth[names[name]].numpy()
        np.testing.assert_allclose(
            array.reshape(expected.shape), expected, rtol=1e-3, atol=1e-4, err_msg=name
        )


class Values(fx.Interpreter):
    """Runs a captured graph and keeps what each node computed, before anything changes it in place."""

    def collect(self, tensors: tuple[torch.Tensor, ...]) -> dict[str, torch.Tensor]:
        self.kept: dict[str, torch.Tensor] = {}
        with torch.no_grad():
            self.run(*tensors, enable_io_processing=False)
        return self.kept

    def run_node(self, node: fx.Node) -> object:
        result = super().run_node(node)
        if isinstance(result, torch.Tensor):
            self.kept[node.name] = result.clone()
        return result


def test_layers_are_named_by_the_module_of_their_weight(exported: Exported) -> None:
    weights = {
        name.removesuffix(".weight")
        for name, parameter in exported.captured.module.named_parameters()
        if parameter.dim() > 1 and "embed" not in name
    }
    assert set(onnxfile.layers(exported.model).values()) == weights


def test_batch_norm_and_shape_arithmetic_are_gone(nets: ModuleType, exported: Exported) -> None:
    operators = {node.op_type for node in exported.model.graph.node}
    assert not operators & {"BatchNormalization", "ReduceMean"}


def test_the_file_holds_nothing_of_the_host(exported: Exported) -> None:
    content = exported.path.read_bytes()
    assert str(Path(__file__).parent).encode() not in content
    assert b"stack_trace" not in content
    assert sorted(exported.path.parent.glob("*")) == [exported.path]


def test_export_is_silent_and_leaves_the_graph_as_it_was(
    nets: ModuleType, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    captured = nets.masked()
    before = [(node.name, dict(node.meta.get("custom", {}))) for node in captured.module.graph.nodes]
    export_onnx(captured, tmp_path / "model.onnx")
    assert [(n.name, dict(n.meta.get("custom", {}))) for n in captured.module.graph.nodes] == before
    assert capfd.readouterr() == ("", "")


class Flat(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = nn.Linear(12, 12), nn.Linear(12, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = x.view(x.shape[0], -1)
        return self.two(self.one(self.one(x)))


def test_a_view_keeps_the_batch_without_shape_arithmetic_and_shared_layers_keep_one_name(
    tmp_path: Path,
) -> None:
    path = export_onnx(capture(Flat(), torch.randn(1, 3, 4)), tmp_path / "flat.onnx")
    model = onnxfile.load(path)
    assert [node.op_type for node in model.graph.node] == ["Reshape", "Gemm", "Gemm", "Gemm"]
    assert list(onnxfile.layers(model).values()) == ["one", "one", "two"]
    assert len({node.name for node in model.graph.node}) == 4


class Reordered(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.one = nn.Linear(4, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.one(x)[:, torch.tensor([2, 0])]


def test_a_constant_written_in_forward_exports(tmp_path: Path) -> None:
    path = export_onnx(capture(Reordered(), torch.randn(2, 4)), tmp_path / "model.onnx")
    assert list(onnxfile.layers(onnxfile.load(path)).values()) == ["one"]


class Gated(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.cells = nn.GRU(4, 3, num_layers=2, bidirectional=True, batch_first=True)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.cells(x)[0]


def test_a_gru_computes_torchs_formula(tmp_path: Path) -> None:
    captured = capture(Gated(), torch.randn(2, 5, 4))
    path = export_onnx(captured, tmp_path / "model.onnx")
    tensors = rows(captured, 3)
    expected = captured.run(*tensors)[0].detach().numpy()
    np.testing.assert_allclose(run(path, captured, tensors)[0], expected, rtol=1e-4, atol=1e-6)


class Branching(nn.Module):
    """Both branches take a value that is also an output; a weight has the name that an output gets."""

    def __init__(self) -> None:
        super().__init__()
        self.one = nn.Linear(4, 3)
        self.output = nn.Parameter(torch.randn(3))

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        x = self.one(x)
        found = torch.cond(x.sum() > 0, lambda x: x.relu() + 1, lambda x: x * 2, (x,))
        return x, found * self.output


def test_a_branch_takes_values_from_around_it(tmp_path: Path) -> None:
    captured = capture(Branching(), torch.randn(2, 4))
    path = export_onnx(captured, tmp_path / "model.onnx")
    for tensor in (torch.full((3, 4), 5.0), torch.full((3, 4), -5.0)):
        expected = captured.run(tensor)
        for one, other in zip(expected, run(path, captured, (tensor,)), strict=True):
            np.testing.assert_allclose(one.detach().numpy(), other, rtol=1e-4, atol=1e-6)
    _, *branches = onnxfile.graphs(onnxfile.load(path).graph)
    assert len(branches) == 2
    assert b"stack_trace" not in path.read_bytes()
    assert all(not node.metadata_props for branch in branches for node in branch.node)


class Pooled(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.one, self.pool, self.words = nn.Conv2d(3, 4, 3), nn.AdaptiveAvgPool2d(1), nn.AdaptiveAvgPool1d(1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.one(x)
        return self.pool(x).flatten(1) + self.words(x.flatten(2)).flatten(1)


def test_pools_of_channels_last_images_are_means_without_a_loop(tmp_path: Path) -> None:
    image = torch.randn(2, 3, 8, 8).to(memory_format=torch.channels_last)
    path = export_onnx(capture(Pooled(), image), tmp_path / "model.onnx")
    operators = [node.op_type for node in onnxfile.load(path).graph.node]
    assert set(operators) <= {
        "Conv",
        "GlobalAveragePool",
        "Reshape",
        "Unsqueeze",
        "ReduceMean",
        "Squeeze",
        "Add",
    }


class Placed(nn.Module):
    """Attention with a learned bias between positions."""

    def __init__(self) -> None:
        super().__init__()
        self.enter, self.places = nn.Linear(8, 24), nn.Parameter(torch.randn(1, 2, 5, 5))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        parts = (part.unflatten(-1, (2, 4)).transpose(1, 2) for part in self.enter(x).chunk(3, -1))
        found = nn.functional.scaled_dot_product_attention(*parts, attn_mask=self.places)
        return found.transpose(1, 2).reshape(x.shape)


def test_attention_with_a_learned_bias_exports_and_stays_trainable(tmp_path: Path) -> None:
    captured = capture(Placed(), torch.randn(2, 5, 8))
    captured.module.enter.bias.requires_grad_(False)  # the user's choice is kept too
    export_onnx(captured, tmp_path / "model.onnx")
    trained = {name for name, each in captured.module.named_parameters() if each.requires_grad}
    assert trained == {"enter.weight", "places"}


class Bessel(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.special.bessel_j0(x)


def test_an_operator_without_onnx_form_is_named_as_the_model_has_it_with_its_line(tmp_path: Path) -> None:
    expected = (
        r"operator aten\.special_bessel_j0\.default "
        r"\(\S*test_export\.py, line \d+: return torch\.special\.bessel_j0\(x\)\) "
        r"cannot be translated: onnxscript has no form of prims\.bessel_j0\.default\. "
    )
    with pytest.raises(EdgepruneError, match=expected):
        export_onnx(capture(Bessel(), torch.randn(2, 3)), tmp_path / "model.onnx")
    assert list(tmp_path.iterdir()) == []


class Histogram(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + torch.histc(x.sum(0), bins=3)


def test_a_use_of_an_operator_that_has_no_onnx_form_keeps_the_reason(tmp_path: Path) -> None:
    with pytest.raises(EdgepruneError, match=r"operator aten\.histc\.default .* translated: .*min == max"):
        export_onnx(capture(Histogram(), torch.randn(2, 3)), tmp_path / "model.onnx")


class Projected(nn.Module):
    """ONNX has no LSTM with a projection, but the exporter writes one."""

    def __init__(self) -> None:
        super().__init__()
        self.cells = nn.LSTM(4, 3, proj_size=2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.cells(x.transpose(0, 1))[0].transpose(0, 1)


def test_a_file_that_does_not_run_is_refused_with_the_runtimes_words(tmp_path: Path) -> None:
    with pytest.raises(EdgepruneError, match=r"does not run .* on x \[2, 5, 4\]: .*LSTM"):
        export_onnx(capture(Projected(), torch.randn(2, 5, 4)), tmp_path / "model.onnx")
    assert list(tmp_path.iterdir()) == []


@dataclass(frozen=True)
class Damage:
    name: str
    value: float
    expected: str


@pytest.mark.parametrize(
    "damage",
    [
        Damage("a weight that is off", 1.0, r"Output output .* differs from the model by [0-9.]+ .*0\.0001"),
        Damage("a weight that is NaN", float("nan"), r"Output output .* differs from the model by inf"),
    ],
    ids=lambda damage: damage.name,
)
def test_the_proof_refuses(damage: Damage, nets: ModuleType, tmp_path: Path) -> None:
    torch.manual_seed(0)
    captured = capture(nn.Linear(4, 2), torch.randn(1, 4))
    model = to_onnx(captured)
    tensor = next(t for t in model.graph.initializer if t.name == "bias")
    tensor.CopyFrom(numpy_helper.from_array(np.array([damage.value, 0.0], np.float32), "bias"))
    with pytest.raises(EdgepruneError, match=damage.expected):
        prove_equal(captured, model)


class Steps(nn.Module):
    """Two layers and an in-place operation, each on a line of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.third = nn.Linear(8, 16), nn.Linear(16, 8), nn.Linear(8, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.first(x)
        x = x.relu_()
        x = self.second(x)
        return self.third(x)


@pytest.mark.parametrize("layer", ["first", "second", "third"])
def test_a_failed_proof_names_the_first_operator_that_differs_with_its_line(layer: str) -> None:
    captured = capture(Steps(), torch.randn(2, 8))
    model = to_onnx(captured)
    tensor = next(t for t in model.graph.initializer if t.name == f"{layer}.bias")
    tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor) + 1, tensor.name))
    place = (
        rf"first that differs is operator aten\.linear\.default \(\S*\.py, line \d+: .*self\.{layer}\(x\)\)"
    )
    with pytest.raises(EdgepruneError, match=place):
        prove_equal(captured, model)


def test_a_fault_behind_the_last_value_that_is_known_says_so() -> None:
    captured = capture(Steps(), torch.randn(2, 8))
    model = to_onnx(captured)
    last = model.graph.node[-1]
    last.output[0] = "before"
    onnxfile.keep_values(last, last)
    model.graph.node.append(onnx.helper.make_node("Neg", ["before"], ["output"]))
    with pytest.raises(EdgepruneError, match="everything before it is equal"):
        prove_equal(captured, model)


def test_a_model_that_fails_its_proof_does_not_replace_the_file_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(b"before")

    def refuse(captured: Captured, model: onnx.ModelProto) -> None:
        raise EdgepruneError(f"no: {len(model.graph.node)} nodes", "none")

    monkeypatch.setattr(export, "prove_equal", refuse)
    with pytest.raises(EdgepruneError, match="no: 1 nodes"):
        export_onnx(capture(nn.Linear(4, 2), torch.randn(1, 4)), path)
    assert path.read_bytes() == b"before"
    assert list(tmp_path.iterdir()) == [path]


def test_the_table_of_translations_is_made_once(
    nets: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from torch.onnx._internal.exporter._registration import ONNXRegistry

    made = vars(ONNXRegistry)["from_torchlib"]
    captured = nets.masked()
    one = export_onnx(captured, tmp_path / "one.onnx").read_bytes()
    monkeypatch.setattr(ONNXRegistry, "_register", lambda *args: pytest.fail("another table is made"))
    assert export_onnx(captured, tmp_path / "other.onnx").read_bytes() == one
    assert vars(ONNXRegistry)["from_torchlib"] is made, "nobody else's exports are changed"


def test_a_torch_that_keeps_its_table_elsewhere_exports_all_the_same(
    nets: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    captured = nets.masked()
    one = export_onnx(captured, tmp_path / "one.onnx").read_bytes()
    name = "torch.onnx._internal.exporter._registration"
    elsewhere, renamed = types.ModuleType(name), types.ModuleType(name)
    renamed.ONNXRegistry = type("ONNXRegistry", (), {})  # type: ignore[attr-defined]
    for registration in (elsewhere, renamed):
        monkeypatch.setitem(sys.modules, name, registration)
        assert export_onnx(captured, tmp_path / "other.onnx").read_bytes() == one


def test_an_export_that_tests_remember_is_the_one_that_is_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """tests/support/exports.py: the same bytes for the same network, and never those of another."""
    captured = capture(torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.ReLU()), torch.randn(2, 3))
    made = export_onnx(captured, tmp_path / "made.onnx").read_bytes()
    exports.remember(monkeypatch.setattr)
    monkeypatch.setattr(exports, "_known", OrderedDict())
    calls: list[object] = []
    translate = exports._translate
    monkeypatch.setattr(exports, "_translate", lambda *a, **k: calls.append(a) or translate(*a, **k))
    for name in ("first", "second"):
        assert export_onnx(captured, tmp_path / name).read_bytes() == made
    assert len(calls) == 1
    with torch.no_grad():
        captured.module.get_parameter("0.bias")[0] += 1
    assert export_onnx(captured, tmp_path / "other.onnx").read_bytes() != made
    assert len(calls) == 2

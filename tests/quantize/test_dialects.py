"""INT8 emission: the runtime's integer kernels take the whole graph, and accuracy stays."""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass, replace
from pathlib import Path
from types import ModuleType

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import numpy_helper

from edgeprune.devices import agent
from edgeprune.errors import EdgepruneError, InputError
from edgeprune.export import export_onnx
from edgeprune.graph import onnxfile
from edgeprune.graph.capture import Captured, capture
from edgeprune.quantize.calibrate import calibrate
from edgeprune.quantize.dialects import TABLE, check_dialect, dialect_for
from edgeprune.quantize.ranges import Ranges
from edgeprune.records.machine import Target
from edgeprune.runtimes import TABLE as TABLE_OF_RUNTIMES
from edgeprune.runtimes import Runtime
from tests.support.int8_files import quantise
from tests.support.kernels import integer_nodes

pytestmark = pytest.mark.usefixtures("exports_once")


@dataclass(frozen=True)
class Calibrated:
    captured: Captured
    path: Path
    ranges: Ranges


@pytest.fixture(scope="module")
def residual(nets: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> Calibrated:
    captured = nets.residual()
    path = export_onnx(captured, tmp_path_factory.mktemp("dialects") / "float.onnx")
    return Calibrated(captured, path, calibrate(captured, nets.images(4, 4), "minmax"))


def session(path: Path) -> onnxruntime.InferenceSession:
    """Exact INT8 arithmetic also on x86 machines without VNNI, so that every machine sees the same."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.add_session_config_entry("session.x64quantprecision", "1")
    return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])


@pytest.mark.parametrize("dialect", sorted(set(TABLE) - {"tensorrt"}))
def test_a_convolutional_network_runs_on_integers_from_end_to_end(
    dialect: str, residual: Calibrated, nets: ModuleType, tmp_path: Path
) -> None:
    found = quantise(residual.path, residual.ranges, dialect, tmp_path / "int8.onnx")
    assert found.layers_float == ()
    assert len(found.layers_int8) == nets.Residual.convolutions + 1
    if "Concat" not in TABLE[dialect].joins:
        return  # float in front of it on purpose, and not ONNX Runtime's to run
    kernels = integer_nodes(found.path)
    assert kernels.integer["QLinearConv"] == nets.Residual.convolutions
    assert kernels.integer["QLinearAdd"] == nets.Residual.additions
    assert kernels.integer["QLinearMul"] == nets.Residual.multiplications
    assert kernels.integer["QGemm"] == 1
    assert kernels.floating == {}
    assert kernels.conversions == {"QuantizeLinear": 1}  # the image


@pytest.mark.parametrize("dialect", sorted(TABLE))
def test_int8_computes_nearly_what_float_does(
    dialect: str, residual: Calibrated, nets: ModuleType, tmp_path: Path
) -> None:
    found = quantise(residual.path, residual.ranges, dialect, tmp_path / "int8.onnx")
    image = nets.images(1, 64, seed=2)[0][0].numpy()
    expected = session(residual.path).run(None, {"image": image})[0]
    computed = agent.load_module("ort.py").Runner(str(found.path), 1, exact=True).run({"image": image})[0]
    spread = (expected - expected.mean(0)).std()  # what tells images apart
    assert 0 < np.sqrt(((computed - expected) ** 2).mean()) < 0.1 * spread


def test_the_file_is_smaller_than_a_third_and_holds_no_float_weight(nets: ModuleType, tmp_path: Path) -> None:
    torch.manual_seed(0)
    captured = capture(
        torch.nn.Sequential(nets.conv(3, 64, 3), torch.nn.ReLU(), nets.conv(64, 64, 3)),
        torch.randn(1, 3, 32, 32),
    )
    path = export_onnx(captured, tmp_path / "float.onnx")
    ranges = calibrate(captured, nets.images(1, 2), "minmax")
    found = quantise(path, ranges, "onnxruntime-x86", tmp_path / "int8.onnx")
    assert found.path.stat().st_size < 0.3 * path.stat().st_size
    sizes = {
        tensor.data_type: int(np.prod(tensor.dims)) for tensor in onnxfile.load(found.path).graph.initializer
    }
    assert sizes[onnx.TensorProto.FLOAT] <= 64  # scales, one per channel


def test_a_layer_that_is_asked_for_stays_float_and_the_rest_does_not(
    residual: Calibrated, nets: ModuleType, tmp_path: Path
) -> None:
    found = quantise(
        residual.path,
        residual.ranges,
        "onnxruntime-x86",
        tmp_path / "q.onnx",
        float_layers=["stem.0", "head"],
    )
    assert found.layers_float == ("stem.0", "head")
    kernels = integer_nodes(found.path)
    assert kernels.integer["QLinearConv"] == nets.Residual.convolutions - 1
    assert "QGemm" not in kernels.integer
    weights = {t.name: t.data_type for t in onnxfile.load(found.path).graph.initializer}
    assert weights["stem.0.weight"] == weights["head.weight"] == onnx.TensorProto.FLOAT


def test_a_tensor_without_a_range_stays_float_and_gets_no_scale(residual: Calibrated, tmp_path: Path) -> None:
    bounds = {name: bound for name, bound in residual.ranges.bounds.items() if name != "relu"}
    found = quantise(
        residual.path, replace(residual.ranges, bounds=bounds), "onnxruntime-x86", tmp_path / "q.onnx"
    )
    assert found.layers_float[0] == "stem.0"  # its kernel would have to write that tensor
    model = onnxfile.load(found.path)
    relu = next(value for value, name in onnxfile.captured_names(model).items() if name == "relu")
    assert not [n for n in model.graph.node if n.op_type == "QuantizeLinear" and n.input[0] == relu]


@pytest.mark.parametrize("reduce_range", [False, True], ids=["8 bits", "7 bits"])
def test_weights_use_the_bits_they_may(reduce_range: bool, residual: Calibrated, tmp_path: Path) -> None:
    path = tmp_path / "q.onnx"
    quantise(residual.path, residual.ranges, "onnxruntime-x86", path, reduce_range=reduce_range)
    graph = onnxfile.load(path).graph
    largest = {
        tensor.name: int(np.abs(numpy_helper.to_array(tensor).astype(int)).max())
        for tensor in graph.initializer
        if tensor.name.endswith(".weight.int8")
    }
    assert set(largest.values()) == {64 if reduce_range else 127}


def test_a_graph_output_between_layers_keeps_its_name_and_value(nets: ModuleType, tmp_path: Path) -> None:
    class Features(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.one, self.two = nets.conv(3, 8, 3), nets.conv(8, 8, 3)

        def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            x = torch.relu(self.one(x))
            return x, self.two(x)

    torch.manual_seed(0)
    captured = capture(Features(), torch.randn(1, 3, 32, 32))
    path = export_onnx(captured, tmp_path / "float.onnx")
    found = quantise(
        path, calibrate(captured, nets.images(1, 4), "minmax"), "onnxruntime-x86", tmp_path / "q.onnx"
    )
    opened = session(found.path)
    assert [value.name for value in opened.get_outputs()] == ["output", "output_1"]
    image = nets.images(1, 4)[0][0].numpy()
    for one, other in zip(opened.run(None, {"x": image}), session(path).run(None, {"x": image}), strict=True):
        assert np.abs(one - other).max() < 0.03 * np.abs(other).max()
    assert integer_nodes(found.path).integer == {"QLinearConv": 2}


def test_transformer_layers_become_integer_matrix_products(nets: ModuleType, tmp_path: Path) -> None:
    captured = nets.masked()
    path = export_onnx(captured, tmp_path / "float.onnx")
    ranges = calibrate(captured, [captured.inputs], "minmax")
    found = quantise(path, ranges, "onnxruntime-x86", tmp_path / "q.onnx")
    assert found.layers_int8 == ("query", "key", "value")
    assert integer_nodes(found.path).integer == {"MatMulIntegerToFloat": 3}


class Token(torch.nn.Module):
    """[N, 3, 8, 8] -> [N, 8] as a ViT begins: a token far smaller than the patches that it is joined with."""

    def __init__(self) -> None:
        super().__init__()
        self.patches, self.norm = torch.nn.Conv2d(3, 8, 4, 4), torch.nn.LayerNorm(8)
        self.token = torch.nn.Parameter(torch.linspace(-1e-3, 1e-3, 8).reshape(1, 1, 8))
        self.head = torch.nn.Linear(8, 8)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        patches = 30 * self.patches(x).flatten(2).transpose(1, 2)
        joined = torch.cat([self.token.expand(x.shape[0], 1, 8), patches], 1)
        return self.head(self.norm(joined))[:, 0]


@pytest.mark.parametrize("dialect", ["onnxruntime-x86", "openvino"])
def test_a_value_that_no_layer_reads_does_not_pass_through_integers(dialect: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    image = torch.randn(4, 3, 8, 8)
    captured = capture(Token().eval(), image)
    path = export_onnx(captured, tmp_path / "float.onnx")
    found = quantise(path, calibrate(captured, [(image,)], "minmax"), dialect, tmp_path / "q.onnx")
    assert found.layers_float == ()
    one, other = (session(each).run(None, {"x": image.numpy()})[0] for each in (found.path, path))
    assert np.abs(one - other).max() < 0.05 * np.abs(other).max()


def test_ranges_of_another_model_are_refused(residual: Calibrated, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"No layer of the model can become INT8"):
        quantise(residual.path, Ranges({}, "minmax", 1), "onnxruntime-x86", tmp_path / "q.onnx")
    assert list(tmp_path.iterdir()) == []


def test_an_unknown_layer_is_refused_with_the_nearest_name(residual: Calibrated, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r'names "stem\.conv"') as refused:
        quantise(
            residual.path,
            residual.ranges,
            "onnxruntime-x86",
            tmp_path / "q.onnx",
            float_layers=["stem.conv"],
        )
    assert "stem.0" in refused.value.hint


def test_a_file_that_the_runtime_does_not_load_is_an_error(tmp_path: Path) -> None:
    node = onnx.helper.make_node("NoSuchOperator", ["x"], ["y"])
    value = [onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [1]) for name in "xy"]
    graph = onnx.helper.make_graph([node], "g", value[:1], value[1:])
    path = tmp_path / "bad.onnx"
    onnx.save(onnx.helper.make_model(graph), str(path))
    with pytest.raises(EdgepruneError, match=r"does not load .*NoSuchOperator"):
        integer_nodes(path)


@pytest.mark.parametrize(
    ("architecture", "expected"),
    [
        ("x86_64", "onnxruntime-x86"),
        ("AMD64", "onnxruntime-x86"),
        ("aarch64", "onnxruntime-arm"),
        ("arm64", "onnxruntime-arm"),
        ("armv7l", "onnxruntime-arm"),
    ],
)
def test_auto_is_the_dialect_of_the_machine(architecture: str, expected: str) -> None:
    assert dialect_for("auto", architecture).name == expected
    assert dialect_for("onnxruntime-arm", architecture).name == "onnxruntime-arm"


@pytest.mark.parametrize("row", TABLE_OF_RUNTIMES.values(), ids=lambda row: row.name)
def test_auto_is_the_own_dialect_of_every_runtime(row: Runtime) -> None:
    own = {dialect_for("auto", machine, row.name).name for machine in ("x86_64", "aarch64")}
    assert own == set(row.dialects)


def test_a_target_is_refused_where_its_runtime_or_its_machine_has_no_kernels() -> None:
    target = Target("mine", "", "onnxruntime", "onnxruntime-x86", "local", 8)
    check_dialect(target, "x86_64")
    with pytest.raises(InputError, match="dialect onnxruntime-x86, and the profile's machine is aarch64"):
        check_dialect(target, "aarch64")
    with pytest.raises(InputError, match="for openvino in the dialect onnxruntime-x86"):
        check_dialect(replace(target, runtime="openvino"), "x86_64")


def test_an_unknown_dialect_or_machine_is_refused_with_the_known_ones() -> None:
    with pytest.raises(InputError, match='no INT8 dialect "tflite"') as refused:
        dialect_for("tflite", "x86_64")
    assert "onnxruntime-arm" in refused.value.hint
    with pytest.raises(InputError, match='architecture "riscv64"'):
        dialect_for("auto", "riscv64")


def load_module(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"shared_{path.stem}", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_int8_resnet20_keeps_its_accuracy_on_cifar10(shared_data: Path, tmp_path: Path) -> None:
    """91.7 % in float; INT8 may lose 0.3 points with either calibrator."""
    from safetensors.torch import load_file

    cifar = load_module(shared_data / "load_cifar10.py")
    net = load_module(shared_data / "models.py").CifarResNet(20)
    net.load_state_dict(load_file(shared_data / "resnet20_cifar10.safetensors"))
    mean, std = (np.array(v, np.float32)[:, None, None] for v in (cifar.MEAN, cifar.STD))
    order = np.random.default_rng(0).permutation
    pixels, labels, _ = cifar.load(shared_data / "cifar10_test.npz")
    chosen = order(len(pixels))[:2000]
    images, labels = (pixels[chosen] / np.float32(255) - mean) / std, labels[chosen]
    training = cifar.load(shared_data / "cifar10_train_a.npz")[0]
    training = torch.from_numpy((training[order(len(training))[:256]] / np.float32(255) - mean) / std)

    captured = capture(net, training[:1])
    path = export_onnx(captured, tmp_path / "float.onnx")

    def accuracy(file: Path) -> float:
        opened = session(file)
        logits = [opened.run(None, {"x": images[at : at + 200]})[0] for at in range(0, len(images), 200)]
        return float((np.concatenate(logits).argmax(1) == labels).mean())

    dense = accuracy(path)
    assert dense > 0.91
    for calibrator in ("minmax", "kl"):
        ranges = calibrate(captured, [(batch,) for batch in training.split(64)], calibrator)
        found = quantise(path, ranges, "onnxruntime-x86", tmp_path / "int8.onnx")
        assert found.layers_float == ()
        assert found.path.stat().st_size < 0.3 * path.stat().st_size
        assert accuracy(found.path) > dense - 0.003

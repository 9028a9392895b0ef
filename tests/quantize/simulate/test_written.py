"""What a runtime computes is what the file's integers say: the fake-quantised graph is the reference."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper
from torch import nn

from edgeprune import runtimes
from edgeprune.devices import agent
from edgeprune.errors import EdgepruneError
from edgeprune.export import export_onnx
from edgeprune.graph.capture import Captured, capture
from edgeprune.quantize import weight_only
from edgeprune.quantize.calibrate import calibrate
from edgeprune.quantize.dialects import TABLE
from edgeprune.quantize.simulate import written as module
from edgeprune.quantize.simulate.bias_correction import correct_means
from edgeprune.quantize.simulate.written import fake_quantised, proven_integers
from edgeprune.runtimes import ort
from edgeprune.search.agreement import LARGEST_ERROR, relative_error
from tests.support.int8_files import Written, compress_weights, quantise, quantise_dynamic

pytestmark = pytest.mark.usefixtures("exports_once")

# Each runtime with the dialects that it is served in, here or on another machine.
PAIRS = (
    ("onnxruntime", "onnxruntime-x86"),
    ("onnxruntime", "onnxruntime-arm"),
    ("onnxruntime", "tensorrt"),  # the host's check of what a GPU will serve
    ("openvino", "openvino"),
)


class Residual(nn.Module):
    """Folded norms, a ReLU6, a depthwise convolution, a residual, a SiLU, a concatenation, a classifier."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.norm = nn.Conv2d(3, 16, 3, padding=1, bias=False), nn.BatchNorm2d(16)
        self.depthwise = nn.Conv2d(16, 16, 3, padding=1, groups=16)
        self.point, self.wide = nn.Conv2d(16, 16, 1), nn.Conv2d(32, 24, 3, stride=2)
        self.head = nn.Linear(24, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.relu(self.norm(self.stem(x)))
        inner = torch.nn.functional.hardtanh(self.depthwise(x), 0.0, 6.0)
        y = torch.nn.functional.silu(self.point(inner) + x)
        return self.head(torch.relu(self.wide(torch.cat([x, y], 1))).mean((2, 3)))


class Attention(nn.Module):
    """A transformer block: normed, with dropout before a layer, two outputs in a dict."""

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.qkv, self.out = nn.LayerNorm(32), nn.Linear(32, 96), nn.Linear(32, 32)
        self.up, self.down, self.dropout = nn.Linear(32, 64), nn.Linear(64, 32), nn.Dropout()

    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        q, k, v = self.qkv(self.norm(x)).unflatten(-1, (3, 4, 8)).permute(2, 0, 3, 1, 4)
        mixed = torch.nn.functional.scaled_dot_product_attention(q, k, v)
        x = x + self.out(self.dropout(mixed.transpose(1, 2).flatten(2)))
        y = x + self.down(torch.nn.functional.gelu(self.up(self.dropout(x))))
        return {"hidden": y, "pooled": y.mean(1)}


NETWORKS = {"Residual": (Residual, (3, 12, 12)), "Attention": (Attention, (10, 32))}


@pytest.fixture(params=NETWORKS)
def made(request: pytest.FixtureRequest) -> tuple[Captured, torch.Tensor]:
    kind, shape = NETWORKS[request.param]
    torch.manual_seed(0)
    return capture(kind().eval(), torch.randn(2, *shape)), torch.randn(32, *shape)


def written(captured: Captured, data: torch.Tensor, dialect: str, folder: Path, **choices: Any) -> Path:
    exported = export_onnx(captured, folder / "float.onnx")
    ranges = correct_means(captured, calibrate(captured, [(data,)], "minmax"), TABLE[dialect], [(data,)])
    return quantise(exported, ranges, dialect, folder / "int8.onnx", **choices).path


def served(runtime: str, path: Path, captured: Captured, data: torch.Tensor) -> list[Any]:
    file = agent.load_module(runtimes.find(runtime).file)
    runner = file.Runner(str(path), 1, exact=runtime == "onnxruntime")
    answers: list[Any] = runner.run({captured.input_names[0]: data.numpy()})
    return answers


@dataclass(frozen=True)
class Form:
    """A file without Q/DQ pairs. least: how far its rounding moves outputs, at the least."""

    name: str
    write: Callable[[Path, Path], Written]
    least: float


def in_blocks(bits: int, block: int, level: int) -> Form:
    form = weight_only.WeightFormat(bits, block, symmetric=bits == 8)
    return Form(
        f"{bits} bits in blocks of {block}, level {level}",
        lambda source, path: compress_weights(source, path, form, accuracy_level=level),
        1e-4,
    )


FORMS = (
    Form("ranges of each query", quantise_dynamic, 1e-4),
    Form("the same, 7 bits", lambda x, y: quantise_dynamic(x, y, reduce_range=True), 1e-4),
    in_blocks(8, 128, 4),
    in_blocks(8, 128, 1),
    in_blocks(4, 32, 4),
    in_blocks(4, 32, 1),
)


class Wide(nn.Module):
    """A gated pair of layers on one input, one with a bias; a norm; a head whose inputs fill no block."""

    def __init__(self) -> None:
        super().__init__()
        self.gate, self.up = nn.Linear(160, 136, bias=False), nn.Linear(160, 136)
        self.norm, self.small, self.head = nn.LayerNorm(136), nn.Linear(136, 3), nn.Linear(136, 132)

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        x = self.norm(torch.nn.functional.silu(self.gate(x)) * self.up(x))
        return self.head(x), self.small(x)


@pytest.mark.parametrize("form", FORMS, ids=lambda form: form.name)
@pytest.mark.parametrize("shape", [(160,), (6, 160)], ids=["Gemm", "MatMul"])
def test_a_file_without_pairs_is_computed_as_its_operators_say(
    form: Form, shape: tuple[int, ...], tmp_path: Path
) -> None:
    torch.manual_seed(0)
    captured, data = capture(Wide().eval(), torch.randn(2, *shape)), torch.randn(12, *shape)
    written = form.write(export_onnx(captured, tmp_path / "float.onnx"), tmp_path / "int.onnx")
    assert {"gate", "up", "head"} <= set(written.layers_int8)
    with torch.no_grad():
        exact = [output.numpy() for output in captured.run(data)]
    for batch in (None, 4):
        reference = proven_integers(captured, written.model, (data,), batch)
        assert relative_error(reference, exact) > form.least, "nothing was rounded"
        runner = ort.Runner(str(written.path), 1, exact=True)
        size = batch or len(data)
        parts = [
            runner.run({captured.input_names[0]: data[at : at + size].numpy()})
            for at in range(0, len(data), size)
        ]
        found = [np.concatenate(column) for column in zip(*parts, strict=True)]
        assert relative_error(found, reference) < LARGEST_ERROR / 4  # values on an edge fall to either side


def test_a_range_is_that_of_the_query_that_the_rows_came_in(tmp_path: Path) -> None:
    torch.manual_seed(0)
    captured, data = capture(Wide().eval(), torch.randn(2, 160)), torch.randn(4, 160)
    data[2:] *= 100
    path = quantise_dynamic(export_onnx(captured, tmp_path / "float.onnx"), tmp_path / "int.onnx").path
    with torch.no_grad():
        exact = [output.numpy()[:2] for output in captured.run(data)]
    together, apart = (fake_quantised(captured, onnx.load(path), (data,), batch) for batch in (None, 2))
    assert relative_error([a[:2] for a in apart], exact) < 0.1
    assert relative_error([a[:2] for a in together], exact) > 0.3


def test_a_wrong_block_of_weights_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As if the runtime read every block from its end."""
    torch.manual_seed(0)
    captured, data = capture(Wide().eval(), torch.randn(2, 160)), torch.randn(12, 160)
    path = in_blocks(4, 32, 4).write(export_onnx(captured, tmp_path / "f.onnx"), tmp_path / "int.onnx").path
    model = onnx.load(path)
    blocks = {node.input[1] for node in model.graph.node if node.op_type == "MatMulNBits"}
    for tensor in model.graph.initializer:
        if tensor.name in blocks:
            turned = numpy_helper.to_array(tensor)[..., ::-1].copy()
            tensor.CopyFrom(numpy_helper.from_array(turned, tensor.name))
    reference = fake_quantised(captured, onnx.load(path), (data,))
    monkeypatch.setattr(module, "fake_quantised", lambda *given: reference)
    with pytest.raises(EdgepruneError, match="its own integers in exact arithmetic"):
        proven_integers(captured, model, (data,))


@pytest.mark.parametrize("pair", PAIRS, ids="-".join)
def test_a_runtime_computes_what_the_integers_of_the_file_say(
    pair: tuple[str, str], made: tuple[Captured, torch.Tensor], tmp_path: Path
) -> None:
    runtime, dialect = pair
    if runtimes.version(runtime) is None:
        pytest.skip(f"{runtime} is not installed")
    captured, data = made
    # OpenVINO has no exact arithmetic; without VNNI 7-bit weights do not saturate in it.
    path = written(captured, data, dialect, tmp_path, reduce_range=runtime == "openvino")
    reference = fake_quantised(captured, onnx.load(path), (data,))
    assert relative_error(served(runtime, path, captured, data), reference) < LARGEST_ERROR
    with torch.no_grad():
        exact = [output.numpy() for output in captured.run(data)]
    assert relative_error(reference, exact) > 1e-4, "nothing was rounded, so the comparison proves nothing"
    for proven, simulated in zip(proven_integers(captured, onnx.load(path), (data,)), reference, strict=True):
        np.testing.assert_array_equal(proven, simulated)


def test_a_wrong_integer_shows(made: tuple[Captured, torch.Tensor], tmp_path: Path) -> None:
    captured, data = made
    path = written(captured, data, "onnxruntime-x86", tmp_path)
    reference = fake_quantised(captured, onnx.load(path), (data,))
    model = onnx.load(str(path))
    weight = next(tensor for tensor in model.graph.initializer if tensor.name.endswith(".weight.int8"))
    weight.raw_data = bytes(reversed(weight.raw_data))
    onnx.save(model, str(path))
    assert relative_error(served("onnxruntime", path, captured, data), reference) > LARGEST_ERROR


def test_a_runtime_that_computes_something_else_is_refused(
    made: tuple[Captured, torch.Tensor], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    captured, data = made
    path = written(captured, data, "onnxruntime-x86", tmp_path)
    honest = ort.Runner.run
    monkeypatch.setattr(
        ort.Runner, "run", lambda runner, feeds: [0.8 * output for output in honest(runner, feeds)]
    )
    with pytest.raises(EdgepruneError, match=r"the INT8 model with a relative error of [12]\d") as refused:
        proven_integers(captured, onnx.load(path), (data,))
    assert refused.value.hint


def test_a_layer_left_in_float_is_computed_in_float_between_integers(tmp_path: Path) -> None:
    torch.manual_seed(0)
    net = Residual().eval()
    with torch.no_grad():  # one channel far larger than the others: one scale for all would round them away
        net.depthwise.weight[0] *= 100
    captured, data = capture(net, torch.randn(2, 3, 12, 12)), torch.randn(32, 3, 12, 12)
    path = written(captured, data, "onnxruntime-x86", tmp_path, float_layers=("depthwise",))
    reference = fake_quantised(captured, onnx.load(path), (data,))
    assert relative_error(served("onnxruntime", path, captured, data), reference) < 1e-3


def test_a_layer_that_is_called_twice_and_a_tied_weight_are_followed(tmp_path: Path) -> None:
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embedding, self.body = nn.Embedding(20, 16), nn.Linear(16, 16)

        def forward(self, ids: torch.Tensor) -> torch.Tensor:
            x = torch.relu(self.body(torch.relu(self.body(self.embedding(ids)))))
            return x @ self.embedding.weight.T

    torch.manual_seed(0)
    ids = torch.randint(0, 20, (8, 6))
    captured = capture(Tied().eval(), ids[:2])
    path = written(captured, ids, "onnxruntime-x86", tmp_path)
    reference = fake_quantised(captured, onnx.load(path), (ids,))
    assert relative_error(served("onnxruntime", path, captured, ids), reference) < 1e-3

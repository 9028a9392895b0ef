"""Dynamic INT8: ONNX Runtime's fused kernels, and what they compute."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType

import numpy as np
import onnxruntime
import pytest
import torch
from torch import nn

from edgeprune.errors import InputError, NothingToQuantise
from edgeprune.export import export_onnx
from edgeprune.graph import onnxfile
from edgeprune.graph.capture import Captured, capture
from tests.support.int8_files import quantise_dynamic
from tests.support.kernels import integer_nodes


class Perceptron(nn.Module):
    """Three layers, the first two on one input: a Gemm with a bias, products without, a second axis."""

    def __init__(self) -> None:
        super().__init__()
        self.left, self.right = nn.Linear(24, 32), nn.Linear(24, 32, bias=False)
        self.out = nn.Linear(32, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.out(torch.relu(self.left(x)) * torch.tanh(self.right(x)))


def captured(*shape: int) -> Captured:
    torch.manual_seed(0)
    return capture(Perceptron().eval(), torch.randn(2, *shape, 24))


def run(path: Path, x: np.ndarray) -> np.ndarray:
    options = onnxruntime.SessionOptions()
    options.add_session_config_entry("session.x64quantprecision", "1")
    session = onnxruntime.InferenceSession(path, options)
    found: np.ndarray = session.run(None, {session.get_inputs()[0].name: x})[0]
    return found


@pytest.mark.parametrize("shape", [(), (7,)], ids=["Gemm", "MatMul"])
def test_every_product_becomes_one_fused_kernel(shape: tuple[int, ...], tmp_path: Path) -> None:
    exported = export_onnx(captured(*shape), tmp_path / "float.onnx")
    found = quantise_dynamic(exported, tmp_path / "int8.onnx")
    assert (found.layers_int8, found.layers_float) == (("left", "right", "out"), ())
    kernels = integer_nodes(found.path)
    assert sum(kernels.integer.values()) == 3
    assert kernels.conversions == {"DynamicQuantizeLinear": 1}, "left and right share one"
    assert not {"MatMul", "Gemm", "Cast"} & set(kernels.floating)


@pytest.mark.parametrize("shape", [(), (7,)], ids=["Gemm", "MatMul"])
def test_it_computes_what_its_integers_say(shape: tuple[int, ...], tmp_path: Path) -> None:
    """One layer in numpy: 8-bit activations of this very query's range, 8-bit weights per channel."""
    torch.manual_seed(1)
    layer = nn.Linear(24, 6).eval()
    found = quantise_dynamic(
        export_onnx(capture(layer, torch.randn(2, *shape, 24)), tmp_path / "f.onnx"), tmp_path / "q.onnx"
    )
    x = 30 * np.random.default_rng(0).standard_normal((3, *shape, 24)).astype(np.float32)
    low, high = min(x.min(), 0.0), max(x.max(), 0.0)
    step = (high - low) / 255
    zero = round(-low / step)
    held = (np.clip(np.rint(x / step) + zero, 0, 255) - zero) * step
    weight = layer.weight.numpy(force=True)
    scale = np.abs(weight).max(1, keepdims=True) / 127
    expected = held @ (np.rint(weight / scale) * scale).T + layer.bias.numpy(force=True)
    np.testing.assert_allclose(run(found.path, x), expected, rtol=1e-4, atol=1e-3)


def test_queries_of_any_size_keep_their_precision(tmp_path: Path) -> None:
    """No calibrated range holds inputs a thousand times larger; dynamic ones do."""
    exported = export_onnx(capture(nn.Linear(24, 6).eval(), torch.randn(2, 24)), tmp_path / "float.onnx")
    found = quantise_dynamic(exported, tmp_path / "int8.onnx")
    for size in (1e-3, 1.0, 1e3):
        x = np.float32(size) * np.random.default_rng(0).standard_normal((4, 24)).astype(np.float32)
        exact = run(exported, x)
        assert np.abs(run(found.path, x) - exact).max() < 0.02 * np.abs(exact).max()


def test_a_layer_that_is_asked_for_stays_float(tmp_path: Path) -> None:
    exported = export_onnx(captured(), tmp_path / "float.onnx")
    found = quantise_dynamic(exported, tmp_path / "int8.onnx", float_layers=["out"])
    assert (found.layers_int8, found.layers_float) == (("left", "right"), ("out",))
    with pytest.raises(InputError, match="no layer of this model"):
        quantise_dynamic(exported, tmp_path / "int8.onnx", float_layers=["outt"])


def test_seven_bits_are_kept(tmp_path: Path) -> None:
    exported = export_onnx(captured(), tmp_path / "float.onnx")
    path = quantise_dynamic(exported, tmp_path / "int8.onnx", reduce_range=True).path
    integers = [
        np.frombuffer(tensor.raw_data, np.int8)
        for tensor in onnxfile.load(path).graph.initializer
        if tensor.data_type == 3
    ]
    assert len(integers) == 3
    assert {int(np.abs(values).max()) for values in integers} == {64}


def test_a_model_of_convolutions_is_refused(nets: ModuleType, tmp_path: Path) -> None:
    net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU()).eval()
    exported = export_onnx(capture(net, torch.randn(1, 3, 8, 8)), tmp_path / "float.onnx")
    with pytest.raises(NothingToQuantise, match="No layer of the model is a matrix product"):
        quantise_dynamic(exported, tmp_path / "int8.onnx")

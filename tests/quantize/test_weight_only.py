"""Weight-only precision: what both runtimes make of it, against the dequantised weights in torch."""

from __future__ import annotations

import copy
from collections import Counter
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from torch import nn

from edgeprune.errors import InputError, NothingToQuantise
from edgeprune.export import export_onnx
from edgeprune.graph.capture import capture
from edgeprune.ir import write_ir
from edgeprune.latency.workload import read_workload
from edgeprune.quantize.weight_only import TABLE
from tests.support.int8_files import compress_weights
from tests.support.kernels import integer_nodes


class Feedforward(nn.Module):
    """Two large products, one with a width that no block divides, and one too small to gain."""

    def __init__(self) -> None:
        super().__init__()
        self.up, self.down = nn.Linear(160, 200), nn.Linear(200, 160, bias=False)
        self.head = nn.Linear(160, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.down(nn.functional.gelu(self.up(x))))


LARGE = ("up", "down")


@pytest.fixture(scope="module")
def net() -> Feedforward:
    torch.manual_seed(0)
    return Feedforward().eval()


def feeds(*shape: int) -> np.ndarray:
    return np.random.default_rng(1).standard_normal((*shape, 160)).astype(np.float32)


def dequantised(net: Feedforward, form: str) -> Feedforward:
    """The same network with the weights that the integers stand for."""
    chosen, net = TABLE[form], copy.deepcopy(net)
    for name in LARGE:
        layer = net.get_submodule(name)
        weight = layer.weight.numpy(force=True).T
        layer.weight = nn.Parameter(torch.from_numpy(chosen.rounded(weight).restored().T.copy()))
    return net


def distance(found: np.ndarray, expected: np.ndarray) -> float:
    return float(np.linalg.norm(found - expected) / np.linalg.norm(expected))


def in_onnxruntime(path: Path, x: np.ndarray) -> np.ndarray:
    found: np.ndarray = onnxruntime.InferenceSession(path).run(None, {"x": x})[0]
    return found


@pytest.mark.parametrize("form", TABLE)
@pytest.mark.parametrize("shape", [(), (5,)], ids=["Gemm", "MatMul"])
@pytest.mark.parametrize(("level", "bound"), [(1, 1e-5), (4, 0.02)], ids=["float", "rounded"])
def test_onnxruntime_computes_what_torch_does_with_the_dequantised_weights(
    form: str, shape: tuple[int, ...], level: int, bound: float, net: Feedforward, tmp_path: Path
) -> None:
    exported = export_onnx(capture(net, torch.from_numpy(feeds(2, *shape))), tmp_path / "float.onnx")
    found = compress_weights(exported, tmp_path / "w.onnx", form, accuracy_level=level)
    assert (found.layers_int8, found.layers_float) == (LARGE, ("head",))
    x = feeds(3, *shape)
    with torch.no_grad():
        expected = dequantised(net, form)(torch.from_numpy(x)).numpy()
    assert distance(in_onnxruntime(found.path, x), expected) < bound
    assert distance(expected, in_onnxruntime(exported, x)) < (0.02 if form == "int8-weights" else 0.2)


@pytest.mark.parametrize("form", TABLE)
def test_onnxruntime_runs_every_large_product_in_the_kernel_for_blocks(
    form: str, net: Feedforward, tmp_path: Path
) -> None:
    exported = export_onnx(capture(net, torch.from_numpy(feeds(2, 5))), tmp_path / "float.onnx")
    found = compress_weights(exported, tmp_path / "w.onnx", form)
    assert integer_nodes(found.path).integer == {"MatMulNBits": 2}
    kept = compress_weights(exported, tmp_path / "w.onnx", form, float_layers=["down"])
    assert (kept.layers_int8, kept.layers_float) == (("up",), ("down", "head"))
    assert integer_nodes(kept.path).integer == {"MatMulNBits": 1}


@pytest.mark.parametrize(("form", "kind"), [("int8-weights", "u8"), ("int4-weights", "u4")])
def test_openvino_stores_the_integers_and_serves_them(
    form: str, kind: str, net: Feedforward, tmp_path: Path
) -> None:
    openvino = pytest.importorskip("openvino")
    x = feeds(2, 5)
    exported = export_onnx(capture(net, torch.from_numpy(x)), tmp_path / "float.onnx")
    found = compress_weights(exported, tmp_path / "w.onnx", form)
    path = write_ir(found.model, tmp_path / "model.xml", {"x": x}, float_model=onnx.load(exported))
    model = openvino.Core().read_model(str(path))
    stored = Counter(
        node.get_element_type().get_type_name()
        for node in model.get_ops()
        if node.get_type_name() == "Constant" and np.prod(list(node.get_output_shape(0))) >= 2**14
    )
    assert stored == {kind: 2}
    model.reshape({"x": list(x.shape)})
    compiled = openvino.Core().compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    served = Counter(
        node.get_element_type().get_type_name()
        for node in compiled.get_runtime_model().get_ops()
        if np.prod(list(node.get_output_shape(0))) >= 2**14
    )
    assert served == {kind: 1, "f32": 1}, "down's 200 inputs, which no block divides, are unpacked"
    with torch.no_grad():
        expected = dequantised(net, form)(torch.from_numpy(x)).numpy()
    assert distance(compiled({"x": x})[0], expected) < 0.02


@pytest.mark.parametrize(("form", "share"), [("int8-weights", 0.27), ("int4-weights", 0.17)])
def test_the_file_shrinks_by_what_the_bits_and_scales_say(form: str, share: float, tmp_path: Path) -> None:
    layer = nn.Linear(512, 512, bias=False).eval()
    exported = export_onnx(capture(layer, torch.randn(2, 512)), tmp_path / "float.onnx")
    size = compress_weights(exported, tmp_path / "w.onnx", form).path.stat().st_size
    assert size < share * exported.stat().st_size


def test_what_cannot_be_compressed_is_refused_by_name(net: Feedforward, tmp_path: Path) -> None:
    exported = export_onnx(capture(net, torch.from_numpy(feeds(2))), tmp_path / "float.onnx")
    with pytest.raises(InputError, match="no weight-only precision 'int3-weights'"):
        compress_weights(exported, tmp_path / "w.onnx", "int3-weights")
    with pytest.raises(InputError, match='float_layers names "upp"'):
        compress_weights(exported, tmp_path / "w.onnx", "int4-weights", float_layers=["upp"])
    with pytest.raises(NothingToQuantise, match="16384 weights or more"):
        compress_weights(exported, tmp_path / "w.onnx", "int4-weights", float_layers=LARGE)


@pytest.mark.parametrize("shape", [(), (5,)], ids=["Gemm", "MatMul"])
def test_the_work_of_a_file_with_blocks_can_be_told_without_running_it(
    shape: tuple[int, ...], net: Feedforward, tmp_path: Path
) -> None:
    exported = export_onnx(capture(net, torch.from_numpy(feeds(2, *shape))), tmp_path / "float.onnx")
    found = compress_weights(exported, tmp_path / "w.onnx", "int4-weights")
    works = [read_workload(path, 1) for path in (exported, found.path)]
    macs = [sum(kernel.macs for kernel in work.kernels) for work in works]
    assert macs[0] == macs[1] == (shape or (1,))[0] * (160 * 200 + 200 * 160 + 160 * 4)
    assert works[1].weight_bytes < 0.25 * works[0].weight_bytes

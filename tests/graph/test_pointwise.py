"""INT8 products as 1x1 convolutions: the same numbers in the runtime that reads them."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from edgeprune.export import export_onnx
from edgeprune.graph import onnxfile
from edgeprune.graph.capture import capture
from edgeprune.graph.pointwise import convolve_products
from edgeprune.quantize.calibrate import calibrate
from edgeprune.runtimes.ort import Runner
from tests.support.int8_files import quantise


class Block(nn.Module):
    """[N, tokens, 16]: an attention's projections and a feed-forward part behind norms, and residuals."""

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.behind = nn.LayerNorm(16), nn.LayerNorm(16)
        self.q, self.k, self.v = (nn.Linear(16, 16) for _ in range(3))
        self.up, self.down = nn.Linear(16, 32), nn.Linear(32, 16)
        self.head = nn.Linear(16, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.norm(x)
        weights = torch.softmax(self.q(y) @ self.k(y).transpose(1, 2), -1)
        x = x + weights @ self.v(y)
        x = x + self.down(nn.functional.gelu(self.up(self.behind(x))))
        return self.head(x.mean(1))


class Pixels(nn.Module):
    """[N, 4, 4, 8]: channels last, as Swin and ConvNeXt have them."""

    def __init__(self) -> None:
        super().__init__()
        self.up, self.down = nn.Linear(8, 16), nn.Linear(16, 8)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.down(torch.relu(self.up(x)))


@pytest.mark.parametrize(
    ("net", "shape", "products", "transposes"),
    [(Block, (2, 7, 16), 5, 6), (Pixels, (2, 4, 4, 8), 2, 2)],
    ids=["tokens", "pixels"],
)
def test_the_outputs_stay_and_what_lies_between_two_products_is_not_transposed(
    net: type[nn.Module], shape: tuple[int, ...], products: int, transposes: int, tmp_path: Path
) -> None:
    torch.manual_seed(0)
    batch = torch.randn(*shape)
    captured = capture(net().eval(), batch[:1])
    exported = export_onnx(captured, tmp_path / "float.onnx", prove=False)
    quantise(exported, calibrate(captured, [(batch,)], "minmax"), "openvino", tmp_path / "int8.onnx")
    model = onnxfile.load(tmp_path / "int8.onnx")
    before = Counter(node.op_type for node in model.graph.node)
    assert convolve_products(model) == products
    after = Counter(node.op_type for node in model.graph.node)
    assert after["Conv"] == products
    assert after["MatMul"] == before["MatMul"] - products
    assert after["Transpose"] - before["Transpose"] == transposes
    onnxfile.save(model, tmp_path / "convolved.onnx")
    feeds = {captured.input_names[0]: batch.numpy()}
    (wanted,), (found,) = (
        Runner(str(tmp_path / name), 1, exact=True).run(feeds) for name in ("int8.onnx", "convolved.onnx")
    )
    np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-4 * float(np.abs(wanted).max()))


def test_a_model_without_such_products_stays_as_it_is(tmp_path: Path) -> None:
    torch.manual_seed(0)
    rows = torch.randn(4, 8)
    captured = capture(nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 2)).eval(), rows[:1])
    exported = export_onnx(captured, tmp_path / "float.onnx", prove=False)
    quantise(exported, calibrate(captured, [(rows,)], "minmax"), "openvino", tmp_path / "int8.onnx")
    model = onnxfile.load(tmp_path / "int8.onnx")
    nodes = [node.SerializeToString() for node in model.graph.node]
    assert convolve_products(model) == 0
    assert [node.SerializeToString() for node in model.graph.node] == nodes

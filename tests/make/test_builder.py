"""Artefacts of pruned networks: what reads shapes reads those of the cut graph."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from onnx import TensorProto
from torch import nn

from edgeprune.graph import onnxfile
from edgeprune.graph.capture import capture
from edgeprune.graph.coupling import analyse
from edgeprune.graph.recurrent import recurrent_modules
from edgeprune.graph.surgery import cut
from edgeprune.make.builder import Builder, Built
from edgeprune.quantize.dialects import dialect_for
from edgeprune.records.trial import Candidate
from edgeprune.runtimes.ort import Runner
from tests.support.yardsticks import yardstick_of

DECODERS = (
    *("transposed convolutions beside a rectified skip", "maps brought to the size of another"),
    *("a cropped skip, padded back", "depth to space", "a gated skip", "a U-Net over time"),
)


def built(
    name: str, candidate: Candidate, dialect: str, folder: Path, pyramids: ModuleType, references: ModuleType
) -> tuple[Built, dict[str, Any], list[Any]]:
    """The artefact of a pyramid with half of its units, a query, and what the pruned graph answers."""
    model, example = pyramids.pyramid(name)
    dense = capture(model, example)
    coupling = analyse(dense)
    pruned = cut(dense, coupling, references.random_kept(coupling, 0, 0.5))
    data = [(torch.randn(8, *example.shape[1:]),) for _ in range(2)]
    runtime = "tensorrt" if dialect == "tensorrt" else "onnxruntime"
    machine = "aarch64" if dialect == "tensorrt" else "x86_64"
    yards = yardstick_of(dense, batches=data)
    builder = Builder(dense, data, dialect_for(dialect, machine), runtime, yardstick=lambda: yards)
    found = builder.build(candidate, pruned, folder, (example,))
    with torch.no_grad():
        exact = [output.numpy() for output in pruned.run(example)]
    return found, {dense.input_names[0]: example.numpy()}, exact


@pytest.mark.parametrize("name", DECODERS)
def test_a_pruned_pyramid_is_equalised_calibrated_corrected_and_served_in_int8(
    name: str, pyramids: ModuleType, references: ModuleType, tmp_path: Path
) -> None:
    assert set(pyramids.PYRAMIDS) == set(DECODERS)
    candidate = Candidate((), "int8", "minmax", equalised=True)
    made, feeds, exact = built(name, candidate, "onnxruntime-x86", tmp_path, pyramids, references)
    assert len(made.layers_int8) > len(made.layers_float)
    found = Runner(str(made.artefact), 1, exact=True).run(feeds)
    for one, other in zip(found, exact, strict=True):
        assert np.abs(one - other).max() <= 0.2 * np.abs(other).max()


def test_a_pruned_pyramid_is_halved_for_a_gpu(
    pyramids: ModuleType, references: ModuleType, tmp_path: Path
) -> None:
    made, _, _ = built(DECODERS[0], Candidate((), "float32"), "tensorrt", tmp_path, pyramids, references)
    kinds = {tensor.data_type for tensor in onnxfile.load(made.artefact).graph.initializer}
    assert kinds == {TensorProto.FLOAT16}


@pytest.mark.parametrize(("mean", "halved"), [(0.0, True), (3000.0, False)], ids=["about 0", "about 3000"])
def test_a_forecast_that_varies_little_about_a_large_mean_is_not_rounded_to_float16(
    mean: float, halved: bool, tmp_path: Path
) -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(6, 16), nn.ReLU(), nn.Linear(16, 4)).eval()
    with torch.no_grad():
        net[2].bias.add_(mean)
    data = [(torch.randn(32, 6),)]
    dense = capture(net, data[0][0][:1])
    yards = yardstick_of(dense, "values", data)
    builder = Builder(dense, data, dialect_for("tensorrt", "aarch64"), "tensorrt", yardstick=lambda: yards)
    made = builder.build(Candidate((), "float32"), dense, tmp_path, dense.inputs)
    kinds = {tensor.data_type for tensor in onnxfile.load(made.artefact).graph.initializer}
    assert kinds == {TensorProto.FLOAT16 if halved else TensorProto.FLOAT}


class Cells(nn.Module):
    """Two layers of cells, one of the other kind behind them, and a classifier."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.LSTM(8, 6, 2, batch_first=True), nn.GRU(6, 5, batch_first=True)
        self.out = nn.Linear(5, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.out(self.second(self.first(x)[0])[0].mean(1))


@pytest.mark.parametrize("precision", ["float32", "int8"])
def test_recurrent_layers_are_counted_and_stay_float(precision: Any, tmp_path: Path) -> None:
    torch.manual_seed(0)
    example = torch.randn(2, 7, 8)
    dense = capture(Cells().eval(), example)
    yards = yardstick_of(dense, "values", [(example,)])
    spoken = dialect_for("onnxruntime-x86", "x86_64")
    builder = Builder(dense, [(example,)], spoken, "onnxruntime", yardstick=lambda: yards)
    calibrator = "minmax" if precision == "int8" else None
    made = builder.build(Candidate((), precision, calibrator), dense, tmp_path, (example,))
    assert made.layers_int8 == (("out",) if precision == "int8" else ())
    cells = {"first.l0", "first.l1", "second.l0"}
    assert set(made.layers_float) == cells | ({"out"} if precision == "float32" else set())
    assert {onnxfile.module_of_recurrent(name) for name in cells} == recurrent_modules(dense.module.graph)

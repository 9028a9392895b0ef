"""Bias correction: INT8 keeps the means of the float network."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import ModuleType

import numpy as np
import onnxruntime
import pytest
import torch
from torch import nn

from edgeprune.export import export_onnx, to_onnx
from edgeprune.graph import onnxfile
from edgeprune.graph.capture import Captured, capture
from edgeprune.quantize.calibrate import calibrate
from edgeprune.quantize.dialects import TABLE
from edgeprune.quantize.emit import quantise as quantise_model
from edgeprune.quantize.ranges import Ranges
from edgeprune.quantize.simulate.bias_correction import correct_means
from edgeprune.quantize.simulate.written import proven_integers
from edgeprune.records.lengths import Lengths
from tests.support.int8_files import quantise
from tests.support.kernels import integer_nodes


class Mixed(nn.Module):
    """A normed convolution, one without bias, a sequence layer (MatMul and Add) and a classifier (Gemm)."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.norm = nn.Conv2d(3, 16, 3, bias=False), nn.BatchNorm2d(16)
        self.second = nn.Conv2d(16, 16, 3, bias=False)
        self.third, self.head = nn.Linear(16, 16), nn.Linear(16, 12)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.relu(self.norm(self.first(x)))
        x = torch.relu(self.second(x)).flatten(2).transpose(1, 2)
        return self.head(torch.relu(self.third(x)).mean(1))


def mixed() -> tuple[Captured, list[tuple[torch.Tensor, ...]]]:
    torch.manual_seed(0)
    net = Mixed()
    net(torch.rand(32, 3, 10, 10))  # statistics of its own
    captured = capture(net.eval(), torch.rand(2, 3, 10, 10))
    return captured, [(torch.rand(16, 3, 10, 10),) for _ in range(4)]


def outputs(path: Path, batch: torch.Tensor) -> np.ndarray:
    options = onnxruntime.SessionOptions()
    options.add_session_config_entry("session.x64quantprecision", "1")
    opened = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    found: np.ndarray = opened.run(None, {"x": batch.numpy()})[0]
    return found


@pytest.mark.parametrize("dialect", sorted(TABLE))
def test_the_means_of_the_outputs_come_back(dialect: str, tmp_path: Path) -> None:
    """Ranges that clip the upper half of every activation, so that there is a mean to bring back."""
    captured, batches = mixed()
    exported = export_onnx(captured, tmp_path / "float.onnx")
    ranges = calibrate(captured, batches, "minmax")
    coarse = replace(
        ranges, bounds={name: (3 * low, 0.4 * high) for name, (low, high) in ranges.bounds.items()}
    )
    exact = outputs(exported, batches[0][0])
    errors = []
    for used in (coarse, correct_means(captured, coarse, TABLE[dialect], batches)):
        path = quantise(exported, used, dialect, tmp_path / "int8.onnx").path
        errors.append(np.abs(outputs(path, batches[0][0]).mean(0) - exact.mean(0)).max())
    assert errors[1] < 0.25 * errors[0]


def test_what_a_relu_takes_away_is_not_put_into_the_bias() -> None:
    captured, batches = mixed()
    ranges = correct_means(
        captured, calibrate(captured, batches, "minmax"), TABLE["onnxruntime-x86"], batches
    )
    assert all(float(np.abs(shift).max()) < 0.02 for shift in ranges.shifts.values())


def test_every_kind_of_layer_is_corrected(tmp_path: Path) -> None:
    captured, batches = mixed()
    ranges = correct_means(captured, calibrate(captured, batches, "minmax"), TABLE["tensorrt"], batches)
    assert {len(shift) for shift in ranges.shifts.values()} == {16, 12}
    path = quantise(export_onnx(captured, tmp_path / "f.onnx"), ranges, "tensorrt", tmp_path / "q.onnx").path
    stored = {tensor.name for tensor in onnxfile.load(path).graph.initializer}
    assert {f"{name}.bias.float" for name in ("first", "second", "third", "head")} <= stored


@pytest.mark.parametrize("dialect", ["onnxruntime-x86", "onnxruntime-arm"])
def test_a_layer_that_gets_a_bias_still_runs_on_integers(dialect: str, tmp_path: Path) -> None:
    captured, batches = mixed()
    ranges = correct_means(captured, calibrate(captured, batches, "minmax"), TABLE[dialect], batches)
    path = quantise(export_onnx(captured, tmp_path / "f.onnx"), ranges, dialect, tmp_path / "q.onnx").path
    assert integer_nodes(path).integer["QLinearConv"] == 2
    assert "Conv" not in integer_nodes(path).floating


def test_layers_in_float_and_layers_called_twice_stay_as_they_are() -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.shared, self.left = nn.Linear(4, 4), nn.Linear(4, 4)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.left(torch.relu(self.shared(torch.relu(self.shared(x)))))

    captured = capture(Twice(), torch.randn(2, 4))
    batches = [(torch.randn(8, 4),)]
    ranges = calibrate(captured, batches, "minmax")
    found = correct_means(captured, ranges, TABLE["openvino"], batches)
    assert len(found.shifts) == 1
    none = correct_means(captured, ranges, TABLE["openvino"], batches, float_layers=["left"])
    assert none == replace(ranges, shifts={})
    assert isinstance(none, Ranges)
    assert dict(none.shifts) == {}


def test_data_that_makes_a_mean_infinite_corrects_nothing(nets: ModuleType) -> None:
    captured = nets.masked()
    ranges = calibrate(captured, [captured.inputs], "minmax")
    found = correct_means(captured, ranges, TABLE["onnxruntime-x86"], [captured.inputs])
    assert all(np.isfinite(shift).all() for shift in found.shifts.values())


class Counted(Mixed):
    """The same with the number of its rows in the graph, so that it takes one row at a time."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(x.view(len(x), 3, 10, 10))


def test_the_means_are_those_of_all_lengths_in_their_shares() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv1d(1, 8, 3), nn.ReLU(), nn.Conv1d(8, 6, 3))
    lengths = Lengths((8, 16), ((2,),))
    captured = capture(net.eval(), torch.rand(2, 1, 16), lengths=lengths)
    short, long = torch.rand(1, 1, 8).repeat(96, 1, 1), torch.rand(1, 1, 16).repeat(32, 1, 1) + 4
    ranges = calibrate(captured, [(short,), (long,)], "minmax")

    def shifts(batches: list[tuple[torch.Tensor, ...]]) -> dict[str, np.ndarray]:
        return correct_means(captured, ranges, TABLE["onnxruntime-x86"], batches).shifts

    both, ones, others = shifts([(short,), (long,)]), shifts([(short,)]), shifts([(long,)])
    (first, *_) = both
    assert np.allclose(both[first], 0.75 * ones[first] + 0.25 * others[first], atol=1e-3)
    assert not np.allclose(both[first], ones[first], atol=1e-3)


def test_rows_one_by_one_give_the_ranges_and_shifts_of_a_whole_batch(tmp_path: Path) -> None:
    captured, batches = mixed()
    counted = Counted().eval()
    counted.load_state_dict(captured.module.state_dict())
    fixed = capture(counted, batches[0][0], rows=1)
    assert fixed.fixed_batch
    names = {old.name: new.name for old, new in zip(_layers(captured), _layers(fixed), strict=True)}
    for calibrator in ("minmax", "kl"):
        whole, single = (calibrate(each, batches, calibrator) for each in (captured, fixed))
        for old, new in names.items():
            if old in whole.bounds:
                assert single.bounds[new] == pytest.approx(whole.bounds[old], rel=0.05, abs=0.02)
        if calibrator == "minmax":
            assert single.bounds[names["relu"]] == pytest.approx(whole.bounds["relu"], rel=1e-5)
    dialect = TABLE["onnxruntime-x86"]
    whole, single = (
        correct_means(each, calibrate(each, batches, "minmax"), dialect, batches)
        for each in (captured, fixed)
    )
    for old, shift in whole.shifts.items():
        assert np.allclose(single.shifts[names[old]], shift, atol=1e-4)
    made = quantise_model(to_onnx(fixed), single, dialect)
    rows = batches[0][0][:3]
    proven = proven_integers(fixed, made.model, (rows,))
    assert proven[0].shape == (3, 12), "one by one in torch and in the runtime"


def _layers(captured: Captured) -> list[torch.fx.Node]:
    views = ("view", "sym_size", "reshape")
    nodes = [node for node in captured.module.graph.nodes if node.op == "call_function"]
    return [node for node in nodes if not any(view in node.name for view in views)]

"""Calibration: a sound range for every activation, or a sentence that says why there is none."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

import pytest
import torch
from torch import nn

import edgeprune
from edgeprune.errors import InputError
from edgeprune.graph.capture import Captured, capture
from edgeprune.quantize.calibrate import TABLE, calibrate

Batches = list[tuple[torch.Tensor, ...]]


@pytest.fixture(scope="module")
def residual(nets: ModuleType) -> Captured:
    return nets.residual()


class Two(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(4, 4), nn.Linear(4, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.second(torch.relu(self.first(x)))


def two() -> Captured:
    torch.manual_seed(0)
    return capture(Two(), torch.zeros(1, 4))


@pytest.mark.parametrize("calibrator", sorted(TABLE))
def test_every_activation_gets_a_finite_range_around_zero(
    calibrator: str, residual: Captured, nets: ModuleType
) -> None:
    ranges = calibrate(residual, nets.images(2, 4), calibrator)
    activations = {
        node.name
        for node in residual.module.graph.nodes
        if node.op in ("placeholder", "call_function") and "conv2d" not in node.name
    }
    assert activations <= ranges.bounds.keys()
    assert all(low <= 0 <= high and 0 < high - low < 1e3 for low, high in ranges.bounds.values())
    assert (ranges.calibrator, ranges.samples) == (calibrator, 8)


@pytest.mark.parametrize("calibrator", sorted(TABLE))
def test_the_same_data_gives_the_same_ranges(calibrator: str, residual: Captured, nets: ModuleType) -> None:
    data = nets.images(2, 2)
    assert calibrate(residual, data, calibrator) == calibrate(residual, data, calibrator)


def test_minmax_is_the_mean_of_the_batches_extremes() -> None:
    batches = [(torch.tensor([[-1.0, 2, 0, 0]]),), (torch.tensor([[-3.0, 4, 0, 0]]),)]
    low, high = calibrate(two(), batches, "minmax").bounds["x"]
    step = (3.0 + 2.0) / 255
    assert low == pytest.approx(-2.0, abs=step)
    assert high == pytest.approx(3.0, abs=step)


def test_a_folded_batch_norm_has_the_range_after_it(residual: Captured, nets: ModuleType) -> None:
    data = nets.images(1, 4)
    bounds = calibrate(residual, data, "minmax").bounds
    assert "batch_norm" in bounds
    assert "conv2d" not in bounds
    module = residual.module
    with torch.no_grad():
        stem = module.get_submodule("stem")
        norm = stem.get_submodule("1")
        value = torch.conv2d(data[0][0], stem.get_submodule("0").weight, padding=1)
        value = torch.batch_norm(
            value, norm.weight, norm.bias, norm.running_mean, norm.running_var, False, 0.1, 1e-5, False
        )
    low, high = bounds["batch_norm"]
    step = (high - low) / 255
    assert low == pytest.approx(float(value.min()), abs=step)
    assert high == pytest.approx(float(value.max()), abs=step)


def test_kl_gives_up_an_outlier_that_minmax_keeps() -> None:
    torch.manual_seed(0)
    data = torch.randn(200_000, 4)
    data[0, 0] = 20.0
    assert calibrate(two(), [(data,)], "minmax").bounds["x"][1] == pytest.approx(20.0, rel=0.01)
    assert calibrate(two(), [(data,)], "kl").bounds["x"][1] < 15.0


def test_calibration_leaves_the_model_as_it_was(residual: Captured, nets: ModuleType) -> None:
    before = [node.name for node in residual.module.graph.nodes]
    state = {name: tensor.clone() for name, tensor in residual.module.state_dict().items()}
    calibrate(residual, nets.images(1, 2), "kl")
    assert [node.name for node in residual.module.graph.nodes] == before
    after = residual.module.state_dict()
    assert after.keys() == state.keys()
    assert all(torch.equal(after[name], tensor) for name, tensor in state.items())


def test_an_infinite_mask_stays_float_and_is_no_error(nets: ModuleType) -> None:
    captured = nets.masked()
    bounds = calibrate(captured, [captured.inputs], "kl").bounds
    assert not {name for name in bounds if "masked_fill" in name}
    assert {"linear", "linear_1", "softmax", "matmul_1"} <= bounds.keys()


def test_a_weight_that_is_nan_is_found_in_the_first_layer_that_shows_it() -> None:
    captured = two()
    with torch.no_grad():
        captured.module.get_parameter("second.weight")[0, 0] = float("nan")
    with pytest.raises(
        InputError, match=r"batch 0 makes the model compute NaN .* first in second \(linear_1\)"
    ):
        calibrate(captured, [(torch.ones(2, 4),)], "minmax")


@dataclass(frozen=True)
class Refused:
    name: str
    batches: Callable[[], Batches]
    expected: str
    calibrator: str = "minmax"


CASES = (
    Refused("no data", list, "There is no calibration data"),
    Refused("only empty batches", lambda: [(torch.zeros(0, 4),)], "There is no calibration data"),
    Refused(
        "NaN data",
        lambda: [(torch.ones(2, 4),), (torch.full((2, 4), float("nan")),)],
        "Calibration batch 1 has NaN or infinity in input x",
    ),
    Refused("infinite data", lambda: [(torch.full((2, 4), float("inf")),)], "batch 0 has NaN or infinity"),
    Refused("wrong width", lambda: [(torch.ones(2, 5),)], r"input x as torch\.float32 \[2, 5\].*'batch', 4"),
    Refused("wrong type", lambda: [(torch.ones(2, 4).double(),)], r"input x as torch\.float64"),
    Refused("wrong number", lambda: [(torch.ones(2, 4),) * 2], "has 2 tensors; the model takes 1"),
    Refused("unknown calibrator", lambda: [(torch.ones(2, 4),)], 'no calibrator "entropy"', "entropy"),
)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_what_cannot_be_calibrated_is_refused(case: Refused) -> None:
    with pytest.raises(InputError, match=case.expected):
        calibrate(two(), case.batches(), case.calibrator)


def test_importing_and_running_neural_compressor_says_nothing() -> None:
    script = """
        import torch
        from edgeprune.graph.capture import capture
        from edgeprune.quantize.calibrate import calibrate
        calibrate(capture(torch.nn.Linear(4, 2), torch.zeros(1, 4)), [(torch.ones(2, 4),)], "kl")
    """
    environment = {**os.environ, "PYTHONPATH": str(Path(edgeprune.__file__).parents[1])}
    command = [sys.executable, "-c", textwrap.dedent(script)]
    ran = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert (ran.returncode, ran.stdout, ran.stderr) == (0, "", "")

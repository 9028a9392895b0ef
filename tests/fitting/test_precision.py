"""The INT8 form that a fit starts from: chosen by the metric that the runtime measures."""

from __future__ import annotations

import copy
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

import edgeprune
from edgeprune.records.trial import FitResult


def planted(net: Any, channels: slice, factor: float) -> Any:
    """The same function, with some channels between conv1 and conv2 far larger than the others."""
    net = copy.deepcopy(net)
    with torch.no_grad():
        net.conv1.weight[channels] *= factor
        net.conv1.bias[channels] *= factor
        net.conv2.weight[:, channels] /= factor
    return net


class Front(torch.nn.Module):
    """The network behind two small convolutions that let its image through beside a constant of 10,000."""

    def __init__(self, net: Any) -> None:
        super().__init__()
        self.into, self.out = torch.nn.Conv2d(1, 2, 1), torch.nn.Conv2d(2, 1, 1)
        self.net = net
        with torch.no_grad():
            self.into.weight[:] = torch.tensor([1.0, 0.0]).reshape(2, 1, 1, 1)
            self.into.bias[:] = torch.tensor([0.0, 1e4])
            self.out.weight[:] = torch.tensor([1.0, 0.0]).reshape(1, 2, 1, 1)
            self.out.bias.zero_()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.net(self.out(torch.relu(self.into(x))))


def started(tiny: ModuleType, scripted: ModuleType, out: Path, net: Any, **options: Any) -> FitResult:
    """A fit whose budget INT8 meets and float does not."""
    device = scripted.ScriptedDevice(tiny.latency_ms)
    task = tiny.task(model=net)
    return edgeprune.fit(
        task, latency_ms=0.97 * dense_ms(tiny, scripted, out), device=device, out=out / "run", **options
    )


def dense_ms(tiny: ModuleType, scripted: ModuleType, out: Path) -> float:
    device = scripted.ScriptedDevice(tiny.latency_ms)
    result = edgeprune.fit(tiny.task(), latency_ms=1e3, device=device, out=out / "dense")
    return result.baseline.measurement.latency.p50_ms


def test_a_model_with_planted_outliers_is_brought_back(
    tiny: ModuleType, scripted: ModuleType, tmp_path: Path
) -> None:
    net = planted(tiny.task().model, slice(0, 3), 1e4)
    result = started(tiny, scripted, tmp_path, net, max_drop=0.01)
    trials = {trial.name: trial for trial in result.trials}
    floor = result.baseline.metric - 0.01
    assert trials["dense-int8"].metric < floor - 0.02, "nothing to bring back"
    assert result.verdict.kind == "fits"
    assert result.chosen.candidate.precision == "int8"
    assert result.chosen.metric >= floor
    assert result.chosen.candidate.equalised


@pytest.fixture
def without_other_forms(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edgeprune.fitting.precision.FORMS", (("", "minmax", False),))


@pytest.mark.usefixtures("without_other_forms")
def test_the_layers_that_int8_hurts_go_back_to_float_and_no_more(
    tiny: ModuleType, scripted: ModuleType, tmp_path: Path
) -> None:
    net = Front(tiny.task().model).eval()
    result = started(tiny, scripted, tmp_path, net, max_drop=0.01)
    chosen = result.chosen
    assert chosen.candidate.float_layers == ("into", "out")
    assert chosen.name == "dense-int8-float2"
    assert (chosen.layers_int8, chosen.layers_float) == (4, 2)
    assert chosen.metric >= result.baseline.metric - 0.01


@pytest.mark.usefixtures("without_other_forms")
def test_where_half_of_the_layers_in_float_do_not_help_the_answer_is_float(
    tiny: ModuleType, scripted: ModuleType, tmp_path: Path
) -> None:
    """An evaluation that accepts the float network's answers only, to the bit."""
    task = tiny.task()
    images = torch.stack([x for x, _ in task.train][:1])[0]
    with torch.no_grad():
        wanted = task.model(images).numpy()

    def evaluate(predict: Any) -> float:
        return float(abs(predict(images.numpy()) - wanted).max() < 1e-4)

    device = scripted.ScriptedDevice(tiny.latency_ms)
    result = edgeprune.fit(
        tiny.task(evaluate=evaluate), speedup=1.01, device=device, out=tmp_path / "run", epochs=0
    )
    names = [trial.name for trial in result.trials]
    assert names[:4] == ["dense", "dense-int8", "dense-int8-float1", "dense-int8-float2"]
    assert all(trial.candidate.precision == "float32" for trial in result.trials if "trial" in trial.name)

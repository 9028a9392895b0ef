"""Layers are timed when a fit ends, with facts of the artefact and the coupling that say what holds them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import onnx
import pytest
import torch
from torch import nn

import edgeprune
from edgeprune.fitting.trials import profiles
from edgeprune.fitting.trials.profiles import LayerOutputs, layer_outputs
from edgeprune.graph.capture import capture
from edgeprune.graph.coupling import analyse
from edgeprune.records.trial import FitResult, LayerFacts
from edgeprune.report import bottlenecks

OPTIONS: dict[str, Any] = {"speedup": 2.0, "max_drop": 1.0, "epochs": 0}
PRODUCT_MS = 0.0005


@pytest.fixture(scope="module")
def fit(tiny: ModuleType, scripted: ModuleType) -> Callable[..., FitResult]:
    """Fits to twice the speed, on a device that takes PRODUCT_MS for a small matrix product."""

    def latency_ms(artefact: Path) -> float:
        found: float = tiny.summed_ms(artefact)
        nodes = onnx.load(artefact).graph.node
        return found + PRODUCT_MS * sum(node.op_type == "MatMul" for node in nodes)

    def run(out: Path, **options: Any) -> FitResult:
        device = scripted.ScriptedDevice(latency_ms, operators=tiny.operators)
        return edgeprune.fit(tiny.quick(), device=device, out=out, **{**OPTIONS, **options})

    return run


@pytest.fixture(scope="module")
def pruned(fit: Callable[..., FitResult], tmp_path_factory: pytest.TempPathFactory) -> FitResult:
    return fit(tmp_path_factory.mktemp("pruned") / "run")


def of(result: FitResult, name: str) -> dict[str, LayerFacts]:
    (times,) = [each for each in result.layers if each.name == name]
    assert [layer for layer, _ in times.layers] == [each.layer for each in times.facts]
    assert times.operator_ms == pytest.approx(PRODUCT_MS)
    return {each.layer: each for each in times.facts}


def test_layers_have_the_arithmetic_the_precision_and_the_widths_of_the_artefact(pruned: FitResult) -> None:
    dense, chosen = of(pruned, "dense"), of(pruned, pruned.chosen.name)
    assert list(dense) == ["start", "stem", "conv1", "conv2", "head"]
    assert dense["stem"].macs == 64 * 16 * 9
    assert (dense["conv1"].operator, dense["conv1"].numbers, dense["conv1"].int8) == (
        "Conv",
        "float32",
        False,
    )
    assert (chosen["conv1"].numbers, chosen["conv1"].int8) == ("int8", True)
    assert sum(each.macs or 0 for each in dense.values()) == pruned.baseline.macs
    assert sum(each.macs or 0 for each in chosen.values()) == pruned.chosen.macs
    assert dict(chosen["conv1"].groups) == {"conv1": 8}
    assert dict(chosen["conv2"].groups) == dict(chosen["stem"].groups) == {"stem": 8}
    assert chosen["head"].frozen == "output: is an output of the model"
    assert chosen["start"].converting_ms == pytest.approx(dict(_layers(pruned))["start"])


def _layers(result: FitResult) -> tuple[tuple[str, float], ...]:
    return next(each.layers for each in result.layers if each.name == result.chosen.name)


def test_what_holds_a_fitted_model_is_told_from_its_records(pruned: FitResult) -> None:
    found = bottlenecks(pruned)
    kept = dict(pruned.chosen.kept)
    causes = {each.layer: each.cause for each in found.layers}
    assert causes["start"] == "outside"
    assert causes["head"] == "frozen"
    assert causes["conv1"] == ("width" if kept["conv1"] > 8 else "narrowest")
    assert sum(each.ms for each in found.layers) == pytest.approx(found.p50_ms)
    assert found.lacks == ()
    assert "GMAC/s" in found.rates


def test_what_an_earlier_version_recorded_is_completed_by_a_resumed_run(
    fit: Callable[..., FitResult], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as earlier:
        earlier.setattr(profiles, "_facts", lambda *arguments: ())
        before = fit(tmp_path / "run", latency_ms=50.0, speedup=None)
    assert [each.facts for each in before.layers] == [()]
    after = fit(tmp_path / "run", latency_ms=50.0, speedup=None, resume=True)
    assert list(of(after, "dense")) == [layer for layer, _ in before.layers[0].layers]


def test_a_device_without_a_profile_leaves_layers_out(
    tiny: ModuleType, scripted: ModuleType, tmp_path: Path
) -> None:
    device = scripted.ScriptedDevice(tiny.latency_ms)
    result = edgeprune.fit(tiny.quick(), latency_ms=50.0, device=device, out=tmp_path / "run")
    assert result.layers == ()


class Frozen(nn.Module):
    """[N, 4] -> [N, 6]: a layer whose units can leave, and one without a bias whose outputs cannot."""

    def __init__(self) -> None:
        super().__init__()
        self.wide = nn.Linear(4, 32)
        self.last = nn.Linear(32, 6, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.last(torch.relu(self.wide(x)))


def test_outputs_without_a_bias_are_told_with_what_freezes_them() -> None:
    found = layer_outputs(analyse(capture(Frozen(), torch.zeros(1, 4))), 8)
    assert found["wide"] == LayerOutputs((("wide", 8),), "")
    assert found["last"] == LayerOutputs((), "output: is an output of the model")

"""The rungs that are alternatives to fine-tuning, through a whole fit on a scripted device."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

import edgeprune
from edgeprune.errors import InputError
from edgeprune.records.trial import FitResult


def early(tiny: ModuleType, by: float) -> dict[str, torch.Tensor]:
    """The trained weights, scaled: as if from an earlier step."""
    state = tiny.quick().model.state_dict()
    return {name: value * by if value.is_floating_point() else value for name, value in state.items()}


def fit(tiny: ModuleType, scripted: ModuleType, out: Path, by: float, **options: Any) -> FitResult:
    task = replace(tiny.quick(), earlier=early(tiny, by))
    return edgeprune.fit(task, device=scripted.ScriptedDevice(tiny.latency_ms), out=out, **options)


@pytest.mark.parametrize("recover", ["lora", "rewind"])
def test_the_chosen_candidate_tells_how_it_was_recovered(
    tiny: ModuleType, scripted: ModuleType, tmp_path: Path, recover: str
) -> None:
    result = fit(tiny, scripted, tmp_path / "run", 0.9, speedup=2.0, max_drop=0.1, recover=recover, epochs=2)
    assert result.verdict.kind == "fits"
    assert result.chosen.candidate.recover == recover
    assert [rung for rung, *_ in result.chosen.recovered] == ["reconstruct", "statistics", recover]
    program = torch.export.load(tmp_path / "run" / result.chosen.name / "model.pt2")
    assert sum(parameter.numel() for _, parameter in program.named_parameters()) == result.chosen.params


def test_a_run_is_resumed_only_with_the_same_earlier_weights(
    tiny: ModuleType, scripted: ModuleType, tmp_path: Path
) -> None:
    options: dict[str, Any] = {"latency_ms": 50.0, "recover": "rewind"}
    first = fit(tiny, scripted, tmp_path / "run", 0.9, **options)
    again = fit(tiny, scripted, tmp_path / "run", 0.9, **options, resume=True)
    assert again.chosen == first.chosen
    with pytest.raises(InputError, match="model"):
        fit(tiny, scripted, tmp_path / "run", 0.8, **options, resume=True)

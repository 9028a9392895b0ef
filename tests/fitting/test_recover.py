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
from edgeprune.records.task import Trainer
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
    assert result.occasion is not None
    assert result.occasion.trained_on == "cpu"
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


def scaling(counted: list[int], by: float) -> Trainer:
    """A training loop that scales the head a little, and counts its calls."""

    def train(module: Any, teacher: Any, data: Any, progress: Any) -> None:
        counted.append(len(list(data)))
        with torch.no_grad():
            module.get_parameter("head.weight").mul_(by)

    return train


def test_a_loop_of_ones_own_trains_again_only_when_it_is_another(
    tiny: ModuleType, scripted: ModuleType, tmp_path: Path
) -> None:
    counted: list[int] = []

    def run(by: float, **options: Any) -> FitResult:
        task = tiny.quick(trainer=scaling(counted, by))
        device = scripted.ScriptedDevice(tiny.latency_ms)
        return edgeprune.fit(task, device=device, out=tmp_path / "run", speedup=2.0, max_drop=0.1, **options)

    first = run(1.01)
    trained = len(counted)
    assert trained
    assert first.chosen.candidate.recover == "trainer"
    assert [rung for rung, *_ in first.chosen.recovered] == ["reconstruct", "statistics", "trainer"]
    assert [training.rung for training in first.chosen.training] == ["trainer"]
    assert run(1.01, resume=True).chosen == first.chosen
    assert len(counted) == trained
    run(1.02, resume=True)
    assert len(counted) > trained


def test_a_loop_of_ones_own_is_asked_for_only_where_there_is_one(tiny: ModuleType, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no `trainer`"):
        edgeprune.fit(tiny.quick(), out=tmp_path / "run", recover="trainer")
    assert not (tmp_path / "run").exists()


def test_a_device_that_is_not_there_is_refused_before_anything_is_written(
    tiny: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(InputError, match="--train-device is cuda:0") as refused:
        edgeprune.fit(tiny.quick(), out=tmp_path / "run", train_device="cuda:0")
    assert refused.value.exit_code == 2
    assert not (tmp_path / "run").exists()


def test_a_run_is_resumed_with_another_length_of_training_and_trains_again_only_then(
    tiny: ModuleType, scripted: ModuleType, tmp_path: Path
) -> None:
    def resumed(**options: Any) -> tuple[FitResult, list[str]]:
        told: list[str] = []
        result = fit(
            *(tiny, scripted, tmp_path / "run", 0.9),
            **{"speedup": 2.0, "max_drop": 0.1, "resume": (tmp_path / "run").exists(), **options},
            listen=lambda event: told.append(event.doing),
        )
        assert not list((tmp_path / "run").rglob("training.pt")), "a recorded trial needs no checkpoint"
        return result, [doing for doing in told if doing.startswith("recovering")]

    first, told = resumed(epochs=2)
    assert [each.epochs for each in first.chosen.training] == [2]
    assert any("min left" in doing and "held-back error" in doing for doing in told)
    by_time, told = resumed(minutes=0.001)
    assert told
    again, told = resumed(minutes=0.001)
    assert (again.chosen, told) == (by_time.chosen, [])
    _, told = resumed(minutes=0.001, accumulate=2)
    assert told

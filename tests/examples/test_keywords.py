"""Spoken keywords as examples/ has them: the synthesiser, the front end, the task and a fit."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch

import edgeprune
from edgeprune.tasks import call_evaluate, call_evaluate_samples, check_task

EXAMPLES = Path(__file__).parents[2] / "examples"


@pytest.fixture(scope="module")
def example() -> ModuleType:
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(EXAMPLES))
        import keywords

        return keywords


@pytest.fixture(scope="module")
def task(example: ModuleType) -> edgeprune.Task:
    return example.task()


def test_words_come_in_equal_shares_and_are_the_same_again(example: ModuleType) -> None:
    waves, labels = example.spoken(40, seed=3)
    again, _ = example.spoken(40, seed=3)
    others, _ = example.spoken(40, seed=4)
    assert np.bincount(labels).tolist() == [4] * len(example.LABELS)
    assert (waves == again).all()
    assert not (waves == others).any(axis=1).any(), "no sample of another seed's word"


def test_a_tone_is_loudest_in_the_band_that_it_belongs_to(example: ModuleType) -> None:
    time = np.arange(example.RATE, dtype=np.float32) / example.RATE
    tones = np.stack([np.sin(2 * np.pi * hertz * time) for hertz in (300, 1000, 3000)])
    bands = example.log_mel(tones).mean(dim=2)[:, 0].argmax(dim=1).tolist()
    middles = example.mel_filters().argmax(axis=0) * example.RATE / example.FFT
    for band, hertz in zip(bands, (300, 1000, 3000), strict=True):
        assert band == np.abs(middles - hertz).argmin()


def test_the_network_tells_the_words_apart(task: edgeprune.Task) -> None:
    def predict(sounds):
        with torch.no_grad():
            return task.model(torch.from_numpy(sounds)).numpy()

    check_task(task)
    assert call_evaluate(task, predict) > 0.9
    assert call_evaluate_samples(task, predict).mean() == pytest.approx(call_evaluate(task, predict))


def test_a_fit_keeps_the_words_at_three_times_the_speed(
    task: edgeprune.Task, tiny: ModuleType, scripted: ModuleType, tmp_path: Path
) -> None:
    result = edgeprune.fit(
        # Any INT8 form is as good on this subset: the first one is built, and no other.
        replace(task, evaluate_subset=lambda predict: 0.5),
        speedup=3,
        max_drop=0.02,
        epochs=1,
        device=scripted.ScriptedDevice(tiny.latency_ms),
        out=tmp_path / "run",
    )
    assert result.verdict.kind == "fits"
    assert result.chosen.candidate.kept
    assert result.chosen.candidate.precision == "int8"
    assert result.chosen.drop is not None
    assert result.chosen.drop.samples == 1000

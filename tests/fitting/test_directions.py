"""Fits by an error are those by the accuracy that it is one minus, shown in the error's own sign."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

import edgeprune
from edgeprune.bundle import open_bundle
from edgeprune.records.progress import Event
from edgeprune.records.trial import FitResult
from edgeprune.report import document
from edgeprune.results import load_result
from edgeprune.validating import validate

ROWS = 300
BETWEEN = 0.5 / ROWS  # so that no metric lies on its limit, where one minus it rounds to either side
OPTIONS: dict[str, Any] = {"speedup": (1.15, 2.4), "max_drop": 6 / ROWS + BETWEEN, "epochs": 2}


def pair(tiny: ModuleType) -> dict[str, edgeprune.Task]:
    """The tiny task by its accuracy and by its error rate: whole, on a subset and sample by sample."""

    def subset(predict: Any) -> float:
        return float(tiny.scores(predict, 200).mean())

    def wrong(predict: Any) -> np.ndarray:
        return np.asarray(1 - tiny.scores(predict))

    accuracy = tiny.task(evaluate_subset=subset, evaluate_samples=tiny.scores)
    error = replace(
        accuracy,
        evaluate=lambda predict: 1 - accuracy.evaluate(predict),
        evaluate_subset=lambda predict: 1 - subset(predict),
        evaluate_samples=wrong,
        metric="error",
        lower_is_better=True,
    )
    return {"accuracy": accuracy, "error": error}


@pytest.fixture(scope="module")
def both(
    tiny: ModuleType, scripted: ModuleType, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, FitResult]:
    folder = tmp_path_factory.mktemp("directions")
    return {
        name: edgeprune.fit(
            task, device=scripted.ScriptedDevice(tiny.latency_ms), out=folder / name, **OPTIONS
        )
        for name, task in pair(tiny).items()
    }


def test_the_same_candidates_are_tried_and_chosen(both: dict[str, FitResult]) -> None:
    accuracy, error = both["accuracy"], both["error"]
    assert len(accuracy.trials) >= 3
    assert [(one.name, one.candidate, one.verdict.kind) for one in error.trials] == [
        (one.name, one.candidate, one.verdict.kind) for one in accuracy.trials
    ]
    assert [one.name for one in error.frontier] == [one.name for one in accuracy.frontier]
    for ours, theirs in zip(error.tiers, accuracy.tiers, strict=True):
        assert (ours.chosen.name, ours.verdict.kind) == (theirs.chosen.name, theirs.verdict.kind)
        assert ours.chosen.drop == theirs.chosen.drop


def test_every_metric_is_in_its_own_sign(both: dict[str, FitResult]) -> None:
    accuracy, error = both["accuracy"], both["error"]
    assert error.lower_is_better
    assert [one.metric for one in error.trials] == [pytest.approx(1 - one.metric) for one in accuracy.trials]
    assert load_result(Path(error.out)) == error


def test_the_cascade_of_its_tiers_is_the_same(both: dict[str, FitResult]) -> None:
    accuracy, error = both["accuracy"].cascade, both["error"].cascade
    assert accuracy is not None
    assert error is not None
    assert error.metric == pytest.approx(1 - accuracy.metric)
    assert (error.thresholds, error.shares, error.drop) == (
        accuracy.thresholds,
        accuracy.shares,
        accuracy.drop,
    )


def test_the_bundle_carries_the_direction_and_validates_by_it(
    both: dict[str, FitResult], tiny: ModuleType, scripted: ModuleType
) -> None:
    bundle = both["error"].tiers[-1].bundle
    assert bundle is not None
    with open_bundle(Path(bundle)) as verified:
        claim = verified.manifest.claim
    assert (claim.metric_name, claim.lower_is_better) == ("error", True)
    found = validate(Path(bundle), scripted.ScriptedDevice(tiny.latency_ms))
    assert found.verdict is not None
    assert found.verdict.kind == "fits"


@pytest.fixture
def fit(tiny: ModuleType, scripted: ModuleType, tmp_path: Path) -> Callable[..., FitResult]:
    def run(task: edgeprune.Task, **options: Any) -> FitResult:
        device = scripted.ScriptedDevice(tiny.latency_ms)
        return edgeprune.fit(task, device=device, out=tmp_path / "run", **{"epochs": 0, **options})

    return run


def test_an_error_that_rises_too_far_misses(fit: Callable[..., FitResult], tiny: ModuleType) -> None:
    """It passed for a gain where errors were taken for accuracies."""
    error = pair(tiny)["error"]
    result = fit(error, speedup=4.0, max_drop=0.0, recover="none")
    assert result.verdict.kind == "misses"
    limit = result.baseline.metric
    broken = [one for one in result.trials if one.metric > limit]
    assert broken
    assert all(one.verdict.kind == "misses" for one in broken)


def test_a_run_by_one_direction_is_not_resumed_by_the_other(
    fit: Callable[..., FitResult], tiny: ModuleType
) -> None:
    accuracy = pair(tiny)["accuracy"]
    first = fit(accuracy, speedup=1.15)
    with pytest.raises(edgeprune.InputError, match="lower_is_better was false, is now true"):
        fit(replace(accuracy, lower_is_better=True), speedup=1.15, resume=True)
    assert fit(accuracy, speedup=1.15, resume=True).chosen == first.chosen


def stretched(tiny: ModuleType, by: float, **changes: Any) -> edgeprune.Task:
    """The tiny task with its error rate in another unit: 100 is a percentage."""
    error = pair(tiny)["error"]
    return replace(
        error,
        evaluate=lambda predict: by * error.evaluate(predict),
        evaluate_subset=None,
        evaluate_samples=None,
        metric="WER %",
        **changes,
    )


def test_a_share_of_an_error_is_resolved_by_the_dense_model_and_binds(
    fit: Callable[..., FitResult], tiny: ModuleType
) -> None:
    result = fit(stretched(tiny, 100.0), speedup=1.15, max_drop="50%")
    dense = result.baseline.metric
    assert dense > 1, "no percentage"
    assert (result.budget.max_drop, result.budget.max_drop_percent) == (pytest.approx(0.5 * dense), 50.0)
    assert result.verdict.kind == "fits"
    assert result.chosen.metric <= 1.5 * dense
    assert all(one.metric <= 1.5 * dense for one in result.trials if one.verdict.kind != "misses")


@pytest.mark.parametrize(
    ("by", "options", "sentence"),
    [
        (100.0, {}, r"WER % of the dense model is 9\.333, and how much of it may be lost was not said"),
        (-1.0, {}, "how much of it may be lost was not said"),
        (0.0, {"max_drop": "2%"}, "WER % of the dense model is 0, and 2% of that allows nothing"),
    ],
    ids=["in percent", "negative", "a share of nothing"],
)
def test_a_drop_that_cannot_be_meant_is_refused_before_anything_is_written(
    tiny: ModuleType, fit: Callable[..., FitResult], tmp_path: Path, by: float, options: Any, sentence: str
) -> None:
    with pytest.raises(edgeprune.InputError, match=sentence):
        fit(stretched(tiny, by), **options)
    assert not (tmp_path / "run").exists()


def test_an_error_that_is_taken_for_an_accuracy_is_questioned_before_and_after(
    fit: Callable[..., FitResult], tiny: ModuleType
) -> None:
    """It is told, not refused: only the task knows what its metric means."""
    told: list[Event] = []
    error = replace(pair(tiny)["error"], lower_is_better=False, evaluate_samples=None, train=None)
    result = fit(error, speedup=4.0, max_drop=0.05, recover="none", listen=told.append)
    assert result.chosen.metric > 2 * result.baseline.metric, "not much worse"
    before, after = (one for one in result.remarks if "Task.lower_is_better=True" in one)
    assert "in a wrong order, better than" in before
    assert "although its outputs are far from" in after
    assert [event.doing for event in told if event.doing in (before, after)] == [before, after]
    assert load_result(Path(result.out)).remarks == result.remarks
    assert document(result)["remarks"] == list(result.remarks)


def test_a_metric_of_the_right_direction_is_not_questioned(both: dict[str, FitResult]) -> None:
    assert [one for result in both.values() for one in result.remarks if "?" in one] == []


@pytest.mark.parametrize("value", [None, 1, "yes"])
def test_a_direction_that_is_neither_is_refused(tiny: ModuleType, value: Any) -> None:
    with pytest.raises(edgeprune.InputError, match=r"Task\.lower_is_better is"):
        tiny.task(lower_is_better=value)

"""The detector of examples/: boxes to maps and back, mAP by hand, and a fit of a model with four outputs."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch

import edgeprune
from edgeprune.tasks import call_evaluate, check_task

EXAMPLES = Path(__file__).parents[2] / "examples"


@pytest.fixture(scope="module")
def example() -> ModuleType:
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(EXAMPLES))
        import detector

        return detector


@pytest.fixture(scope="module")
def task(example: ModuleType) -> edgeprune.Task:
    return example.task()


def test_maps_of_the_truth_are_read_back_as_the_truth(example: ModuleType) -> None:
    _, truth = example.drawn(60, seed=5)
    maps = example.targets(truth)
    sure = [20 * each - 10 if "kinds" in name else each for name, each in maps.items()]
    found = example.boxes_of([each.numpy() for each in sure])
    for boxes, wanted in zip(found, truth, strict=True):
        order, known = np.lexsort(boxes.corners.T), np.lexsort(wanted.corners.T)
        assert boxes.kinds[order].tolist() == wanted.kinds[known].tolist()
        assert boxes.corners[order] == pytest.approx(wanted.corners[known], abs=1e-3)
    assert example.mean_precision(found, truth, len(example.KINDS)) == 1.0


def test_precision_is_that_of_a_table_worked_out_by_hand(example: ModuleType) -> None:
    """Two shapes; by falling score: a hit, a box on nothing, the second hit, and the first one again."""
    there = np.array([[0.0, 0, 10, 10], [20, 20, 30, 30]])
    corners = np.array([there[0], [40.0, 40, 50, 50], there[1], there[0]])
    found = example.Boxes(corners, np.zeros(4, int), np.array([0.9, 0.8, 0.7, 0.6]))
    truth = example.Boxes(there, np.zeros(2, int), np.ones(2))
    assert example.mean_precision([found], [truth], 1) == pytest.approx((1 + 2 / 3) / 2)
    kept = example.without_doubles(found)
    assert kept.scores.tolist() == [0.9, 0.8, 0.7], "the same box twice is one"
    with pytest.raises(ValueError, match="no picture has a shape of kind 1"):
        example.mean_precision([found], [truth], 2)


def test_the_loss_sees_kinds_everywhere_and_boxes_where_a_shape_is(example: ModuleType) -> None:
    _, truth = example.drawn(8, seed=6)
    maps = example.targets(truth)
    sure = {name: 20 * each - 10 if "kinds" in name else each.clone() for name, each in maps.items()}
    least = float(example.loss(sure, maps))
    empty = maps["fine_kinds"].amax(dim=1, keepdim=True).expand_as(maps["fine_boxes"]) == 0
    sure["fine_boxes"][empty] = 5.0
    assert float(example.loss(sure, maps)) == pytest.approx(least)
    sure["fine_boxes"][~empty] += 1.0
    assert float(example.loss(sure, maps)) > least + 1
    sure["coarse_kinds"] = -sure["coarse_kinds"]
    assert float(example.loss(sure, maps)) > least + 50


def test_shapes_are_found_and_a_fit_keeps_finding_them(
    task: edgeprune.Task, tiny: ModuleType, scripted: ModuleType, tmp_path: Path
) -> None:
    def predict(images):
        with torch.no_grad():
            return tuple(each.numpy() for each in task.model(torch.from_numpy(images)).values())

    check_task(task)
    assert call_evaluate(task, predict) > 0.8
    result = edgeprune.fit(
        # Any INT8 form is as good on this subset: the first one is built, and no other.
        replace(task, evaluate_subset=lambda predict: 0.5),
        speedup=3,
        max_drop=0.05,
        epochs=1,
        device=scripted.ScriptedDevice(tiny.latency_ms),
        out=tmp_path / "run",
    )
    assert result.verdict.kind == "fits"
    assert result.chosen.candidate.kept
    assert result.chosen.candidate.precision == "int8"

"""Outputs in a wrong order are as bad as can be: a metric that likes or does not see them is questioned."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

import edgeprune
from edgeprune.tasks.shuffled import MOST_BYTES, Remembered, scored

ROWS, CLASSES = 120, 4
NUMBERS = np.random.default_rng(0)
VALUES = NUMBERS.standard_normal((ROWS, 3))  # wanted of a regression; the model is nearly right
LABELS = NUMBERS.integers(0, CLASSES, ROWS)
Predict = Callable[..., Any]


def model(rows: np.ndarray) -> np.ndarray:
    """Values of rows, or scores of classes behind them."""
    noise = np.random.default_rng(1).standard_normal((ROWS, 3 + CLASSES))
    scores = np.eye(CLASSES)[LABELS]
    return (np.concatenate([VALUES, scores], axis=1) + 0.1 * noise)[rows]


def asked(predict: Predict, batch: int) -> np.ndarray:
    parts = np.split(np.arange(ROWS), range(batch, ROWS, batch))
    return np.concatenate([predict(rows) for rows in parts])


def squared(predict: Predict, batch: int = 50) -> np.ndarray:
    return np.asarray(((asked(predict, batch)[:, :3] - VALUES) ** 2).mean(axis=1))


def mse(predict: Predict, batch: int = 50) -> float:
    return float(squared(predict, batch).mean())


def top_1(predict: Predict) -> float:
    return float((asked(predict, 7)[:, 3:].argmax(axis=1) == LABELS).mean())


def perplexity(predict: Predict) -> float:
    logits = asked(predict, 11)[:, 3:] * 5
    likely = logits[np.arange(ROWS), LABELS] - np.log(np.exp(logits).sum(axis=1))
    return float(np.exp(-likely.mean()))


def psnr(predict: Predict) -> float:
    return float(-10 * np.log10(mse(predict)))


def r2(predict: Predict) -> float:
    return 1 - mse(predict) / float(VALUES.var())


def questions(evaluate: Callable[[Predict], float], predict: Predict = model, **fields: Any) -> list[str]:
    task = edgeprune.Task(
        model=torch.nn.Identity(),
        example=torch.zeros(1),
        calibration=[],
        evaluate=evaluate,
        **{"metric": "score", **fields},
    )
    return scored(task, predict, seed=0)[1]


HELD = [
    pytest.param(top_1, False, id="accuracy"),
    pytest.param(lambda predict: 100 * top_1(predict), False, id="accuracy of 0 to 100"),
    pytest.param(psnr, False, id="PSNR"),
    pytest.param(r2, False, id="R2"),
    pytest.param(lambda predict: -mse(predict), False, id="minus MSE"),
    pytest.param(mse, True, id="MSE"),
    pytest.param(lambda predict: mse(predict, batch=1), True, id="MSE row by row"),
    pytest.param(perplexity, True, id="perplexity"),
    pytest.param(lambda predict: 100 * (1 - top_1(predict)), True, id="error rate in percent"),
]


@pytest.mark.parametrize(("evaluate", "lower"), HELD)
def test_a_metric_held_by_its_own_direction_raises_no_question(evaluate: Any, lower: bool) -> None:
    assert questions(evaluate, lower_is_better=lower) == []


@pytest.mark.parametrize(("evaluate", "lower"), HELD)
def test_a_metric_held_the_wrong_way_round_is_questioned_in_one_sentence(evaluate: Any, lower: bool) -> None:
    (question,) = questions(evaluate, lower_is_better=not lower)
    assert f"(Task.lower_is_better={lower})?" in question
    assert f"is {'less' if lower else 'more'} of it better" in question


@pytest.mark.parametrize(
    "evaluate",
    [
        pytest.param(lambda predict: 0.5 + 0 * mse(predict), id="constant"),
        pytest.param(lambda predict: float(asked(predict, 50).std(axis=0).sum()), id="of the distribution"),
    ],
)
def test_a_metric_that_does_not_see_the_order_is_told_otherwise(evaluate: Any) -> None:
    (question,) = questions(evaluate)
    assert "in a wrong order, too" in question
    assert "lower_is_better" not in question


def test_scores_by_sample_of_the_other_direction_are_questioned() -> None:
    def right(predict: Predict) -> np.ndarray:
        return np.asarray(squared(predict) < 0.5, float)

    (question,) = questions(mse, lower_is_better=True, evaluate_samples=right)
    assert question.startswith("the mean of evaluate_samples is")
    assert questions(mse, lower_is_better=True, evaluate_samples=squared) == []


class Growing:
    """Asks for more each time."""

    def __init__(self) -> None:
        self.calls = 0

    def __call__(self, predict: Predict) -> float:
        self.calls += 1
        return mse(predict) + sum(float(predict(np.arange(self.calls)).mean()) for _ in range(self.calls))


def stumbling(predict: Predict) -> float:
    error = mse(predict)
    return error if error < 0.5 else float("nan")


@pytest.mark.parametrize(
    ("evaluate", "predict"),
    [
        pytest.param(Growing(), model, id="other calls each time"),
        pytest.param(stumbling, model, id="no number of wrong outputs"),
        pytest.param(lambda predict: 0.5, model, id="no call at all"),
        pytest.param(lambda predict: float(predict(np.arange(1))[0, 0]), model, id="a single row"),
        pytest.param(mse, lambda rows: np.ones((len(rows), 7)), id="the same output for all"),
        pytest.param(
            lambda predict: float(predict(np.arange(9))[1]),
            lambda rows: (model(rows), np.float32(1)),
            id="an output without rows",
        ),
    ],
)
def test_an_evaluation_that_cannot_be_asked_so_raises_no_question(evaluate: Any, predict: Predict) -> None:
    assert questions(evaluate, predict) == []


def test_large_evaluations_are_not_kept_in_memory() -> None:
    remembered = Remembered(lambda size: np.zeros((2, size // 2), np.uint8))
    for size in (MOST_BYTES // 2, MOST_BYTES // 2, 2, 2):
        remembered(size)
    assert remembered.answers == []
    assert remembered.shuffled(seed=0) is None


def test_rows_change_places_with_rows_of_their_shape_only_whole_and_each_once() -> None:
    """Sequences of two lengths, two outputs each."""
    remembered = Remembered(
        lambda first, length: (first + np.arange(5)[:, None] * np.ones(length), first + np.arange(5))
    )
    for call in range(6):
        remembered(10 * call, 2 + call % 2)
    shuffled = remembered.shuffled(seed=0)
    assert shuffled is not None
    rows = [(int(one), long.shape) for outputs in shuffled for long, one in zip(*outputs, strict=True)]
    assert all((long == one).all() for outputs in shuffled for long, one in zip(*outputs, strict=True))
    before = [
        (int(one), long.shape) for outputs in remembered.answers for long, one in zip(*outputs, strict=True)
    ]
    assert rows != before
    assert sorted(rows) == sorted(before)

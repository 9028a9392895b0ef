"""Doubt about the direction of a metric, from the dense model's outputs in a wrong order.

Outputs that are given to other inputs are as bad as outputs can be, so a metric that gets better by it is
held the wrong way round, and one that stays the same does not look at them.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeprune.errors import EdgepruneError, InputError
from edgeprune.records.task import Predict, Task
from edgeprune.tasks.evaluation import call_evaluate, call_evaluate_samples
from edgeprune.tasks.prepared import PreparedTask

MOST_BYTES = 1 << 28  # of outputs that are kept; a larger evaluation is not asked again
SAME = 1e-9  # relative: what sums in another order may be off by
Outputs = tuple[NDArray[Any], ...]


class Remembered:
    """A predict function that remembers its answers call by call, as long as they are small."""

    def __init__(self, predict: Predict) -> None:
        self._predict = predict
        self.answers: list[Outputs] = []
        self._bytes = 0

    def __call__(self, *arrays: Any) -> Any:
        answer = self._predict(*arrays)
        outputs = answer if isinstance(answer, tuple) else (answer,)
        self._bytes += sum(output.nbytes for output in outputs)
        if self._bytes <= MOST_BYTES:
            self.answers.append(outputs)
        else:
            self.answers.clear()
        return answer

    def shuffled(self, seed: int) -> list[Outputs] | None:
        """Answers with the rows of all calls in another order; None where that changes nothing, or cannot be.

        Rows change places with rows of the same shape only.
        """
        places: dict[object, list[tuple[int, int]]] = defaultdict(list)
        for call, outputs in enumerate(self.answers):
            rows = {len(output) if output.ndim else 0 for output in outputs}
            if len(rows) != 1:
                return None
            kind = tuple((output.shape[1:], output.dtype) for output in outputs)
            places[kind] += [(call, row) for row in range(rows.pop())]
        numbers = np.random.default_rng(seed)
        answers = [tuple(output.copy() for output in outputs) for outputs in self.answers]
        for alike in places.values():
            for at, (call, row) in zip(numbers.permutation(len(alike)), alike, strict=True):
                other, its_row = alike[at]
                for ours, theirs in zip(answers[call], self.answers[other], strict=True):
                    ours[row] = theirs[its_row]
        moved = any(
            not np.array_equal(ours, theirs)
            for before, after in zip(self.answers, answers, strict=True)
            for ours, theirs in zip(before, after, strict=True)
        )
        return answers if moved else None


def scored(task: Task, predict: Predict, seed: int) -> tuple[float, list[str]]:
    """Metric of the dense model, and the questions that it raises. predict: of the dense model.

    Raises `InputError` as `call_evaluate` does.
    """
    remembered = Remembered(predict)
    score = call_evaluate(task, remembered)
    own = task.doubts(score) if isinstance(task, PreparedTask) else ()
    return score, [*own, *doubted(task, score, remembered, seed)]


def doubted(task: Task, score: float, remembered: Remembered, seed: int) -> Iterator[str]:
    """Questions about a metric that outputs in a wrong order make better, or do not change.

    score: `evaluate` of the dense model, whose answers were remembered. Scores by sample are asked, too,
    where `evaluate_samples` makes the same calls.
    """
    answers = remembered.shuffled(seed)
    if answers is None:
        return
    wrong = _score(task, answers, by_sample=False)
    if wrong is not None:
        yield from _questions(task, task.metric, score, wrong)
    if task.evaluate_samples is not None:
        right = _score(task, remembered.answers, by_sample=True)
        wrong = _score(task, answers, by_sample=True)
        if right is not None and wrong is not None:
            yield from _questions(task, "the mean of evaluate_samples", right, wrong)


def _questions(task: Task, name: str, score: float, wrong: float) -> Iterator[str]:
    if math.isclose(score, wrong, rel_tol=SAME, abs_tol=SAME**2):
        yield (
            f"{name} is {score:.4g} with the dense model's outputs in a wrong order, too: does it look at "
            "which output belongs to which input? Nothing that a candidate loses may be seen by it."
        )
    elif task.direction.better(wrong, score):
        yield (
            f"{name} is {wrong:.4g} with the dense model's outputs in a wrong order, better than {score:.4g} "
            f"in the right one: {task.direction.question}"
        )


def _score(task: Task, answers: list[Outputs], *, by_sample: bool) -> float | None:
    """Metric of answers that are given in turn; None for an evaluation that does not ask as it did before."""
    waiting = list(reversed(answers))

    def replayed(*arrays: Any) -> Any:
        given = arrays[0] if not isinstance(arrays[0], Mapping) else next(iter(arrays[0].values()))
        if not waiting or len(waiting[-1][0]) != len(given):
            raise InputError(
                "The evaluation asks for other predictions than before.", "Let it repeat itself."
            )
        outputs = waiting.pop()
        return outputs if len(outputs) > 1 else outputs[0]

    try:
        found = (
            float(call_evaluate_samples(task, replayed).mean())
            if by_sample
            else call_evaluate(task, replayed)
        )
    except EdgepruneError:  # it may well stumble over answers to another question
        return None
    return None if waiting else found

"""Metrics of a model that is given as a file: top-1, RMSE, or fidelity to the original model."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from edgeprune.errors import InputError
from edgeprune.graph.capture import Captured, flatten
from edgeprune.meaning.kinds import Said, named, spoken, understood
from edgeprune.meaning.yardstick import decided, yardstick
from edgeprune.records.meaning import Meaning
from edgeprune.records.task import Predict
from edgeprune.tasks.arrays import Arrays

EVALUATION_BATCH = 32
SUBSET = 256  # evaluation rows on which INT8 variants are compared before one is evaluated in full

Forward = Callable[[Arrays], Any]  # rows -> what the model returns
Named = Sequence[tuple[str, torch.Tensor]]  # outputs by name
Found = Sequence[torch.Tensor]  # a model's outputs for some evaluation rows, in the model's order
Score = Callable[[Found, slice], float]  # (outputs, of which rows)
Marks = Callable[[Found, slice], torch.Tensor]  # (outputs, of which rows) -> right or wrong, [rows, places]


@dataclass(frozen=True)
class Batches:
    """Iterable of batches of a model's inputs: a tuple of tensors, or a dict for keywords."""

    arrays: Arrays
    keywords: bool

    def __iter__(self) -> Iterator[Any]:
        for rows in _batches(self.arrays):
            tensors = {name: torch.tensor(array) for name, array in rows.inputs.items()}
            yield tensors if self.keywords else tuple(tensors.values())


@dataclass(frozen=True)
class Pairs:
    """Iterable of batches of (inputs, target); the target is None where there are no labels."""

    batches: Batches

    def __iter__(self) -> Iterator[tuple[Any, torch.Tensor | None]]:
        for inputs, rows in zip(self.batches, _batches(self.batches.arrays), strict=True):
            yield inputs, None if rows.labels is None else torch.tensor(rows.labels)


@dataclass(frozen=True)
class Metric:
    """A score over the evaluation rows, and what the outputs are.

    marks: for a score that is the mean of right and wrong answers. outputs: for `Task.outputs`, as the user
        says, and as float labels make it certain.
    """

    name: str
    score: Score
    evaluation: Arrays
    outputs: Said
    marks: Marks | None = None
    lower_is_better: bool = False

    def evaluate(self, predict: Predict) -> float:
        """Score of `predict`: numpy arrays in the model's order -> the model's outputs."""
        return self._score(predict, slice(None))

    @property
    def evaluate_subset(self) -> Callable[[Predict], float] | None:
        """Function as `evaluate` on SUBSET of the shuffled rows; None with fewer than twice as many rows."""
        if len(self.evaluation) < 2 * SUBSET:
            return None
        return lambda predict: self._score(predict, slice(0, SUBSET))

    @property
    def evaluate_samples(self) -> Callable[[Predict], NDArray[np.float64]] | None:
        """Function as `evaluate`, of a score per sample, [samples]; None for a score that is no mean."""
        marks = self.marks
        if marks is None:
            return None

        def evaluate_samples(predict: Predict) -> NDArray[np.float64]:
            right = marks(_outputs(predict, self.evaluation), slice(None))
            return right.reshape(len(right), -1).double().mean(1).numpy()

        return evaluate_samples

    def _score(self, predict: Predict, rows: slice) -> float:
        return self.score(_outputs(predict, self.evaluation.rows(rows)), rows)


def metric_for(
    forward: Forward, captured: Captured, said: Said, arrays: Arrays, evaluation: Arrays, path: Path
) -> Metric:
    """Metric for the labels of `arrays`; without any, fidelity to the outputs of the file's own model.

    said: what the outputs are, where the user says so. Raises `InputError` when labels and outputs do not fit
    together, or it is not known which output the labels are about.
    """
    answer = forward(arrays.rows(slice(0, 2)))
    if arrays.labels is None:
        return _fidelity(forward, captured, said, evaluation)
    tensors = named(answer)
    words = spoken(said, tuple(name for name, _ in tensors))
    at = _labelled(tensors, words, path)
    targets = torch.tensor(evaluation.labels)
    if arrays.labels.dtype.kind == "f":
        _check_values(tensors[at][1], arrays.labels, path)

        def score(outputs: Found, rows: slice) -> float:
            return rmse(outputs[at], targets[rows])

        return Metric("RMSE", score, evaluation, _with_values(tensors, words, at), lower_is_better=True)
    axis = _class_axis(tensors[at][1], words[at], arrays.labels, path)

    def marks(outputs: Found, rows: slice) -> torch.Tensor:
        return outputs[at].argmax(axis) == targets[rows]

    return Metric("top-1", _mean_of(marks), evaluation, said, marks)


def rmse(outputs: torch.Tensor, labels: torch.Tensor) -> float:
    """Root of the mean squared error."""
    return float((outputs.reshape(labels.shape).double() - labels.double()).square().mean().sqrt())


def _fidelity(forward: Forward, captured: Captured, said: Said, evaluation: Arrays) -> Metric:
    """Agreement with the original model's outputs for the evaluation rows (`Yardstick.agreement`)."""
    answers = [flatten(forward(rows)) for rows in _batches(evaluation)]
    wanted = [torch.cat(column) for column in zip(*answers, strict=True)]
    measured = yardstick(understood(captured, forward(evaluation.rows(slice(0, 2))), said), [wanted])
    places = [at for at, meaning in enumerate(measured.meanings) if meaning.kind != "none"]
    decides = [decided(measured.meanings[at], wanted[at], wanted[at]) is not None for at in places]

    def marks(outputs: Found, rows: slice) -> torch.Tensor:
        same = (decided(measured.meanings[at], outputs[at], wanted[at][rows]) for at in places)
        return torch.cat([each for each in same if each is not None], dim=1)

    def score(outputs: Found, rows: slice) -> float:
        return measured.agreement(outputs, [output[rows] for output in wanted])

    if decides == [True]:
        return Metric("fidelity", _mean_of(marks), evaluation, said, marks)
    return Metric("fidelity", score, evaluation, said)


def _mean_of(marks: Marks) -> Score:
    return lambda outputs, rows: float(marks(outputs, rows).double().mean())


def _labelled(tensors: Named, words: Sequence[Meaning | None], path: Path) -> int:
    """Place of the output that labels are about: the only one, or the only one of which anything is said."""
    floats = [at for at, (_, output) in enumerate(tensors) if output.is_floating_point()]
    told = [at for at in floats if (word := words[at]) is not None and word.kind != "none"]
    found = told or floats
    if len(found) != 1:
        shown = ", ".join(name for name, _ in tensors)
        raise InputError(
            f"{path} has labels, and the model returns {shown}: which output they are about is not known.",
            "Say what that output is and leave the others out, as in --outputs 0=classes.",
        )
    return found[0]


def _check_values(output: torch.Tensor, labels: NDArray[Any], path: Path) -> None:
    if labels[:2].size != output.numel():
        raise InputError(
            f"{path}: float labels are [N{_rest(labels.shape)}], the output is [N{_rest(output.shape)}].",
            "Give one value for each value that the model predicts.",
        )


def _class_axis(output: torch.Tensor, word: Meaning | None, labels: NDArray[Any], path: Path) -> int:
    """Axis of the classes: the one that is said, or without which the output is shaped like the labels."""
    shape = tuple(output.shape)
    axes = [
        axis
        for axis in range(1, len(shape))
        if shape[axis] > 1 and shape[1:axis] + shape[axis + 1 :] == labels.shape[1:]
    ]
    if word is not None and word.axis is not None:
        axes = [axis for axis in axes if axis == word.axis % len(shape)]
    if not axes:
        raise InputError(
            f"{path}: integer labels are [N{_rest(labels.shape)}], the output is [N{_rest(shape)}].",
            "Class numbers need an output of [N, classes]; values to predict are saved as floats.",
        )
    if len(axes) > 1:
        raise InputError(
            f"{path}: the output is [N{_rest(shape)}], and its classes could be along axis "
            f"{' or '.join(map(str, axes))}.",
            f"Say which, as in --outputs classes:{axes[0]}.",
        )
    low, high = int(labels.min()), int(labels.max())
    if low < 0 or high >= shape[axes[0]]:
        raise InputError(
            f"{path}: labels run from {low} to {high}, and the model has classes 0 to {shape[axes[0]] - 1}.",
            "Number the classes as the model's output does.",
        )
    return axes[0]


def _with_values(tensors: Named, words: Sequence[Meaning | None], at: int) -> dict[str, str]:
    """What is said of each output by its name; the one that float labels are about holds values."""
    said = {name: str(each) for (name, _), each in zip(tensors, words, strict=True) if each is not None}
    return {tensors[at][0]: "values", **said}


def _outputs(predict: Predict, rows: Arrays) -> list[torch.Tensor]:
    answers = [predict(*batch.inputs.values()) for batch in _batches(rows)]
    parts = [answer if isinstance(answer, tuple | list) else (answer,) for answer in answers]
    return [torch.from_numpy(np.concatenate(column)) for column in zip(*parts, strict=True)]


def _batches(arrays: Arrays) -> Iterator[Arrays]:
    for first in range(0, len(arrays), EVALUATION_BATCH):
        yield arrays.rows(slice(first, first + EVALUATION_BATCH))


def _rest(shape: Sequence[int]) -> str:
    return "".join(f", {size}" for size in shape[1:])

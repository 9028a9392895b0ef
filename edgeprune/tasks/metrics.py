"""Metrics of a model that is given as a file: top-1, RMSE, or fidelity to the original model."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from edgeprune.errors import InputError
from edgeprune.records.task import Predict
from edgeprune.tasks.arrays import Arrays

EVALUATION_BATCH = 32
SUBSET = 256  # evaluation rows on which INT8 variants are compared before one is evaluated in full

Forward = Callable[[Arrays], torch.Tensor]
Score = Callable[[NDArray[Any], NDArray[Any]], float]  # (outputs, targets), all rows
Loss = Callable[[Any, Any], torch.Tensor]


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
    """Iterable of batches of (inputs, target)."""

    batches: Batches

    def __iter__(self) -> Iterator[tuple[Any, torch.Tensor]]:
        for inputs, rows in zip(self.batches, _batches(self.batches.arrays), strict=True):
            yield inputs, torch.tensor(rows.labels)


@dataclass(frozen=True)
class Metric:
    """A score over the evaluation rows, with the loss and the targets of recovery.

    training, evaluation: rows whose `labels` are the targets: the user's labels, or the original model's
    outputs.
    """

    name: str
    score: Score
    loss: Loss
    training: Arrays
    evaluation: Arrays
    lower_is_better: bool = False

    def evaluate(self, predict: Predict) -> float:
        """Score of `predict`: numpy arrays in the model's order -> the model's (first) output."""
        return self._score(predict, self.evaluation)

    @property
    def evaluate_subset(self) -> Callable[[Predict], float] | None:
        """Function as `evaluate` on SUBSET of the shuffled rows; None with fewer than twice as many rows."""
        if len(self.evaluation) < 2 * SUBSET:
            return None
        return lambda predict: self._score(predict, self.evaluation.rows(slice(0, SUBSET)))

    @property
    def evaluate_samples(self) -> Callable[[Predict], NDArray[np.float64]] | None:
        """Function as `evaluate`, of a score per sample, [samples]; None for a score that is no mean."""
        marks = _MARKS.get(self.score)
        if marks is None:
            return None
        return lambda predict: marks(*self._outputs(predict, self.evaluation))

    def train(self, keywords: bool) -> Pairs:
        """Training data of the task."""
        return Pairs(Batches(self.training, keywords))

    def _score(self, predict: Predict, rows: Arrays) -> float:
        return self.score(*self._outputs(predict, rows))

    def _outputs(self, predict: Predict, rows: Arrays) -> tuple[NDArray[Any], NDArray[Any]]:
        outputs = []
        for batch in _batches(rows):
            result = predict(*batch.inputs.values())
            outputs.append(np.asarray(result[0] if isinstance(result, tuple | list) else result))
        return np.concatenate(outputs), np.asarray(rows.labels)


def metric_for(forward: Forward, arrays: Arrays, training: Arrays, evaluation: Arrays, path: Path) -> Metric:
    """Metric for the labels of `arrays`. Raises `InputError` when labels and output do not fit together."""
    sample = forward(arrays.rows(slice(0, 2)))
    shape = tuple(sample.shape)
    labels = arrays.labels
    if labels is None:
        training, evaluation = _with_outputs(forward, training), _with_outputs(forward, evaluation)
        if len(shape) == 2 and shape[1] > 1:
            return Metric("fidelity", same_argmax, _soft_cross_entropy, training, evaluation)
        return Metric("fidelity", relative_closeness, _mean_square, training, evaluation)
    if labels.dtype.kind == "f":
        if labels[:2].size != sample.numel():
            raise InputError(
                f"{path}: float labels are [N{_rest(labels.shape)}], the output is [N{_rest(shape)}].",
                "Give one value for each value that the model predicts.",
            )
        return Metric("RMSE", rmse, _mean_square, training, evaluation, lower_is_better=True)
    if len(shape) < 2 or shape[1] < 2 or labels.shape[1:] != shape[2:]:
        raise InputError(
            f"{path}: integer labels are [N{_rest(labels.shape)}], the output is [N{_rest(shape)}].",
            "Class numbers need an output of [N, classes]; values to predict are saved as floats.",
        )
    low, high = int(labels.min()), int(labels.max())
    if low < 0 or high >= shape[1]:
        raise InputError(
            f"{path}: labels run from {low} to {high}, and the model has classes 0 to {shape[1] - 1}.",
            "Number the classes as the model's output does.",
        )
    return Metric("top-1", top_1, torch.nn.functional.cross_entropy, training, evaluation)


def top_1(outputs: NDArray[Any], labels: NDArray[Any]) -> float:
    """Share of labels that equal the class with the largest output, over dimension 1."""
    return float(np.mean(outputs.argmax(axis=1) == labels))


def top_1_marks(outputs: NDArray[Any], labels: NDArray[Any]) -> NDArray[np.float64]:
    """Top-1 score of each sample, [samples]."""
    return _per_sample(outputs.argmax(axis=1) == labels)


def rmse(outputs: NDArray[Any], labels: NDArray[Any]) -> float:
    """Root of the mean squared error."""
    error = outputs.reshape(labels.shape).astype(np.float64) - labels
    return float(np.sqrt(np.mean(error**2)))


def same_argmax(outputs: NDArray[Any], original: NDArray[Any]) -> float:
    """Share of rows in which the largest output is that of the same class as in the original model."""
    return float(np.mean(outputs.argmax(axis=1) == original.argmax(axis=1)))


def same_argmax_marks(outputs: NDArray[Any], original: NDArray[Any]) -> NDArray[np.float64]:
    """`same_argmax` of each sample, [samples]."""
    return _per_sample(outputs.argmax(axis=1) == original.argmax(axis=1))


def relative_closeness(outputs: NDArray[Any], original: NDArray[Any]) -> float:
    """Closeness 1 - |outputs - original| / |original| in the L2 norm."""
    reference = original.astype(np.float64)
    distance = float(np.linalg.norm(outputs.astype(np.float64) - reference))
    scale = float(np.linalg.norm(reference))
    if scale == 0.0:
        return 1.0 if distance == 0.0 else 0.0
    return 1.0 - distance / scale


def _per_sample(right: NDArray[np.bool_]) -> NDArray[np.float64]:
    return np.asarray(right.reshape(len(right), -1).mean(axis=1), np.float64)


_MARKS: dict[Score, Callable[[NDArray[Any], NDArray[Any]], NDArray[np.float64]]] = {
    top_1: top_1_marks,
    same_argmax: same_argmax_marks,
}


def _with_outputs(forward: Forward, arrays: Arrays) -> Arrays:
    """Rows with the original model's outputs as labels."""
    outputs = [forward(rows).numpy() for rows in _batches(arrays)]
    return Arrays(arrays.inputs, np.concatenate(outputs))


def _soft_cross_entropy(output: torch.Tensor, original: torch.Tensor) -> torch.Tensor:
    return torch.nn.functional.cross_entropy(output, original.softmax(dim=1))


def _mean_square(output: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    return torch.nn.functional.mse_loss(output, target.reshape(output.shape))


def _batches(arrays: Arrays) -> Iterator[Arrays]:
    for first in range(0, len(arrays), EVALUATION_BATCH):
        yield arrays.rows(slice(first, first + EVALUATION_BATCH))


def _rest(shape: tuple[int, ...]) -> str:
    return "".join(f", {size}" for size in shape[1:])

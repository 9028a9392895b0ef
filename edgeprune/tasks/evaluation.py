"""Guarded calls of the user's evaluation: what it returns is one number, or one sentence says what it was."""

from __future__ import annotations

import math
import numbers
from collections.abc import Callable
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from edgeprune.errors import InputError
from edgeprune.records.task import Predict, Task
from edgeprune.tasks.blame import kind_of
from edgeprune.tasks.guest import guest

Loss = Callable[[Any, Any], torch.Tensor]
_CORRECT = (
    "Correct it: it gets predict, a function of numpy arrays (one for each input) that returns a numpy array."
)


def call_evaluate(task: Task, predict: Predict, *, subset: bool = False) -> float:
    """Metric `task.evaluate(predict)` as a finite float; with `subset` from `evaluate_subset` where defined.

    Raises `InputError` with the exception and its line in the user's code, or with the value that was
    returned instead of a number. An `EdgepruneError` of `predict` (a device that failed) passes unchanged.
    """
    evaluate, name = task.evaluate, "evaluate"
    if subset and task.evaluate_subset is not None:
        evaluate, name = task.evaluate_subset, "evaluate_subset"
    with guest(name, _CORRECT):
        value: Any = evaluate(predict)
    with guest(f"Reading the result of {name}", "Return one float."):
        number = _number(value)
    where = _definition(evaluate)
    if number is None:
        raise InputError(
            f"{name} returned {kind_of(value)}, not a number{where}.",
            "Return one float.",
        )
    if not math.isfinite(number):
        raise InputError(
            f"{name} returned {number}{where}.",
            "Return a finite number: an empty data set or a division by zero gives NaN.",
        )
    return number


def call_evaluate_samples(task: Task, predict: Predict) -> NDArray[np.float64]:
    """Scores of `task.evaluate_samples(predict)`, [samples]; raises `InputError` as `call_evaluate` does."""
    evaluate = task.evaluate_samples
    if evaluate is None:
        raise InputError("The task has no evaluate_samples.", "Give one score per sample.")
    hint = "Return one number per sample, as an array."
    with guest("evaluate_samples", hint):
        value: Any = evaluate(predict)
    with guest("Reading the result of evaluate_samples", hint):
        scores = _numbers(value)
    where = _definition(evaluate)
    if scores is None:
        raise InputError(f"evaluate_samples returned {kind_of(value)}, not an array of numbers{where}.", hint)
    if scores.ndim != 1 or not scores.size:
        raise InputError(f"evaluate_samples returned an array of shape {scores.shape}{where}.", hint)
    if not np.isfinite(scores).all():
        first = int(np.argmin(np.isfinite(scores)))
        raise InputError(
            f"evaluate_samples returned {scores[first]} for sample {first}{where}.",
            "Return one finite number per sample.",
        )
    return scores


@dataclass(frozen=True)
class GuardedLoss:
    """The user's loss, called as a guest: a scalar tensor, or `InputError`."""

    own: Loss

    def __call__(self, output: Any, target: Any) -> torch.Tensor:
        with guest("loss", "Correct it: it gets what the model returns, all outputs, and a batch's target."):
            value: Any = self.own(output, target)
        if not isinstance(value, torch.Tensor) or value.numel() != 1:
            raise InputError(
                f"loss returned {kind_of(value)}, not a scalar tensor{_definition(self.own)}.",
                "Return the mean over the batch, such as torch.nn.functional.cross_entropy(output, target).",
            )
        return value


def _number(value: Any) -> float | None:
    """Float of one real number without an axis, of any library; None for anything else."""
    if isinstance(value, torch.Tensor) and value.ndim == 0:
        value = value.item()
    if isinstance(value, np.ndarray) and value.ndim == 0:
        value = None if np.ma.is_masked(value) else value.item()
    # NumPy counts durations as integers, Python counts true and false.
    if isinstance(value, bool | np.bool_ | np.timedelta64):
        return None
    if not isinstance(value, numbers.Real | Decimal):
        return None
    try:
        return float(value)
    except OverflowError:  # a whole number beyond the range of floats
        return math.inf


def _numbers(value: Any) -> NDArray[np.float64] | None:
    """Array of real numbers; None for anything else. Right and wrong may be true and false."""
    if isinstance(value, torch.Tensor):
        if value.is_complex():
            return None
        return value.detach().to("cpu", torch.float64).numpy()
    if isinstance(value, list | tuple) and any(isinstance(one, torch.Tensor) for one in value):
        singles = [_number(one) for one in value]
        return None if None in singles else np.array(singles, np.float64)
    if isinstance(value, np.ma.MaskedArray) and np.ma.is_masked(value):
        return None
    found = np.asarray(value)
    if found.dtype.kind not in "biuf":
        return None
    return found.astype(np.float64)


def _definition(function: Any) -> str:
    code = getattr(function, "__code__", None)
    return f" ({code.co_filename}, line {code.co_firstlineno})" if code else ""

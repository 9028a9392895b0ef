"""Checks of a task before anything expensive starts, and guarded calls of the user's evaluation."""

from __future__ import annotations

import math
import numbers
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from edgeprune.errors import EdgepruneError, InputError
from edgeprune.records.task import Predict, Task
from edgeprune.tasks.blame import with_place

_LIKE_EXAMPLE = "Every input must look like the example, in the same order; only the batch may differ."


def check_task(task: Task) -> None:
    """Check the example, the earlier weights, every calibration batch and the first training batch.

    Raises `InputError` that names the batch, the input or the weight, what was expected and what was given.
    """
    _check_example(task.example)
    if task.earlier is not None:
        _check_earlier(task.earlier, task.model.state_dict())
    count = 0
    for count, item in enumerate(_walk(task.calibration, "calibration"), start=1):
        _check_item(task.example, item, f"Calibration batch {count}")
    if not count:
        raise InputError(
            "The task's calibration data is empty.",
            "Give at least one batch; a few hundred samples make good INT8 ranges.",
        )
    if task.train is None:
        return
    first = next(_walk(task.train, "train"), None)
    if first is None:
        raise InputError("The task's training data is empty.", "Give batches, or leave `train` out.")
    if not isinstance(first, tuple | list) or len(first) != 2:
        raise InputError(
            f"Training batch 1 is {_kind(first)}, not a pair (inputs, target).",
            "Yield pairs: for a model of several inputs, ((input1, input2), target).",
        )
    _check_item(task.example, first[0], "Training batch 1")


def call_evaluate_samples(task: Task, predict: Predict) -> NDArray[np.float64]:
    """Scores of `task.evaluate_samples(predict)`, [samples]; raises `InputError` as `call_evaluate` does."""
    evaluate = task.evaluate_samples
    if evaluate is None:
        raise InputError("The task has no evaluate_samples.", "Give one score per sample.")
    try:
        scores = np.asarray(evaluate(predict), np.float64)
    except EdgepruneError:
        raise
    except Exception as error:
        raise InputError(
            f"evaluate_samples raised {with_place(error)}.", "Return one number per sample, as an array."
        ) from error
    if scores.ndim != 1 or not scores.size or not np.isfinite(scores).all():
        raise InputError(
            f"evaluate_samples returned an array of shape {scores.shape}{_definition(evaluate)}.",
            "Return one finite number per sample.",
        )
    return scores


def call_evaluate(task: Task, predict: Predict, *, subset: bool = False) -> float:
    """Metric `task.evaluate(predict)` as a finite float; with `subset` from `evaluate_subset` where defined.

    Raises `InputError` with the exception and its line in the user's code, or with the value that was
    returned instead of a number. An `EdgepruneError` of `predict` (a device that failed) passes unchanged.
    """
    evaluate, name = task.evaluate, "evaluate"
    if subset and task.evaluate_subset is not None:
        evaluate, name = task.evaluate_subset, "evaluate_subset"
    try:
        value: Any = evaluate(predict)
    except EdgepruneError:
        raise
    except Exception as error:
        raise InputError(
            f"{name} raised {with_place(error)}.",
            "Correct it: it gets predict, a function of numpy arrays (one for each input) "
            "that returns a numpy array.",
        ) from error
    if isinstance(value, torch.Tensor | np.ndarray) and value.ndim == 0:
        value = value.item()
    where = _definition(evaluate)
    if isinstance(value, bool) or not isinstance(value, numbers.Real):
        raise InputError(
            f"{name} returned {_kind(value)}, not a number{where}.",
            "Return one float, higher is better.",
        )
    try:
        number = float(value)
    except OverflowError:  # a whole number beyond the range of floats
        number = math.inf
    if not math.isfinite(number):
        raise InputError(
            f"{name} returned {number}{where}.",
            "Return a finite number: an empty data set or a division by zero gives NaN.",
        )
    return number


def flat_inputs(example: Any, item: Any, where: str = "The input") -> tuple[torch.Tensor, ...]:
    """Tensors of one item of calibration or training inputs, in the example's order.

    item: laid out as `example` (a tensor, a tuple or list, a dict), of tensors or numpy arrays.
    where: the item's name in error messages. Raises `InputError` when the layout differs.
    """
    if isinstance(example, Mapping):
        if not isinstance(item, Mapping):
            raise InputError(
                f"{where} is {_kind(item)}, and the example is a dict of {_names(example)}.", _LIKE_EXAMPLE
            )
        for name in example:
            if name not in item:
                raise InputError(f"{where} has no {name!r}; it has {_names(item)}.", _LIKE_EXAMPLE)
        for name in item:
            if name not in example:
                raise InputError(
                    f"{where} has {name!r}, which the example has not: it has {_names(example)}.",
                    _LIKE_EXAMPLE,
                )
        return tuple(_tensor(item[name], f"{where}, input {name!r},") for name in example)
    expected = 1 if isinstance(example, torch.Tensor) else len(example)
    items = list(item) if isinstance(item, tuple | list) else [item]
    if len(items) != expected:
        hint = "Calibration data is unlabelled: give the inputs alone." if len(items) == expected + 1 else ""
        raise InputError(
            f"{where} is {_kind(item)}, and the example has {expected} input{'s' * (expected != 1)}.",
            hint or _LIKE_EXAMPLE,
        )
    return tuple(_tensor(value, f"{where}, input {index},") for index, value in enumerate(items))


def _check_example(example: Any) -> None:
    named = _named(example)
    if not named:
        raise InputError(
            f"Task.example is {_kind(example)}, not tensors.",
            "Give a tensor, a tuple of tensors (positional) or a dict of tensors (keywords).",
        )
    for name, tensor in named:
        if not isinstance(tensor, torch.Tensor):
            raise InputError(
                f"Task.example, input {name}, is {_kind(tensor)}, not a tensor.",
                "Give a torch.Tensor: torch.from_numpy(array) makes one of an array.",
            )
        if tensor.dim() == 0 or tensor.shape[0] == 0:
            raise InputError(
                f"Task.example, input {name}, has shape {list(tensor.shape)}; dimension 0 must be the batch.",
                "Give an example with a batch of one or more.",
            )
    batches = {name: tensor.shape[0] for name, tensor in named}
    if len(set(batches.values())) > 1:
        shown = ", ".join(f"{size} in input {name}" for name, size in batches.items())
        raise InputError(
            f"Task.example has unequal batches: {shown}.", "Dimension 0 must be the batch in all."
        )


def _check_earlier(earlier: Mapping[str, Any], model: Mapping[str, Any]) -> None:
    hint = "Give the state_dict() of the same model, saved early in its training."
    for name, value in model.items():
        if name not in earlier:
            raise InputError(f"Task.earlier has no {name!r}, which the model has.", hint)
        given = earlier[name]
        if not isinstance(given, torch.Tensor):
            raise InputError(f"Task.earlier[{name!r}] is {_kind(given)}, not a tensor.", hint)
        if given.shape != value.shape:
            raise InputError(
                f"Task.earlier[{name!r}] has shape {list(given.shape)}, and the model's has "
                f"{list(value.shape)}.",
                hint,
            )
    for name in earlier:
        if name not in model:
            raise InputError(f"Task.earlier has {name!r}, which the model has not.", hint)


def _check_item(example: Any, item: Any, where: str) -> None:
    tensors = flat_inputs(example, item, where)
    batches = {tensor.shape[0] if tensor.dim() else 0 for tensor in tensors}
    for (name, like), tensor in zip(_named(example), tensors, strict=True):
        at = f"{where}, input {name},"
        if tensor.shape[1:] != like.shape[1:] or tensor.dim() != like.dim():
            want = ", ".join(["N", *(str(size) for size in like.shape[1:])])
            raise InputError(
                f"{at} has shape {list(tensor.shape)}, and the example asks for [{want}].", _LIKE_EXAMPLE
            )
        if tensor.dtype != like.dtype:
            raise InputError(f"{at} is {tensor.dtype}, and the example is {like.dtype}.", _LIKE_EXAMPLE)
        if not tensor.shape[0] or len(batches) > 1:
            problem = (
                "is empty" if not tensor.shape[0] else f"has {tensor.shape[0]} rows, unlike another input"
            )
            raise InputError(f"{at} {problem}.", "Give the same number of rows, one or more, in all inputs.")
        if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
            raise InputError(
                f"{at} holds NaN or infinite values.",
                "Clean the data: INT8 ranges cannot be taken from values that are not finite.",
            )


def _walk(data: Iterable[Any], field: str) -> Iterator[Any]:
    try:
        yield from data
    except Exception as error:
        raise InputError(
            f"Reading the task's {field} data raised {with_place(error)}.", "Correct the line that raised."
        ) from error


def _named(example: Any) -> list[tuple[str, Any]]:
    if isinstance(example, Mapping):
        return [(repr(name), value) for name, value in example.items()]
    if isinstance(example, tuple | list):
        return [(str(index), value) for index, value in enumerate(example)]
    return [("0", example)] if isinstance(example, torch.Tensor) else []


def _tensor(value: Any, where: str) -> torch.Tensor:
    if isinstance(value, torch.Tensor):
        return value.detach()
    if isinstance(value, np.ndarray) and value.dtype.kind in "biuf":
        return torch.tensor(value)  # a copy: torch cannot share memory that numpy may not write
    raise InputError(f"{where} is {_kind(value)}, not a tensor or a numeric numpy array.", _LIKE_EXAMPLE)


def _kind(value: Any) -> str:
    if value is None:
        return "None"
    if isinstance(value, np.ndarray):
        return f"an array of {value.dtype} {list(value.shape)}"
    if isinstance(value, torch.Tensor):
        return f"a tensor of {value.dtype} {list(value.shape)}"
    if isinstance(value, Mapping):
        return f"a dict of {_names(value)}"
    if isinstance(value, Sequence) and not isinstance(value, str):
        return f"{type(value).__name__} of {len(value)}"
    return (
        f"{type(value).__name__} {value!r}" if isinstance(value, str | int | float) else type(value).__name__
    )


def _names(mapping: Mapping[Any, Any]) -> str:
    return ", ".join(str(name) for name in mapping) or "nothing"


def _definition(function: Any) -> str:
    code = getattr(function, "__code__", None)
    return f" ({code.co_filename}, line {code.co_firstlineno})" if code else ""

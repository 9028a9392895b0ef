"""Checks of a task before anything expensive starts, and of its data whenever they are read."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from edgeprune.errors import InputError
from edgeprune.records.task import Task
from edgeprune.tasks.blame import kind_of, names_of
from edgeprune.tasks.guest import walk

_LIKE_EXAMPLE = "Every input must look like the example, in the same order; only the batch may differ."


_AGAIN = "Give a list or a DataLoader, or an object whose __iter__ starts from the beginning each time."
CHANGED = (
    "The task's calibration data changed when it was read a second time. This run keeps what it read first; "
    "--resume will not go on with it, since it will read other data. Give a list, or a loader that does not "
    "shuffle or augment."
)


def check_task(task: Task) -> tuple[Task, tuple[str, ...]]:
    """The task with a fixed copy of its calibration data, and sentences about what is unusual in it.

    Checked are the example, the earlier weights, every calibration batch, in two passes, and the first
    training batch. Raises `InputError` that names the batch, the input or the weight, what was expected and
    what was given.
    """
    _check_example(task.example)
    if task.earlier is not None:
        _check_earlier(task.earlier, task.model.state_dict())
    held = [
        # Copies: a loader may fill the same tensor again for each batch.
        tuple(tensor.clone() for tensor in _check_item(task.example, item, f"Calibration batch {number}"))
        for number, item in enumerate(walk(task.calibration, "calibration"), 1)
    ]
    if not held:
        raise InputError(
            "The task's calibration data is empty.",
            "Give at least one batch; a few hundred samples make good INT8 ranges.",
        )
    remarks = () if _same_again(task, held) else (CHANGED,)
    if task.train is not None and next(training_pairs(task), None) is None:
        raise InputError("The task's training data is empty.", "Give batches, or leave `train` out.")
    return replace(task, calibration=[_like(task.example, batch) for batch in held]), remarks


def training_pairs(task: Task) -> Iterator[tuple[tuple[torch.Tensor, ...], Any]]:
    """One pass over the training data: (inputs in the example's order, target).

    Raises `InputError` for a batch that is no such pair, or unlike the example.
    """
    for number, pair in enumerate(walk(task.train or (), "train"), 1):
        where = f"Training batch {number}"
        if not isinstance(pair, tuple | list) or len(pair) != 2:
            raise InputError(
                f"{where} is {kind_of(pair)}, not a pair (inputs, target).",
                "Yield pairs: for a model of several inputs, ((input1, input2), target).",
            )
        yield _check_item(task.example, pair[0], where), pair[1]


def training_again(task: Task) -> Iterator[tuple[tuple[torch.Tensor, ...], Any]]:
    """A further pass over the training data, in whatever order; an empty one is refused, too."""
    empty = True
    for pair in training_pairs(task):
        empty = False
        yield pair
    if empty:
        raise InputError("The task's training data is empty when it is read again.", _AGAIN)


def _same_again(task: Task, held: Sequence[tuple[torch.Tensor, ...]]) -> bool:
    """Whether a second pass over the calibration data gives the same batches.

    Raises `InputError` when it fails, or has another number of samples.
    """
    again = " a second time"
    same, rows, at = True, 0, 0
    for item in walk(task.calibration, "calibration", again):
        batch = _check_item(task.example, item, f"Calibration batch {at + 1}, read{again}")
        same = same and at < len(held) and all(map(torch.equal, batch, held[at]))
        rows += len(batch[0])
        at += 1
    first = sum(len(batch[0]) for batch in held)
    if rows != first:
        raise InputError(
            f"The task's calibration data has {first} samples, and {rows} when it is read{again}.", _AGAIN
        )
    return same and at == len(held)


def _like(example: Any, batch: tuple[torch.Tensor, ...]) -> Any:
    """A batch laid out as the example."""
    return dict(zip(example, batch, strict=True)) if isinstance(example, Mapping) else batch


def flat_inputs(example: Any, item: Any, where: str = "The input") -> tuple[torch.Tensor, ...]:
    """Tensors of one item of calibration or training inputs, in the example's order.

    item: laid out as `example` (a tensor, a tuple or list, a dict), of tensors or numpy arrays.
    where: the item's name in error messages. Raises `InputError` when the layout differs.
    """
    if isinstance(example, Mapping):
        if not isinstance(item, Mapping):
            raise InputError(
                f"{where} is {kind_of(item)}, and the example is a dict of {names_of(example)}.",
                _LIKE_EXAMPLE,
            )
        for name in example:
            if name not in item:
                raise InputError(f"{where} has no {name!r}; it has {names_of(item)}.", _LIKE_EXAMPLE)
        for name in item:
            if name not in example:
                raise InputError(
                    f"{where} has {name!r}, which the example has not: it has {names_of(example)}.",
                    _LIKE_EXAMPLE,
                )
        return tuple(_tensor(item[name], f"{where}, input {name!r},") for name in example)
    expected = 1 if isinstance(example, torch.Tensor) else len(example)
    items = list(item) if isinstance(item, tuple | list) else [item]
    if len(items) != expected:
        hint = "Calibration data is unlabelled: give the inputs alone." if len(items) == expected + 1 else ""
        raise InputError(
            f"{where} is {kind_of(item)}, and the example has {expected} input{'s' * (expected != 1)}.",
            hint or _LIKE_EXAMPLE,
        )
    return tuple(_tensor(value, f"{where}, input {index},") for index, value in enumerate(items))


def _check_example(example: Any) -> None:
    named = _named(example)
    if not named:
        raise InputError(
            f"Task.example is {kind_of(example)}, not tensors.",
            "Give a tensor, a tuple of tensors (positional) or a dict of tensors (keywords).",
        )
    for name, tensor in named:
        if not isinstance(tensor, torch.Tensor):
            raise InputError(
                f"Task.example, input {name}, is {kind_of(tensor)}, not a tensor.",
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
            raise InputError(f"Task.earlier[{name!r}] is {kind_of(given)}, not a tensor.", hint)
        if given.shape != value.shape:
            raise InputError(
                f"Task.earlier[{name!r}] has shape {list(given.shape)}, and the model's has "
                f"{list(value.shape)}.",
                hint,
            )
    for name in earlier:
        if name not in model:
            raise InputError(f"Task.earlier has {name!r}, which the model has not.", hint)


def _check_item(example: Any, item: Any, where: str) -> tuple[torch.Tensor, ...]:
    """Tensors of an item that looks like the example."""
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
    return tensors


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
    raise InputError(f"{where} is {kind_of(value)}, not a tensor or a numeric numpy array.", _LIKE_EXAMPLE)

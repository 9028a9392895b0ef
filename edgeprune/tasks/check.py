"""Checks of a task before anything expensive starts, and of its data whenever they are read."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from typing import Any

import torch

from edgeprune.errors import InputError
from edgeprune.records.task import Task
from edgeprune.tasks.blame import kind_of
from edgeprune.tasks.calibration import READ_AGAIN, hold
from edgeprune.tasks.guest import guest, walk
from edgeprune.tasks.items import laid_out, lengths_of, like_example, named_inputs
from edgeprune.tasks.prepared import PreparedTask
from edgeprune.tasks.targets import as_tensors, layout

# Samples of a pass over training data that does not say its length: it may have no end.
MOST_UNCOUNTED = 65_536
_IN_FLOAT32 = (
    "Give float32: model.float(), and the data likewise; complex numbers as torch.view_as_real makes them. "
    "The precision of what is shipped, edgeprune chooses itself."
)


def check_task(task: Task) -> tuple[Task, tuple[str, ...]]:
    """The task with a fixed copy of its calibration data, and sentences about what is unusual in it.

    Checked are the example, the earlier weights, every calibration batch, in two passes, and the first
    training batch. Raises `InputError` that names the batch, the input or the weight, what was expected and
    what was given.
    """
    _check_parameters(task.model)
    _check_example(task.example)
    if task.earlier is not None:
        _check_earlier(task.earlier, task.model.state_dict())
    lengths = lengths_of(task.example, task.lengths, task.length_dims)
    held, remarks = hold(task.example, task.calibration, lengths)
    if task.train is not None and next(training_pairs(task), None) is None:
        raise InputError("The task's training data is empty.", "Give batches, or leave `train` out.")
    told = task.remarks if isinstance(task, PreparedTask) else ()
    return replace(task, calibration=[laid_out(task.example, batch) for batch in held]), (*told, *remarks)


def training_pairs(
    task: Task, tell: Callable[[str], None] | None = None
) -> Iterator[tuple[tuple[torch.Tensor, ...], Any]]:
    """One pass over the training data: (inputs in the example's order, target as tensors or None).

    It ends after as many batches as len() of the data says, or without a len() at MOST_UNCOUNTED samples;
    `tell` gets a sentence when the data goes on. Raises `InputError` for a batch that is no such pair, or
    unlike the example, and for a target unlike the first one or without the batch first.
    """
    first: Any = None
    lengths = lengths_of(task.example, task.lengths, task.length_dims)
    length, samples = _length(task.train), 0
    for number, pair in enumerate(() if task.train is None else walk(task.train, "train"), 1):
        if samples >= MOST_UNCOUNTED if length is None else number > length:
            if tell is not None:
                tell(_goes_on(length, samples))
            return
        where = f"Training batch {number}"
        if not isinstance(pair, tuple | list) or len(pair) != 2:
            inputs = "{name: batch[name], ...}" if isinstance(pair, Mapping) else "(input1, input2)"
            raise InputError(
                f"{where} is {kind_of(pair)}, not a pair (inputs, target).",
                f"Yield pairs: for a model of several inputs, ({inputs}, target).",
            )
        tensors = like_example(task.example, pair[0], where, lengths)
        target = as_tensors(pair[1], f"{where}, target")
        found = layout(target, len(tensors[0]), where)
        first = found if first is None else first
        if found != first:
            raise InputError(
                f"{where} has the target {found.shown}, and the first batch had {first.shown}.",
                "Give every batch targets of one form and size; pad what varies.",
            )
        samples += len(tensors[0])
        yield tensors, target


def training_again(
    task: Task, tell: Callable[[str], None] | None = None
) -> Iterator[tuple[tuple[torch.Tensor, ...], Any]]:
    """A further pass over the training data, in whatever order; an empty one is refused, too."""
    empty = True
    for pair in training_pairs(task, tell):
        empty = False
        yield pair
    if empty:
        raise InputError("The task's training data is empty when it is read again.", READ_AGAIN)


def _length(data: Any) -> int | None:
    """Batches that the data says it has; None where it does not say."""
    with guest("len() of the task's train data", "Correct it, or leave __len__ out."):
        try:
            return len(data)
        except (TypeError, NotImplementedError):  # no __len__, or one that cannot tell
            return None


def _goes_on(length: int | None, samples: int) -> str:
    said = "does not say its length" if length is None else f"has {length} batches by its len()"
    return (
        f"The task's training data {said}, and goes on: an epoch is the first {samples} samples of a pass. "
        "An object with the right __len__ is read as far as that says."
    )


def _check_example(example: Any) -> None:
    named = named_inputs(example)
    if not named:
        raise InputError(
            f"Task.example is {kind_of(example)}, not tensors.",
            "Give a tensor, a tuple of tensors (positional) or a dict of tensors (keywords).",
        )
    for name, tensor in named:
        if not isinstance(tensor, torch.Tensor):
            raise InputError(
                f"Task.example, input {name}, is {kind_of(tensor)}, not a tensor.",
                "Give a torch.Tensor: torch.from_numpy(array) makes one of an array. Nested inputs need a "
                "wrapper around the model, whose forward takes flat ones.",
            )
        if tensor.dtype != torch.float32 and (tensor.is_floating_point() or tensor.is_complex()):
            raise InputError(f"Task.example, input {name}, is {tensor.dtype}.", _IN_FLOAT32)
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


def _check_parameters(model: Any) -> None:
    """Refuse weights of other number types than float32; whole numbers aside."""
    if not isinstance(model, torch.nn.Module):
        raise InputError(
            f"Task.model is {type(model).__name__}, not an nn.Module.", "Give the nn.Module itself."
        )
    parameters = dict(model.named_parameters())
    other = {
        name: parameter
        for name, parameter in parameters.items()
        if parameter.dtype != torch.float32 and (parameter.is_floating_point() or parameter.is_complex())
    }
    if other:
        name, parameter = next(iter(other.items()))
        count = f"{len(other)} of {len(parameters)} parameters are not float32"
        raise InputError(f"Task.model's {name!r} is {parameter.dtype}: {count}.", _IN_FLOAT32)


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

"""Loss of a task that brings none: each target is compared with its output by what that output is.

classes         cross-entropy, of class numbers (-100 counts nothing) or of probabilities
probabilities   the same without a softmax
labels          binary cross-entropy
values          squared error relative to the spread of the original's outputs, as in the distance
embeddings      1 - cosine
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F

from edgeprune.errors import InputError
from edgeprune.graph.capture import flatten
from edgeprune.meaning.kinds import named
from edgeprune.meaning.yardstick import Spread, Yardstick, logits_of, squared_error
from edgeprune.records.meaning import Meaning

Loss = Callable[[Any, Any], torch.Tensor]  # (what the model returns, a batch's target) -> scalar
Words = Sequence[Meaning | None]
Named = tuple[str, torch.Tensor]
IGNORED = -100  # the class number that cross_entropy leaves out
_OWN = (
    "Say it with Task.outputs ('values', 'labels', 'classes', ...), or give Task.loss, a function "
    "(output, target) -> scalar tensor."
)


def told(answer: Any, target: Any, words: Words) -> list[Meaning | None]:
    """Meanings that the targets of a task without a loss make certain, by output; None where it stays open.

    answer: of the model, for the batch that `target` belongs to. words: what the task says of each output.
    Class numbers are certain where they are integers, one for each place that is left without some axis, and
    values where numbers outside of 0 to 1 are shaped like the output. Raises `InputError` for anything else
    that the task does not speak of: such targets cannot be trained on.
    """
    found: list[Meaning | None] = [None] * len(words)
    for at, (name, output), part in _paired(named(answer), words, target):
        word = words[at]
        if word is None or word == Meaning("classes"):
            found[at] = _told(name, output, part, certain=word is None)
    return found


def default_loss(yardstick: Yardstick) -> Loss:
    """The loss (answer, target) -> scalar of a task that brings none; each target counts alike.

    It raises `InputError` for targets that do not fit their output.
    """
    outputs = yardstick.outputs
    words = [meaning if said else None for meaning, said in zip(outputs.meanings, outputs.said, strict=True)]

    def loss(answer: Any, target: Any) -> torch.Tensor:
        total = torch.zeros(())
        for at, (name, output), part in _paired(named(answer), words, target):
            total = total + _loss(name, outputs.meanings[at], yardstick.spreads[at], output, part)
        return total

    return loss


def or_own(loss: Loss, yardstick: Yardstick) -> Loss:
    """`loss` where there is a target, else the objective that the model's own answer gives."""

    def objective(answer: Any, target: Any) -> torch.Tensor:
        return yardstick.own_objective(flatten(answer)) if target is None else loss(answer, target)

    return objective


def _paired(tensors: Sequence[Named], words: Words, target: Any) -> list[tuple[int, Named, torch.Tensor]]:
    """Each target with its output: by name, by place in a sequence, or the only one that it can belong to."""
    targets = named(target)
    names = [name for name, _ in tensors]
    counted = [
        at for at, (_, output) in enumerate(tensors) if output.is_floating_point() and not _is_none(words[at])
    ]
    if [name for name, _ in targets] == [""]:
        places = [at for at in counted if words[at] is not None] or counted
        if len(places) == 1:
            return [(places[0], tensors[places[0]], targets[0][1])]
    elif all(name in names for name, _ in targets):
        places = [names.index(name) for name, _ in targets]
        return _counted(places, tensors, targets, words)
    elif isinstance(target, tuple | list) and len(targets) == len(tensors):
        return _counted(list(range(len(tensors))), tensors, targets, words)
    shown = ", ".join(name or "one tensor" for name, _ in targets) or "nothing"
    raise InputError(
        f"The model returns {', '.join(name or 'one tensor' for name in names)}, the targets are {shown}, "
        "and there is no loss: which of them belong together is not known.",
        _OWN,
    )


def _counted(
    places: Sequence[int], tensors: Sequence[Named], targets: Sequence[Named], words: Words
) -> list[tuple[int, Named, torch.Tensor]]:
    pairs = zip(places, targets, strict=True)
    return [(at, tensors[at], target) for at, (_, target) in pairs if not _is_none(words[at])]


def _is_none(word: Meaning | None) -> bool:
    return word is not None and word.kind == "none"


def _told(name: str, output: torch.Tensor, target: torch.Tensor, *, certain: bool) -> Meaning | None:
    """Meaning of an output by its target. certain: the task does not say that it holds class scores."""
    whole = not target.is_floating_point() and target.dtype != torch.bool
    if whole:
        shape = output.shape
        axes = [
            axis
            for axis in range(1, output.dim())
            if shape[axis] > 1 and (*shape[:axis], *shape[axis + 1 :]) == target.shape
        ]
        if axes:
            return Meaning("classes", axes[0] if len(axes) == 1 else None)
    elif target.is_floating_point() and _fits(output, target) and not _within(target, 0, 1):
        return Meaning("values") if certain else None
    if not certain:
        return None
    between = " between 0 and 1" if _fits(output, target) and not whole else ""
    raise InputError(
        f"{_belong(name, output, target)}{between}, and there is no loss: what the output is, is not said.",
        _OWN,
    )


def _loss(
    name: str, meaning: Meaning, spread: Spread, output: torch.Tensor, target: torch.Tensor
) -> torch.Tensor:
    """Loss of one output. Raises `InputError` for a target that does not fit."""
    scores = logits_of(meaning, output)
    if scores is None:
        target = _like(name, output, target).to(output.dtype)
        if meaning.kind == "embeddings":
            return (1 - F.cosine_similarity(output, target, dim=meaning.axis or 1)).mean()
        return squared_error(output, target, spread)
    if meaning.axis is None:
        target = _like(name, output, target).to(output.dtype)
        _check_between(name, output, target, 0, 1)
        return F.binary_cross_entropy_with_logits(scores, target)
    scores = scores.movedim(meaning.axis, 1)
    if target.is_floating_point():
        target = _like(name, output, target).movedim(meaning.axis, 1)
        _check_between(name, output, target, 0, 1)
        return F.cross_entropy(scores, target.to(scores.dtype))
    if target.shape != (scores.shape[0], *scores.shape[2:]):
        raise InputError(
            f"{_belong(name, output, target)}: class numbers along axis {meaning.axis} would be "
            f"{[scores.shape[0], *scores.shape[2:]]}.",
            _OWN,
        )
    counts = target != IGNORED
    _check_between(name, output, torch.where(counts, target, 0), 0, scores.shape[1] - 1)
    return F.cross_entropy(scores, target.long(), reduction="sum") / counts.sum().clamp_min(1)


def _fits(output: torch.Tensor, target: torch.Tensor) -> bool:
    """Whether both have the same shape, axes of one element aside."""
    same_rows = output.shape[0] == target.shape[0]
    return same_rows and [n for n in output.shape[1:] if n > 1] == [n for n in target.shape[1:] if n > 1]


def _like(name: str, output: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    if not _fits(output, target):
        raise InputError(f"{_belong(name, output, target)}: there is not one number for each.", _OWN)
    return target.reshape(output.shape)


def _check_between(name: str, output: torch.Tensor, target: torch.Tensor, least: float, most: float) -> None:
    if not _within(target, least, most):
        raise InputError(
            f"{_belong(name, output, target)} from {float(target.min()):g} to {float(target.max()):g}, and "
            f"{least:g} to {most:g} are possible.",
            "Correct the targets, or give Task.loss, such as torch.nn.CrossEntropyLoss(ignore_index=255).",
        )


def _within(target: torch.Tensor, least: float, most: float) -> bool:
    return not target.numel() or (float(target.min()) >= least and float(target.max()) <= most)


def _belong(name: str, output: torch.Tensor, target: torch.Tensor) -> str:
    kind = str(target.dtype).removeprefix("torch.")
    of = f"output {name!r}" if name else "the output"
    return f"The targets of {of}, {list(output.shape)}, are {kind} {list(target.shape)}"

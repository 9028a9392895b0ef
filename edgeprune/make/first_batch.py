"""Meaning of a task's outputs, and its loss, found out on one batch before anything is measured."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from edgeprune.errors import InputError
from edgeprune.graph.capture import Captured, flatten
from edgeprune.meaning.broadcasts import refused_broadcasts
from edgeprune.meaning.heard import hear
from edgeprune.meaning.kinds import named, spoken, understood
from edgeprune.meaning.losses import Loss, default_loss, told
from edgeprune.meaning.yardstick import Yardstick, yardstick
from edgeprune.records.meaning import Meaning
from edgeprune.records.task import Task
from edgeprune.recover.objective import Pair
from edgeprune.tasks import GuardedLoss

MOST_TOLD = 3  # outputs in a sentence: a language model may return a cache for each layer


@dataclass(frozen=True)
class Understood:
    """Yardstick of a task's outputs, and its loss (what the model returns, target) -> scalar."""

    yardstick: Yardstick
    loss: Loss

    @property
    def remarks(self) -> tuple[str, ...]:
        """A sentence about the outputs whose meaning nobody said, where there are any."""
        outputs = self.yardstick.outputs
        unsaid = [at for at, meaning in enumerate(outputs.meanings) if meaning.kind is None]
        if not unsaid:
            return ()
        called = ", ".join(outputs.called(at).lower() for at in unsaid[:MOST_TOLD])
        if len(unsaid) > MOST_TOLD:
            called = f"{called} and {len(unsaid) - MOST_TOLD} more"
        return (
            f"every difference from the original counts in {called}: neither Task.outputs nor a loss says "
            "what is there (class scores, say, are compared better as classes)",
        )


def understand(
    task: Task, dense: Captured, first: Pair, calibration: Sequence[tuple[torch.Tensor, ...]]
) -> Understood:
    """Meanings of the outputs and the loss, tried on the first batch of the training data.

    Raises `InputError` where they are needed and cannot be known, and for a loss that fails on the batch.
    """
    inputs, target = first
    with torch.no_grad():
        answer = dense.answer(*inputs)
        tensors = flatten(answer)
        words = spoken(task.outputs, tuple(name for name, _ in named(answer)))
        own = None if task.loss is None else GuardedLoss(task.loss)
        heard: Sequence[Meaning | None] = ()
        if target is not None and own is None:
            heard = told(answer, target, words)
        elif target is not None and own is not None:
            with refused_broadcasts(tensors, flatten(target)):
                value, heard = hear(lambda: own(answer, target), tensors)
            _check_value(value, "The loss")
        outputs = understood(dense, answer, task.outputs, heard)
        measured = yardstick(outputs, (dense.run(*batch) for batch in calibration))
        loss = own or default_loss(measured)
        if target is not None and own is None:
            _check_value(loss(answer, target), "The loss that follows from Task.outputs")
    return Understood(measured, loss)


def _check_value(value: torch.Tensor, called: str) -> None:
    if not math.isfinite(float(value)):
        raise InputError(
            f"{called} of the original model is {float(value)} on the first training batch.",
            "Look for NaN or infinite values in the targets, and for a division by zero.",
        )

"""Objective of recovery training: distance to the original's outputs, and the task's loss on labels."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch

from edgeprune.errors import InputError
from edgeprune.graph.capture import Captured, flatten, rebuilt
from edgeprune.meaning.losses import Loss
from edgeprune.meaning.yardstick import Yardstick
from edgeprune.recover.recipe import Recipe
from edgeprune.recover.streams import Streams

Pair = tuple[tuple[torch.Tensor, ...], Any]  # inputs; a tensor or a tree of them, or None: no target
Run = Callable[..., tuple[torch.Tensor, ...]]  # flat inputs -> flat outputs


class Forward(Protocol):
    """Forward pass that replaces a call of the student's graph, such as one in simulated INT8."""

    def refresh(self) -> None:
        """Recompute what depends on the parameters; called before each pass over the data."""

    def run(self, *inputs: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """The outputs, with gradients for the student's parameters."""


@dataclass(frozen=True)
class Objective:
    """Objective of one training, a scalar of a batch.

    yardstick: how far the student's outputs are from the teacher's. loss: (what the original model returns,
    target) -> scalar; None trains by distillation alone. mixed: gives a forward pass the number types of the
    place where it runs. streams: those of both networks that are compared, too.
    """

    teacher: Captured
    yardstick: Yardstick
    recipe: Recipe
    loss: Loss | None = None
    mixed: Callable[[Callable[..., Any]], Callable[..., Any]] = lambda run: run
    streams: Streams | None = None

    def __call__(self, run: Run, pair: Pair) -> torch.Tensor:
        """Value for a batch, with gradients for the parameters that `run` computes with.

        Raises `InputError` when no output depends on the parameters in a way that has a gradient.
        """
        inputs, target = pair
        recipe = self.recipe
        answer, given = self.outputs(run, inputs)
        distance = self.yardstick.distance(given, flatten(answer), recipe.temperature)
        value = recipe.distillation * distance
        if recipe.supervised and self.loss is not None and target is not None:
            value = value + self._of_task(rebuilt(answer, given), target)
        if self.streams is not None:
            value = value + recipe.features * self.streams.distance()
        if not value.requires_grad:
            raise InputError(
                "The model cannot be trained: its outputs have no gradient.",
                "Return scores instead of classes and say in Task.outputs what they are, or recover with "
                "reconstruct.",
            )
        return value

    @property
    def sees_streams(self) -> bool:
        """Whether all values inside the networks are computed here."""
        return True

    def over(self, parameters: Sequence[torch.nn.Parameter]) -> Objective:
        """The objective of a training that moves these parameters."""
        return self

    def outputs(self, run: Run, inputs: tuple[torch.Tensor, ...]) -> tuple[Any, tuple[torch.Tensor, ...]]:
        """The teacher's answer, and the student's outputs with gradients."""
        with torch.no_grad():
            answer = self.mixed(self.teacher.answer)(*inputs)
        return answer, self.mixed(run)(*inputs)

    def _of_task(self, answer: Any, target: Any) -> torch.Tensor:
        value = self.loss(answer, target)  # type: ignore[misc]  # the caller has looked
        if not value.requires_grad:
            raise InputError(
                "The task's loss has no gradient for the model's outputs: nothing can be learnt from it.",
                "Compute it from the output with torch alone, without detach(), item(), numpy or argmax.",
            )
        return value

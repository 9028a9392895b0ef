"""Recovery training on the exported graph: distillation from the original, plus the task's loss on labels."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any, Protocol

import torch

from edgeprune.errors import InputError
from edgeprune.graph.capture import Captured, flatten, rebuilt
from edgeprune.meaning.losses import Loss
from edgeprune.meaning.yardstick import Yardstick
from edgeprune.recover.lora import low_rank

Pair = tuple[tuple[torch.Tensor, ...], Any]  # inputs; a tensor or a tree of them, or None: no target


@dataclass(frozen=True)
class Recipe:
    """Training recipe: AdamW with a cosine schedule, gradients clipped to norm 1."""

    epochs: int
    learning_rate: float = 1e-3
    distillation: float = 1.0  # weight of the distillation loss; the task's loss has weight 1
    temperature: float = 2.0
    supervised: bool = True  # use the targets where the data has them
    low_rank: bool = False  # train low-rank updates and merge them; else all weights


class Forward(Protocol):
    """Forward pass that replaces a call of the student's graph, such as one in simulated INT8."""

    def refresh(self) -> None:
        """Recompute what depends on the parameters; called before each pass over the data."""

    def run(self, *inputs: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """The outputs, with gradients for the student's parameters."""


@contextmanager
def training_mode(captured: Captured) -> Iterator[None]:
    """Context in which BatchNorm and dropout train."""
    captured.module.train()
    try:
        yield
    finally:
        captured.module.eval()


def train(
    student: Captured,
    teacher: Captured,
    yardstick: Yardstick,
    epochs: Callable[[int], Iterable[Pair]],
    steps: int,
    recipe: Recipe,
    loss: Loss | None = None,
    listen: Callable[[int, int], None] | None = None,
    forward: Forward | None = None,
) -> list[float]:
    """Train `student` in place, by distillation from the teacher and the task's loss; the loss of each step.

    yardstick: how far the student's outputs are from the teacher's. epochs: epoch number -> the batches of
    that epoch. steps: batches in one epoch.
    loss: (what the original model returns, target) -> scalar; None trains by distillation alone.
    listen: called with (step, total steps).
    forward: how the student computes, which then also decides on BatchNorm and dropout.
    Raises `InputError` when no output depends on the parameters in a way that has a gradient.
    """
    total = max(1, steps * recipe.epochs)
    losses: list[float] = []
    mode = training_mode(student) if forward is None else nullcontext()
    run = student.run if forward is None else forward.run
    with mode, _trained(student, recipe) as parameters:
        optimiser = torch.optim.AdamW(parameters, lr=recipe.learning_rate, weight_decay=1e-4)
        for epoch in range(recipe.epochs):
            if forward is not None:
                forward.refresh()
            for inputs, target in epochs(epoch):
                for group in optimiser.param_groups:
                    group["lr"] = recipe.learning_rate * _schedule(len(losses), total)
                objective = _objective(run, teacher, yardstick, (inputs, target), recipe, loss)
                optimiser.zero_grad(set_to_none=True)
                objective.backward()  # type: ignore[no-untyped-call]
                torch.nn.utils.clip_grad_norm_(parameters, 1.0)
                optimiser.step()
                losses.append(float(objective.detach()))
                if listen is not None:
                    listen(len(losses), total)
    return losses


def rehearse(
    student: Captured, teacher: Captured, yardstick: Yardstick, pair: Pair, recipe: Recipe, loss: Loss | None
) -> None:
    """The first step of `train` without the step: what it raises is raised before anything is measured."""
    with training_mode(student), _trained(student, recipe):
        objective = _objective(student.run, teacher, yardstick, pair, recipe, loss)
        objective.backward()  # type: ignore[no-untyped-call]


def _objective(
    run: Callable[..., tuple[torch.Tensor, ...]],
    teacher: Captured,
    yardstick: Yardstick,
    pair: Pair,
    recipe: Recipe,
    loss: Loss | None,
) -> torch.Tensor:
    inputs, target = pair
    with torch.no_grad():
        answer = teacher.answer(*inputs)
    given = run(*inputs)
    objective = recipe.distillation * yardstick.distance(given, flatten(answer), recipe.temperature)
    if recipe.supervised and loss is not None and target is not None:
        value = loss(rebuilt(answer, given), target)
        if not value.requires_grad:
            raise InputError(
                "The task's loss has no gradient for the model's outputs: nothing can be learnt from it.",
                "Compute it from the output with torch alone, without detach(), item(), numpy or argmax.",
            )
        objective = objective + value
    if not objective.requires_grad:
        raise InputError(
            "The model cannot be trained: its outputs have no gradient.",
            "Return scores instead of classes and say in Task.outputs what they are, or recover with "
            "reconstruct.",
        )
    return objective


def _trained(student: Captured, recipe: Recipe) -> AbstractContextManager[list[torch.nn.Parameter]]:
    """Parameters that the optimiser moves: the factors of low-rank updates, or every weight."""
    if recipe.low_rank:
        return low_rank(student)
    parameters = [p for p in student.module.parameters() if p.is_floating_point()]
    for parameter in parameters:
        parameter.requires_grad_(True)
    return nullcontext(parameters)


def _schedule(step: int, total: int) -> float:
    """Factor of the learning rate: linear warm-up over the first twentieth, then a half cosine to zero."""
    warm = max(1, total // 20)
    if step < warm:
        return (step + 1) / warm
    return 0.5 * (1 + math.cos(math.pi * min(1.0, (step - warm) / max(1, total - warm))))

"""The recovery ladder: cheap rungs, then one that trains, each kept when it lowers the held-back error."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from statistics import mean, variance
from typing import Any

import torch

from edgeprune.graph.capture import Captured, flatten, rebuilt
from edgeprune.meaning.losses import Loss
from edgeprune.meaning.yardstick import Yardstick
from edgeprune.records.trial import Training
from edgeprune.recover.data import Split
from edgeprune.recover.train import Forward, Pair, Recipe, train
from edgeprune.recover.ways import find_way

NOT_FINITE = sys.float_info.max  # stands for an error that is not finite: the ledger keeps finite numbers
QAT = "qat"  # the rung behind a way that trains, where INT8 alone loses too much
AWARE_RATE = 3e-4  # learning rate of that rung: more soon undoes a network that has converged


@dataclass(frozen=True)
class Rung:
    """Recovery step that was tried, and the held-back error before and after it (lower is better)."""

    name: str
    before: float
    after: float
    kept: bool
    training: Training | None = None  # of a rung that trains


@dataclass(frozen=True)
class Judge:
    """The held-back error of a student: distance to the original, plus the task's loss with labels.

    An error that is not finite counts as `NOT_FINITE`.
    answers: what the original returns for each held-back batch. loss: None judges by the distance alone.
    """

    yardstick: Yardstick
    held_back: Sequence[Pair]
    answers: Sequence[Any]
    loss: Loss | None

    def error(self, student: Captured | Forward) -> float:
        total, rows = 0.0, 0
        with torch.no_grad():
            for (inputs, target), answer in zip(self.held_back, self.answers, strict=True):
                given = student.run(*inputs)
                value = float(self.yardstick.distance(given, flatten(answer)))
                if self.loss is not None and target is not None:
                    value += float(self.loss(rebuilt(answer, given), target))
                total += value * len(inputs[0])
                rows += len(inputs[0])
        return total / rows if rows and math.isfinite(total) else NOT_FINITE


def judge_of(teacher: Captured, yardstick: Yardstick, held_back: Sequence[Pair], loss: Loss | None) -> Judge:
    with torch.no_grad():
        answers = [teacher.answer(*inputs) for inputs, _ in held_back]
    return Judge(yardstick, held_back, answers, loss)


def attempt(
    name: str, student: Captured, judge: Judge, step: Callable[[Captured], object]
) -> tuple[Captured, Rung]:
    """Apply `step` to a copy of the student; the better network of the two, and the rung.

    A step that does not lower the error is not kept, so nothing is when no data is held back.
    """
    tried = student.copy()
    step(tried)
    before, after = judge.error(student), judge.error(tried)
    kept = after < before
    return (tried if kept else student), Rung(name, before, after, kept)


def still_falling(losses: Sequence[float]) -> bool:
    """Whether the losses of a training's last fifth are below those of the fifth before, by more than the
    standard error of the difference. Fewer steps than make two fifths of two were no end of anything; losses
    that are not finite fall nowhere.
    """
    if not all(map(math.isfinite, losses)):
        return False
    size = max(2, len(losses) // 5)
    if len(losses) < 2 * size:
        return True
    late, before = losses[-size:], losses[-2 * size : -size]
    scatter = math.sqrt((variance(late) + variance(before)) / size)
    return mean(before) - mean(late) > scatter


def train_rungs(
    student: Captured,
    teacher: Captured,
    name: str,
    split: Split,
    judge: Judge,
    *,
    epochs: int,
    seed: int,
    listen: Callable[[str, int, int], None] | None = None,
    start: Captured | None = None,
) -> tuple[Captured, tuple[Rung, ...]]:
    """Train the student in the recovery way `name`, where that trains: the better network, and its rung.

    One run that distils from the teacher, together with the task's loss where the way reads labels.
    seed: of dropout, of loaders that shuffle and of low-rank updates' first values.
    listen: called with (rung, step, total steps). start: a network like the student that training starts
    from instead: the rewound one of a way that needs earlier weights.
    """
    way = find_way(name)
    if not way.trains or split.steps == 0 or epochs == 0:
        return student, ()

    losses: list[float] = []

    def step(tried: Captured) -> None:
        if start is not None:
            tried.module.load_state_dict(start.module.state_dict())
        recipe = Recipe(epochs=epochs, supervised=way.labels != "unused", low_rank=way.low_rank)
        tell = None if listen is None else lambda at, total: listen(name, at, total)
        # All that is random draws from torch's generator; the caller's state stays.
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            losses.extend(
                train(tried, teacher, judge.yardstick, split.epoch, split.steps, recipe, judge.loss, tell)
            )

    better, rung = attempt(name, student, judge, step)
    return better, (replace(rung, training=Training(name, epochs, len(losses), still_falling(losses))),)


def train_aware(
    student: Captured,
    teacher: Captured,
    aware: Callable[[Captured], Forward],
    split: Split,
    judge: Judge,
    *,
    epochs: int,
    seed: int,
    supervised: bool,
    listen: Callable[[str, int, int], None] | None = None,
) -> tuple[Captured, tuple[Rung, ...]]:
    """The rung "qat": train the student through its INT8 arithmetic, and judge it by that.

    aware: how a student computes in INT8. supervised: with the task's loss where there are labels.
    """
    if split.steps == 0 or epochs == 0:
        return student, ()
    tried = student.copy()
    forward = aware(tried)
    before = judge.error(forward)
    recipe = Recipe(epochs, learning_rate=AWARE_RATE, supervised=supervised)
    tell = None if listen is None else lambda at, total: listen(QAT, at, total)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        losses = train(
            *(tried, teacher, judge.yardstick, split.epoch, split.steps, recipe, judge.loss, tell),
            forward=forward,
        )
    forward.refresh()
    after = judge.error(forward)
    kept = after < before
    return (tried if kept else student), (
        Rung(QAT, before, after, kept, Training(QAT, epochs, len(losses), still_falling(losses))),
    )

"""The recovery ladder: cheap rungs, then one that trains, each kept when it lowers the held-back error."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import mean, variance
from typing import Any

import torch

from edgeprune.graph.capture import Captured, flatten, rebuilt
from edgeprune.graph.moving import CPU
from edgeprune.meaning.losses import Loss
from edgeprune.meaning.yardstick import Yardstick
from edgeprune.records.trial import Training
from edgeprune.recover.checkpoint import Checkpoint, checkpoint_key
from edgeprune.recover.data import Split
from edgeprune.recover.objective import Forward, Objective, Pair
from edgeprune.recover.place import Place, training_place
from edgeprune.recover.recipe import Recipe, TrainingOptions
from edgeprune.recover.together import SharedObjective
from edgeprune.recover.train import TrainingAccount, TrainingProgress, train
from edgeprune.recover.ways import find_way
from edgeprune.recover.workers import followers

NOT_FINITE = sys.float_info.max  # stands for an error that is not finite: the ledger keeps finite numbers
QAT = "qat"  # the rung behind a way that trains, where INT8 alone loses too much
AWARE_RATE = 3e-4  # learning rate of that rung: more soon undoes a network that has converged

Listen = Callable[[str, TrainingProgress], None]


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

    def at(self, place: Place) -> Judge:
        """The judge of networks that lie at a place."""
        held_back, answers = place.tensors(tuple(self.held_back)), place.tensors(tuple(self.answers))
        return replace(
            self,
            yardstick=place.yardstick(self.yardstick),
            held_back=held_back,
            answers=answers,
            loss=place.loss(self.loss),
        )


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
    options: TrainingOptions,
    *,
    listen: Listen | None = None,
    checkpoint: Path | None = None,
    start: Captured | None = None,
) -> tuple[Captured, tuple[Rung, ...]]:
    """Train the student in the recovery way `name`, where that trains: the better network, and its rung.

    One run that distils from the teacher, together with the task's loss where the way reads labels.
    listen: called with (rung, progress). checkpoint: the file from which a training that was killed goes on.
    start: a network like the student that training starts from instead: the rewound one of a way that needs
    earlier weights.
    """
    way = find_way(name)
    if not way.trains or split.steps == 0 or not options.trains:
        return student, ()
    place = training_place(options.device)
    tried, judge = student.copy(), judge.at(place)
    if start is not None:
        tried.module.load_state_dict(start.module.state_dict())
    recipe = Recipe(options, supervised=way.labels != "unused", low_rank=way.low_rank)
    before = judge.error(student.on(place.device))
    trained = _trained(tried, teacher, name, split, judge, recipe, judge.error, listen, checkpoint, place)
    several = f", {options.processes} processes" if options.processes > 1 else ""
    return _settled(name, student, tried, before, trained, place.words + several)


def train_aware(
    student: Captured,
    teacher: Captured,
    aware: Callable[[Captured], Forward],
    split: Split,
    judge: Judge,
    options: TrainingOptions,
    *,
    supervised: bool,
    listen: Listen | None = None,
    checkpoint: Path | None = None,
) -> tuple[Captured, tuple[Rung, ...]]:
    """The rung "qat": train the student through its INT8 arithmetic, and judge it by that.

    aware: how a student computes in INT8. supervised: with the task's loss where there are labels.
    """
    if split.steps == 0 or not options.trains:
        return student, ()
    place = replace(training_place(options.device), half=None)  # INT8 is simulated in float32
    tried, judge = student.copy(), judge.at(place)
    tried.module.to(place.device)
    forward = aware(tried)
    before = judge.error(forward)
    recipe = Recipe(options, learning_rate=AWARE_RATE, supervised=supervised)
    trained = _trained(
        *(tried, teacher, QAT, split, judge, recipe),
        *(lambda network: judge.error(aware(network)), listen, checkpoint, place, forward),
    )
    return _settled(QAT, student, tried, before, trained, place.words)


def _trained(
    tried: Captured,
    teacher: Captured,
    name: str,
    split: Split,
    judge: Judge,
    recipe: Recipe,
    error: Callable[[Captured], float],
    listen: Listen | None,
    checkpoint: Path | None,
    place: Place,
    forward: Forward | None = None,
) -> TrainingAccount:
    """Training of `tried` in place; it comes back to the processor.

    error: of a network, by which the training is judged, and `judge` at `place`.
    """
    shares = _shares(recipe.options, forward)
    # All that is random draws from torch's generators; the caller's state stays.
    with (
        followers(tried, teacher, recipe, place) if shares else nullcontext(),
        place.seeded(recipe.options.seed),
    ):
        tried.module.to(place.device)
        told = (teacher.on(place.device), judge.yardstick, recipe, judge.loss, place.mixed)
        objective = SharedObjective(*told) if shares else Objective(*told)
        account = train(
            tried,
            objective,
            lambda number: place.batches(split.epoch(number)),
            split.steps,
            judge=error,
            listen=None if listen is None else lambda progress: listen(name, progress),
            forward=forward,
            checkpoint=None
            if checkpoint is None
            else Checkpoint(checkpoint, checkpoint_key(tried, recipe, name)),
        )
    tried.module.to(CPU)
    return account


def _shares(options: TrainingOptions, forward: Forward | None) -> bool:
    """Whether several processes compute a training; in simulated INT8 one does."""
    return options.processes > 1 and forward is None


def _settled(
    name: str, student: Captured, tried: Captured, before: float, trained: TrainingAccount, place: str
) -> tuple[Captured, tuple[Rung, ...]]:
    """The better of both networks by held-back error, and the rung."""
    after = NOT_FINITE if trained.error is None else trained.error
    kept = after < before
    account = Training(
        name,
        trained.epochs,
        trained.steps,
        still_falling(trained.losses),
        averaged=trained.averaged,
        stopped=trained.stopped,
        place=place,
        learning_rate=trained.learning_rate,
    )
    return (tried if kept else student), (Rung(name, before, after, kept, account),)

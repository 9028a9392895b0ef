"""Recovery training on the exported graph: one loop, by epochs or by time."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from itertools import chain, count, islice
from typing import Any

import torch

from edgeprune.graph.capture import Captured
from edgeprune.recover.average import Average
from edgeprune.recover.checkpoint import EVERY_SECONDS, Checkpoint
from edgeprune.recover.lora import low_rank
from edgeprune.recover.objective import Forward, Objective, Pair
from edgeprune.recover.rates import FEWEST_STEPS, SHARE, USUAL_RATE, find_rate
from edgeprune.recover.recipe import Recipe, rate_factor
from edgeprune.recover.streams import observed, whole_streams

# A training is stopped after so many held-back checks without a better error, and such a share of its budget.
CHECKS_WITHOUT_GAIN, SHARE_WITHOUT_GAIN = 5, 0.25
GRADIENT_NORM = 1.0
WEIGHT_DECAY = 1e-2
DECIDING = ("classes", "labels", "probabilities")  # meanings of outputs that are scores

Epochs = Callable[[int], Iterable[Pair]]  # epoch number -> its batches
Error = Callable[[Captured], float]  # held-back error of a network


@dataclass(frozen=True)
class TrainingProgress:
    """Progress of a training after one batch.

    share: of its epochs or its minutes. seconds_left: None before it can be known. error: on held-back data
    at the last check, None before the first one.
    """

    share: float
    seconds_left: float | None
    error: float | None


@dataclass(frozen=True)
class TrainingAccount:
    """Account of a training.

    losses: of each batch. steps: of the optimiser. epochs: that were begun.
    averaged: whether the student holds averaged weights. stopped: early, since the error fell no more.
    error: on held-back data, where there was a judge. learning_rate: the highest one.
    """

    losses: tuple[float, ...]
    steps: int
    epochs: int
    averaged: bool = False
    stopped: bool = False
    error: float | None = None
    learning_rate: float | None = None


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
    objective: Objective,
    epochs: Epochs,
    batches: int,
    *,
    judge: Error | None = None,
    listen: Callable[[TrainingProgress], None] | None = None,
    forward: Forward | None = None,
    checkpoint: Checkpoint | None = None,
) -> TrainingAccount:
    """Train `student` in place by the objective's recipe.

    batches: in one epoch. judge: the held-back error, asked after each epoch: then the best of the averaged
    weights at these checks and of the last weights is what stays, and a training whose error falls no more
    ends. forward: how the student computes, which then also decides on BatchNorm and dropout.
    checkpoint: where a training that was killed goes on; it stays when the training has ended.
    Raises `InputError` as the objective does.
    """
    began = time.monotonic()
    recipe, average = objective.recipe, Average(student)
    state = None if checkpoint is None else checkpoint.load()
    rate = recipe.learning_rate if state is None else state["rate"]
    if rate is None:
        rate = _found_rate(student, objective, epochs, batches, judge)
    mode = training_mode(student) if forward is None else nullcontext()
    with (
        mode,
        _with_streams(student, objective, forward) as objective,
        trained_parameters(student, recipe) as parameters,
    ):
        objective = objective.over(parameters)
        loop = _Loop(student, average, objective, parameters, batches, judge, listen, forward, checkpoint)
        loop.begin(rate, began, state)
        while not loop.done:
            loop.epoch(epochs)
        loop.save()
    return loop.settle()


@contextmanager
def _with_streams(student: Captured, objective: Objective, forward: Forward | None) -> Iterator[Objective]:
    """The objective with the residual streams that both networks have whole, where there are any.

    Their weight was found for outputs that decide; a network in simulated INT8 is not run by its graph; and
    processes that share a training exchange outputs alone.
    """
    recipe = objective.recipe
    decides = any(meaning.kind in DECIDING for meaning in objective.yardstick.meanings)
    compared = decides and forward is None and objective.sees_streams and recipe.features > 0
    names = whole_streams(student, objective.teacher) if compared else ()
    if not names:
        yield objective
        return
    with observed(student, objective.teacher, names) as streams:
        yield replace(objective, streams=streams)


def _found_rate(
    student: Captured, objective: Objective, epochs: Epochs, batches: int, judge: Error | None
) -> float:
    """Learning rate by short trainings; the usual one where there is no judge, or no time to try others."""
    options = objective.recipe.options
    minutes = None if options.minutes is None else SHARE * options.minutes
    steps = batches if minutes is not None else int(SHARE * batches * options.epochs)
    if judge is None or (minutes is None and steps < FEWEST_STEPS):
        return USUAL_RATE
    short = replace(options, epochs=1, minutes=minutes, accumulate=1)

    def error(rate: float) -> float:
        tried = student.copy()
        recipe = replace(objective.recipe, options=short, learning_rate=rate)
        passes = chain.from_iterable(map(epochs, count()))
        with torch.random.fork_rng(devices=[]):
            train(tried, replace(objective, recipe=recipe), lambda _: islice(passes, steps), steps)
        return judge(tried)

    return find_rate(error)


def rehearse(student: Captured, objective: Objective, pair: Pair) -> None:
    """The first step of `train` without the step: what it raises is raised before anything is measured."""
    with training_mode(student), trained_parameters(student, objective.recipe):
        objective(student.run, pair).backward()  # type: ignore[no-untyped-call]


def trained_parameters(student: Captured, recipe: Recipe) -> AbstractContextManager[list[torch.nn.Parameter]]:
    """Parameters that the optimiser moves: the factors of low-rank updates, or every weight."""
    if recipe.low_rank:
        return low_rank(student)
    parameters = [p for p in student.module.parameters() if p.is_floating_point()]
    for parameter in parameters:
        parameter.requires_grad_(True)
    return nullcontext(parameters)


@dataclass
class _Position:
    """Position in a training, and what it has seen so far. within: batches of the epoch that are done."""

    epoch: int = 0
    within: int = 0
    steps: int = 0
    seconds: float = 0.0
    losses: list[float] = field(default_factory=list)
    error: float | None = None
    best: float = math.inf
    best_share: float = 0.0
    checks_since: int = 0
    stopped: bool = False


class _Loop:
    """Training loop with everything that a checkpoint holds."""

    def __init__(
        self,
        student: Captured,
        average: Average,
        objective: Objective,
        parameters: list[torch.nn.Parameter],
        batches: int,
        judge: Error | None,
        listen: Callable[[TrainingProgress], None] | None,
        forward: Forward | None,
        checkpoint: Checkpoint | None,
    ) -> None:
        self._student, self._average = student, average
        self._objective, self._recipe = objective, objective.recipe
        self._options = objective.recipe.options
        self._parameters, self._batches = parameters, batches
        self._judge, self._listen, self._checkpoint = judge, listen, checkpoint
        self._forward = forward
        self._run = student.run if forward is None else forward.run
        self._optimiser = optimiser(parameters)
        self._rate = USUAL_RATE
        self._best: dict[str, torch.Tensor] | None = None
        self._at = _Position()
        self._began = self._saved = time.monotonic()
        self._epoch_random = torch.get_rng_state()

    # The budget -------------------------------------------------------------------------------------

    @property
    def spent(self) -> float:
        """Seconds so far, those before a resumption included."""
        return self._at.seconds + time.monotonic() - self._began

    @property
    def share(self) -> float:
        """Share of the budget that is used."""
        if self._options.minutes is not None:
            return min(1.0, self.spent / (60 * self._options.minutes))
        return min(1.0, len(self._at.losses) / max(1, self._batches * self._options.epochs))

    @property
    def done(self) -> bool:
        if self._at.stopped:
            return True
        if self._options.minutes is None:
            return self._at.epoch >= self._options.epochs
        return self.share >= 1 and self._at.steps > 0

    def _share_of_step(self) -> float:
        """Share of the budget at the middle of the step to come: no step has a rate of zero."""
        seen = len(self._at.losses)
        if self._options.minutes is not None:
            return min(1.0, self.share * (1 + 0.5 * self._options.accumulate / max(1, seen)))
        return self.share + 0.5 * self._options.accumulate / max(1, self._batches * self._options.epochs)

    # The work ---------------------------------------------------------------------------------------

    def epoch(self, epochs: Epochs) -> None:
        """One pass over the data, or what is left of it; then the held-back check, and a checkpoint."""
        if self._forward is not None:
            self._forward.refresh()
        for pair in self._rest(epochs):
            self._batch(pair)
            if self._options.minutes is not None and self.done:
                break
            # In simulated INT8 a pass begins with a calibration, which half-way would be another one.
            whole = self._forward is None and self._at.within % self._options.accumulate == 0
            if whole and time.monotonic() - self._saved >= EVERY_SECONDS:
                self.save()
        self._step(full=False)
        self._at.epoch, self._at.within = self._at.epoch + 1, 0
        self._check()
        if not self.done:
            self.save()

    def _rest(self, epochs: Epochs) -> Iterator[Pair]:
        """Batches of the pass that are not done yet, drawn as if the pass had not been broken off."""
        now, done = torch.get_rng_state(), self._at.within
        if done:
            torch.set_rng_state(self._epoch_random)
        else:
            self._epoch_random = now
        pairs = iter(epochs(self._at.epoch))
        for _ in islice(pairs, done):
            pass
        if done:
            torch.set_rng_state(now)
        yield from pairs

    def _batch(self, pair: Pair) -> None:
        if self._at.within % self._options.accumulate == 0:
            self._optimiser.zero_grad(set_to_none=True)
            factor = rate_factor(self._share_of_step())
            for group in self._optimiser.param_groups:
                group["lr"] = self._rate * factor
        value = self._objective(self._run, pair)
        (value / self._options.accumulate).backward()  # type: ignore[no-untyped-call]
        self._at.losses.append(float(value.detach()))
        self._at.within += 1
        self._step(full=True)
        if self._listen is not None:
            self._listen(TrainingProgress(self.share, self._seconds_left(), self._at.error))

    def _step(self, *, full: bool) -> None:
        """Step of the optimiser once all batches that it takes are in; with `full` False with fewer."""
        waiting = self._at.within % self._options.accumulate
        if (waiting != 0) == full:
            return
        torch.nn.utils.clip_grad_norm_(self._parameters, GRADIENT_NORM)
        self._optimiser.step()
        self._at.steps += 1
        self._average.update(self._student, self._at.steps)

    def _check(self) -> None:
        if self._judge is None:
            return
        at = self._at
        at.error = self._judge(self._average.network)
        if at.error < at.best:
            at.best, at.best_share, at.checks_since = at.error, self.share, 0
            self._best = _copied(self._average.network.module.state_dict())
            return
        at.checks_since += 1
        at.stopped = (
            at.checks_since >= CHECKS_WITHOUT_GAIN and self.share - at.best_share >= SHARE_WITHOUT_GAIN
        )

    def _seconds_left(self) -> float | None:
        if self._options.minutes is not None:
            return max(0.0, 60 * self._options.minutes - self.spent)
        return self.spent * (1 / self.share - 1) if self.share else None

    # The state --------------------------------------------------------------------------------------

    def save(self) -> None:
        """Write a checkpoint, where the training has one."""
        if self._checkpoint is None:
            return
        state: dict[str, Any] = {
            "rate": self._rate,
            "student": self._student.module.state_dict(),
            "average": self._average.network.module.state_dict(),
            "best": self._best,
            "optimiser": self._optimiser.state_dict(),
            "position": {**vars(self._at), "seconds": self.spent},
            "random": torch.get_rng_state(),
            "epoch_random": self._epoch_random,
        }
        self._checkpoint.save(state)
        self._saved = time.monotonic()

    def begin(self, rate: float, began: float, state: dict[str, Any] | None) -> None:
        """Set the learning rate and the beginning of the clock; go on from a checkpoint's state."""
        self._rate, self._began = rate, began
        if state is None:
            return
        self._student.module.load_state_dict(state["student"])
        self._average.network.module.load_state_dict(state["average"])
        self._best = state["best"]
        self._optimiser.load_state_dict(state["optimiser"])
        self._at = _Position(**state["position"])
        self._epoch_random = state["epoch_random"]
        torch.set_rng_state(state["random"])

    def settle(self) -> TrainingAccount:
        """Leave the best weights in the student, and tell what was done."""
        at, averaged, error = self._at, False, None
        if self._judge is not None:
            error = self._judge(self._student)
            if self._best is not None and at.best < error:
                self._student.module.load_state_dict(self._best)
                averaged, error = True, at.best
        return TrainingAccount(tuple(at.losses), at.steps, at.epoch, averaged, at.stopped, error, self._rate)


def optimiser(parameters: list[torch.nn.Parameter]) -> torch.optim.Optimizer:
    """Optimiser of a training, whose rate is set at each step. Biases and factors of norms do not decay."""
    groups = [
        {"params": [p for p in parameters if p.dim() > 1], "weight_decay": WEIGHT_DECAY},
        {"params": [p for p in parameters if p.dim() <= 1], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW([group for group in groups if group["params"]])


def _copied(state: dict[str, Any]) -> dict[str, torch.Tensor]:
    return {name: tensor.detach().clone() for name, tensor in state.items()}

"""The user's own training loop as a recovery rung: a module is handed over, and its weights are taken back.

`Task.trainer` gets copies, so whatever it does to the modules (hooks, wrappers, a GPU, another number type)
ends with it: only the values of parameters and buffers come back.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import nn

from edgeprune.errors import InputError
from edgeprune.graph.capture import Captured
from edgeprune.records.task import Task, Trainer
from edgeprune.records.trial import Training
from edgeprune.recover.data import Split
from edgeprune.recover.ladder import Judge, Listen, Rung, attempt
from edgeprune.recover.train import TrainingProgress
from edgeprune.tasks import guest, laid_out

TRAINER = "trainer"  # the recovery way of this rung
_TRAIN_IN_PLACE = (
    "Train the module that it gets, in place, and take off what was wrapped around its weights before it "
    "returns (parametrisations, adapters)."
)


@dataclass
class TrainingData:
    """Batches (inputs, target) for a training loop, without the samples held back; each `iter` is a pass.

    Inputs are laid out as `Task.example`. passes, batches: how many were begun and handed out so far.
    """

    split: Split
    example: Any
    passes: int = field(default=0, init=False)
    batches: int = field(default=0, init=False)

    def __len__(self) -> int:
        """Batches in a pass."""
        return self.split.steps

    def __iter__(self) -> Iterator[tuple[Any, Any]]:
        self.passes += 1
        for inputs, target in self.split.epoch(self.passes - 1):
            self.batches += 1
            yield laid_out(self.example, inputs), target


def trainer_of(task: Task) -> Trainer:
    """The task's training loop; raises `InputError` where it has none."""
    if task.trainer is None:
        raise InputError(
            "The task has no `trainer`, and so no training loop of its own.",
            "Give Task.trainer, a function (module, teacher, data, progress) -> None, or recover otherwise.",
        )
    return task.trainer


def own_rungs(
    student: Captured,
    teacher: Captured,
    trainer: Trainer,
    split: Split,
    judge: Judge,
    *,
    example: Any,
    seed: int,
    listen: Listen | None = None,
) -> tuple[Captured, tuple[Rung, ...]]:
    """Train a copy of the student by the user's loop: the better network of the two, and its rung.

    seed: of torch's generator while the loop runs. listen: called with (rung, progress).
    Raises `InputError` for what the loop raises, with its line, and for a module that does not come back with
    the same weights' names and shapes, or with values that are not finite.
    """
    if split.steps == 0:
        return student, ()
    data = TrainingData(split, example)

    def progress(done: float, of: float = 1.0) -> None:
        if listen is not None:
            listen(TRAINER, TrainingProgress(min(1.0, max(0.0, done / of)), None, None))

    def step(tried: Captured) -> None:
        module = _handed_over(student, trained=True)
        with torch.random.fork_rng(devices=[]), torch.enable_grad():
            torch.manual_seed(seed)
            with guest("Task.trainer", "Correct that line; docs/tasks.md shows training loops."):
                given = trainer(module, _handed_over(teacher, trained=False), data, progress)
        if isinstance(given, nn.Module) and given is not module:
            raise InputError(
                f"Task.trainer returned {type(given).__name__}, and not the module that it was given.",
                _TRAIN_IN_PLACE,
            )
        _take_back(module, tried.module)

    better, rung = attempt(TRAINER, student, judge, step)
    return better, (replace(rung, training=Training(TRAINER, data.passes, data.batches, None)),)


def _handed_over(captured: Captured, *, trained: bool) -> nn.Module:
    """A copy of the graph as a module in evaluation mode. trained: whether its weights get gradients."""
    module = captured.copy().module.eval()
    for parameter in module.parameters():
        parameter.requires_grad_(trained and parameter.is_floating_point())
    return module


def _take_back(module: nn.Module, into: nn.Module) -> None:
    """Copy the values of all parameters and buffers of `module` into its counterpart.

    Raises `InputError` naming a tensor that is missing, new, of another shape or not finite.
    """
    given, wanted = _tensors(module), _tensors(into)
    for name in (*wanted, *given):
        if name not in given or name not in wanted:
            has = "lost" if name not in given else "was given another tensor,"
            raise InputError(f"Task.trainer: the module {has} {name!r}.", _TRAIN_IN_PLACE)
        if given[name].shape != wanted[name].shape:
            shapes = f"{list(given[name].shape)}, and had {list(wanted[name].shape)}"
            raise InputError(f"Task.trainer: {name!r} came back with the shape {shapes}.", _TRAIN_IN_PLACE)
        if given[name].is_floating_point() and not bool(torch.isfinite(given[name]).all()):
            raise InputError(
                f"Task.trainer: {name!r} came back with NaN or infinite values.",
                "Lower the learning rate there, or clip the gradients.",
            )
    with torch.no_grad():
        for name, tensor in wanted.items():
            tensor.copy_(given[name])


def _tensors(module: nn.Module) -> Mapping[str, torch.Tensor]:
    """Parameters and buffers by name, tied ones by each of theirs."""
    parameters = module.named_parameters(remove_duplicate=False)
    return {**dict(parameters), **dict(module.named_buffers(remove_duplicate=False))}

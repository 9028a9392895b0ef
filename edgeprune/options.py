"""The options of a fit: one record, from which the command line and `edgeprune.fit` take theirs.

A new option is a field here and a `click.option` of the same name in cli/fit.py.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import update_wrapper
from inspect import signature
from pathlib import Path
from typing import TYPE_CHECKING, Concatenate, Literal, ParamSpec, TypeVar

from edgeprune.errors import InputError
from edgeprune.limits import (
    AUTO_DEVICE,
    MOST_BATCH,
    MOST_EPOCHS,
    MOST_PROCESSES,
    MOST_THREADS,
    check_minutes,
    check_seed,
    check_train_device,
    check_whole,
)
from edgeprune.records.machine import drop_line
from edgeprune.records.progress import Event, Listen
from edgeprune.records.trial import ProjectUse
from edgeprune.recover.recipe import TrainingOptions

if TYPE_CHECKING:
    from edgeprune.devices import Device
    from edgeprune.pruning.criteria import Criterion

Asked = ParamSpec("Asked")
Task = TypeVar("Task")
Answer = TypeVar("Answer")

# Budget lines that an option of the same name overrides.
BUDGET_LINES = ("latency_ms", "speedup", "memory_mib", "size_mib", "max_drop")


def silent(event: Event) -> None:
    """A listener that tells nobody."""


@dataclass(frozen=True, kw_only=True)
class FitOptions:
    """Options of one fit, beside its task.

    target, profile: names on the shelf, or paths; each brings the other where one is None, and None for both
        is this machine. Several profiles are several budgets.
    latency_ms, speedup, memory_mib, size_mib, max_drop: budget lines (ms, times the dense float model, MiB,
        the metric's own unit) that override the profile's. Several latencies or speed-ups are several
        budgets; latency_ms="none" is no limit of latency. `max_drop` may also be a text such as "2%", a share
        of the dense model's metric.
    batch: rows of a query; threads: of the device that serve it. Both override the profile's.
    device: a `Device`, or its URI; None measures on this machine, or predicts for a profile of another one.
    runtime: serves instead of the target's, in its own INT8 dialect. criterion: importance of units, by name
        or as a `Criterion`.
    recover: a recovery way; None is the task's own loop where it has one (`Task.trainer`), else fine-tunes
        where the task has labels, else distils. epochs: of each training; minutes: how long each takes
        instead. accumulate: batches for one step of the optimiser.
    train_device: what each training is computed on: "auto" is a GPU where there is one, else the processor;
        or "cpu", "cuda", "cuda:N", "mps". processes: that compute shares of each batch, on a device each.
    whole: latency_ms limits whole queries, `Task.before`, the model and `Task.after` together.
    out: the run folder. resume: goes on with the run that is there.
    project: the project file that some of the options are of, for the answer to tell it.
    listen: hears of progress.
    Raises `InputError` for numbers that no fit can be asked for.
    """

    target: str | Path | None = None
    profile: str | Path | Sequence[str | Path] | None = None
    latency_ms: float | Sequence[float] | Literal["none"] | None = None
    speedup: float | Sequence[float] | None = None
    memory_mib: float | None = None
    size_mib: float | None = None
    max_drop: float | str | None = None
    batch: int | None = None
    threads: int | None = None
    device: Device | str | None = None
    runtime: str | None = None
    criterion: str | Criterion = "obs"
    recover: str | None = None
    epochs: int = 3
    minutes: float | None = None
    accumulate: int = 1
    train_device: str = AUTO_DEVICE
    processes: int = 1
    whole: bool = False
    seed: int = 0
    out: str | Path = "runs/fit"
    resume: bool = False
    project: ProjectUse | None = None
    listen: Listen = silent

    def __post_init__(self) -> None:
        check_whole("--epochs", self.epochs, MOST_EPOCHS)
        check_whole("--accumulate", self.accumulate, MOST_BATCH, least=1)
        if self.minutes is not None:
            check_minutes(self.minutes)
        check_train_device(self.train_device)
        check_whole("--processes", self.processes, MOST_PROCESSES, least=1)
        check_seed(self.seed)
        if self.batch is not None:
            check_whole("--batch", self.batch, MOST_BATCH, least=1)
        if self.threads is not None:
            check_whole("--threads", self.threads, MOST_THREADS, least=1)
        if isinstance(self.device, str) and not self.device.strip():
            raise InputError(
                f"--device is {self.device!r}, which names no device.",
                "Give local, ssh://user@host:port or a name of the lab, or leave --device out.",
            )
        if self.max_drop is not None:
            self._drop_line(self.max_drop)
        if self.latency_ms is not None and self.speedup is not None:
            raise InputError("Both --latency-ms and --speedup were given.", "Give one of them.")

    @property
    def training(self) -> TrainingOptions:
        """Options of all trainings."""
        how = (self.train_device, self.processes)
        return TrainingOptions(self.epochs, self.minutes, self.accumulate, self.seed, *how)

    @property
    def budget(self) -> dict[str, float | Sequence[float] | Literal["none"]]:
        """Budget lines that were asked for, by name."""
        lines = {line: getattr(self, line) for line in BUDGET_LINES}
        if self.max_drop is not None:
            lines |= {"max_drop": None, **self._drop_line(self.max_drop)}
        return {line: value for line, value in lines.items() if value is not None}

    @property
    def project_lines(self) -> frozenset[str]:
        """Names of the budget lines that the project file gave."""
        keys = {key for key, _ in self.project.keys} if self.project is not None else set()
        drop = self._drop_line(self.max_drop) if self.max_drop is not None and "max_drop" in keys else ()
        return frozenset({*keys.intersection(BUDGET_LINES), *drop})

    @staticmethod
    def _drop_line(value: float | str) -> dict[str, float]:
        try:
            return drop_line(value)
        except (TypeError, ValueError) as error:
            raise InputError(
                f"--max-drop is {value!r:.60}.",
                "Give a number of 0 or more in the metric's own unit, or a share of the dense model's metric "
                "such as 2%.",
            ) from error


def takes(
    record: Callable[Asked, FitOptions],
) -> Callable[[Callable[[Task, FitOptions], Answer]], Callable[Concatenate[Task, Asked], Answer]]:
    """Decorator that turns `f(task, options)` into `f(task, **options)`, keywords being the record's fields.

    Type checkers and `help()` see every field, so no signature repeats them.
    """

    def decorate(run: Callable[[Task, FitOptions], Answer]) -> Callable[Concatenate[Task, Asked], Answer]:
        def called(task: Task, *positional: Asked.args, **options: Asked.kwargs) -> Answer:
            return run(task, record(*positional, **options))

        own = signature(run)
        task = next(iter(own.parameters.values()))
        shown = own.replace(parameters=[task, *signature(record).parameters.values()])
        update_wrapper(called, run)
        setattr(called, "__signature__", shown)  # noqa: B010  functions have no such attribute for mypy
        return called  # type: ignore[return-value]  # its task may be given by name, too

    return decorate

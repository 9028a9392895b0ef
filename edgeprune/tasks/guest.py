"""Guest code: a task's functions and data are called as guests, who leave the process as they found it.

What a call raises becomes one sentence with its line. What it changed of the process is put back when it
returns: the working folder, torch's gradient mode, default type and device, threads, determinism and
precision, and numpy's handling of floating-point errors. Random numbers are not: an evaluation that draws
some anew each time is known by that.
"""

from __future__ import annotations

import inspect
import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch.backends import cudnn

from edgeprune.errors import EdgepruneError, InputError
from edgeprune.records.task import Data
from edgeprune.tasks.blame import exited, with_place


@dataclass(frozen=True)
class Setting:
    """Setting of the whole process: how it is read, and how it is written."""

    read: Callable[[], Any]
    write: Callable[[Any], object]


def _write_cudnn(flags: tuple[bool, bool]) -> None:
    cudnn.benchmark, cudnn.deterministic = flags


SETTINGS = (
    Setting(torch.is_grad_enabled, torch.set_grad_enabled),
    Setting(torch.get_default_dtype, torch.set_default_dtype),
    # None takes the mode away that torch keeps for a default other than the processor.
    Setting(torch.get_default_device, lambda place: torch.set_default_device(_unless_cpu(place))),
    Setting(torch.get_num_threads, torch.set_num_threads),
    Setting(torch.get_float32_matmul_precision, torch.set_float32_matmul_precision),
    Setting(
        lambda: (
            torch.are_deterministic_algorithms_enabled(),
            torch.is_deterministic_algorithms_warn_only_enabled(),
        ),
        lambda flags: torch.use_deterministic_algorithms(flags[0], warn_only=flags[1]),
    ),
    Setting(lambda: (cudnn.benchmark, cudnn.deterministic), _write_cudnn),
    Setting(np.geterr, lambda handling: np.seterr(**handling)),
)


def _unless_cpu(place: torch.device) -> torch.device | None:
    return None if place.type == "cpu" else place


@contextmanager
def guest(what: str, hint: str) -> Iterator[None]:
    """Block that calls the user's code.

    what: names the call in the sentence about an exception. Raises `InputError` for all that the code raises
    but Ctrl-C and edgeprune's own errors: those of a device pass through `predict`.
    """
    with _restored():
        try:
            yield
        except (EdgepruneError, KeyboardInterrupt):
            raise
        except SystemExit as error:
            raise exited(error) from error
        except BaseException as error:  # a library's own way to end a program, too
            raise InputError(f"{what} raised {with_place(error)}.", hint) from error


def fresh_pass(data: Any) -> Iterable[Any]:
    """Iterable of a pass over data: what a generator function yields now, or the items by their numbers."""
    if inspect.isgeneratorfunction(data):
        passed: Iterable[Any] = data()
    elif hasattr(data, "__iter__"):
        passed = data
    else:
        passed = (data[number] for number in range(len(data)))
    return passed


def walk(data: Data, field: str, pass_name: str = "") -> Iterator[Any]:
    """Items of the task's `field` data, e.g. "train". Raises `InputError` as `guest` does.

    pass_name: which pass this is, for the sentence, e.g. " a second time".
    """
    reading = (f"Reading the task's {field} data{pass_name}", "Correct the line that raised.")
    with guest(*reading):
        items = iter(fresh_pass(data))
    while True:
        with guest(*reading):
            try:
                item = next(items)
            except StopIteration:
                return
        yield item


@contextmanager
def _restored() -> Iterator[None]:
    before = [setting.read() for setting in SETTINGS]
    folder = os.open(".", os.O_PATH)  # stays the same, whatever it is called meanwhile
    try:
        yield
    finally:
        os.fchdir(folder)
        os.close(folder)
        for setting, value in zip(SETTINGS, before, strict=True):
            if setting.read() != value:
                setting.write(value)

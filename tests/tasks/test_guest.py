"""The user's code leaves the process as it found it, and what it raises becomes a sentence."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from edgeprune import DeviceError, InputError
from edgeprune.tasks.guest import SETTINGS, guest, walk

CHANGES: dict[str, Callable[[], object]] = {
    "gradient mode": lambda: torch.set_grad_enabled(False),
    "default type": lambda: torch.set_default_dtype(torch.float64),
    "default device": lambda: torch.set_default_device("meta"),
    "threads": lambda: torch.set_num_threads(torch.get_num_threads() + 1),
    "precision": lambda: torch.set_float32_matmul_precision("medium"),
    "determinism": lambda: torch.use_deterministic_algorithms(True, warn_only=True),
    "convolutions": lambda: setattr(torch.backends.cudnn, "benchmark", True),
    "floating-point errors": lambda: np.seterr(all="raise"),
}


def settings() -> list[object]:
    return [setting.read() for setting in SETTINGS]


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_what_code_of_a_task_sets_is_put_back(change: Callable[[], object]) -> None:
    before = settings()
    with guest("evaluate", "Correct it."):
        change()
        assert settings() != before
    assert settings() == before


def test_it_is_put_back_when_the_code_raises() -> None:
    before = settings()

    def careless() -> None:
        with guest("evaluate", "Correct it."):
            torch.set_grad_enabled(False)
            raise ValueError("no")

    with pytest.raises(InputError, match="evaluate raised ValueError: no"):
        careless()
    assert settings() == before


def test_every_setting_is_tried_here() -> None:
    assert len(CHANGES) == len(SETTINGS)


def test_the_working_folder_is_put_back_even_when_it_was_removed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    monkeypatch.chdir(folder)
    with guest("evaluate", "Correct it."):
        os.chdir("/")
        folder.rename(tmp_path / "renamed")
    assert Path.cwd() == tmp_path / "renamed"
    with guest("evaluate", "Correct it."):
        os.chdir("/")
        (tmp_path / "renamed").rmdir()
    assert os.listdir(".") == []


def test_random_numbers_are_not_put_back_so_that_a_random_evaluation_shows() -> None:
    drawn = []
    for _ in range(2):
        with guest("evaluate", "Correct it."):
            drawn.append(torch.rand(()).item())
    assert drawn[0] != drawn[1]


class Outcome(BaseException):
    """As test frameworks and event loops end a program."""


@pytest.mark.parametrize("error", [Outcome("over"), GeneratorExit(), MemoryError(), StopIteration()])
def test_whatever_is_raised_becomes_a_sentence(error: BaseException) -> None:
    sentence = f"evaluate raised {type(error).__name__}"
    with pytest.raises(InputError, match=sentence), guest("evaluate", "Correct it."):
        raise error


def test_an_exit_a_ctrl_c_and_a_device_keep_their_meaning() -> None:
    with pytest.raises(InputError, match="ended the program: SystemExit: 0"), guest("evaluate", ""):
        raise SystemExit(0)
    for error in (KeyboardInterrupt(), DeviceError("lost", "Look.")):
        with pytest.raises(type(error)), guest("evaluate", ""):
            raise error


def test_data_are_walked_item_by_item_as_a_guest() -> None:
    def loader():  # type: ignore[no-untyped-def]
        torch.set_grad_enabled(False)
        yield 1
        raise Outcome("over")

    items = walk(loader(), "train")
    assert next(items) == 1
    assert torch.is_grad_enabled()
    with pytest.raises(InputError, match=r"Reading the task's train data raised Outcome: over"):
        next(items)
    with pytest.raises(InputError, match="raised TypeError"):
        next(walk(5, "train"))  # type: ignore[arg-type]

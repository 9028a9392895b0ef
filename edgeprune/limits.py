"""Limits of what a user gives: seeds, epochs, minutes, rows, threads, and names of devices."""

from __future__ import annotations

import re

from edgeprune.errors import InputError

MOST_SEED = 2**32 - 1  # what numpy and torch both take
MOST_EPOCHS = 10_000
MOST_MINUTES = 100_000
MOST_BATCH = 1 << 20
MOST_THREADS = 4096
MOST_TOKENS = 1 << 20
MOST_SECONDS = 600.0  # of a recording
MOST_PROCESSES = 1024
AUTO_DEVICE = "auto"
_TRAIN_DEVICE = re.compile(rf"{AUTO_DEVICE}|cpu|mps|cuda(:[0-9]{{1,3}})?")
MOST_DIGITS = 40  # of a number that an error repeats


def check_seed(value: object) -> None:
    """Raise `InputError` for what is no seed."""
    check_whole("--seed", value, MOST_SEED)


def check_minutes(value: object) -> None:
    """Raise `InputError` for anything but a number of minutes, above 0."""
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if not number or not 0 < value <= MOST_MINUTES:  # type: ignore[operator]  # false for NaN, too
        raise InputError(f"--minutes is {value!r:.60}.", f"Give a number above 0, at most {MOST_MINUTES}.")


def check_seconds(value: object) -> None:
    """Raise `InputError` for what is no length of a recording."""
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if not number or not 0 < value <= MOST_SECONDS:  # type: ignore[operator]  # false for NaN, too
        raise InputError(f"--seconds is {value!r:.60}.", f"Give a number above 0, at most {MOST_SECONDS:g}.")


def check_whole(flag: str, value: object, most: int, least: int = 0) -> None:
    """Raise `InputError` for anything but a whole number from `least` to `most`."""
    if isinstance(value, int) and value is not True and value is not False and least <= value <= most:
        return
    huge = isinstance(value, int) and abs(value) >= 10**MOST_DIGITS
    shown = f"a number of more than {MOST_DIGITS} digits" if huge else repr(value)
    raise InputError(f"{flag} is {shown}.", f"Give a whole number (int) from {least} to {most}.")


def check_train_device(value: object) -> None:
    """Raise `InputError` for what names no device that trains."""
    if not isinstance(value, str) or not _TRAIN_DEVICE.fullmatch(value):
        raise InputError(f"--train-device is {value!r:.60}.", "Give auto, cpu, cuda, cuda:N or mps.")


__all__ = [
    *(
        "AUTO_DEVICE",
        "MOST_BATCH",
        "MOST_EPOCHS",
        "MOST_MINUTES",
        "MOST_PROCESSES",
        "MOST_SECONDS",
        "MOST_SEED",
        "MOST_THREADS",
        "MOST_TOKENS",
    ),
    *("check_minutes", "check_seconds", "check_seed", "check_train_device", "check_whole"),
]

"""Words for error messages: the place in the user's code that raised, and what a value of the user's is."""

from __future__ import annotations

import sysconfig
import traceback
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch

from edgeprune.errors import InputError

MOST_CHARACTERS = 300  # torch lists every key of a state_dict that does not load
# Frames of Python, of installed libraries and of edgeprune itself are not the user's code.
_LIBRARIES = tuple(
    {str(Path(sysconfig.get_path(name)).resolve()) for name in ("stdlib", "purelib", "platlib")}
    | {str(Path(__file__).resolve().parents[1])}
)


def with_place(error: BaseException) -> str:
    """Text of an error with its place in the user's code: `ValueError: its message (FILE, line N)`."""
    place = user_line(error)
    text = " ".join(str(error).split())
    if len(text) > MOST_CHARACTERS:
        text = text[:MOST_CHARACTERS].rsplit(" ", 1)[0] + " ..."
    name = type(error).__name__
    return (f"{name}: {text}" if text else name) + (f" ({place})" if place else "")


@contextmanager
def exits_refused() -> Iterator[None]:
    """Turn a `sys.exit` of the user's code into `InputError`: only edgeprune says how a verb ended."""
    try:
        yield
    except SystemExit as error:
        raise exited(error) from error


def exited(error: SystemExit) -> InputError:
    """Error of a task whose code called `sys.exit`."""
    return InputError(
        f"Code of the task ended the program: {with_place(error)}.",
        "Return a value or raise an exception there, instead of calling sys.exit.",
    )


def user_line(error: BaseException) -> str | None:
    """`FILE, line N` of the deepest frame in the user's code; None when no frame is."""
    found = None
    for frame, line in traceback.walk_tb(error.__traceback__):
        file = frame.f_code.co_filename
        if not file.startswith("<") and not str(Path(file).resolve()).startswith(_LIBRARIES):
            found = f"{file}, line {line}"
    return found


def kind_of(value: Any) -> str:
    """Kind of a value, for a sentence: `None`, `an array of float32 [2, 3]`, `str 'x'`, `dict_keys`."""
    if value is None:
        return "None"
    if isinstance(value, np.ndarray):
        return f"an array of {value.dtype} {list(value.shape)}"
    if isinstance(value, torch.Tensor):
        return f"a tensor of {value.dtype} {list(value.shape)}"
    if isinstance(value, Mapping):
        return f"a dict of {names_of(value)}"
    if isinstance(value, Sequence) and not isinstance(value, str | bytes):
        return f"{type(value).__name__} of {len(value)}"
    shown = isinstance(value, str | bytes | int | float | complex | np.generic)
    return f"{type(value).__name__} {value!r:.60}" if shown else type(value).__name__


def names_of(mapping: Mapping[Any, Any]) -> str:
    """Keys of a mapping, for a sentence."""
    return ", ".join(str(name) for name in mapping) or "nothing"

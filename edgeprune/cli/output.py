"""Output of the verbs: one JSON document or tables on stdout, everything else on stderr."""

from __future__ import annotations

import json
import math
import os
import sys
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, redirect_stdout, suppress
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any, TextIO, cast

import click
from rich import box
from rich.console import Console
from rich.table import Table

from edgeprune.errors import InputError

WIDTH = 120  # of what goes into a pipe or a file, where there is no terminal to ask


class Lent:
    """A stream lent to the task's code, which may close it: the stream itself stays open."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def close(self) -> None:
        self._stream.flush()


@contextmanager
def answers_alone() -> Iterator[None]:
    """Send to stderr what the task's code and libraries print meanwhile: stdout holds the answer alone."""
    sys.stdout.flush()
    with ExitStack() as stack:
        stack.enter_context(redirect_stdout(cast(TextIO, Lent(sys.stderr))))
        with suppress(OSError):  # a stdout that is no file: what is not Python's own cannot print there
            saved = os.dup(1)
            stack.callback(os.close, saved)
            os.dup2(2, 1)
            stack.callback(os.dup2, saved, 1)
        yield


def emit_json(document: object) -> None:
    """Print one JSON document on stdout.

    Dataclasses become objects, tuples arrays, paths texts, NumPy scalars numbers; NaN and infinities, which
    JSON lacks, become null. Raises `TypeError` for anything else.
    """
    click.echo(json.dumps(plain(document), indent=2, allow_nan=False))


def plain(value: object) -> object:
    """The same value in the types that `json` can write."""
    if value is None or isinstance(value, (bool, int, str)):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Path):
        return str(value)
    if is_dataclass(value) and not isinstance(value, type):
        return {field.name: plain(getattr(value, field.name)) for field in fields(value)}
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    if hasattr(value, "item") and getattr(value, "ndim", None) == 0:
        return plain(value.item())
    raise TypeError(f"{type(value).__name__} has no JSON form")


def check_file(flag: str, path: Path) -> None:
    """Refuse a place where no file can be written, before anything runs. Raises `InputError`."""
    if path.is_dir():
        raise InputError(f"{flag} {path} is a folder.", "Give the name of a file.")
    if not path.parent.is_dir():
        raise InputError(
            f"{flag} {path} lies in {path.parent}, which is no folder.",
            "Make it first, or choose another place.",
        )
    if not os.access(path.parent, os.W_OK | os.X_OK):
        raise InputError(
            f"{flag} {path} cannot be written: {path.parent} may not be written.", "Choose another place."
        )


def console(*, stderr: bool = True) -> Console:
    """A rich console on stderr, for progress; with `stderr=False` on stdout, for results."""
    stream = sys.stderr if stderr else sys.stdout
    measured = stream.isatty() or "COLUMNS" in os.environ
    return Console(file=stream, width=None if measured else WIDTH, highlight=False)


def table(*columns: str, rows: Iterable[Iterable[str]], right: Iterable[str] = ()) -> Table:
    """A rich table of texts; the columns named in `right` are aligned to the right."""
    made = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for column in columns:
        made.add_column(column, justify="right" if column in right else "left")
    for row in rows:
        made.add_row(*row)
    return made


def facts(rows: Iterable[tuple[str, str]]) -> Table:
    """A rich table of names and values, without a header."""
    made = Table(box=None, show_header=False, pad_edge=False)
    made.add_column(style="dim", no_wrap=True)
    made.add_column(overflow="fold")
    for name, value in rows:
        made.add_row(name, value)
    return made


__all__ = ["answers_alone", "check_file", "console", "emit_json", "facts", "plain", "table"]

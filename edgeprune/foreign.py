"""Text from outside, tamed before a terminal, a log, a JUnit file or a CI runner gets it.

Manifests, devices and the names of files may hold control characters, escape sequences, line breaks,
controls of the writing direction, and words that a CI runner obeys: GitHub reads `::error::` at the beginning
of a line and `##[error]` anywhere, Azure `##vso[...]`, TeamCity `##teamcity[...]`. Text is tamed where it
enters, so that whoever prints it later need not know where it came from.
"""

from __future__ import annotations

import re
from dataclasses import fields, is_dataclass
from typing import TypeVar

SENTENCE = 300  # characters of a text that is to be one sentence
CUT = "..."

_DOUBLED = re.compile(r"([:#])(?=\1)")
_COMMAND = re.compile(r"^(\s*:)(?=:)|#(?=#)")

T = TypeVar("T")


def tame(text: str, most: int = SENTENCE) -> str:
    """One line of at most `most` characters: white space is one space, what cannot be printed is escaped.

    `tame("\\x1b[31mred\\n::error::x")` is `\\\\x1b[31mred : :error: :x`. What is tame stays as it is.
    """
    words = " ".join(text[: 4 * most].split())
    line = _DOUBLED.sub(r"\1 ", _printable(words))
    whole = len(line) <= most and len(text) <= 4 * most
    return line if whole else line[: most - len(CUT)].rstrip() + CUT


def is_tame(text: str, most: int = SENTENCE) -> bool:
    """Whether a name can be used as it is: not empty, at most `most` long, and nothing to tame in it."""
    return bool(text) and tame(text, most) == text


def last_lines(text: str, lines: int, most: int = SENTENCE) -> list[str]:
    """The last lines that are not empty, each tamed."""
    return [tame(line, most) for line in text.splitlines() if line.strip()][-lines:]


def escaped(text: str) -> str:
    """A line that edgeprune wrote, with names from outside in it: what is no plain character is escaped."""
    return _COMMAND.sub(lambda found: found[0] + " ", _printable(text))


def tame_record(record: T, most: int = SENTENCE) -> T:
    """The same record with every text in it tamed, those of the records and tuples in it too."""
    found: object = record
    if isinstance(record, str):
        found = tame(record, most)
    elif isinstance(record, tuple):
        found = tuple(tame_record(item, most) for item in record)
    elif is_dataclass(record) and not isinstance(record, type):
        found = type(record)(
            **{field.name: tame_record(getattr(record, field.name), most) for field in fields(record)}
        )
    return found  # type: ignore[return-value]


def _printable(text: str) -> str:
    return (
        text
        if text.isprintable()
        else "".join(each if each.isprintable() else ascii(each)[1:-1] for each in text)
    )


__all__ = ["SENTENCE", "escaped", "is_tame", "last_lines", "tame", "tame_record"]

"""A strict reader of TOML that people write: an error names file, key, value and a way out."""

from __future__ import annotations

import difflib
import json
import math
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, cast

from edgeprune.errors import InputError
from edgeprune.foreign import escaped

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

_WORDS = {
    bool: "true or false",
    int: "a whole number",
    float: "a number",
    str: "a text",
    list: "an array",
    dict: "a table",
}


LARGEST_FILE = 1 << 20
DEEPEST_TABLE = 16  # tables and arrays in one another; edgeprune's own files need four
LONGEST_QUOTE = 200  # of a text that an error repeats
_WHOLE = 1 << 63  # TOML's whole numbers have 64 bits


def quoted(text: str) -> str:
    """A text in double quotes, control characters escaped, the end of a long one left out."""
    cut = text if len(text) <= LONGEST_QUOTE else text[:LONGEST_QUOTE] + "..."
    return json.dumps(cut, ensure_ascii=not cut.isprintable())


def literal(value: object) -> str:
    """TOML text of a value: a text, a number, true or false, or a list or tuple of them.

    Raises `InputError` for a text that UTF-8 does not hold, as names of files may be.
    """
    if isinstance(value, list | tuple):
        return f"[{', '.join(literal(one) for one in value)}]"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int):
        return str(value)
    if isinstance(value, float):
        whole = value.is_integer() and abs(value) < 2**53
        return str(int(value)) if whole else repr(value)
    text = str(value)
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise InputError(f"{text!r} cannot be written in TOML, which is UTF-8.", "Rename it.") from error
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")


def nearest(word: str, among: Iterable[str]) -> str:
    """A hint that names the valid word nearest to `word`, then all of them."""
    folded = {choice.casefold(): choice for choice in among}
    close = difflib.get_close_matches(word.casefold(), folded, n=1, cutoff=0.5)
    meant = f'Did you mean "{folded[close[0]]}"? ' if close else ""
    return f"{meant}Valid: {', '.join(folded.values()) or 'none'}."


class Table:
    """One table of a TOML file. Every method raises `InputError` when the value is not what it asks for."""

    def __init__(self, path: Path, content: dict[str, Any], at: str = "") -> None:
        self.path = path
        self._content = content
        self._at = at  # the table's own key, "" for the document

    @classmethod
    def read(cls, path: Path) -> Table:
        """The document in a file. Raises `InputError` when it cannot be read or is not TOML."""
        try:
            with path.open("rb") as stream:
                content = stream.read(LARGEST_FILE + 1)
        except OSError as error:
            reason = error.strerror or str(error)
            raise InputError(
                f"{path} cannot be read: {reason}.", "Check the path and its permissions."
            ) from error
        if len(content) > LARGEST_FILE:
            raise InputError(
                f"{path} is larger than {LARGEST_FILE >> 20} MiB.", "Give a TOML file that a person wrote."
            )
        return cls.parse(path, content)

    @classmethod
    def parse(cls, path: Path, content: bytes) -> Table:
        """The document in the bytes of a file. Raises `InputError` when it is not TOML."""
        try:
            document = tomllib.loads(content.decode("utf-8-sig"))  # an editor's byte order mark is no fault
        except UnicodeDecodeError as error:
            raise InputError(
                f"{path} is not UTF-8: {error.reason} at byte {error.start}.", "Save it as UTF-8."
            ) from error
        except RecursionError as error:
            raise _too_deep(path) from error
        except ValueError as error:  # TOMLDecodeError
            raise InputError(f"{path} is not TOML: {error}.", "Correct the file at that place.") from error
        _check_sane(path, document)
        return cls(path, document)

    def only(self, *keys: str) -> None:
        """Refuse a key that is not one of `keys`; called first, so that a misspelling is called one."""
        for key in self._content:
            if key not in keys:
                raise self.error(key, "is not a known key", nearest(key, keys))

    def __iter__(self) -> Iterator[str]:
        """The keys, in the order of the file."""
        return iter(self._content)

    def text(self, key: str, *, among: Iterable[str] = (), default: str | None = None) -> str:
        value = cast(str, self._value(key, str, default))
        choices = tuple(among)
        if choices and value not in choices:
            raise self.error(key, f"is {quoted(value)}", nearest(value, choices))
        if not value.strip():
            raise self.error(key, "is an empty text", "Write one, or leave the key out if it is optional.")
        return value

    def is_text(self, key: str) -> bool:
        """Whether a text stands under a key that may hold something else, too."""
        return isinstance(self._content.get(key), str)

    def texts(self, key: str, *, among: Iterable[str] = ()) -> tuple[str, ...]:
        """An array of texts; empty when absent."""
        choices = tuple(among)
        for at, value in enumerate(cast("list[object]", self._value(key, list, []))):
            if not isinstance(value, str) or not value.strip():
                raise self.error(f"{key}[{at}]", f"is {value!r:.{LONGEST_QUOTE}}, expected a text")
            if choices and value not in choices:
                raise self.error(f"{key}[{at}]", f"is {quoted(value)}", nearest(value, choices))
        return tuple(self._content.get(key, ()))

    def flag(self, key: str) -> bool:
        """true or false; false when absent."""
        return cast(bool, self._value(key, bool, False))

    def whole(self, key: str, *, least: int, most: int | None = None, default: int | None = None) -> int:
        value = cast(int, self._value(key, int, default))
        if value < least or (most is not None and value > most):
            limits = f"{least} or more" if most is None else f"{least} to {most}"
            raise self.error(key, f"is {value}, expected a whole number, {limits}")
        return value

    def number(self, key: str, *, zero: bool = False, default: float | None = None) -> float:
        """A positive finite number; `zero` allows 0."""
        value = float(cast(float, self._value(key, float, default)))
        if not math.isfinite(value) or value < 0 or (value == 0 and not zero):
            raise self.error(
                key, f"is {value:g}, expected a {'number of 0 or more' if zero else 'positive number'}"
            )
        return value

    def numbers(self, key: str) -> tuple[float, ...]:
        """A positive number, or an array of one and more."""
        value = self._content.get(key)
        if not isinstance(value, list):
            return (self.number(key),)
        if not value:
            raise self.error(key, "is an empty array", "Write a number or more, or leave the key out.")
        several = Table(self.path, {f"{key}[{at}]": one for at, one in enumerate(value)}, self._at)
        return tuple(several.number(one) for one in several)

    def written(self, key: str) -> str:
        """The value of a key as TOML has it, on one printable line."""
        text = escaped(literal(self._content[key]))
        return text if len(text) <= LONGEST_QUOTE else f"{text[:LONGEST_QUOTE]}..."

    def table(self, key: str) -> Table:
        """The table under `key`; an empty one when absent."""
        return Table(self.path, cast("dict[str, Any]", self._value(key, dict, {})), self._key(key))

    def error(self, key: str, problem: str, hint: str = "Correct the file.") -> InputError:
        """The error to raise about `key`."""
        return InputError(f"{self.path}: {self._key(key)} {problem}.", hint)

    def _value(self, key: str, kind: type, default: object) -> object:
        if key not in self._content:
            if default is None:
                raise self.error(key, f"is missing, expected {_WORDS[kind]}", "Add it to the file.")
            return default
        value = self._content[key]
        # A TOML integer is a number too; true and false are not, although Python counts them as integers.
        if type(value) is kind or (kind is float and type(value) is int):
            return value
        shown = quoted(value) if isinstance(value, str) else f"{str(value).lower():.{LONGEST_QUOTE}}"
        raise self.error(key, f"is {shown}, expected {_WORDS[kind]}")

    def _key(self, key: str) -> str:
        return f"{self._at}.{key}" if self._at else key


def _check_sane(path: Path, document: dict[str, Any]) -> None:
    """Refuse what `tomllib` reads and TOML does not hold: endless nesting, whole numbers beyond 64 bits."""
    level: list[object] = [document]
    for _ in range(DEEPEST_TABLE):
        below: list[object] = []
        for value in level:
            if isinstance(value, dict):
                below += value.values()
            elif isinstance(value, list):
                below += value
            elif isinstance(value, int) and not -_WHOLE <= value < _WHOLE:
                raise InputError(f"{path} holds a whole number beyond 64 bits.", "Correct the file.")
        level = below
    if level:
        raise _too_deep(path)


def _too_deep(path: Path) -> InputError:
    return InputError(
        f"{path} has tables or arrays more than {DEEPEST_TABLE} deep.", "Correct the file: its keys lie flat."
    )


__all__ = ["Table", "literal", "nearest", "quoted"]

"""Keys of the records that edgeprune stores, beside those that a schema promises to read."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import Field, fields, is_dataclass
from typing import Any, get_args, get_type_hints

from edgeprune.records.codec import is_required, spellings

Keys = Mapping[str, Mapping[str, str]]  # class -> key -> "required" or "optional"


def records(*roots: Any) -> Iterator[type]:
    """Every dataclass that a stored value of these types may hold, each once."""
    waiting, seen = list(roots), set()
    while waiting:
        kind = waiting.pop()
        if is_dataclass(kind) and kind not in seen:
            seen.add(kind)
            yield kind
            waiting += get_type_hints(kind).values()
        waiting += get_args(kind)


def broken(record: type, promised: Mapping[str, str]) -> list[str]:
    """One sentence for each promise that a record no longer keeps, or that was not made of it yet."""
    known = {spelling for field in fields(record) for spelling in spellings(field)}
    return [
        *(f"{key} was stored, and nothing reads it" for key in promised if key not in known),
        *(sentence for field in fields(record) for sentence in _broken(field, promised)),
    ]


def _broken(field: Field[Any], promised: Mapping[str, str]) -> list[str]:
    name = field.name
    if is_required(field) and not any(promised.get(key) == "required" for key in spellings(field)):
        return [f"{name} is required, and older records lack it: give it a default, or move the schema"]
    return [] if name in promised else [f"{name} is new: add it to the listing as optional"]

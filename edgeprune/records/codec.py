"""JSON codec of frozen dataclasses: strict about values, tolerant of fields that came or were renamed later.

A document may come from an earlier edgeprune, or from somebody's editor. So only two things may differ from
what is written today: a key that is missing takes the field's default, and a renamed field is read by its
earlier name, `field(metadata={"earlier": ("old_name",)})`. Anything else is refused with the path of the
value, e.g. `trials[3].measurement.latency.p90_ms`: an unknown key too, which may change what others mean.

    dataclass        object with its fields as keys; all of them are written
    tuple            array
    X | None         null or X
    Literal          one of its values
    Any              any JSON value, as it is
    int              integer of 64 bits
    float            number, never NaN or infinite (JSON has no such thing); an integer is a float too

Text is UTF-8 without a byte order mark, of whole characters: half of a surrogate pair cannot be printed.
"""

from __future__ import annotations

import json
import math
import re
from dataclasses import MISSING, Field, fields, is_dataclass
from functools import cache
from types import NoneType, UnionType
from typing import (
    Any,
    Literal,
    NoReturn,
    TypeAlias,
    TypeVar,
    Union,
    cast,
    get_args,
    get_origin,
    get_type_hints,
)

from edgeprune.errors import InputError

JSON: TypeAlias = "bool | int | float | str | list[JSON] | dict[str, JSON] | None"
T = TypeVar("T")

DEEPEST = 64  # arrays and objects inside one another; records have about ten
_SURROGATE = re.compile(rb"\\u[dD][89a-fA-F]")
_WORDS = {bool: "true or false", int: "an integer", float: "a number", str: "a text", NoneType: "null"}


def to_json(value: object, path: str = "") -> JSON:
    """JSON value of a record; `InputError` when a float in it is NaN or infinite."""
    if value is None or isinstance(value, (bool, str)):
        return value
    if isinstance(value, int):
        return int(value)
    if isinstance(value, float):
        if not math.isfinite(value):
            raise InputError(
                f"{path or 'The value'} is {value}, which is not a finite number.",
                "Look for what produced it: a metric, a measurement or a budget must be finite.",
            )
        return float(value)
    if isinstance(value, (tuple, list)):
        return [to_json(item, f"{path}[{at}]") for at, item in enumerate(value)]
    if isinstance(value, dict):
        return {_key(key, path): to_json(item, _below(path, key)) for key, item in value.items()}
    if is_dataclass(value) and not isinstance(value, type):
        return {
            field.name: to_json(getattr(value, field.name), _below(path, field.name))
            for field in fields(value)
        }
    raise TypeError(f"{path or 'the value'} is a {type(value).__name__}, which has no JSON form here")


def from_json(cls: type[T], value: JSON, path: str = "") -> T:
    """Record of type `cls` in a JSON value; `InputError` naming the path of a value that is wrong."""
    return cast(T, _decode(cls, value, path))


def check_schema(document: JSON, known: int, name: str) -> None:
    """Refuse a document whose `schema` is not 1 to `known`, with an `InputError` that names the file `name`.

    A document without an integer there passes: it is for `from_json` to refuse.
    """
    schema = document.get("schema") if isinstance(document, dict) else None
    if type(schema) is not int:
        return
    if schema > known:
        raise InputError(
            f"{name} has schema {schema}, this edgeprune knows up to {known}.",
            "Upgrade edgeprune on this machine: pip install --upgrade edgeprune",
        )
    if schema < 1:
        raise InputError(
            f"{name} has schema {schema}, which never was.", "Restore the file as edgeprune wrote it."
        )


def is_required(field: Field[Any]) -> bool:
    """Whether a record without the field is refused, because the field has no default."""
    return field.default is MISSING and field.default_factory is MISSING


def spellings(field: Field[Any]) -> tuple[str, ...]:
    """Keys that a field is read from: its name, then its earlier names."""
    return (field.name, *field.metadata.get("earlier", ()))


def dumps(value: JSON) -> str:
    """One line of JSON text, the same for the same value."""
    return json.dumps(value, allow_nan=False, separators=(",", ":"))


def loads(text: str | bytes, name: str) -> JSON:
    """JSON value of a text; `InputError` naming `name` for anything but one strict JSON document in UTF-8."""

    def refuse(word: str) -> NoReturn:
        raise ValueError(f"{word} is not a number in JSON")

    def finite(word: str) -> float:
        number = float(word)
        if not math.isfinite(number):
            raise ValueError(f"the number {word[:60]} is too large")
        return number

    def once(pairs: list[tuple[str, JSON]]) -> dict[str, JSON]:
        seen = dict(pairs)
        if len(seen) != len(pairs):
            raise ValueError("a key appears twice in one object")
        return seen

    try:
        raw = text if isinstance(text, bytes) else text.encode("utf-8")
        # Decoded here: json.loads takes UTF-16, UTF-32 and byte order marks as well.
        value = json.loads(
            raw.decode("utf-8"), parse_constant=refuse, parse_float=finite, object_pairs_hook=once
        )
        _check_depth(value)
        if _SURROGATE.search(raw):
            json.dumps(value, ensure_ascii=False).encode("utf-8")
        return cast(JSON, value)
    # json.JSONDecodeError, UnicodeDecodeError and UnicodeEncodeError are ValueErrors.
    except (ValueError, RecursionError) as error:
        lone = isinstance(error, UnicodeEncodeError)
        problem = "a text in it holds half of a surrogate pair" if lone else str(error)
        raise InputError(
            f"{name} is not JSON: {problem}.", "Restore the file as edgeprune wrote it."
        ) from error


def _check_depth(value: JSON) -> None:
    """Raise ValueError when arrays and objects lie deeper in one another than any record's."""
    level: list[JSON] = [value]
    for _ in range(DEEPEST):
        level = [
            item
            for outer in level
            if isinstance(outer, (list, dict))
            for item in (outer.values() if isinstance(outer, dict) else outer)
            if isinstance(item, (list, dict))
        ]
        if not level:
            return
    raise ValueError(f"it is nested deeper than {DEEPEST} levels")


def _decode(kind: Any, value: JSON, path: str) -> object:
    if kind is Any:
        return value
    origin = get_origin(kind)
    if origin in (Union, UnionType):
        return _decode_union(get_args(kind), value, path)
    if origin is Literal:
        # True == 1, so the type is compared as well.
        for choice in get_args(kind):
            if type(choice) is type(value) and choice == value:
                return choice
        raise _refused(path, value, _words(kind))
    if origin is tuple:
        return _decode_tuple(get_args(kind), value, path)
    if is_dataclass(kind):
        return _decode_record(cast(type, kind), value, path)
    if kind is float and type(value) is int:
        try:
            return float(value)
        except OverflowError as error:
            raise _refused(path, value, _words(kind)) from error
    if kind in _WORDS:
        if type(value) is not kind or (kind is float and not math.isfinite(cast(float, value))):
            raise _refused(path, value, _words(kind))
        if kind is int and not -(2**63) <= cast(int, value) < 2**63:
            raise _refused(path, value, "an integer of 64 bits")
        return value
    raise TypeError(f"{path or 'the value'}: {kind!r} has no JSON form here")


def _decode_union(arms: tuple[Any, ...], value: JSON, path: str) -> object:
    if value is None and NoneType in arms:
        return None
    others = [arm for arm in arms if arm is not NoneType]
    if len(others) == 1:  # X | None: the error of X says more than "neither"
        return _decode(others[0], value, path)
    # An exact type wins, so that 1 in `int | float` stays an integer whatever the order of the arms.
    for arm in sorted(others, key=lambda arm: arm is not type(value)):
        try:
            return _decode(arm, value, path)
        except InputError:
            continue
    raise _refused(path, value, " or ".join(_words(arm) for arm in arms))


def _decode_tuple(kinds: tuple[Any, ...], value: JSON, path: str) -> tuple[object, ...]:
    if not isinstance(value, list):
        raise _refused(path, value, "an array")
    if len(kinds) == 2 and kinds[1] is Ellipsis:
        kinds = (kinds[0],) * len(value)
    if len(value) != len(kinds):
        raise _refused(path, value, f"an array of {len(kinds)}")
    return tuple(
        _decode(kind, item, f"{path}[{at}]") for at, (kind, item) in enumerate(zip(kinds, value, strict=True))
    )


def _decode_record(cls: type, value: JSON, path: str) -> object:
    if not isinstance(value, dict):
        raise _refused(path, value, f"an object ({cls.__name__})")
    kinds, unread = _kinds(cls), set(value)
    found: dict[str, object] = {}
    for field in fields(cls):
        keys = [key for key in spellings(field) if key in value]
        if len(keys) > 1:
            raise _wrong(f"{_below(path, keys[0])} is there twice: {keys[1]} is its earlier name.")
        if keys:
            found[field.name] = _decode(kinds[field.name], value[keys[0]], _below(path, keys[0]))
            unread.remove(keys[0])
        elif is_required(field):
            raise _wrong(f"{_below(path, field.name)} is missing.")
    if unread:
        raise InputError(
            f"{_below(path, min(unread))} is not a key of {cls.__name__}, whose keys are {', '.join(kinds)}.",
            "If a later edgeprune wrote it, upgrade this one; else restore the file as it was written.",
        )
    return cls(**found)


@cache
def _kinds(cls: type) -> dict[str, Any]:
    hints = get_type_hints(cls)
    return {field.name: hints[field.name] for field in fields(cls)}


def _key(key: object, path: str) -> str:
    if not isinstance(key, str):
        raise TypeError(f"{path or 'the value'} has the key {key!r}, and JSON knows only texts as keys")
    return key


def _words(kind: Any) -> str:
    if get_origin(kind) is Literal:
        return " or ".join(json.dumps(choice) for choice in get_args(kind))
    return _WORDS.get(kind) or str(getattr(kind, "__name__", kind))


def _below(path: str, key: str) -> str:
    return f"{path}.{key}" if path and not path.endswith(": ") else f"{path}{key}"


def _refused(path: str, value: JSON, expected: str) -> InputError:
    shown = json.dumps(value)
    shown = shown if len(shown) <= 60 else shown[:57] + "..."
    return _wrong(f"{path or 'The document'} is {shown}, expected {expected}.")


def _wrong(what: str) -> InputError:
    return InputError(what, "Restore the file as edgeprune wrote it, or write it again with this version.")

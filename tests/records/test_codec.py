"""The codec: what goes out comes back, and nothing else comes in."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Iterator
from dataclasses import MISSING, dataclass, fields, is_dataclass
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from edgeprune.errors import InputError
from edgeprune.records.codec import JSON, dumps, from_json, loads, to_json
from edgeprune.records.machine import Budget, Profile, Target
from edgeprune.records.trial import FitResult, Latency, Measurement, Report

RECORDS = (Budget, Profile, Target, Latency, Measurement, Report)


def values(kind: Any) -> st.SearchStrategy[Any]:
    """Every value that the type of a record's field allows."""
    origin, arms = get_origin(kind), get_args(kind)
    if origin in (Union, UnionType):
        return st.one_of(*(values(arm) for arm in arms))
    if origin is Literal:
        return st.sampled_from(arms)
    if origin is tuple and arms[-1] is Ellipsis:
        return st.lists(values(arms[0]), max_size=2).map(tuple)
    if origin is tuple:
        return st.tuples(*(values(arm) for arm in arms))
    if is_dataclass(kind):
        hints = get_type_hints(kind)
        return st.builds(kind, **{field.name: values(hints[field.name]) for field in fields(kind)})
    return {
        float: st.floats(allow_nan=False, allow_infinity=False),
        int: st.integers(-(2**63), 2**63 - 1),
        bool: st.booleans(),
        str: st.text(max_size=8),
        NoneType: st.none(),
    }[kind]


@pytest.mark.parametrize("record", RECORDS, ids=lambda record: record.__name__)
@settings(max_examples=25, deadline=None)
@given(data=st.data())
def test_a_record_comes_back_from_its_own_text(record: type, data: st.DataObject) -> None:
    before = data.draw(values(record))
    assert from_json(record, loads(dumps(to_json(before)), "text")) == before


JSON_VALUES: st.SearchStrategy[JSON] = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)


def places(document: JSON, record: Any, path: str = "") -> Iterator[tuple[dict[str, JSON], Any, str]]:
    """(object, its record, its path) of every record in a document."""
    if isinstance(record, tuple) and isinstance(document, list):
        for at, (item, value) in enumerate(zip(document, record, strict=True)):
            yield from places(item, value, f"{path}[{at}]")
    if is_dataclass(record) and isinstance(document, dict):
        yield document, record, path
        for field in fields(record):
            below = f"{path}.{field.name}" if path else field.name
            yield from places(document[field.name], getattr(record, field.name), below)


@given(data=st.data(), record=st.sampled_from(RECORDS))
def test_a_key_that_is_missing_takes_its_default_or_is_named(data: st.DataObject, record: type) -> None:
    before = data.draw(values(record))
    document = to_json(before)
    at, inside, path = data.draw(st.sampled_from(list(places(document, before))))
    field = data.draw(st.sampled_from(fields(inside)))
    at.pop(field.name)
    if field.default is not MISSING:
        after = from_json(record, document)
        at[field.name] = to_json(field.default)
        assert to_json(after) == document
        return
    with pytest.raises(InputError) as caught:
        from_json(record, document)
    assert caught.value.what == f"{path}.{field.name} is missing.".lstrip(".")


@given(data=st.data(), record=st.sampled_from(RECORDS), key=st.text(min_size=1, max_size=5))
def test_a_key_that_nothing_reads_is_named(data: st.DataObject, record: type, key: str) -> None:
    before = data.draw(values(record))
    document = to_json(before)
    at, _, path = data.draw(st.sampled_from(list(places(document, before))))
    assume(key not in at and key != "after")  # the earlier name of `Candidate.warm_start`
    at[key] = data.draw(JSON_VALUES)
    with pytest.raises(InputError) as caught:
        from_json(record, document)
    assert caught.value.what.startswith(f"{path}.{key} is not a key of ".removeprefix("."))


@dataclass(frozen=True)
class Renamed:
    """Fields that were renamed: one once, one twice; one of them has a default."""

    latency_ms: float = dataclasses.field(metadata={"earlier": ("p90", "p90_ms")})
    warm_start: str | None = dataclasses.field(default=None, metadata={"earlier": ("after",)})


SPELLINGS = {"latency_ms": ("latency_ms", "p90", "p90_ms"), "warm_start": ("warm_start", "after")}


@given(record=values(Renamed), data=st.data())
def test_a_renamed_field_is_read_by_each_of_its_names(record: Renamed, data: st.DataObject) -> None:
    document = to_json(record)
    assert isinstance(document, dict)
    spelt = {data.draw(st.sampled_from(SPELLINGS[key])): value for key, value in document.items()}
    assert from_json(Renamed, spelt) == record


@pytest.mark.parametrize(
    ("document", "sentence"),
    [
        ({"p90": 1, "latency_ms": 2}, "run: latency_ms is there twice: p90 is its earlier name."),
        ({"p90": "fast"}, 'run: p90 is "fast", expected a number.'),
        ({"after": "dense"}, "run: latency_ms is missing."),
    ],
    ids=["both names", "wrong under its earlier name", "no name"],
)
def test_what_is_wrong_with_a_renamed_field_is_named(document: JSON, sentence: str) -> None:
    with pytest.raises(InputError) as caught:
        from_json(Renamed, document, "run: ")
    assert caught.value.what == sentence


@given(value=JSON_VALUES)
def test_a_strange_document_is_refused_and_never_crashes(value: JSON) -> None:
    with pytest.raises(InputError):
        from_json(FitResult, value)


@dataclass(frozen=True)
class Leaf:
    p90_ms: float
    runs: int = 0
    kind: Literal["fits", "misses"] = "fits"


@dataclass(frozen=True)
class Tree:
    leaves: tuple[Leaf, ...]
    pair: tuple[str, int]
    maybe: float | None
    either: int | str | Leaf = 0


GOOD: dict[str, Any] = {
    "leaves": [{"p90_ms": 1.5, "runs": 2, "kind": "fits"}, {"p90_ms": 2, "runs": 3, "kind": "misses"}],
    "pair": ["a", 1],
    "maybe": None,
    "either": "text",
}


def test_integers_serve_as_floats_and_become_floats() -> None:
    tree = from_json(Tree, GOOD)
    assert type(tree.leaves[1].p90_ms) is float


@dataclass(frozen=True)
class Wrong:
    """One edit of GOOD and the start of the sentence it must give."""

    edit: tuple[tuple[str | int, ...], Any]
    sentence: str


WRONG = {
    "text for a number": Wrong(
        (("leaves", 1, "p90_ms"), "fast"), 'leaves[1].p90_ms is "fast", expected a num'
    ),
    "true for an integer": Wrong(
        (("leaves", 0, "runs"), True), "leaves[0].runs is true, expected an integer"
    ),
    "float for an integer": Wrong((("leaves", 0, "runs"), 2.0), "leaves[0].runs is 2.0, expected an integer"),
    "outside a literal": Wrong((("leaves", 0, "kind"), "won"), 'leaves[0].kind is "won", expected "fits" or'),
    "unknown key": Wrong((("leaves", 0, "p95_ms"), 1), "leaves[0].p95_ms is not a key of Leaf"),
    "pair of three": Wrong((("pair",), ["a", 1, 2]), 'pair is ["a", 1, 2], expected an array of 2'),
    "wrong in a pair": Wrong((("pair", 1), "b"), 'pair[1] is "b", expected an integer'),
    "object for an array": Wrong((("leaves",), {}), "leaves is {}, expected an array"),
    "text for an optional": Wrong((("maybe",), "no"), 'maybe is "no", expected a number'),
    "NaN": Wrong((("maybe",), math.nan), "maybe is NaN, expected a number"),
    "more than 64 bits": Wrong(
        (("leaves", 0, "runs"), 2**63),
        "leaves[0].runs is 9223372036854775808, expected an integer of 64 bits",
    ),
    "too large for a float": Wrong((("maybe",), 10**400), "maybe is 1000"),
    "no arm of a union": Wrong((("either",), 1.5), "either is 1.5, expected an integer or a text or Leaf"),
}


@pytest.mark.parametrize("case", WRONG.values(), ids=WRONG.keys())
def test_what_is_wrong_is_named_by_its_path(case: Wrong) -> None:
    document = json.loads(json.dumps(GOOD))
    place = document
    *way, last = case.edit[0]
    for step in way:
        place = place[step]
    place[last] = case.edit[1]
    with pytest.raises(InputError) as caught:
        from_json(Tree, document)
    assert caught.value.what.startswith(case.sentence)
    assert caught.value.hint


def test_a_file_name_may_lead_the_path() -> None:
    with pytest.raises(InputError, match=r"^result\.json: maybe is missing\. "):
        from_json(Tree, {key: value for key, value in GOOD.items() if key != "maybe"}, "result.json: ")


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_number_that_is_not_finite_is_never_written(value: float) -> None:
    with pytest.raises(InputError, match=r"^leaves\[0\]\.p90_ms is (nan|-?inf)"):
        to_json(Tree((Leaf(value),), ("a", 1), None))


def test_a_value_without_a_json_form_is_a_programming_error() -> None:
    with pytest.raises(TypeError, match=r"maybe is a set"):
        to_json(Tree((), ("a", 1), {1}))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "text",
    [
        *('{"a": NaN}', '{"a": 1, "a": 2}', "{", "", b"\xff\xfe{", "[" * 200_000),
        pytest.param('{"a": 1e999}', id="a number beyond the range of floats"),
        pytest.param("9" * 5000, id="thousands of digits"),
        pytest.param('"\\ud800"', id="half of a surrogate pair"),
        pytest.param('{"\\uDFFF": 1}', id="half of a pair in a key"),
        pytest.param('"\ud800"', id="half of a pair as it is"),
        pytest.param('{"a": 1}'.encode("utf-8-sig"), id="byte order mark"),
        pytest.param('{"a": 1}'.encode("utf-16"), id="UTF-16"),
        pytest.param('{"a": 1}'.encode("utf-32-le"), id="UTF-32"),
        pytest.param("[" * 65 + "]" * 65, id="nested deeper than any record"),
    ],
    ids=lambda text: repr(text)[:12],
)
def test_text_that_is_not_strict_json_is_refused(text: str | bytes) -> None:
    with pytest.raises(InputError, match=r"^ledger\.jsonl is not JSON"):
        loads(text, "ledger.jsonl")


def test_whole_characters_are_read_however_they_are_written() -> None:
    assert loads('["\\ud83d\\ude00", "\\\\ud800"]', "text") == ["\U0001f600", "\\ud800"]
    assert loads("[" * 64 + "]" * 64, "text") is not None

"""Parts beside the model are timed by themselves, checked before anything is measured, and told by line."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import edgeprune
from edgeprune.errors import InputError
from edgeprune.tasks.query_parts import QueryParts

ROW = torch.zeros(1, 3)


class Clock:
    """Seconds that pass only where a test says so."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now

    def passing(self, seconds: float, answer: Callable[[Any], Any]) -> Callable[[Any], Any]:
        """A part that takes so long."""

        def part(given: Any) -> Any:
            self.now += seconds
            return answer(given)

        return part


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    found = Clock()
    monkeypatch.setattr("edgeprune.tasks.query_parts.perf_counter", found)
    return found


def task(**fields: Any) -> edgeprune.Task:
    given: dict[str, Any] = {"example": ROW, "queries": ["a query"], **fields}
    return edgeprune.Task(model=nn.Linear(3, 2), calibration=[ROW], evaluate=lambda predict: 1.0, **given)


def as_row(query: str) -> np.ndarray:
    return np.full((1, 3), len(query), np.float32)


def parts(**fields: Any) -> QueryParts:
    return QueryParts(task(**fields), ("x",))


def test_each_part_has_its_own_milliseconds(clock: Clock) -> None:
    seen: list[Any] = []
    found = parts(before=clock.passing(0.003, as_row), after=clock.passing(0.002, seen.append))
    feed, before_ms = found.ahead(0)
    assert before_ms == pytest.approx(3.0)
    np.testing.assert_array_equal(feed["x"], np.full((1, 3), 7, np.float32))
    assert found.behind("outputs") == pytest.approx(2.0)
    assert seen == ["outputs"]


def test_a_part_that_is_left_out_takes_no_time(clock: Clock) -> None:
    inputs = np.ones((1, 3), np.float32)
    alone = parts(after=clock.passing(0.002, len), queries=[inputs])
    feed, before_ms = alone.ahead(0)
    assert before_ms == 0.0
    np.testing.assert_array_equal(feed["x"], inputs)
    assert parts(before=clock.passing(1.0, as_row)).behind([]) == 0.0


def test_inputs_of_a_dict_are_given_by_the_names_of_the_model() -> None:
    example = {"right": torch.zeros(1, 1), "left": torch.zeros(1, 2)}

    def before(query: str) -> dict[str, np.ndarray]:
        return {"left": np.ones((1, 2), np.float32), "right": np.zeros((1, 1), np.float32)}

    feed, _ = QueryParts(task(example=example, before=before), ("right", "left")).ahead(0)
    assert {name: value.shape for name, value in feed.items()} == {"right": (1, 1), "left": (1, 2)}


def test_every_query_is_run_once_with_the_dense_models_outputs() -> None:
    answers: list[Any] = []
    found = parts(before=as_row, after=answers.append, queries=["a", "bcd"])
    found.check(lambda feed: feed["x"].sum(), rows=1)
    assert answers == [3.0, 9.0]


def broken(query: Any) -> Any:
    raise KeyError("no pixels")


def wrong_shape(query: Any) -> Any:
    return np.zeros((1, 4), np.float32)


def two_rows(query: Any) -> Any:
    return np.zeros((2, 3), np.float32)


REFUSED = {
    "before raises": (
        {"before": broken},
        r"before raised KeyError: 'no pixels' \(.*_parts.py, line",
    ),
    "after raises": (
        {"before": as_row, "after": broken},
        r"after raised KeyError.*_parts.py, line",
    ),
    "another shape": (
        {"before": wrong_shape},
        r"What before returns for Task.queries\[0\], input 0, has",
    ),
    "more rows": ({"before": two_rows}, r"Task.queries\[0\] has 2 rows, and queries of 1 are timed"),
    "no inputs": ({"after": len}, r"Task.queries\[0\], input 0, is str 'a query', not a tensor"),
}


@pytest.mark.parametrize(("fields", "sentence"), REFUSED.values(), ids=REFUSED.keys())
def test_parts_that_cannot_be_timed_are_told(fields: dict[str, Any], sentence: str) -> None:
    with pytest.raises(InputError, match=sentence):
        parts(**fields).check(lambda feed: feed["x"], rows=1)


UNUSABLE = {
    "no queries": ({"before": as_row, "queries": None}, "has Task.before, and no queries"),
    "nothing to time": ({}, "has queries, and neither before nor after"),
    "one text": ({"before": as_row, "queries": "abc"}, "Task.queries is str, not a list"),
    "none": ({"before": as_row, "queries": []}, "Task.queries has 0 queries"),
    "too many": ({"before": as_row, "queries": ["a"] * 65}, "Task.queries has 65 queries"),
    "no function": ({"before": 3}, "Task.before is int, which cannot be called"),
}


@pytest.mark.parametrize(("fields", "sentence"), UNUSABLE.values(), ids=UNUSABLE.keys())
def test_a_task_says_what_its_parts_lack(fields: dict[str, Any], sentence: str) -> None:
    with pytest.raises(InputError, match=sentence):
        task(**fields)

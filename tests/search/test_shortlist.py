"""The order in which forms are evaluated in full, from their errors on a subset."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeprune.search.shortlist import FAR_FROM_BEST, NEAR_BEST, shortlist


@dataclass(frozen=True)
class Case:
    """Errors of forms, the simplest first, with a slack of 0.001; the order expected."""

    name: str
    errors: tuple[float, ...]
    expected: list[int]


CASES = (
    Case("one form is its own order", (0.5,), [0]),
    Case("where all do no harm the simplest goes first", (0.0009, 0.0001), [0, 1]),
    Case("the simplest of those near the best goes first", (0.9, 0.12, 0.1, 0.11), [1, 2, 3]),
    Case("far forms are left out", (0.9, 0.3, 0.1), [2]),
    Case("between near and far the order is that of the errors", (0.19, 0.15, 0.1), [2, 1, 0]),
    Case("a form better than float counts as equal to it", (-0.01, -0.02, 0.0005), [0, 1, 2]),
)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_the_order(case: Case) -> None:
    assert shortlist(case.errors, 0.001) == case.expected


@given(st.lists(st.floats(-1, 10), min_size=1, max_size=12), st.floats(0, 0.1))
def test_the_best_is_always_tried_and_nothing_far_from_it(errors: list[float], slack: float) -> None:
    order = shortlist(errors, slack)
    best = max(min(errors), 0.0)
    assert len(set(order)) == len(order)
    assert errors.index(min(errors)) in order
    assert all(errors[at] <= FAR_FROM_BEST * (best + slack) or at == order[0] for at in order)
    assert errors[order[0]] <= NEAR_BEST * best + slack

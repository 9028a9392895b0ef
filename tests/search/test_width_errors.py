"""The worth of widths between those that were measured."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from edgeprune.search.width_errors import width_errors

UNITS = 64
points = st.lists(
    st.tuples(st.integers(1, UNITS - 1), st.floats(0, 100)), max_size=5, unique_by=lambda point: point[0]
)


@given(points)
def test_the_whole_group_loses_nothing_and_fewer_units_never_lose_less(
    measured: list[tuple[int, float]],
) -> None:
    found = width_errors(measured, UNITS, range(1, UNITS + 1))
    assert found[-1] == 0
    assert np.isfinite(found).all()
    assert (np.diff(found) <= 1e-9).all()


@given(points)
def test_errors_that_grow_as_a_group_narrows_are_met_where_they_were_measured(
    measured: list[tuple[int, float]],
) -> None:
    errors = sorted((error for _, error in measured), reverse=True)
    grown = list(zip(sorted(width for width, _ in measured), errors, strict=True))
    found = width_errors(grown, UNITS, [width for width, _ in grown])
    np.testing.assert_allclose(found, errors, rtol=1e-9, atol=1e-9)


def test_outputs_that_move_in_proportion_to_what_is_cut_have_a_quadratic_error() -> None:
    error = {width: ((UNITS - width) / UNITS) ** 2 for width in range(UNITS + 1)}
    found = width_errors([(48, error[48]), (32, error[32]), (16, error[16])], UNITS, [56, 40, 24, 8])
    np.testing.assert_allclose(found, [error[width] for width in (56, 40, 24, 8)])


def test_a_group_that_was_not_measured_is_worth_nothing() -> None:
    assert width_errors([], 8, [2, 4, 8]).tolist() == [0, 0, 0]

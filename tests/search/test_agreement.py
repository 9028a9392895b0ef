"""Agreement of two computations, from arrays alone."""

from __future__ import annotations

import numpy as np
import pytest

from edgeprune.search.agreement import agrees, relative_error


def test_the_error_is_a_share_of_what_was_expected() -> None:
    expected = [np.array([3.0, 4.0])]
    assert relative_error([np.array([3.0, 4.5])], expected) == pytest.approx(0.1)
    assert relative_error(expected, expected) == 0


def test_the_worst_output_counts() -> None:
    expected = [np.ones(4), np.ones(4)]
    assert relative_error([np.ones(4), 1.5 * np.ones(4)], expected) == pytest.approx(0.5)


def test_another_shape_and_numbers_that_are_none_are_infinitely_far() -> None:
    expected = [np.ones(4)]
    assert relative_error([np.ones(5)], expected) == float("inf")
    assert relative_error([np.array([1, 1, np.nan, 1])], expected) == float("inf")


def test_two_independent_roundings_of_one_graph_agree_and_a_wrong_kernel_does_not() -> None:
    source = np.random.default_rng(0)
    exact = source.standard_normal(100_000)
    one, other = (exact + 0.05 * source.standard_normal(exact.size) for _ in range(2))
    assert agrees(relative_error([one], [other]), relative_error([other], [exact]))
    assert not agrees(relative_error([0.9 * one], [other]), relative_error([other], [exact]))


def test_small_errors_agree_whatever_the_rounding() -> None:
    assert agrees(0.019, 0.0)
    assert not agrees(0.021, 0.0)

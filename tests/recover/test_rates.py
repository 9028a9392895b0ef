"""The learning rate is the best of a few, for errors of any shape."""

from __future__ import annotations

import math

import pytest

from edgeprune.recover.rates import BIAS, MOST_TRIED, USUAL_RATE, find_rate


def found(*worse: float, step: float = 10**0.5) -> tuple[float, int]:
    """Place of the rate that is found, in steps from the usual one, and how many were tried.

    worse: errors at the places -3 to 3.
    """
    tried = []

    def error(rate: float) -> float:
        at = math.log(rate / USUAL_RATE, step)
        tried.append(rate)
        assert at == pytest.approx(round(at))
        return worse[round(at) + 3]

    return math.log(find_rate(error) / USUAL_RATE, step), len(tried)


@pytest.mark.parametrize(
    ("errors", "place", "tried"),
    [
        pytest.param((9, 9, 1, 1, 1, 9, 9), 0, 3, id="the usual one where its neighbours are no better"),
        pytest.param((9, 9, 1, BIAS * 0.99, 2, 9, 9), 0, 3, id="not lower for a little, since that is brief"),
        pytest.param((9, 3, 1, 2, 9, 9, 9), -1, 3, id="lower where that is far better"),
        pytest.param((1, 2, 4, 8, 9, 9, 9), -3, 4, id="lower and lower"),
        pytest.param((9, 9, 9, 3, 2, 1.5, 9), 2, MOST_TRIED, id="higher and higher, as far as tries go"),
        pytest.param((9, 9, 9, 3, 2, 5, 9), 1, MOST_TRIED, id="higher where that is better"),
        pytest.param((0.1, 0.2, 1, 1e308, 9, 9, 9), -3, 4, id="away from a rate that diverges"),
    ],
)
def test_the_rate_is_found(errors: tuple[float, ...], place: int, tried: int) -> None:
    at, count = found(*errors)
    assert at == pytest.approx(place)
    assert count == tried <= MOST_TRIED

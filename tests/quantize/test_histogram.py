"""Ranges out of a histogram."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeprune.quantize.histogram import percentile, squared_error


def bell(outlier: float) -> tuple[np.ndarray, float, float]:
    """A million normal values, and one at `outlier`."""
    values = np.append(np.random.default_rng(0).normal(size=1_000_000), outlier)
    counts, edges = np.histogram(values, bins=2048)
    return counts.astype(float), float(edges[0]), float(edges[-1])


def error(counts: np.ndarray, low: float, high: float, bounds: tuple[float, float]) -> float:
    edges = np.linspace(low, high, len(counts) + 1)
    values = (edges[1:] + edges[:-1]) / 2
    step = (bounds[1] - bounds[0]) / 255
    held = np.rint((np.clip(values, *bounds) - bounds[0]) / step) * step + bounds[0]
    return float((counts * (values - held) ** 2).sum())


@pytest.mark.parametrize("choose", [percentile, squared_error])
def test_a_lonely_outlier_is_given_up(choose: object) -> None:
    low, high = choose(*bell(12.0))
    assert -5.5 < low < -3
    assert 3 < high < 7


def test_the_range_of_least_squared_error_beats_the_whole_range_and_the_percentile() -> None:
    counts, low, high = bell(12.0)
    found = error(counts, low, high, squared_error(counts, low, high))
    assert found < 0.6 * error(counts, low, high, (low, high))
    assert found < error(counts, low, high, percentile(counts, low, high))


def test_a_histogram_without_outliers_keeps_nearly_all_of_its_range() -> None:
    counts = np.ones(2048)
    assert squared_error(counts, 0.0, 6.0) == (0.0, 6.0)
    assert percentile(counts, 0.0, 6.0) == pytest.approx((0.0, 6.0), abs=0.01)


@given(
    counts=st.lists(st.integers(0, 1000), min_size=4, max_size=60).filter(any),
    low=st.floats(-100, 100),
    width=st.floats(1e-3, 100),
)
def test_every_range_holds_zero_and_lies_in_the_histogram_or_reaches_to_it(
    counts: list[int], low: float, width: float
) -> None:
    for choose in (percentile, squared_error):
        bottom, top = choose(np.array(counts, float), low, low + width)
        assert min(low, 0.0) - 1e-9 <= bottom <= 0.0 <= top <= max(low + width, 0.0) + 1e-9

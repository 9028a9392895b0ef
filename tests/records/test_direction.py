"""One place knows which metric is better; everything that compares metrics mirrors with it."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeprune.records.direction import HIGHER, Direction

LOWER = Direction(lower_is_better=True)
METRICS = st.floats(-1e6, 1e6)


@given(METRICS, METRICS, st.floats(0, 1e3))
def test_a_metric_and_its_negative_are_judged_alike(before: float, after: float, allowed: float) -> None:
    assert LOWER.drop(before, after) == HIGHER.drop(-before, -after)
    assert LOWER.better(before, after) == HIGHER.better(-before, -after)
    limit, mirrored = LOWER.limit(before, allowed), HIGHER.limit(-before, allowed)
    assert limit == -mirrored
    assert LOWER.holds(after, limit) == HIGHER.holds(-after, mirrored)


@pytest.mark.parametrize(
    ("direction", "before", "after", "drop"),
    [
        pytest.param(HIGHER, 0.95, 0.93, 0.02, id="accuracy that falls"),
        pytest.param(LOWER, 0.03, 8.75, 8.72, id="error that rises"),
        pytest.param(LOWER, 18.2, 17.9, -0.3, id="perplexity that falls"),
        pytest.param(HIGHER, -0.4, -0.9, 0.5, id="R2 below zero that falls"),
        pytest.param(HIGHER, 31.5, 30.0, 1.5, id="PSNR that falls"),
    ],
)
def test_a_drop_is_a_change_for_the_worse_and_a_change_has_the_metrics_own_sign(
    direction: Direction, before: float, after: float, drop: float
) -> None:
    assert direction.drop(before, after) == pytest.approx(drop)
    assert direction.change(direction.drop(before, after)) == pytest.approx(after - before)
    assert direction.better(after, before) == (drop < 0)
    assert direction.holds(after, direction.limit(before, max(drop, 0.0) + 1e-9))
    assert direction.holds(before, direction.limit(before, 0.0))


@pytest.mark.parametrize("direction", [HIGHER, LOWER])
def test_what_is_no_number_holds_no_limit(direction: Direction) -> None:
    assert not direction.holds(math.nan, direction.limit(0.5, 0.1))


def test_scores_are_paired_whole() -> None:
    before, after = np.array([1.0, 0.0]), np.array([0.0, 0.0])
    assert HIGHER.pair(before, after)[0] is before
    assert LOWER.pair(before, after)[0] is after

"""A cascade keeps the metric and saves cost, on data that is made up: samples are easy or hard, tiers know.

Nothing here says what a cascade of real models saves.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgeprune.errors import InputError
from edgeprune.search.cascade import NEVER, Cascade, Tier, calibrate, confidence_of, outcome


def tiers(seed: int, samples: int, skills: tuple[float, ...] = (1.0, 3.0), noise: float = 0.1) -> list[Tier]:
    """Synthetic classifiers: the more skill, the more often right; each roughly knows when it is."""
    rng = np.random.default_rng(seed)
    hardness = rng.exponential(1.0, samples)
    made = []
    for at, skill in enumerate(skills):
        right = np.exp(-hardness / (2 * skill))
        correct = (rng.random(samples) < right).astype(float)
        confidence = np.clip(right + noise * rng.standard_normal(samples), 0, 1)
        made.append(Tier(f"tier{at}", confidence, correct, cost=4.0**at))
    return made


@settings(deadline=None, max_examples=60)
@given(st.integers(0, 2**32), st.integers(5, 200), st.floats(0, 0.2))
def test_two_tiers_get_the_cheapest_threshold_that_keeps_the_metric(
    seed: int, samples: int, max_drop: float
) -> None:
    made = tiers(seed, samples)
    small, large = made
    costs = []
    for threshold in (NEVER, *small.confidence):
        ends = small.confidence >= threshold
        metric = np.where(ends, small.correct, large.correct).mean()
        if large.correct.mean() - metric <= max_drop + 1e-9:
            costs.append(small.cost + (1 - ends.mean()) * large.cost)
    got = outcome(calibrate(made, max_drop), made)
    assert got.cost == pytest.approx(min(costs))
    assert got.metric_alone - got.metric <= max_drop + 1e-9


@settings(deadline=None, max_examples=20)
@given(st.integers(0, 2**32), st.floats(0, 0.1))
def test_three_tiers_keep_the_metric_and_cost_no_more_than_two_of_them(seed: int, max_drop: float) -> None:
    made = tiers(seed, 150, (0.7, 1.5, 3.0))
    got = outcome(calibrate(made, max_drop), made)
    assert got.metric_alone - got.metric <= max_drop + 1e-9
    assert sum(got.shares) == pytest.approx(1)
    never_first = outcome(Cascade(("tier0", "tier1", "tier2"), (NEVER, NEVER)), made)
    assert got.cost <= never_first.cost + 1e-9


def test_on_new_samples_the_metric_is_kept_about_as_well() -> None:
    drops, savings = [], []
    for seed in range(40):
        cascade = calibrate(tiers(seed, 2000), 0.03)
        got = outcome(cascade, tiers(1000 + seed, 2000))
        drops.append(got.drop.value)
        savings.append(got.saving)
        assert got.drop.low <= got.metric_alone - got.metric <= got.drop.high
        assert got.shares[0] > 0
    assert np.mean(drops) == pytest.approx(0.03, abs=0.005)
    assert min(savings) > 0


def test_one_that_is_sure_loses_more_than_allowed_on_few_new_samples_only() -> None:
    def broken(sure: bool) -> float:
        truth = [
            outcome(calibrate(tiers(seed, 1000), 0.02, sure=sure), tiers(5000 + seed, 50_000)).drop.value
            for seed in range(40)
        ]
        return float(np.mean(np.array(truth) > 0.02))

    assert broken(sure=True) <= 0.1
    assert broken(sure=False) > 0.2, "the test could not tell the two apart"


def test_a_tier_that_knows_nothing_answers_nothing_when_nothing_may_be_lost() -> None:
    small, large = tiers(0, 500)
    useless = replace(small, correct=np.zeros(500))
    cascade = calibrate([useless, replace(large, correct=np.ones(500))], 0.0)
    assert cascade.thresholds == (NEVER,)
    got = outcome(cascade, [useless, large])
    assert got.shares == (0.0, 1.0)
    assert got.cost == useless.cost + large.cost
    assert got.saving < 0, "asking a tier in vain costs"


def test_a_tier_as_good_as_the_last_answers_everything() -> None:
    small, large = tiers(0, 500)
    equal = replace(small, correct=large.correct)
    got = outcome(calibrate([equal, large], 0.0), [equal, large])
    assert got.shares == (1.0, 0.0)
    assert got.cost == small.cost
    assert got.drop.value == 0


def test_equal_confidences_end_together() -> None:
    small = Tier("small", np.array([0.9, 0.9, 0.5]), np.array([1.0, 0.0, 1.0]), 1.0)
    large = Tier("large", np.ones(3), np.ones(3), 4.0)
    assert calibrate([small, large], 0.0).thresholds == (NEVER,)


def test_confidence_is_the_largest_softmax_probability() -> None:
    logits = np.array([[0.0, 0.0], [1000.0, 0.0], [np.log(3.0), 0.0]])
    np.testing.assert_allclose(confidence_of(logits), [0.5, 1.0, 0.75])


def test_tiers_that_cannot_be_compared_are_refused() -> None:
    small, large = tiers(0, 10)
    with pytest.raises(InputError, match="1 tiers"):
        calibrate([small], 0.0)
    with pytest.raises(InputError, match="samples differ"):
        calibrate([small, tiers(0, 9)[1]], 0.0)
    with pytest.raises(InputError, match="Tier tier0"):
        calibrate([replace(small, correct=np.full(10, 0.5)), large], 0.0)
    with pytest.raises(InputError, match="The cascade is of tier0, tier1"):
        outcome(calibrate([small, large], 0.0), [large, small])

"""A paired interval holds the true drop as often as it says, and is sharper than two separate ones."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.stats import binomtest

from edgeprune.errors import InputError
from edgeprune.records.direction import Direction
from edgeprune.search import paired as module
from edgeprune.search.paired import paired_drop, repeated_drop


def answers(lost: int, gained: int, both: int, neither: int) -> tuple[NDArray[np.float64], ...]:
    before = np.repeat([1.0, 0.0, 1.0, 0.0], [lost, gained, both, neither])
    after = np.repeat([0.0, 1.0, 1.0, 0.0], [lost, gained, both, neither])
    return before, after


COUNTS = st.integers(0, 40)


@given(COUNTS, COUNTS, COUNTS, st.integers(1, 40))
def test_the_drop_is_that_of_the_metric_and_the_p_value_is_mcnemars(
    lost: int, gained: int, both: int, neither: int
) -> None:
    before, after = answers(lost, gained, both, neither)
    got = paired_drop(before, after)
    assert got.value == pytest.approx(before.mean() - after.mean())
    assert -1 <= got.low <= got.value <= got.high <= 1
    assert got.p is not None
    if lost + gained:
        assert got.p == pytest.approx(binomtest(lost, lost + gained, 0.5).pvalue)
    else:
        assert got.p == 1.0


@pytest.mark.parametrize(
    ("samples", "lost", "gained"), [(297, 0.02, 0.01), (297, 0.05, 0.05), (2000, 0.01, 0.0)]
)
def test_the_interval_of_right_and_wrong_answers_holds_the_truth(
    samples: int, lost: float, gained: float
) -> None:
    rng = np.random.default_rng(0)
    held = 0
    for _ in range(2000):
        wrong, right, rest, _ = rng.multinomial(samples, [lost, gained, 1 - lost - gained, 0.0])
        got = paired_drop(*answers(wrong, right, rest, 0))
        held += got.low <= lost - gained <= got.high
    assert held >= 0.94 * 2000


def rmse(mean: NDArray[np.float64]) -> NDArray[np.float64]:
    return -np.sqrt(mean)


def test_the_interval_of_an_rmse_holds_the_truth(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "RESAMPLES", 300)
    rng = np.random.default_rng(0)
    truth = 1.2 - 1.0  # root mean squared errors: the drop of minus the RMSE
    held = 0
    for seed in range(150):
        error = rng.standard_normal(300)
        got = paired_drop(error**2, (1.2 * error) ** 2, metric=rmse, seed=seed)
        held += got.low <= truth <= got.high
        assert got.p is None
    assert held >= 0.88 * 150


def test_a_pair_tells_more_than_two_separate_intervals() -> None:
    got = paired_drop(*answers(3, 0, 270, 24))
    separate = 1.96 * np.sqrt(2 * 0.92 * 0.08 / 297)
    assert got.high - got.value < separate / 2


def test_the_same_answers_leave_a_narrow_interval_around_nothing() -> None:
    got = paired_drop(*answers(0, 0, 290, 7))
    assert got.value == 0
    assert -0.01 < got.low <= 0 <= got.high < 0.01
    assert not got.exceeds(0.0)


def test_a_clear_loss_exceeds_what_is_allowed() -> None:
    assert paired_drop(*answers(60, 0, 237, 0)).exceeds(0.1)
    assert not paired_drop(*answers(4, 1, 292, 0)).exceeds(0.01), (
        "a point more is no certainty in 297 samples"
    )


def test_the_same_question_has_the_same_answer() -> None:
    rng = np.random.default_rng(0)
    before, after = rng.random((2, 50))
    assert paired_drop(before, after) == paired_drop(before, after)


def test_scores_that_cannot_be_paired_are_refused() -> None:
    with pytest.raises(InputError, match="cannot be paired"):
        paired_drop([1.0, 0.0], [1.0])
    with pytest.raises(InputError, match="cannot be paired"):
        paired_drop([], [])
    with pytest.raises(InputError, match="not a number"):
        paired_drop([1.0], [np.nan])


def test_without_randomness_repeating_adds_no_doubt() -> None:
    before, after = np.array([1.0, 1.0, 0.0, 1.0]), np.array([1.0, 0.0, 0.0, 1.0])
    drop = repeated_drop([before] * 3, [after] * 3)
    assert (drop.value, drop.low, drop.high, drop.samples) == (0.25, 0.25, 0.25, 4)


@pytest.mark.parametrize("together", [0.0, 0.05], ids=["sample by sample", "all samples together"])
def test_the_interval_of_repeats_holds_the_drop_that_ever_more_repeats_would_show(together: float) -> None:
    numbers = np.random.default_rng(1)
    chances = numbers.random((2, 200))  # of each sample, for the two models
    truth = chances[0].mean() - chances[1].mean()
    missed = 0
    for _ in range(500):
        moved = together * numbers.standard_normal((2, 4, 1))
        before, after = chances[:, None, :] + moved + 0.3 * numbers.standard_normal((2, 4, 200))
        drop = repeated_drop(before, after, confidence=0.9)
        missed += not drop.low <= truth <= drop.high
    assert missed <= 50 + 17  # 2.5 sigma of 500 draws at 10 %


@pytest.mark.parametrize(
    ("before", "after"),
    [([[1.0]], [[1.0]]), ([[1.0]] * 2, [[1.0]] * 3), ([1.0] * 2, [1.0] * 2), ([[]] * 2, [[]] * 2)],
)
def test_repeats_that_cannot_be_compared_are_refused(before: list, after: list) -> None:
    with pytest.raises(InputError, match="cannot be compared"):
        repeated_drop(before, after)


LOWER = Direction(lower_is_better=True)


@given(COUNTS, COUNTS, COUNTS, st.integers(1, 40))
def test_the_drop_of_an_error_rate_is_that_of_its_accuracy(
    lost: int, gained: int, both: int, neither: int
) -> None:
    before, after = answers(lost, gained, both, neither)
    assert paired_drop(1 - before, 1 - after, direction=LOWER) == paired_drop(before, after)


def test_an_rmse_in_its_own_sign_has_the_interval_of_its_negative() -> None:
    error = np.random.default_rng(0).standard_normal(300)
    before, after = error**2, (1.2 * error) ** 2
    own = paired_drop(before, after, metric=np.sqrt, direction=LOWER)
    assert own == paired_drop(before, after, metric=rmse)
    assert own.value == pytest.approx(0.2, rel=0.1)
    assert own.low > 0


def test_a_random_error_that_rises_is_a_drop() -> None:
    noise = np.random.default_rng(0).random((2, 4, 300))
    worse = repeated_drop(noise[0], noise[1] + 0.5, direction=LOWER)
    assert worse.value == pytest.approx(0.5, abs=0.1)
    assert worse.exceeds(0.3)
    assert repeated_drop(-noise[0], -noise[1] - 0.5) == worse

"""Rates of a training, by the share of it that is done."""

from __future__ import annotations

import pytest

from edgeprune.recover.recipe import WARM_UP, TrainingOptions, rate_factor


def test_the_learning_rate_rises_then_falls_to_zero_and_never_comes_back() -> None:
    rates = [rate_factor(share / 1000) for share in range(1100)]  # a source may give more than it said
    top = rates.index(max(rates))
    assert rates[top] == pytest.approx(1)
    assert top / 1000 == pytest.approx(WARM_UP)
    assert rates[: top + 1] == sorted(rates[: top + 1])
    assert rates[top:] == sorted(rates[top:], reverse=True)
    assert rates[0] == 0
    assert rates[1000:] == pytest.approx([0] * 100)


@pytest.mark.parametrize(
    ("options", "trains"),
    [
        (TrainingOptions(epochs=0), False),
        (TrainingOptions(epochs=1), True),
        (TrainingOptions(epochs=0, minutes=0.5), True),
    ],
    ids=["no epochs", "an epoch", "minutes alone"],
)
def test_options_without_time_train_nothing(options: TrainingOptions, trains: bool) -> None:
    assert options.trains == trains

"""A metric that is a draw: compared until it is known, never by its luck."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import pytest

from edgeprune.errors import InputError
from edgeprune.fitting.trials.comparison import FEWEST, MOST, Compared, compare
from edgeprune.records.direction import Direction

SAMPLES = 300
Score = Callable[[str], np.ndarray]


def player(chances: Mapping[str, float], seed: int, together: float = 0.0) -> tuple[Score, list[str]]:
    """Right or wrong at random, sample by sample; `together` moves all of an evaluation. Who was asked."""
    numbers, asked = np.random.default_rng(seed), []

    def score(name: str) -> np.ndarray:
        asked.append(name)
        drawn = numbers.random(SAMPLES) < chances[name] + together * numbers.standard_normal()
        return np.asarray(drawn, float)

    return score, asked


def found(score: Score, allowed: float = 0.01) -> Compared:
    known = {name: float(score(name).mean()) for name in ("dense", "ours")}
    return compare(score, known, allowed)


def test_an_evaluation_that_agrees_with_itself_is_compared_once() -> None:
    scores = {"dense": np.arange(SAMPLES) % 10 > 0, "ours": np.arange(SAMPLES) % 5 > 0}
    asked: list[str] = []

    def score(name: str) -> np.ndarray:
        asked.append(name)
        return scores[name].astype(float)

    compared = compare(score, {name: float(right.mean()) for name, right in scores.items()}, 0.01)
    assert asked == ["dense", "ours"]
    assert compared.repeated is None
    assert compared.drop.value == pytest.approx(0.1)


@pytest.mark.parametrize("call", [1, 3])
def test_scores_of_other_samples_are_not_compared(call: int) -> None:
    calls: list[str] = []

    def score(name: str) -> np.ndarray:
        calls.append(name)
        return np.zeros(SAMPLES - (len(calls) > call))

    with pytest.raises(InputError, match="returned 299 scores, and 300 before"):
        compare(score, {"dense": 0.5, "ours": 0.5}, 0.01)


def test_a_clear_case_takes_few_repeats_and_an_open_one_many() -> None:
    score, asked = player({"dense": 0.95, "ours": 0.65}, 0)
    assert found(score).repeated is not None
    assert len(asked) == 2 + 2 * FEWEST
    score, asked = player({"dense": 0.90, "ours": 0.89}, 0)
    assert found(score).repeated is not None
    assert len(asked) == 2 + 2 * MOST


@pytest.mark.parametrize("together", [0.0, 0.02], ids=["sample by sample", "all samples together"])
def test_a_candidate_that_loses_too_much_hardly_ever_holds_by_luck(together: float) -> None:
    """Half a point beyond the floor; one evaluation would let it pass in four out of ten cases."""
    chances = {"dense": 0.90, "ours": 0.885}
    lucky = once = 0
    for seed in range(100):
        score, _ = player(chances, seed, together)
        once += score("dense").mean() - score("ours").mean() <= 0.01
        repeated = found(score).repeated
        lucky += repeated is None or repeated.high <= 0.01
    assert once > 20
    assert lucky <= 3


@pytest.mark.parametrize("seed", range(5))
def test_errors_are_compared_as_the_answers_that_they_are_one_minus(seed: int) -> None:
    chances = {"dense": 0.90, "ours": 0.87}
    right = found(player(chances, seed)[0])
    score, _ = player(chances, seed)
    known = {name: 1 - float(score(name).mean()) for name in ("dense", "ours")}
    wrong = compare(lambda name: 1 - score(name), known, 0.01, Direction(lower_is_better=True))
    assert wrong.drop == right.drop
    assert wrong.repeated is not None
    assert right.repeated is not None
    assert wrong.repeated.value == pytest.approx(right.repeated.value)


def test_a_candidate_that_loses_nothing_holds_although_the_evaluation_is_noisy() -> None:
    chances = {"dense": 0.9, "ours": 0.9}
    held = 0
    for seed in range(50):
        repeated = found(player(chances, seed)[0], allowed=0.05).repeated
        held += repeated is not None and repeated.high <= 0.05
    assert held >= 48

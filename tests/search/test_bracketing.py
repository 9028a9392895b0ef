"""Simulated fits: a curve from work to cost stands for the device, and the search lands under the budget."""

from __future__ import annotations

from collections.abc import Callable
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgeprune.search.bracketing import (
    LANDING,
    SMALLEST_STEP,
    Probe,
    Zone,
    best,
    expected_proof_ms,
    halved,
    landed,
    next_share,
    zone,
)
from edgeprune.search.judge import summarise

BUILDS = 8  # what a fit may spend
STEADY = zone([])


def search(use: Callable[[float], float], smallest: float, goal: Zone = STEADY) -> list[Probe]:
    """The probes of a whole search, the dense model first."""
    probes = [Probe(1.0, use(1.0))]
    while (share := next_share(probes, smallest, goal)) is not None:
        assert smallest <= share < 1
        probes.append(Probe(share, use(share)))
        assert len(probes) < 200, "the search does not end"
    return probes


def closed_in(probes: list[Probe], smallest: float, goal: Zone) -> bool:
    """Whether no share is left between what is over the aim and what is under it, or can be."""
    over = min((probe.share for probe in probes if probe.use > goal.aim), default=1.0)
    under = max((probe.share for probe in probes if probe.use <= goal.aim), default=smallest)
    return over - under <= SMALLEST_STEP


@st.composite
def smooth(draw: st.DrawFn) -> tuple[Callable[[float], float], float]:
    """(use of the budget by share of work, smallest share), for budgets down to a tenth of the dense cost.

    Cost is an intercept (launches, layers that were not cut) and a power of the work: below one where
    small layers use the machine badly, above one where they begin to fit its caches.
    """
    intercept, power = draw(st.floats(0, 0.6)), draw(st.floats(0.5, 3))
    smallest = draw(st.floats(0.01, 0.2))

    def cost(share: float) -> float:
        return intercept + (1 - intercept) * share**power

    budget = draw(st.floats(min(1.0, max(0.1, cost(smallest) / STEADY.low)), 1))
    return (lambda share: cost(share) / budget), smallest


@settings(deadline=None, max_examples=300)
@given(smooth())
def test_on_a_smooth_curve_the_search_lands_within_the_builds_of_a_fit(
    device: tuple[Callable[[float], float], float],
) -> None:
    use, smallest = device
    probes = search(use, smallest)
    assert len(probes) - 1 <= BUILDS
    assert landed(probes, STEADY) or closed_in(probes, smallest, STEADY)
    found = best(probes, STEADY)
    assert found is not None
    if landed(probes, STEADY):
        assert STEADY.low <= found.use <= STEADY.high


@settings(deadline=None, max_examples=300)
@given(smooth(), st.integers(0, 2**32))
def test_under_noise_the_search_lands_or_closes_in_on_the_budget(
    device: tuple[Callable[[float], float], float], seed: int
) -> None:
    use, smallest = device
    noise, goal = Random(seed), zone([0.97, 1.0, 1.03])
    probes = search(lambda share: use(share) * noise.uniform(0.97, 1.03), smallest, goal)
    assert landed(probes, goal) or closed_in(probes, smallest, goal)


@settings(deadline=None)
@given(st.integers(0, 2**32), st.floats(0, 1))
def test_a_device_that_answers_at_random_still_ends_the_search(seed: int, smallest: float) -> None:
    answers = Random(seed)
    search(lambda share: answers.lognormvariate(0, 2), smallest)


@settings(deadline=None)
@given(smooth(), st.integers(2, 12))
def test_widths_that_move_in_steps_end_the_search_too(
    device: tuple[Callable[[float], float], float], steps: int
) -> None:
    use, smallest = device
    # What is asked for is rounded down to what there is, as a ranking with multiples does.
    search(lambda share: use(max(smallest, int(share * steps) / steps)), smallest)


@settings(deadline=None)
@given(smooth())
def test_a_budget_below_the_smallest_candidate_ends_at_the_smallest(
    device: tuple[Callable[[float], float], float],
) -> None:
    use, smallest = device
    beyond = 2 / use(smallest)
    probes = search(lambda share: use(share) * beyond, smallest)
    assert min(probe.share for probe in probes) <= smallest + SMALLEST_STEP
    assert best(probes, STEADY) is None


def test_a_dense_model_that_fits_needs_no_search() -> None:
    assert next_share([Probe(1.0, 0.4)], 0.1, STEADY) is None


def test_the_first_guess_takes_cost_as_proportional_to_work() -> None:
    assert next_share([Probe(1.0, 2.0)], 0.1, STEADY) == pytest.approx(STEADY.aim / 2)


def test_a_line_with_an_intercept_is_hit_at_the_second_guess() -> None:
    probes = search(lambda share: 2 * (0.4 + 0.6 * share), 0.01)
    assert len(probes) == 3
    assert probes[-1].use == pytest.approx(STEADY.aim)


def test_the_end_that_stays_counts_half_with_every_further_probe_on_the_other_side() -> None:
    dense, small, larger = Probe(1.0, 1.5), Probe(0.2, 0.6), Probe(0.3, 0.7)
    assert halved([dense, small], small, 1.0) == 1
    assert halved([dense, small, larger], larger, 1.0) == pytest.approx(0.5)
    assert halved([dense, small, larger], dense, 1.0) == 1, "the other end of these is not the one that stays"
    assert halved([dense, small, larger, Probe(0.9, 1.4)], larger, 1.0) == 1, "another side begins anew"


def test_a_proof_that_broke_the_budget_makes_the_search_go_on_below_it() -> None:
    """A fit replaces a landed probe by what its proof measured."""
    probes = [Probe(1.0, 2.0), Probe(0.49, 1.02)]
    share = next_share(probes, 0.1, STEADY)
    assert share is not None
    assert share < 0.49


def test_the_least_compressed_of_those_that_fit_with_the_margin_is_the_best() -> None:
    probes = [Probe(1.0, 2.0), Probe(0.2, 0.4), Probe(0.5, 0.98, "this"), Probe(0.51, 0.999), Probe(0.3, 0.6)]
    found = best(probes, STEADY)
    assert found is not None
    assert found.name == "this"


def test_what_an_allocation_gives_more_for_is_better_than_what_keeps_more_work() -> None:
    probes = [Probe(0.6, 0.9, "more work", value=-0.3), Probe(0.5, 0.98, "worth more", value=-0.2)]
    found = best(probes, STEADY)
    assert found is not None
    assert found.name == "worth more"


def test_when_nothing_fits_with_the_margin_the_one_that_fits_most_easily_is_the_best() -> None:
    probes = [Probe(1.0, 2.0), Probe(0.3, 0.999), Probe(0.2, 0.995, "this")]
    found = best(probes, STEADY)
    assert found is not None
    assert found.name == "this"
    assert best(probes[:1], STEADY) is None


def test_a_steady_device_is_landed_on_in_the_top_of_the_budget() -> None:
    assert pytest.approx(LANDING) == STEADY.low
    assert STEADY.low < STEADY.aim < STEADY.high <= 1
    assert zone([7.0, 7.01, 7.02, 6.99]) == STEADY


@settings(deadline=None)
@given(st.floats(0, 0.5), st.floats(0, 0.4))
def test_the_more_sessions_differ_the_more_of_the_budget_stays_free(apart: float, more: float) -> None:
    calm, moved = (zone([1 - each, 1, 1 + each]) for each in (apart, apart + more))
    for goal in (calm, moved):
        assert 0 < goal.low < goal.aim < goal.high <= 1
    assert moved.aim <= calm.aim + 1e-12
    assert moved.high <= calm.high + 1e-12


def test_one_wild_session_among_steady_ones_moves_nothing() -> None:
    assert zone([1.0, 1.0, 5.0]) == STEADY


def test_a_search_of_few_runs_foresees_the_nearer_bound_of_a_proof() -> None:
    samples = [1 + at / 1000 for at in range(1000)]
    few, many = (summarise(samples[:: 1000 // runs][:runs], 90, 1.0) for runs in (100, 1000))
    assert few.bound_ms is not None
    assert many.bound_ms is not None
    foreseen = expected_proof_ms(few, 1000, 0.0)
    assert abs(foreseen - many.bound_ms) < 0.3 * abs(few.bound_ms - many.bound_ms)


def test_without_a_bound_the_slowest_query_stands_for_it() -> None:
    latency = summarise([1.0, 2.0, 3.0], 90, 1.0)
    assert expected_proof_ms(latency, 662, 10.0) == 3.0

"""The bound holds for any distribution, and a verdict names every line that broke."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeprune.errors import InputError
from edgeprune.records.direction import Direction
from edgeprune.records.machine import Budget
from edgeprune.records.trial import DeviceState, Drop, Measurement, allowed_ms
from edgeprune.search.judge import (
    at_usual_speed,
    drift,
    early_stopping_bound,
    early_stopping_floor,
    early_stopping_rank,
    judge,
    session_bound,
    slowest_bound,
    speed_ms,
    summarise,
)


def binomial_at_most(t: int, runs: int, over: float) -> float:
    """P(Binomial(runs, over) <= t), term by term: the oracle for the logarithms."""
    return math.fsum(math.comb(runs, k) * over**k * (1 - over) ** (runs - k) for k in range(t + 1))


@pytest.mark.parametrize(("percentile", "minimum"), [(90, 64), (95, 130), (99, 662)])
def test_the_fewest_runs_with_a_bound_are_those_of_mlperf(percentile: int, minimum: int) -> None:
    assert early_stopping_rank(minimum - 1, percentile) is None
    assert early_stopping_rank(minimum, percentile) == minimum - 1


@given(
    blocks=st.integers(1, 9).flatmap(
        lambda runs: st.lists(
            st.lists(st.floats(0.1, 9), min_size=runs, max_size=runs), min_size=3, max_size=9
        )
    ),
    percentile=st.sampled_from([10, 50, 90]),
)
def test_blocks_of_one_length_drift_as_those_of_several(blocks: list[list[float]], percentile: int) -> None:
    """Those of one length are read in one call; a session has them of any."""
    apart = [*blocks, [speed_ms(blocks[-1], percentile)] * (len(blocks[0]) + 1)]
    together = [*blocks, [speed_ms(blocks[-1], percentile)] * len(blocks[0])]
    assert drift(apart, percentile) == drift(together, percentile)


@given(runs=st.integers(1, 600), percentile=st.sampled_from([50, 75, 90, 95, 99]))
def test_the_rank_is_the_lowest_that_the_binomial_rule_allows(runs: int, percentile: int) -> None:
    rank = early_stopping_rank(runs, percentile)
    over = 1 - percentile / 100
    if rank is None:
        assert binomial_at_most(1, runs, over) > 0.01
    else:
        allowed = runs - rank
        assert allowed >= 1
        assert binomial_at_most(allowed, runs, over) <= 0.01 < binomial_at_most(allowed + 1, runs, over)


def test_a_million_runs_bound_the_percentile_closely() -> None:
    rank = early_stopping_rank(1_000_000, 90)
    assert rank is not None
    assert 900_000 < rank < 901_000


def test_the_bound_is_a_sample_and_never_below_the_empirical_percentile() -> None:
    samples = np.random.default_rng(0).lognormal(size=662)
    bound = early_stopping_bound(samples, 90)
    assert bound in samples
    assert bound is not None
    assert bound >= np.percentile(samples, 90)


DISTRIBUTIONS = {
    "log-normal": lambda u, v: np.exp(0.3 * v),
    "bimodal": lambda u, v: np.where(u < 0.12, 3.0, 1.0) + 0.01 * v,
    "spiky": lambda u, v: np.where(u < 0.02, 50.0, 1.0) * np.exp(0.05 * v),
}


@pytest.mark.parametrize("shape", DISTRIBUTIONS)
@pytest.mark.parametrize(("percentile", "runs"), [(90, 64), (90, 662), (99, 662)])
def test_of_10_000_models_just_over_the_budget_at_most_one_percent_pass(
    shape: str, percentile: int, runs: int
) -> None:
    random = np.random.default_rng(percentile * runs)

    def draw(*size: int) -> np.ndarray:
        u, v = random.random(size, np.float32), random.standard_normal(size, np.float32)
        return DISTRIBUTIONS[shape](u, v)

    budget = np.percentile(draw(2_000_000), percentile - 0.02)  # the true percentile is just above it
    rank = early_stopping_rank(runs, percentile)
    assert rank is not None
    passed = 0
    for _ in range(10):
        bounds = np.partition(draw(1_000, runs), rank - 1, axis=1)[:, rank - 1]
        passed += int((bounds <= budget).sum())
    # The rule allows a rate of 1 %; 10,000 draws of such a rate stay under 1.25 % (2.5 sigma).
    assert passed <= 125
    if (percentile, runs) == (90, 662):
        assert passed >= 25, "a bound that nothing passes would prove nothing"


@pytest.mark.parametrize(
    ("medians", "expected"),
    [
        ([1.0] * 9, 0.0),
        ([1.0] * 6 + [1.1] * 3, 0.1),  # slower at the end
        ([1.0, 1.0, 5.0] * 3, 0.0),  # one disturbed block in each third says nothing of the speed
        ([1.0] * 3 + [1.1] * 3 + [1.0] * 3, 0.1),  # slower in between
        ([1.0], 0.0),
        ([], 0.0),
    ],
    ids=["steady", "step", "spikes", "bump", "one block", "no block"],
)
def test_drift_is_the_spread_of_the_thirds(medians: list[float], expected: float) -> None:
    assert drift([[median] * 5 for median in medians]) == pytest.approx(expected)


def test_a_low_percentile_feels_no_other_work_that_comes_and_goes() -> None:
    calm, disturbed, slower = [1.0] * 10, [1.0] * 4 + [1.6] * 6, [1.1] * 10
    assert drift([calm] * 6 + [disturbed] * 3) == pytest.approx(0.6)
    assert drift([calm] * 6 + [disturbed] * 3, 99) == pytest.approx(0.6), "never above the median"
    assert drift([calm] * 6 + [disturbed] * 3, 10) == 0
    assert drift([calm] * 6 + [slower] * 3, 10) == pytest.approx(0.1)


def test_the_slowest_third_bounds_every_mixture_of_the_thirds() -> None:
    random = np.random.default_rng(0)
    blocks = [list(scale * random.lognormal(0, 0.1, 100)) for scale in (1.0, 1.0, 1.3, 1.3, 0.9, 0.9)]
    slowest = slowest_bound(blocks, 90)
    assert slowest == early_stopping_bound(blocks[2] + blocks[3], 90)
    assert slowest is not None
    assert slowest >= (early_stopping_bound([ms for block in blocks for ms in block], 90) or 0)
    assert slowest_bound(blocks[:2], 90) is None


def test_a_search_compares_by_all_runs_and_a_proof_by_the_slowest_third() -> None:
    blocks = [[1.0] * 10] * 6 + [[1.1] * 10] * 3
    searched, proven = (session_bound(blocks, blocks, 50, latency_ms) for latency_ms in (None, 1.05))
    assert (searched.bound_ms, searched.conclusive) == (1.0, False)
    assert (proven.bound_ms, proven.conclusive) == (1.1, False)


def measurement(**changes: object) -> Measurement:
    plain = Measurement(
        latency=summarise([1.0] * 100, 90, 0.1),
        added_mib=20.0,
        process_mib=20.0,
        size_mib=2.0,
        artefact_sha256="0" * 64,
        runtime="onnxruntime 1.0",
        threads=1,
        batch=1,
        drift=0.001,
        conclusive=True,
        state=DeviceState((), (), (), ()),
    )
    return dataclasses.replace(plain, **changes)


BUDGET = Budget(latency_ms=1.0, memory_mib=20.0, size_mib=2.0, max_drop=0.01)


def test_a_model_exactly_at_every_limit_fits() -> None:
    verdict = judge(measurement(), 0.89, 0.90, BUDGET)
    assert verdict.kind == "fits"
    assert verdict.breaches == ()


def test_every_broken_line_is_listed_with_its_value_and_limit() -> None:
    tight = Budget(latency_ms=0.5, memory_mib=16.0, size_mib=1.5, max_drop=0.01)
    verdict = judge(measurement(), 0.80, 0.90, tight)
    assert verdict.kind == "misses"
    assert [(b.line, b.value, pytest.approx(b.limit)) for b in verdict.breaches] == [
        ("latency_ms", 1.0, 0.5),
        ("memory_mib", 20.0, 16.0),
        ("size_mib", 2.0, 1.5),
        ("metric", 0.80, 0.89),
    ]
    assert verdict.breaches[1].excess == 4.0


def test_an_inconclusive_session_neither_fits_nor_breaks_the_latency_line() -> None:
    assert judge(measurement(conclusive=False), 0.9, 0.9, BUDGET).kind == "inconclusive"
    slow = measurement(conclusive=False, latency=summarise([9.0] * 100, 90, 0.1))
    assert judge(slow, 0.9, 0.9, BUDGET).kind == "inconclusive"


def test_too_few_runs_for_a_bound_are_inconclusive() -> None:
    few = measurement(latency=summarise([0.1] * 63, 90, 0.1))
    assert judge(few, 0.9, 0.9, BUDGET).kind == "inconclusive"


def test_a_certain_breach_counts_even_when_the_latency_is_inconclusive() -> None:
    verdict = judge(measurement(conclusive=False, size_mib=3.0), 0.9, 0.9, BUDGET)
    assert verdict.kind == "misses"
    assert [b.line for b in verdict.breaches] == ["size_mib"]


def test_a_metric_that_is_not_a_number_misses() -> None:
    assert judge(measurement(), math.nan, 0.9, BUDGET).kind == "misses"


@pytest.mark.parametrize(
    ("low", "high", "kind"),
    [(-0.002, 0.01, "fits"), (0.002, 0.012, "inconclusive"), (0.011, 0.03, "misses")],
    ids=["below what is allowed", "across it", "above it"],
)
def test_a_random_evaluation_is_judged_by_the_interval_of_its_drop(
    low: float, high: float, kind: str
) -> None:
    """Whatever the one value was that the search saw."""
    drop = Drop((low + high) / 2, low, high, 300, 0.98)
    for lucky in (0.95, 0.80):
        verdict = judge(measurement(), lucky, 0.90, BUDGET, drop)
        assert verdict.kind == kind
        assert [breach.line for breach in verdict.breaches] == (["metric"] if kind == "misses" else [])
    predicted = measurement(assumptions=("bandwidth 10 GB/s",))
    assert judge(predicted, 0.90, 0.90, BUDGET, drop).kind == kind.replace("fits", "predicted")


LOWER = Direction(lower_is_better=True)


@pytest.mark.parametrize(
    ("dense", "ours", "allowed", "kind"),
    [
        pytest.param(0.03, 8.75, 0.01, "misses", id="an MSE that explodes"),
        pytest.param(0.03, 0.001, 0.01, "fits", id="an MSE that falls"),
        pytest.param(18.25, 18.75, 0.5, "fits", id="a perplexity at its limit"),
        pytest.param(18.25, 18.76, 0.5, "misses", id="a perplexity above its limit"),
        pytest.param(7.5, math.nan, 1.0, "misses", id="a word error rate that is no number"),
    ],
)
def test_a_metric_that_is_better_when_lower_has_a_ceiling(
    dense: float, ours: float, allowed: float, kind: str
) -> None:
    budget = dataclasses.replace(BUDGET, max_drop=allowed)
    verdict = judge(measurement(), ours, dense, budget, direction=LOWER)
    assert verdict.kind == kind
    assert [breach.limit for breach in verdict.breaches] == [dense + allowed] * (kind == "misses")


def test_a_random_error_is_judged_by_the_interval_of_its_rise() -> None:
    drop = Drop(0.02, 0.015, 0.03, 300, 0.98)
    (breach,) = judge(measurement(), 0.05, 0.10, BUDGET, drop, LOWER).breaches
    assert (breach.value, breach.limit) == (pytest.approx(0.12), pytest.approx(0.11))


def test_lines_that_are_not_in_the_budget_do_not_bind() -> None:
    big = measurement(conclusive=False, process_mib=1e6, size_mib=1e6)
    assert judge(big, 0.9, 0.9, Budget()).kind == "fits"


def test_an_unresolved_speedup_is_refused() -> None:
    with pytest.raises(InputError, match=r"speed-up of 2\.0, which is not resolved"):
        judge(measurement(), 0.9, 0.9, Budget(speedup=2.0))


def test_a_measurement_of_another_percentile_is_refused() -> None:
    with pytest.raises(InputError, match="about p99, the measurement about p90"):
        judge(measurement(), 0.9, 0.9, Budget(latency_ms=1.0, percentile=99))


@pytest.mark.parametrize("samples", [[], [1.0, math.nan], [math.inf]], ids=["none", "nan", "infinite"])
def test_samples_that_are_no_latencies_are_refused(samples: list[float]) -> None:
    with pytest.raises(InputError, match="cannot be summarised"):
        summarise(samples, 90, 1.0)


def test_a_summary_reports_samples_that_were_really_seen() -> None:
    latency = summarise([float(ms) for ms in range(1, 101)], 90, 5.05)
    assert (latency.p50_ms, latency.p90_ms, latency.p99_ms, latency.max_ms) == (50.0, 90.0, 99.0, 100.0)
    assert latency.bound_ms == 97.0  # P(Binomial(100, 0.1) <= 3) = 0.8 %, P(<= 4) = 2.4 %
    assert (latency.runs, latency.seconds) == (100, 5.05)
    assert latency.percentile_ms == 90.0
    assert summarise([float(ms) for ms in range(1, 101)], 10, 5.05).percentile_ms == 10.0


def test_only_what_lies_between_quick_blocks_of_the_reference_counts() -> None:
    artefact = [[float(at)] for at in range(6)]
    reference = [[1.0] * 3 + [9.0] * 3, [1.0, 1.0], [1.06, 1.06], [1.0, 1.0], [1.0, 1.0]]
    assert at_usual_speed(artefact, reference, 10, usual_ms=1.0) == (
        [[0.0], [1.0], [4.0]],
        [reference[at] for at in (0, 1, 3, 4)],
    )
    assert at_usual_speed(artefact, reference, 90, usual_ms=1.0)[0] == [[4.0]], (
        "by the median, which is 5 in the first"
    )
    assert at_usual_speed(artefact[:1], [], 90, usual_ms=1.0) == ([], []), "nothing follows yet"


def test_blocks_of_which_no_run_was_undisturbed_do_not_count() -> None:
    artefact, reference = [[1.0], [2.0], [3.0], []], [[1.0], [], [1.0], [1.0]]
    assert at_usual_speed(artefact, reference, 10, usual_ms=1.0) == ([[1.0]], [[1.0], [1.0], [1.0]])


def test_a_percentile_is_bounded_from_below_as_it_is_from_above() -> None:
    samples = np.random.default_rng(0).lognormal(size=500)
    assert early_stopping_floor(samples, 90) == pytest.approx(1 / early_stopping_bound(1 / samples, 10))
    assert early_stopping_floor(samples[:3], 90) is None, "too few runs"


def test_a_lower_bound_is_above_its_percentile_one_time_in_a_hundred() -> None:
    numbers = np.random.default_rng(0)
    above = [early_stopping_floor(numbers.random(700), 90) > 0.9 for _ in range(2000)]
    assert 0.002 <= np.mean(above) <= 0.012


@pytest.mark.parametrize(
    ("low_ms", "reference_ms", "usual_ms", "allowed"),
    [
        (None, 1.0, 1.0, 1.0),
        (1.8, 1.0, 1.0, 0.9),
        (2.6, 1.0, 1.0, 1.0),
        (2.6, 1.3, 1.0, 1.3),
        (2.6, 1.3, None, 1.0),
        (1.2, 0.6, 1.0, 0.6),
    ],
    ids=[
        "not beside it",
        "a little quicker",
        "disturbed alone",
        "a slow machine",
        "unknown",
        "a quick machine",
    ],
)
def test_a_speed_up_is_over_the_dense_model_at_its_usual_speed(
    low_ms: float | None, reference_ms: float, usual_ms: float | None, allowed: float
) -> None:
    """Twice the speed of a dense model whose percentile usually is 2 ms, and whose median is 1 ms."""
    assert allowed_ms(1.0, 2.0, low_ms, reference_ms, usual_ms) == pytest.approx(allowed)
    assert allowed_ms(1.0, None, low_ms, reference_ms, usual_ms) == 1.0
    assert allowed_ms(None, None, low_ms, reference_ms, usual_ms) is None

"""Verdicts: confidence bounds of latency percentiles, held against a budget.

The bound is the early-stopping rule of MLPerf Inference (inference_policies, "Early Stopping Criterion"):
nonparametric, so it is true for any distribution of latencies that are drawn alike and independently. Runs on
a machine whose speed drifts are not; such sessions are not `Measurement.conclusive`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise
from statistics import median

import numpy as np
from numpy.typing import NDArray

from edgeprune.errors import InputError
from edgeprune.records.direction import HIGHER, Direction
from edgeprune.records.machine import Budget
from edgeprune.records.trial import Breach, Drop, Latency, Measurement, Verdict, limited_lines
from edgeprune.search.waiting import taken

CONFIDENCE = 0.99  # of a latency's bound
PROOF_SESSIONS = 3  # sessions of a proof; only one that drifted is followed by another
MAX_DRIFT = 0.02  # of the reference
USUAL_SPEED = 1.05  # times the usual milliseconds, up to which a reference counts as usually quick
DRAWN_DIGITS = 6  # behind the point of milliseconds that are kept to be drawn
OWN_DRIFT = 0.04  # of the artefact: where runs scatter by 10 %, thirds of a short session do by 2 % or 3 %


@lru_cache(maxsize=256)
def early_stopping_rank(runs: int, percentile: float, confidence: float = CONFIDENCE) -> int | None:
    """Rank among `runs` sorted samples (1 = the smallest) that bounds the percentile from above.

    The rank is runs - t, with t the largest integer for which P(Binomial(runs, 1 - percentile) <= t) <= 1 -
    confidence. None when t < 1: below 64 runs for the p90, 130 for the p95, 662 for the p99 at 99 %
    confidence, as MLPerf asks for (with t = 0 one outlier would decide).
    """
    if not (0 < percentile < 100 and 0 < confidence < 1):
        raise InputError(
            f"Percentile {percentile} at confidence {confidence} has no bound.",
            "Give a percentile between 0 and 100 and a confidence between 0 and 1.",
        )
    over = 1 - percentile / 100
    # Logarithms, because 0.9 ** 100_000 is zero in floating point: log P(k + 1) - log P(k) for k = 0...
    k = np.arange(runs)
    steps = np.log(runs - k) - np.log(k + 1) + math.log(over) - math.log1p(-over)
    log_mass = np.concatenate(([0.0], np.cumsum(steps))) + runs * math.log1p(-over)
    log_cumulative: NDArray[np.float64] = np.logaddexp.accumulate(log_mass)
    allowed = int(np.searchsorted(log_cumulative, math.log1p(-confidence), side="right")) - 1
    return runs - allowed if allowed >= 1 else None


def early_stopping_bound(
    samples_ms: Sequence[float] | NDArray[np.float64], percentile: float, confidence: float = CONFIDENCE
) -> float | None:
    """Upper confidence bound of a latency percentile, in ms; None when there are too few runs for one."""
    samples = np.asarray(samples_ms, np.float64)
    rank = early_stopping_rank(samples.size, percentile, confidence)
    return None if rank is None else float(np.partition(samples, rank - 1)[rank - 1])


def early_stopping_floor(
    samples_ms: Sequence[float] | NDArray[np.float64], percentile: float, confidence: float = CONFIDENCE
) -> float | None:
    """Lower confidence bound of a latency percentile, in ms; None when there are too few runs for one.

    The percentile from below is the opposite percentile from above, with the samples counted from the other
    end.
    """
    samples = np.asarray(samples_ms, np.float64)
    rank = early_stopping_rank(samples.size, 100 - percentile, confidence)
    return None if rank is None else float(np.partition(samples, samples.size - rank)[samples.size - rank])


def summarise(samples_ms: Sequence[float], percentile: int, seconds: float) -> Latency:
    """Distribution of `samples_ms`; percentiles are samples themselves (nearest rank).

    seconds: spent on the timed runs. Raises `InputError` when there are no samples or one is not finite.
    """
    samples = np.asarray(samples_ms, np.float64)
    if samples.size == 0 or not np.isfinite(samples).all():
        raise InputError(
            f"{samples.size} latencies cannot be summarised: none, or one is not a number.",
            "Time at least one run.",
        )
    p50, p90, p99, top, asked = np.percentile(samples, (50, 90, 99, 100, percentile), method="inverted_cdf")
    quantiles = np.percentile(samples, range(101), method="inverted_cdf")
    return Latency(
        p50_ms=float(p50),
        p90_ms=float(p90),
        p99_ms=float(p99),
        max_ms=float(top),
        percentile=percentile,
        bound_ms=early_stopping_bound(samples, percentile),
        runs=samples.size,
        seconds=seconds,
        percentile_ms=float(asked),
        quantiles_ms=tuple(round(float(ms), DRAWN_DIGITS) for ms in quantiles),
    )


def speed_ms(samples_ms: Sequence[float] | NDArray[np.float64], percentile: float) -> float:
    """Speed of a machine in a block of runs: the median, or the budget's percentile where that is lower.

    A percentile above the median says more of chance than of speed. One below it does not feel what moves the
    median: other work that comes and goes.
    """
    return float(np.percentile(samples_ms, min(50, percentile)))


def _speeds_ms(blocks: Sequence[Sequence[float]], percentile: float) -> list[float]:
    """`speed_ms` of each block; blocks of one length, of which simulations make thousands, in one call."""
    if len({len(block) for block in blocks}) == 1:
        return [float(ms) for ms in np.percentile(np.asarray(blocks), min(50, percentile), axis=1)]
    return [speed_ms(block, percentile) for block in blocks]


def drift(blocks: Sequence[Sequence[float]], percentile: float = 50) -> float:
    """Relative change of a reference's speed over a session: the spread of its thirds.

    blocks: milliseconds per run, block by block in time; the median over blocks of each block's `speed_ms`
    is the speed of a third. Two blocks or less show no drift, which is 0.
    """
    speeds = _speeds_ms(blocks, percentile)
    thirds = [median(speeds[third[0] : third[-1] + 1]) for third in _thirds(len(speeds)) if third]
    return (max(thirds) - min(thirds)) / median(speeds) if len(thirds) > 1 else 0.0


def at_usual_speed(
    artefact: Sequence[list[float]], reference: Sequence[list[float]], percentile: float, usual_ms: float
) -> tuple[list[list[float]], list[list[float]]]:
    """Blocks of an artefact between reference blocks of the usual speed, and these reference blocks.

    artefact, reference: milliseconds per run, blocks in turn, one of the artefact first; a block that no
    reference follows yet does not count, and a reference block without runs tells no speed. A slow spell of a
    machine slows models differently, so runs in it cannot be corrected by how slow the reference was.
    """
    quick = [bool(block) and speed_ms(block, percentile) <= USUAL_SPEED * usual_ms for block in reference]
    counted = [at for at in range(len(quick)) if quick[at] and (at == 0 or quick[at - 1])]
    beside = sorted({place for at in counted for place in (at - 1, at) if place >= 0})
    return [artefact[at] for at in counted if artefact[at]], [reference[at] for at in beside]


def slower(reference_ms: float | None, usual_ms: float | None) -> bool:
    """Whether a reference took longer than it usually does; False where either is unknown."""
    return bool(reference_ms and usual_ms and reference_ms > USUAL_SPEED * usual_ms)


def slowest_bound(
    blocks: Sequence[Sequence[float]], percentile: int, confidence: float = CONFIDENCE
) -> float | None:
    """Bound of the slowest third of a session, in ms; None when a third has too few runs for one.

    No mixture of the thirds has a higher percentile than the slowest of them.
    """
    parts = _parts(blocks)
    bounds = [early_stopping_bound(part, percentile, confidence) for part in parts]
    found = [bound for bound in bounds if bound is not None]
    return max(found) if len(found) == 3 else None


def _thirds(count: int) -> list[range]:
    """Places in thirds, the first ones longer by one when they do not divide."""
    size, more = divmod(count, 3)
    starts = [third * size + min(third, more) for third in range(4)]
    return [range(start, end) for start, end in pairwise(starts)]


def _parts(blocks: Sequence[Sequence[float]]) -> list[NDArray[np.float64]]:
    """Runs of each third of a session that is not empty."""
    return [
        np.concatenate([blocks[at] for at in third]).astype(np.float64)
        for third in _thirds(len(blocks))
        if third
    ]


@dataclass(frozen=True)
class SessionBound:
    """Bound of a latency percentile from one interleaved session.

    drift: of the reference; conclusive: the bound may be held against the budget.
    """

    bound_ms: float | None
    drift: float
    conclusive: bool


def session_bound(
    artefact: Sequence[Sequence[float]],
    reference: Sequence[Sequence[float]],
    percentile: int,
    latency_ms: float | None,
    *,
    disturbed: bool = False,
    at_best: Sequence[Sequence[float]] | None = None,
) -> SessionBound:
    """Rule of a proof (docs/decisions/003), from milliseconds per run, block by block in time.

    The bound of a steady session is over all runs. When the reference moved by more than `MAX_DRIFT` or the
    artefact by more than `OWN_DRIFT`, the bound is the slowest third's, and proves a fit or nothing. Even a
    steady session proves a miss only when every third of it misses: a disturbance may be too short for the
    thirds' medians, and yet long enough for a percentile.
    latency_ms: of the budget; None in a search, which compares and promises nothing: the bound is over all
        runs, and the reference, which ran in turn with them, alone tells whether the session was steady.
    disturbed: whether the session is known to have waited, or the machine to be slower than usual: it is then
        as good as one that moved. at_best: the artefact's runs as they would have been without the little
        that they waited, or the machine was slower: a miss must hold for them, too.
    """
    moved = drift(reference, percentile)
    if latency_ms is None:
        return SessionBound(
            early_stopping_bound(np.concatenate(artefact), percentile), moved, moved <= MAX_DRIFT
        )
    steady = not disturbed and moved <= MAX_DRIFT and drift(artefact, percentile) <= OWN_DRIFT
    if steady:
        bound_ms = early_stopping_bound(np.concatenate(artefact), percentile)
    else:
        bound_ms = slowest_bound(artefact, percentile, 1 - (1 - CONFIDENCE) / PROOF_SESSIONS)
    if bound_ms is None or bound_ms <= latency_ms:
        return SessionBound(bound_ms, moved, steady or bound_ms is not None)
    every = all(_misses(third, percentile, latency_ms) for third in _parts(at_best or artefact))
    return SessionBound(bound_ms, moved, steady and every)


def unsettled(measurement: Measurement) -> str:
    """Clause about why a session does not decide on a latency budget; empty where it does."""
    took, usual_ms, now_ms = taken(measurement.waiting), measurement.usual_ms, measurement.reference_ms
    if measurement.state.moved:
        return f"throttling was seen ({', '.join(measurement.state.moved)})"
    if measurement.latency.bound_ms is None and not measurement.predicted:
        return "it had too few runs for a bound"
    if measurement.conclusive:
        return ""
    if took.much:
        return took.words
    if measurement.whole is not None and not measurement.whole.conclusive:
        return "its whole queries did not keep their speed, before the model, in it or after it"
    if slower(now_ms, usual_ms):
        times = (now_ms or 0.0) / (usual_ms or 1.0)
        return f"the machine was slower: its reference took {times:.2f} times as long as usual"
    if measurement.drift is not None and measurement.drift <= MAX_DRIFT and slightly(measurement):
        return "what it misses by is no more than what the machine was slower, or took from it"
    return f"the machine did not keep its speed: its reference moved by {measurement.drift or 0:.1%}"


def slightly(measurement: Measurement) -> bool:
    """Whether a session was slower than usual, or waited, by less than what makes it disturbed."""
    usual_ms, now_ms = measurement.usual_ms, measurement.reference_ms
    return bool(usual_ms and now_ms and now_ms > usual_ms) or taken(measurement.waiting).share > 0


def _misses(runs: NDArray[np.float64], percentile: int, latency_ms: float) -> bool:
    """Whether a part of a session misses on its own, or is too short for a bound and contradicts nothing."""
    bound_ms = early_stopping_bound(runs, percentile)
    return bound_ms is None or bound_ms > latency_ms


def judge(
    measurement: Measurement,
    metric: float,
    baseline_metric: float,
    budget: Budget,
    repeated: Drop | None = None,
    direction: Direction = HIGHER,
) -> Verdict:
    """Verdict of a measurement against a resolved budget: every limit that is broken, and by how much.

    A limit that is broken for certain (memory, size, metric) makes the verdict `misses` even when the
    session was inconclusive. Latency is judged only by a conclusive session with enough runs; without one the
    verdict is `inconclusive`. A prediction never fits: it is `predicted`, or it misses.
    repeated: the drop of a random evaluation, from its repetitions: the metric's limit is then kept or broken
    by the whole interval, and an interval across the limit is `inconclusive`, too. direction: of the metric.
    Raises `InputError` for a budget that is not resolved to milliseconds, or that is about another percentile
    than the measurement.
    """
    if budget.latency_ms is None and budget.speedup is not None:
        raise InputError(
            f"The budget asks for a speed-up of {budget.speedup}, which is not resolved to milliseconds.",
            "Measure the dense model first: latency_ms = its latency / speedup.",
        )
    latency = measurement.latency
    breaches: list[Breach] = []
    undecided = False
    for line, (value, limit) in limited_lines(measurement, budget).items():
        if line == "latency_ms":
            _same_percentile(latency, budget)
            bounded = latency.bound_ms is not None or measurement.predicted
            undecided = not (bounded and measurement.conclusive)
        if not value <= limit and not (line == "latency_ms" and undecided):
            breaches.append(Breach(line, value, limit))
    worst = direction.limit(baseline_metric, budget.max_drop)
    if repeated is not None:
        if repeated.exceeds(budget.max_drop):
            breaches.append(Breach("metric", direction.limit(baseline_metric, repeated.value), worst))
        undecided = undecided or not repeated.high <= budget.max_drop
    elif not direction.holds(metric, worst):
        breaches.append(Breach("metric", metric, worst))
    if breaches:
        return Verdict("misses", tuple(breaches))
    if measurement.predicted and not (repeated is not None and undecided):
        return Verdict("predicted")
    return Verdict("inconclusive" if undecided else "fits")


def _same_percentile(latency: Latency, budget: Budget) -> None:
    if latency.percentile != budget.percentile:
        raise InputError(
            f"The budget is about p{budget.percentile}, the measurement about p{latency.percentile}.",
            "Measure again with the budget's percentile.",
        )

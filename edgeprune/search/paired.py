"""Confidence interval of a metric's drop: two models on the same samples, compared sample by sample.

Samples that both models get right, or both wrong, say nothing about the difference; without them a paired
comparison is much sharper than two separate error bars.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.stats import binom, norm, t

from edgeprune.errors import InputError
from edgeprune.records.direction import HIGHER, Direction
from edgeprune.records.trial import Drop

DROP_CONFIDENCE = 0.95
LOOKS = 3  # at a random evaluation that is repeated until it is decided
LOOK_CONFIDENCE = 1 - 2 * 0.01 / LOOKS  # so that all looks keep 99 % to each side, as for latency
RESAMPLES = 2000
MOST_DRAWN = 1 << 20  # samples drawn at a time


def _plain(mean: NDArray[np.float64]) -> NDArray[np.float64]:
    return mean


def paired_drop(
    baseline: ArrayLike,
    ours: ArrayLike,
    *,
    metric: Callable[[NDArray[np.float64]], NDArray[np.float64]] = _plain,
    direction: Direction = HIGHER,
    confidence: float = DROP_CONFIDENCE,
    seed: int = 0,
) -> Drop:
    """Drop from `baseline` to `ours` and its confidence interval.

    baseline, ours: [samples], a score per sample, the same samples in the same order.
    metric: of the samples' mean score, e.g. the root of a mean squared error. direction: of that metric.
    Right or wrong (0 or 1): the interval of Agresti and Min (2005), Wald's with half a sample added to each
    of the four cells. Anything else: percentiles of a paired bootstrap (Efron and Tibshirani 1993), seeded.
    Raises `InputError` when the scores cannot be paired.
    """
    before, after = direction.pair(np.asarray(baseline, np.float64), np.asarray(ours, np.float64))
    if before.shape != after.shape or before.ndim != 1 or not before.size:
        raise InputError(
            f"Scores of shapes {before.shape} and {after.shape} cannot be paired.",
            "Score both models on the same samples, one number each.",
        )
    if not (np.isfinite(before).all() and np.isfinite(after).all()):
        raise InputError("A sample's score is not a number.", "Score every sample with a finite number.")
    if metric is _plain and np.isin(before, (0, 1)).all() and np.isin(after, (0, 1)).all():
        return _matched(int((before > after).sum()), int((before < after).sum()), before.size, confidence)
    value = float(metric(before.mean()) - metric(after.mean()))
    rng = np.random.default_rng(seed)
    both = np.stack([before, after])
    means = []
    for chunk in np.array_split(np.arange(RESAMPLES), max(1, RESAMPLES * before.size // MOST_DRAWN)):
        rows = rng.integers(0, before.size, (chunk.size, before.size))
        means.append(both[:, rows].mean(axis=2))
    resampled = np.concatenate(means, axis=1)
    drops = metric(resampled[0]) - metric(resampled[1])
    low, high = np.quantile(drops, [(1 - confidence) / 2, (1 + confidence) / 2])
    return Drop(value, min(value, float(low)), max(value, float(high)), before.size, confidence)


def repeated_drop(
    baseline: ArrayLike,
    ours: ArrayLike,
    *,
    direction: Direction = HIGHER,
    confidence: float = LOOK_CONFIDENCE,
) -> Drop:
    """Drop on these very samples when the evaluation itself is random, from its repetitions.

    baseline, ours: [repeats, samples], two repeats or more. The interval is about the mean of ever more
    repeats, not about other samples: without randomness it has no width.
    The larger of two estimates of the error counts: from the scatter of each sample between repeats, which is
    sharp where samples are disturbed one by one; and from the scatter of the repeats' means (Student's t),
    which also sees a disturbance of all samples together.
    Raises `InputError` when there is nothing to compare.
    """
    before, after = direction.pair(np.asarray(baseline, np.float64), np.asarray(ours, np.float64))
    if before.shape != after.shape or before.ndim != 2 or len(before) < 2 or not before.size:
        raise InputError(
            f"Scores of shapes {before.shape} and {after.shape} cannot be compared.",
            "Score both models at least twice on the same samples, one number each.",
        )
    repeats, samples = before.shape
    value = float(before.mean() - after.mean())
    alone = sum(float(scores.var(axis=0, ddof=1).sum()) for scores in (before, after)) / samples**2
    together = sum(float(scores.mean(axis=1).var(ddof=1)) for scores in (before, after))
    above = (1 + confidence) / 2
    half = max(
        float(norm.ppf(above)) * math.sqrt(alone / repeats),
        float(t.ppf(above, repeats - 1)) * math.sqrt(together / repeats),
    )
    return Drop(value, value - half, value + half, samples, confidence)


def _matched(lost: int, gained: int, samples: int, confidence: float) -> Drop:
    """lost: samples on which only the baseline is right; gained: on which only ours is."""
    z = float(norm.ppf((1 + confidence) / 2))
    more, less, count = lost + 0.5, gained + 0.5, samples + 2.0
    middle = (more - less) / count
    half = z * math.sqrt(max(0.0, more + less - (more - less) ** 2 / count)) / count
    differing = lost + gained
    p = min(1.0, 2 * float(binom.cdf(min(lost, gained), differing, 0.5))) if differing else 1.0
    value = (lost - gained) / samples
    low, high = max(-1.0, middle - half), min(1.0, middle + half)
    return Drop(value, min(low, value), max(high, value), samples, confidence, p)

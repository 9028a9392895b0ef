"""Cascade of classifiers: the cheapest answers requests that it is sure of and hands the rest to the next.

`calibrate` chooses a confidence threshold for every tier but the last, on held-back samples; `outcome`
evaluates the cascade on other samples.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np
from numpy.typing import NDArray

from edgeprune.errors import InputError
from edgeprune.records.trial import Drop
from edgeprune.search.paired import paired_drop

Rows = NDArray[np.float64]
GRID = 17  # thresholds that are tried for each tier but the last two
ROUNDED_OFF = 1e-9  # of a metric: what sums in floating point may be off by
NEVER = float("inf")  # a threshold that nothing reaches


@dataclass(frozen=True)
class Tier:
    """Classifier on some samples, the same for all tiers and in the same order.

    confidence: [samples], e.g. the largest softmax probability; correct: [samples], 1 where it is right.
    cost: of one request, e.g. its median latency in ms.
    """

    name: str
    confidence: Rows
    correct: Rows
    cost: float


@dataclass(frozen=True)
class Cascade:
    """Confidence thresholds between tiers.

    tiers: names, the cheapest first. thresholds: [tiers - 1], the least confidence that ends a request.
    """

    tiers: tuple[str, ...]
    thresholds: tuple[float, ...]


@dataclass(frozen=True)
class Outcome:
    """Metric and cost of a cascade beside those of its largest tier alone.

    shares: of the requests, per tier that answers them; costs are means over requests.
    """

    shares: tuple[float, ...]
    metric: float
    metric_alone: float
    drop: Drop
    cost: float
    cost_alone: float

    @property
    def saving(self) -> float:
        """Saved share of the largest tier's cost; below 0 when the cascade costs more."""
        return 1 - self.cost / self.cost_alone


def confidence_of(logits: NDArray[np.floating]) -> Rows:
    """Largest softmax probability of each row ("maximum class probability", Hendrycks and Gimpel 2017).

    logits: [samples, classes].
    """
    shifted = np.asarray(logits, np.float64)
    shifted = shifted - shifted.max(axis=1, keepdims=True)
    return np.asarray(1 / np.exp(shifted).sum(axis=1), np.float64)


def calibrate(tiers: Sequence[Tier], max_drop: float, *, sure: bool = False) -> Cascade:
    """Thresholds for the least mean cost whose metric is at most `max_drop` below the last tier's.

    tiers: the cheapest first. The last threshold is the best of all confidences in the samples; those before
    it are the best of a grid, each improved once.
    sure: the drop must be within `max_drop` with the confidence of `Drop.high`, at every threshold down to
        the chosen one ("fixed-sequence testing", Angelopoulos et al. 2021), not on average only.
    Raises `InputError` when the tiers do not have the same samples.
    """
    _check(tiers)
    last = len(tiers) - 2
    levels = [
        (NEVER, *np.quantile(tier.confidence, np.linspace(0, 1, GRID)).tolist()) for tier in tiers[:last]
    ]
    best: tuple[float, tuple[float, ...]] = (np.inf, ())
    for coarse in product(*levels):
        thresholds = [*coarse, NEVER]
        if _lost(tiers, thresholds, sure) > max_drop + ROUNDED_OFF:
            continue
        for at in reversed(range(last + 1)):
            thresholds[at] = _best_threshold(tiers, thresholds, at, max_drop, sure)
        best = min(best, (_cost(tiers, thresholds), tuple(thresholds)))
    thresholds = list(best[1])
    return Cascade(tuple(tier.name for tier in tiers), tuple(thresholds))


def outcome(cascade: Cascade, tiers: Sequence[Tier]) -> Outcome:
    """Outcome of a cascade on samples that it was not calibrated on.

    Raises `InputError` when `tiers` are not the cascade's, or do not have the same samples.
    """
    _check(tiers)
    if tuple(tier.name for tier in tiers) != cascade.tiers:
        raise InputError(
            f"The cascade is of {', '.join(cascade.tiers)}; given are {', '.join(t.name for t in tiers)}.",
            "Give the tiers that it was calibrated for, in the same order.",
        )
    answered = _answered(tiers, cascade.thresholds)
    correct = np.stack([tier.correct for tier in tiers])[answered, np.arange(answered.size)]
    return Outcome(
        shares=tuple(float(np.mean(answered == at)) for at in range(len(tiers))),
        metric=float(correct.mean()),
        metric_alone=float(tiers[-1].correct.mean()),
        drop=paired_drop(tiers[-1].correct, correct),
        cost=_cost(tiers, cascade.thresholds),
        cost_alone=tiers[-1].cost,
    )


def _answered(tiers: Sequence[Tier], thresholds: Sequence[float]) -> NDArray[np.intp]:
    """[samples], index of the tier that ends each request."""
    sure = np.stack(
        [tier.confidence >= least for tier, least in zip(tiers, thresholds, strict=False)]
        + [np.ones(tiers[-1].correct.size, bool)]
    )
    return np.asarray(np.argmax(sure, axis=0), np.intp)


def _cost(tiers: Sequence[Tier], thresholds: Sequence[float]) -> float:
    """Mean cost of a request, which pays every tier up to the one that answers it."""
    spent = np.cumsum([tier.cost for tier in tiers])
    return float(spent[_answered(tiers, thresholds)].mean())


def _lost(tiers: Sequence[Tier], thresholds: Sequence[float], sure: bool) -> float:
    """Drop of the metric against the last tier: measured or, if `sure`, the interval's upper end."""
    answered = _answered(tiers, thresholds)
    if (answered == len(tiers) - 1).all():
        return 0.0
    correct = np.stack([tier.correct for tier in tiers])[answered, np.arange(answered.size)]
    drop = paired_drop(tiers[-1].correct, correct)
    return drop.high if sure else drop.value


def _best_threshold(
    tiers: Sequence[Tier], thresholds: Sequence[float], at: int, max_drop: float, sure: bool
) -> float:
    """Threshold of tier `at` for the least mean cost, with the other tiers' thresholds fixed."""
    alone = tiers[-1].correct
    correct = np.stack([tier.correct for tier in tiers])
    spent = np.cumsum([tier.cost for tier in tiers])
    samples = np.arange(alone.size)
    without = _answered(tiers, [NEVER if other == at else least for other, least in enumerate(thresholds)])
    reach = without > at  # requests that come to this tier and would go on
    order = np.flatnonzero(reach)[np.argsort(-tiers[at].confidence[reach], kind="stable")]
    scores = correct[without, samples]
    # After the n surest requests end here: what is lost against the last tier, and what is saved.
    lost = np.cumsum(np.concatenate([[(alone - scores).sum()], scores[order] - correct[at, order]]))
    saved = np.cumsum(np.concatenate([[0.0], spent[without[order]] - spent[at]]))
    levels = tiers[at].confidence[order]
    # Equal confidences end together.
    ends = np.flatnonzero(np.concatenate([[True], levels[1:] != levels[:-1], [True]])[: order.size + 1])
    if sure:
        kept = []
        for count in ends.tolist():
            mixed = scores.copy()
            mixed[order[:count]] = correct[at, order[:count]]
            if count and paired_drop(alone, mixed).high > max_drop:
                break
            kept.append(count)
        ends = np.array(kept)
    else:
        ends = ends[(lost[ends] <= (max_drop + ROUNDED_OFF) * alone.size) | (ends == 0)]
    count = int(ends[np.argmax(saved[ends])])
    return NEVER if count == 0 else float(levels[count - 1])


def _check(tiers: Sequence[Tier]) -> None:
    if len(tiers) < 2:
        raise InputError(f"A cascade of {len(tiers)} tiers has nothing to choose.", "Give two tiers or more.")
    shapes = {tier.confidence.shape for tier in tiers} | {tier.correct.shape for tier in tiers}
    if len(shapes) != 1 or len(next(iter(shapes))) != 1 or not next(iter(shapes))[0]:
        raise InputError(
            f"The tiers' samples differ: {', '.join(map(str, sorted(shapes)))}.",
            "Ask every tier about the same samples: one confidence and one 0 or 1 each.",
        )
    for tier in tiers:
        if not (np.isfinite(tier.confidence).all() and np.isin(tier.correct, (0, 1)).all() and tier.cost > 0):
            raise InputError(
                f"Tier {tier.name} has a confidence that is not a number, an answer that is neither 1 nor 0, "
                f"or a cost of {tier.cost}.",
                "Confidences are finite, answers 0 or 1, costs positive.",
            )

"""Comparison of a candidate with the dense model, sample by sample (docs/decisions/006).

`Task.evaluate` and `Task.evaluate_samples` are two evaluations of one artefact. Where they do not agree, the
evaluation is random (augmentation, sampling): one value is a draw, and the better of two candidates may just
be luckier. Then both models are scored again and again on the same samples, until the drop's interval lies on
one side of what is allowed.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edgeprune.errors import InputError
from edgeprune.records.direction import HIGHER, Direction
from edgeprune.records.trial import Drop
from edgeprune.search.paired import LOOKS, paired_drop, repeated_drop

FEWEST = 4  # repeats of a random evaluation, doubled while nothing is decided
MOST = FEWEST * 2 ** (LOOKS - 1)
ROUNDING = 1e-6  # of the mean, of single-precision sums in another order


@dataclass(frozen=True)
class Compared:
    """The ledger's record.

    drop: how much of it other samples could change. repeated: where the evaluation is random, how much of it
    is chance on these samples.
    """

    drop: Drop
    repeated: Drop | None = None


def compare(
    score: Callable[[str], NDArray[np.float64]],
    known: Mapping[str, float],
    allowed: float,
    direction: Direction = HIGHER,
) -> Compared:
    """Comparison of two trials by their scores per sample.

    score: a trial's score per sample, by its name. known: the metric of the two by name, the baseline first.
    allowed: the drop from which on the metric breaks. direction: of the metric and of the scores.
    """
    names = list(known)
    runs = {name: [score(name)] for name in names}

    def scored(name: str) -> NDArray[np.float64]:
        found = score(name)
        _check_count(found, runs[names[0]][0])
        return found

    _check_count(*(runs[name][0] for name in reversed(names)))
    drop = paired_drop(*(runs[name][0] for name in names), direction=direction)
    if all(math.isclose(runs[n][0].mean(), known[n], rel_tol=ROUNDING, abs_tol=ROUNDING) for n in names):
        return Compared(drop)
    wanted = FEWEST
    while True:
        for name in names:
            runs[name] += [scored(name) for _ in range(wanted - len(runs[name]))]
        repeated = repeated_drop(*(np.stack(runs[name]) for name in names), direction=direction)
        if not repeated.low <= allowed < repeated.high or wanted >= MOST:
            return Compared(drop, repeated)
        wanted *= 2


def _check_count(scores: NDArray[np.float64], before: NDArray[np.float64]) -> None:
    if scores.shape != before.shape:
        raise InputError(
            f"evaluate_samples returned {scores.size} scores, and {before.size} before.",
            "Score the same samples in each call.",
        )

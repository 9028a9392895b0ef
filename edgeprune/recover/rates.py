"""Learning rate of a training, found by short trainings from the same start.

A range test (Smith 2017, "Cyclical Learning Rates") that compares held-back errors, and not the noisy losses
of a rising rate: each rate gets a whole training of a few hundredths of the steps, with warm-up and cosine.
"""

from __future__ import annotations

import logging
from collections.abc import Callable

USUAL_RATE = 3e-3  # of AdamW; near the best on convolutional networks and transformers, see docs/recovery.md
NEXT_RATE = 10**0.5  # factor between two rates that are tried
SHARE = 0.03  # of a training's steps or minutes, for each rate that is tried
FEWEST_STEPS = 8  # fewer tell nothing: the usual rate is taken
MOST_TRIED = 4
# A short training favours low rates: a higher one is given up only where its error is so many times higher.
BIAS = 1.25

_log = logging.getLogger(__name__)


def find_rate(error: Callable[[float], float]) -> float:
    """The learning rate by held-back errors after short trainings.

    error: of a short training at a rate. From the usual rate it goes down while that is far better, or else
    up while that is better.
    """
    found = {USUAL_RATE: error(USUAL_RATE)}
    rate = USUAL_RATE
    for direction in (1 / NEXT_RATE, NEXT_RATE):
        while len(found) < MOST_TRIED:
            other = rate * direction
            found[other] = error(other)
            better = found[rate] > BIAS * found[other] if direction < 1 else found[other] < found[rate]
            if not better:
                break
            rate = other
        if rate != USUAL_RATE:
            break
    told = ", ".join(f"{tried:.2g}: {found[tried]:.4g}" for tried in sorted(found))
    _log.info("learning rate %.2g; held-back errors of short trainings %s", rate, told)
    return rate

"""Recipe of a recovery training: how long it goes on, its rates and its losses."""

from __future__ import annotations

import math
from dataclasses import dataclass

WARM_UP = 0.05  # share of a training in which the learning rate rises


@dataclass(frozen=True)
class TrainingOptions:
    """Options of all trainings of a fit.

    epochs: passes over the data. minutes: the time that a training takes instead, held-back checks included.
    accumulate: batches whose gradients are averaged for one step of the optimiser.
    seed: of dropout, of loaders that shuffle and of low-rank updates' first values.
    device: that computes it, as `--train-device` names it. processes: that compute shares of each batch.
    """

    epochs: int = 3
    minutes: float | None = None
    accumulate: int = 1
    seed: int = 0
    device: str = "cpu"
    processes: int = 1

    @property
    def trains(self) -> bool:
        """Whether they give any time to train."""
        return self.epochs > 0 if self.minutes is None else self.minutes > 0


@dataclass(frozen=True)
class Recipe:
    """Recipe of one training: AdamW with warm-up and a cosine schedule, gradients clipped to norm 1.

    learning_rate: the highest; None is found by short trainings. distillation: weight of the distillation
    loss, features of the residual streams' (of networks whose outputs decide, by scores); the task's loss has
    weight 1. supervised: use the targets where the data has them. low_rank: train
    low-rank updates and merge them; else all weights.
    """

    options: TrainingOptions
    learning_rate: float | None = None
    distillation: float = 1.0
    features: float = 10.0
    temperature: float = 4.0
    supervised: bool = True
    low_rank: bool = False


def rate_factor(share: float) -> float:
    """Factor of the learning rate at a share of a training: linear warm-up, then a half cosine to zero.

    Loshchilov and Hutter 2017 ("SGDR"), without restarts.
    """
    if share < WARM_UP:
        return max(0.0, share) / WARM_UP
    return 0.5 * (1 + math.cos(math.pi * min(1.0, (share - WARM_UP) / (1 - WARM_UP))))

"""Handwritten digits, as a task: `edgeprune fit examples/digits.py --target local`.

The images are the 1797 digits that scikit-learn brings along (UCI Optical Recognition of Handwritten
Digits), upsampled from 8 x 8 to 32 x 32. `train_digits.py` made the weights in `digits.safetensors`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from digits_model import DigitsNet
from safetensors.torch import load_file
from sklearn.datasets import load_digits

import edgeprune
from edgeprune.records.task import Predict

WEIGHTS = Path(__file__).with_name("digits.safetensors")
TEST_IMAGES = 600  # one point of accuracy is six images
CALIBRATION_IMAGES = 256
BATCH = 64


@dataclass(frozen=True)
class Digits:
    """images: float32 [N, 1, 32, 32] in 0..1; labels: int64 [N]."""

    images: torch.Tensor
    labels: torch.Tensor


def load_split() -> tuple[Digits, Digits]:
    """(training part, test part): always the same 1197 and 600 images, none in both."""
    bunch = load_digits()
    small = torch.tensor(bunch.images, dtype=torch.float32).unsqueeze(1) / 16
    images = torch.nn.functional.interpolate(small, size=(32, 32), mode="bilinear", align_corners=False)
    labels = torch.tensor(bunch.target, dtype=torch.int64)
    order = torch.from_numpy(np.random.default_rng(0).permutation(len(labels)))
    test, train = order[:TEST_IMAGES], order[TEST_IMAGES:]
    return Digits(images[train], labels[train]), Digits(images[test], labels[test])


@dataclass(frozen=True)
class ShuffledBatches:
    """Batches of (images, labels) in a seeded order.

    Every pass has the same order, so that a resumed run trains exactly as an uninterrupted one.
    """

    data: Digits
    seed: int = 0

    def __iter__(self) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        order = torch.from_numpy(np.random.default_rng(self.seed).permutation(len(self.data.labels)))
        for rows in order.split(BATCH):
            yield self.data.images[rows], self.data.labels[rows]

    def __len__(self) -> int:
        return -(-len(self.data.labels) // BATCH)


def accuracy(predict: Predict, data: Digits) -> float:
    """Share of `data` whose largest logit is the label."""
    images, labels = data.images.numpy(), data.labels.numpy()
    batches = [slice(first, first + BATCH) for first in range(0, len(labels), BATCH)]
    right = sum(int((predict(images[rows]).argmax(axis=1) == labels[rows]).sum()) for rows in batches)
    return right / len(labels)


def task() -> edgeprune.Task:
    train, test = load_split()
    model = DigitsNet()
    model.load_state_dict(load_file(WEIGHTS))
    return edgeprune.Task(
        model=model.eval(),
        example=test.images[:1],
        calibration=list(train.images[:CALIBRATION_IMAGES].split(BATCH)),
        train=ShuffledBatches(train),
        evaluate=lambda predict: accuracy(predict, test),
        metric="top-1",
    )

"""Handwritten digits with a training loop of one's own: `edgeprune fit examples/own_training_loop.py`.

The task is that of `digits.py`; `Task.trainer` gets the pruned network and trains it its own way.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any

import digits
import torch
from torch import nn
from torch.nn.functional import cross_entropy, kl_div, log_softmax

import edgeprune

EPOCHS = 3
LEARNING_RATE = 0.05
SHIFT = 2  # pixels: images are moved by up to so many, each batch anew


def train(module: nn.Module, teacher: nn.Module, data: Iterable[Any], progress: Callable[..., None]) -> None:
    """Train on moved images: SGD with momentum and a cosine, towards the labels and the teacher's scores."""
    optimiser = torch.optim.SGD(module.parameters(), lr=LEARNING_RATE, momentum=0.9, nesterov=True)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, T_max=EPOCHS)
    module.train()
    for epoch in range(EPOCHS):
        for images, labels in data:
            moved = torch.roll(images, torch.randint(-SHIFT, SHIFT + 1, (2,)).tolist(), dims=(2, 3))
            scores = module(moved)
            with torch.no_grad():
                wanted = log_softmax(teacher(moved), 1)
            loss = cross_entropy(scores, labels, label_smoothing=0.05)
            loss = loss + kl_div(log_softmax(scores, 1), wanted, log_target=True, reduction="batchmean")
            optimiser.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(module.parameters(), 1.0)
            optimiser.step()
        schedule.step()
        progress(epoch + 1, EPOCHS)


def task() -> edgeprune.Task:
    return replace(digits.task(), trainer=train)

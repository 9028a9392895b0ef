"""A producer and the layer that reads it, in the forms that layers have."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from edgeprune.graph.capture import Captured, capture
from edgeprune.graph.coupling import Coupling, analyse

WIDTH = 8


class Pair(nn.Module):
    """A producer of `WIDTH` channels and the consumer under test."""

    def __init__(self, producer: nn.Module, consumer: nn.Module) -> None:
        super().__init__()
        self.producer, self.consumer = producer, consumer

    def forward(self, x: Tensor) -> Tensor:
        return self.consumer(torch.tanh(self.producer(x)))


@dataclass(frozen=True)
class Case:
    producer: Callable[[], nn.Module]
    consumer: Callable[[], nn.Module]
    shape: tuple[int, ...]


def linear(**options: bool) -> Case:
    return Case(lambda: nn.Linear(5, WIDTH), lambda: nn.Linear(WIDTH, 3, **options), (64, 5))


def conv1d(size: int, **options: object) -> Case:
    return Case(lambda: nn.Conv1d(2, WIDTH, 3), lambda: nn.Conv1d(WIDTH, 3, size, **options), (9, 2, 17))


def conv2d(size: object, **options: object) -> Case:
    return Case(lambda: nn.Conv2d(2, WIDTH, 3), lambda: nn.Conv2d(WIDTH, 3, size, **options), (6, 2, 11, 9))


CASES = {
    "linear": linear(),
    "linear without bias": linear(bias=False),
    "linear over time": Case(lambda: nn.Linear(5, WIDTH), lambda: nn.Linear(WIDTH, 3), (9, 7, 5)),
    "conv1d": conv1d(3, stride=2, padding=1),
    "conv1d dilated, same": conv1d(4, dilation=2, padding="same"),
    "conv2d": conv2d(3, padding=1),
    "conv2d 1x1 without bias": conv2d(1, bias=False),
    "conv2d valid": conv2d(3, padding="valid"),
    "conv2d strided, uneven": conv2d((3, 2), stride=(2, 1), padding=(0, 1), dilation=(1, 2)),
    "conv2d same, even kernel": conv2d((2, 4), padding="same", dilation=(3, 1)),
    "conv2d circular": conv2d(3, padding=1, padding_mode="circular"),
}


def probed(case: Case) -> tuple[Captured, Coupling, Tensor]:
    torch.manual_seed(0)
    x = torch.randn(case.shape)
    captured = capture(Pair(case.producer(), case.consumer()), x)
    return captured, analyse(captured), x

"""A task that fits in seconds: real 8 x 8 digits, a small residual CNN, trained by hand-picked seeds."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from sklearn.datasets import load_digits
from torch import nn

import edgeprune
from edgeprune.devices import Operator

BLOCK = 8  # of the device below: weights are paid for in whole blocks of channels
TEST_ROWS = 300


class TinyNet(nn.Module):
    """[N, 1, 8, 8] -> [N, 10], one residual block."""

    def __init__(self, width: int = 16) -> None:
        super().__init__()
        self.stem = nn.Conv2d(1, width, 3, padding=1, bias=False)
        self.bn = nn.BatchNorm2d(width)
        self.conv1 = nn.Conv2d(width, 2 * width, 3, padding=1)
        self.conv2 = nn.Conv2d(2 * width, width, 3, padding=1)
        self.head = nn.Linear(width, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.relu(self.bn(self.stem(x)))
        x = torch.relu(x + self.conv2(torch.relu(self.conv1(x))))
        return self.head(torch.nn.functional.avg_pool2d(x, 4).amax((2, 3)) + x.mean((2, 3)))


class Batches:
    """Re-iterable (images, labels)."""

    def __init__(self, images: torch.Tensor, labels: torch.Tensor) -> None:
        self.images, self.labels = images, labels

    def __iter__(self) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        return zip(self.images.split(64), self.labels.split(64), strict=True)


@lru_cache(maxsize=1)
def _trained() -> tuple[TinyNet, torch.Tensor, torch.Tensor]:
    bunch = load_digits()
    images = torch.tensor(bunch.images, dtype=torch.float32).unsqueeze(1) / 16
    labels = torch.tensor(bunch.target, dtype=torch.int64)
    order = torch.from_numpy(np.random.default_rng(0).permutation(len(labels)))
    images, labels = images[order], labels[order]
    torch.manual_seed(0)
    net = TinyNet()
    optimiser = torch.optim.Adam(net.parameters(), lr=3e-3)
    for _ in range(6):
        for x, y in Batches(images[TEST_ROWS:], labels[TEST_ROWS:]):
            optimiser.zero_grad()
            nn.functional.cross_entropy(net(x), y).backward()
            optimiser.step()
    return net.eval(), images, labels


def scores(predict: Any, rows: int = TEST_ROWS) -> np.ndarray:
    """1.0 for each of the first test images that is recognised, 0.0 for the others."""
    _, images, labels = _trained()
    answer = predict(images[:rows].numpy())
    return (answer.argmax(axis=1) == labels[:rows].numpy()).astype(float)


def task(**changes: Any) -> edgeprune.Task:
    """With a network of its own: a test that trains or scales it changes no other test's."""
    net, images, labels = _trained()
    fields: dict[str, Any] = {
        "model": copy.deepcopy(net),
        "example": images[:1],
        "calibration": list(images[TEST_ROWS : TEST_ROWS + 256].split(64)),
        "train": Batches(images[TEST_ROWS:], labels[TEST_ROWS:]),
        "evaluate": lambda predict: float(scores(predict).mean()),
        "metric": "top-1",
    }
    return edgeprune.Task(**{**fields, **changes})


def quick(**changes: Any) -> edgeprune.Task:
    """All INT8 forms look alike on a subset, so a fit builds the first one and no other."""
    return task(**{"evaluate_subset": lambda predict: 0.5, **changes})


def latency_ms(artefact: Path) -> float:
    """A made-up device: time grows with the weights; integer weights are 1.25 times as quick."""
    model = onnx.load(artefact)
    work = sum(int(np.prod(tensor.dims)) for tensor in model.graph.initializer if len(tensor.dims) > 1)
    quantised = any(node.op_type == "QuantizeLinear" for node in model.graph.node)
    return 0.1 + 1e-4 * work / (1.25 if quantised else 1.0)


def weight_ms(shape: tuple[int, ...], quantised: bool) -> float:
    blocks = -(-shape[0] // BLOCK) * BLOCK
    return 1e-4 * blocks * int(np.prod(shape[1:])) / (1.25 if quantised else 1.0)


def operators(artefact: Path) -> tuple[Operator, ...]:
    """Every layer, named as a runtime might, behind a copy of its own making."""
    model = onnx.load(artefact)
    quantised = any(node.op_type == "QuantizeLinear" for node in model.graph.node)
    stored = {tensor.name: tuple(tensor.dims) for tensor in model.graph.initializer}
    for node in model.graph.node:  # a weight behind its DequantizeLinear
        if node.op_type == "DequantizeLinear" and node.input[0] in stored:
            stored[node.output[0]] = stored[node.input[0]]
    found = [Operator("copy", "Reorder", 0.02, (), (), ())]
    for node in model.graph.node:
        if node.op_type in ("Conv", "Gemm") and node.input[1] in stored:
            ms = weight_ms(stored[node.input[1]], quantised)
            found.append(Operator(f"{node.name}_token_3", node.op_type, ms, (), (), ()))
    return tuple(found)


def summed_ms(artefact: Path) -> float:
    """A tenth more than the operators, as runtimes need."""
    return 1.1 * sum(operator.ms for operator in operators(artefact))

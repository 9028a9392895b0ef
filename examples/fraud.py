"""Fraud among card transactions, as a task: `edgeprune fit examples/fraud.py --batch 64 --size-mib 0.1`.

The transactions are synthetic: drawn here from a seed, by a rule that is written below, because real ones are
nobody's to give away. A residual network over eight numbers and three categories scores 64 of them at a time,
as a payment service does. The metric is the area under the ROC curve: one in 25 is fraud.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.metrics import roc_auc_score
from torch import nn

import edgeprune
from edgeprune.records.task import Predict

ROWS, TRAINING_ROWS, CALIBRATION_ROWS = 12_000, 8_000, 1024
NUMBERS, CATEGORIES = 8, {"merchant": 40, "country": 30, "terminal": 8}
FRAUD = 0.04  # share of the transactions
BATCH = 64
EPOCHS = 4


@dataclass(frozen=True)
class Transactions:
    """numbers: float32 [N, 8], standardised; categories: int64 [N, 3]; fraud: int64 [N], 0 or 1."""

    numbers: torch.Tensor
    categories: torch.Tensor
    fraud: torch.Tensor

    def __getitem__(self, rows: slice) -> Transactions:
        return Transactions(self.numbers[rows], self.categories[rows], self.fraud[rows])

    def batches(self, rows: int) -> list[tuple[tuple[torch.Tensor, torch.Tensor], torch.Tensor]]:
        """((numbers, categories), fraud) of so many rows each."""
        parts = (part.split(rows) for part in (self.numbers, self.categories, self.fraud))
        return [((x, c), y) for x, c, y in zip(*parts, strict=True)]


def synthetic(rows: int, seed: int = 0) -> Transactions:
    """Transactions whose risk depends on pairs of columns, so that no column alone tells."""
    draw = np.random.default_rng(seed)
    numbers = draw.standard_normal((rows, NUMBERS))
    categories = np.stack([draw.integers(0, size, rows) for size in CATEGORIES.values()], axis=1)
    weight = {name: draw.standard_normal((size, NUMBERS)) for name, size in CATEGORIES.items()}
    risk = np.abs(numbers[:, 0] * numbers[:, 1]) + np.maximum(numbers[:, 2], numbers[:, 3]) ** 2
    for column, name in enumerate(CATEGORIES):
        risk += (weight[name][categories[:, column]] * numbers).sum(axis=1) / 3
    risk += 0.5 * draw.standard_normal(rows)
    fraud = risk > np.quantile(risk, 1 - FRAUD)
    return Transactions(
        torch.tensor(numbers, dtype=torch.float32),
        torch.tensor(categories, dtype=torch.int64),
        torch.tensor(fraud, dtype=torch.int64),
    )


class Residual(nn.Module):
    """[N, width] -> [N, width]: a block that is added to its input."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm, self.wide, self.narrow = (
            nn.BatchNorm1d(width),
            nn.Linear(width, 2 * width),
            nn.Linear(2 * width, width),
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.narrow(torch.relu(self.wide(self.norm(x))))


class Scorer(nn.Module):
    """numbers [N, 8] and categories [N, 3] -> scores [N, 2]."""

    def __init__(self, width: int = 128, embedded: int = 8) -> None:
        super().__init__()
        self.embeddings = nn.ModuleList(nn.Embedding(size, embedded) for size in CATEGORIES.values())
        self.stem = nn.Linear(NUMBERS + embedded * len(CATEGORIES), width)
        self.blocks = nn.ModuleList(Residual(width) for _ in range(3))
        self.head = nn.Linear(width, 2)

    def forward(self, numbers: torch.Tensor, categories: torch.Tensor) -> torch.Tensor:
        words = [table(categories[:, column]) for column, table in enumerate(self.embeddings)]
        x = self.stem(torch.cat([numbers, *words], dim=1))
        for block in self.blocks:
            x = block(x)
        return self.head(torch.relu(x))


def trained(data: Transactions) -> Scorer:
    """Scorer after a few seconds of training."""
    torch.manual_seed(0)
    net = Scorer()
    optimiser = torch.optim.AdamW(net.parameters(), lr=3e-3)
    batches = data.batches(128)
    for _ in range(EPOCHS):
        for at in torch.randperm(len(batches)).tolist():
            inputs, fraud = batches[at]
            optimiser.zero_grad()
            nn.functional.cross_entropy(net(*inputs), fraud).backward()
            optimiser.step()
    return net.eval()


def auc(predict: Predict, data: Transactions) -> float:
    """Area under the ROC curve of the difference between both scores."""
    margins: list[NDArray[np.float32]] = []
    for (numbers, categories), _ in data.batches(BATCH):
        scores = predict(numbers.numpy(), categories.numpy())
        margins.append(scores[:, 1] - scores[:, 0])
    return float(roc_auc_score(data.fraud.numpy(), np.concatenate(margins)))


def task() -> edgeprune.Task:
    data = synthetic(ROWS)
    train, test = data[:TRAINING_ROWS], data[TRAINING_ROWS:]
    return edgeprune.Task(
        model=trained(train),
        example=(test.numbers[:1], test.categories[:1]),
        calibration=[inputs for inputs, _ in train[:CALIBRATION_ROWS].batches(BATCH)],
        train=train.batches(BATCH),
        evaluate=lambda predict: auc(predict, test),
        metric="AUC",
    )

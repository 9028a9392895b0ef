"""Allocations of real models: those of fits, with the latency tables that they measure on this machine.

Where a fit would take long: the allocations of a search without a table, by multiply-accumulates.
"""

from __future__ import annotations

import os
import tempfile
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from unittest.mock import patch

import torch
from torch import nn

import edgeprune
from benchmarks.contract.networks import ResidualMlp, Vit
from benchmarks.int8.models import MODELS
from edgeprune.fitting.space import space
from edgeprune.make import Workshop
from edgeprune.quantize.dialects import TABLE
from edgeprune.search.allocate import Allocation, allocate
from edgeprune.search.problem import Problem

Asked = tuple[Problem, Mapping[str, float]]
SPEEDUPS = (3.0, 6.0)
SHARES = (0.7, 0.5, 0.3)


def recorded(name: str) -> list[Asked]:
    """Every problem and its limits of one of `FITS`."""
    found: list[Asked] = []

    def listening(problem: Problem, limits: Mapping[str, float]) -> Allocation:
        found.append((problem, dict(limits)))
        return allocate(problem, limits)

    warnings.simplefilter("ignore")
    with patch.object(space, "allocate", listening):
        FITS[name]()
    return found


def _fit(task: edgeprune.Task) -> None:
    """With two budgets and without training; in INT8 where that is quicker."""
    with tempfile.TemporaryDirectory() as folder, patch.dict(os.environ, {"XDG_CACHE_HOME": folder}):
        edgeprune.fit(
            task,
            target="x86",
            speedup=SPEEDUPS,
            max_drop=1.0,
            recover="reconstruct",
            out=Path(folder) / "run",
        )


def _by_work(network: str) -> None:
    """Widths in steps of 8 for three shares of the work, by L2 importance."""
    torch.manual_seed(0)
    model, images = MODELS[network]()
    workshop = Workshop(_task(model, torch.cat(images)), TABLE["onnxruntime-x86"])
    for share in SHARES:
        space.Space(workshop.coupling, workshop.cost, workshop.ranking(8).choices).by_work(share)


def _cifar10(network: str) -> edgeprune.Task:
    from benchmarks import cifar10  # reads the data folder

    task: edgeprune.Task = getattr(cifar10, network)()
    return task


def _task(model: nn.Module, rows: torch.Tensor) -> edgeprune.Task:
    """Random weights, which say as much about how long an allocation takes."""
    return edgeprune.Task(
        model=model.eval(),
        example=rows[:1],
        calibration=list(rows.split(16)),
        evaluate=lambda predict: float(predict(rows[:1].numpy()).ndim > 1),
        outputs="classes",
    )


FITS: Mapping[str, Callable[[], None]] = {
    "ResNet-8, CIFAR-10": lambda: _fit(_cifar10("resnet8")),
    "ResNet-20, CIFAR-10": lambda: _fit(_cifar10("resnet20")),
    "residual perceptron (4 blocks, 256)": lambda: _fit(_task(ResidualMlp(64), torch.randn(64, 64))),
    "ViT (6 layers, 192)": lambda: _fit(_task(Vit(192, 6, 768, 6), torch.randn(64, 1, 28, 28))),
    "ResNet-18, 224x224, by work": lambda: _by_work("ResNet-18, 224x224"),
    "ResNet-50, 224x224, by work": lambda: _by_work("ResNet-50, 224x224"),
}

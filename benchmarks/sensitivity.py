"""`python -m benchmarks.sensitivity`: do errors of the outputs weigh units better than their own scores?

Trained networks on real data, at equal multiply-accumulates. Five ways to choose the widths: the same share
of every group; a global ranking of all units; the most importance (an allocation without the sensitivity);
the least sum of errors of the outputs (with it); the least error of whole networks (as `fit` does). Units
within a group are ranked by the default criterion in all of them, and all are reconstructed and then trained
in the same way. Accuracy before and after the training.

Widths move in steps of one channel, so that no way of choosing is cheaper than another because of rounding.
"""

from __future__ import annotations

import argparse
import importlib.util
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch
from torch import nn

from edgeprune.fitting.space.reweighing import reweighed, with_factors
from edgeprune.fitting.space.sensing import OutputError, sense, weighed_space
from edgeprune.fitting.space.space import FLOOR, MACS, Space
from edgeprune.fitting.space.survey import ALLOCATIONS
from edgeprune.make import Workshop
from edgeprune.quantize.dialects import TABLE
from edgeprune.records.task import Task
from edgeprune.recover.recipe import TrainingOptions
from edgeprune.search.ranking import Ranking, Widths

DATA = Path(__file__).parents[2] / "shared" / "data"
ROWS = 512  # of calibration data


@dataclass(frozen=True)
class Batches:
    """Re-iterable (images, labels), in an order of its own for every pass."""

    images: torch.Tensor
    labels: torch.Tensor

    def __iter__(self) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        order = torch.randperm(len(self.labels), generator=torch.Generator().manual_seed(0))
        for rows in order.split(64):
            yield self.images[rows], self.labels[rows]


@dataclass(frozen=True)
class Case:
    """A trained network, images to train on and others to test with."""

    net: nn.Module
    train: Batches
    test: Batches


class Small(nn.Module):
    """[N, 1, 28, 28] -> [N, 10]: two stages of residual blocks."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.down = _conv(1, 16, 2), _conv(16, 32, 2)
        self.first = nn.ModuleList(nn.Sequential(_conv(16, 16), nn.ReLU(), _conv(16, 16)) for _ in range(2))
        self.second = nn.ModuleList(nn.Sequential(_conv(32, 32), nn.ReLU(), _conv(32, 32)) for _ in range(2))
        self.head = nn.Linear(32, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.relu(self.stem(x))
        for block in self.first:
            x = torch.relu(x + block(x))
        x = torch.relu(self.down(x))
        for block in self.second:
            x = torch.relu(x + block(x))
        return self.head(x.mean((2, 3)))


def _conv(channels: int, width: int, stride: int = 1) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(channels, width, 3, stride, 1, bias=False), nn.BatchNorm2d(width))


def resnet20(data: Path, rows: int, tested: int) -> Case:
    cifar, models = _module(data / "load_cifar10.py"), _module(data / "models.py")
    mean, std = (torch.tensor(value)[:, None, None] for value in (cifar.MEAN, cifar.STD))
    return _cifar(models.CifarResNet(20), "resnet20", data, rows, tested, lambda x: (x / 255 - mean) / std)


def resnet8(data: Path, rows: int, tested: int) -> Case:
    models = _module(data / "models.py")
    return _cifar(models.ResNet8(), "resnet8", data, rows, tested, lambda x: x)


def fashion(data: Path, rows: int, tested: int) -> Case:
    """Trained here, for as many epochs as make 6000 images a fair sample."""
    with np.load(data / "fashion_mnist.npz") as stored:
        images = {part: torch.from_numpy(stored[f"x_{part}"]) for part in ("train", "test")}
        labels = {part: torch.from_numpy(stored[f"y_{part}"]).long() for part in ("train", "test")}
    parts = {}
    for part, count in (("train", max(rows, 6000)), ("test", tested)):
        x = images[part].reshape(-1, 1, 28, 28)[:count].float() / 255
        parts[part] = Batches(x, labels[part][:count])
    torch.manual_seed(0)
    net = Small()
    optimiser = torch.optim.Adam(net.parameters(), lr=3e-3)
    for _ in range(3):
        for x, y in parts["train"]:
            optimiser.zero_grad()
            nn.functional.cross_entropy(net(x), y).backward()
            optimiser.step()
    few = Batches(parts["train"].images[:rows], parts["train"].labels[:rows])
    return Case(net, few, parts["test"])


def _cifar(
    net: nn.Module, name: str, data: Path, rows: int, tested: int, prepared: Callable[[Any], torch.Tensor]
) -> Case:
    from safetensors.torch import load_file

    cifar = _module(data / "load_cifar10.py")
    net.load_state_dict(load_file(data / f"{name}_cifar10.safetensors"))
    parts = []
    for file, count in (("cifar10_train_a.npz", rows), ("cifar10_test.npz", tested)):
        pixels, labels, _ = cifar.load(data / file)
        chosen = np.random.default_rng(0).permutation(len(labels))[:count]
        images = prepared(torch.from_numpy(pixels[chosen]).float())
        parts.append(Batches(images, torch.from_numpy(labels[chosen]).long()))
    return Case(net, *parts)


CASES: Mapping[str, Callable[[Path, int, int], Case]] = {
    "ResNet-8, CIFAR-10": resnet8,
    "small ResNet, Fashion-MNIST": fashion,
    "ResNet-20, CIFAR-10": resnet20,
}


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.sensitivity", description=__doc__)
    parser.add_argument("--data", type=Path, default=DATA, metavar="FOLDER")
    parser.add_argument("--only", nargs="*", default=[""], metavar="WORD")
    parser.add_argument("--shares", nargs="*", type=float, default=[0.7, 0.4], metavar="SHARE")
    parser.add_argument("--rows", type=int, default=4096, help="images to train on")
    parser.add_argument("--epochs", type=int, default=1)
    parser.add_argument("--test", type=int, default=2000, help="images to test with", metavar="ROWS")
    asked = parser.parse_args()
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    heads = ("network", "share of work", "widths by", "work", "before, %", "after, %", "branches dropped")
    print(f"| {' | '.join(heads)} |\n|{'---|' * len(heads)}", flush=True)
    for name, make in CASES.items():
        if any(word.lower() in name.lower() for word in asked.only):
            _print(name, make(asked.data, max(asked.rows, ROWS), asked.test), asked.shares, asked.epochs)


def _print(name: str, case: Case, shares: list[float], epochs: int) -> None:
    net = case.net.eval()
    workshop = Workshop(
        Task(
            model=net,
            example=case.train.images[:1],
            calibration=list(case.train.images[:ROWS].split(64)),
            train=case.train,
            evaluate=lambda predict: 0.0,
            metric="top-1",
        ),
        TABLE["onnxruntime-x86"],
    )
    choices = workshop.ranking(1).choices
    started = time.monotonic()
    sensed = sense(workshop, choices, FLOOR, lambda share: None)
    seconds = time.monotonic() - started
    plain = Space(workshop.coupling, workshop.cost, choices)
    weighed = weighed_space(workshop, choices, sensed)
    alike = tuple(replace(choice, scores=_places(choice.scores)) for choice in choices)
    dense = workshop.cost.macs({})
    errors = OutputError(workshop, ALLOCATIONS)

    def compared(share: float) -> Widths:
        """As `Survey.checked` chooses."""
        found = reweighed(weighed, {MACS: share * dense}, errors.of, errors.models, workshop.seed)
        return with_factors(weighed, dict(found.factors)).by_work(share).kept

    ways: dict[str, Callable[[float], Widths]] = {
        "uniform": Ranking(alike, lambda widths: float(workshop.cost.macs(widths))).keep,
        "global ranking": Ranking(choices, lambda widths: float(workshop.cost.macs(widths))).keep,
        "most importance": lambda share: plain.by_work(share).kept,
        "sensitivity": lambda share: weighed.by_work(share).kept,
        "whole networks": compared,
    }
    print(f"| {name} | dense | | 1.000 | {_accuracy(workshop.predict, case):.2f} | | |", flush=True)
    for share in shares:
        for way, keep in ways.items():
            kept = keep(share)
            pruned, _ = workshop.prune(kept, "reconstruct")
            trained, _ = workshop.train(pruned, kept, "finetune", TrainingOptions(epochs), None)
            before, after = (_accuracy(workshop.predictor(each), case) for each in (pruned, trained))
            work = f"{workshop.cost.macs(kept) / dense:.3f}"
            cells = (name, f"{share:.2f}", way, work, f"{before:.2f}", f"{after:.2f}")
            print(f"| {' | '.join(cells)} | {len(workshop.coupling.dropped(kept))} |", flush=True)
    print(f"(measuring the sensitivity took {seconds:.0f} s)", flush=True)


def _places(scores: Any) -> Any:
    """Each unit's place in its group between 0 and 1: ranked by it, all groups lose the same share."""
    return ((np.argsort(np.argsort(scores, kind="stable"), kind="stable") + 0.5) / len(scores)).astype(
        np.float32
    )


def _accuracy(predict: Callable[[Any], Any], case: Case) -> float:
    hits = [predict(x.numpy()).argmax(axis=1) == y.numpy() for x, y in case.test]
    return 100 * float(np.concatenate(hits).mean())


def _module(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(path.stem, path)
    if spec is None or spec.loader is None:
        raise SystemExit(f"There is no {path}: give the folder of data sets with --data.")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


if __name__ == "__main__":
    main()

"""CIFAR-10 networks as tasks: `edgeprune fit benchmarks/cifar10.py:resnet20 --latency-ms 2,1`.

Data and trained weights are read from the folder $EDGEPRUNE_DATA (by default ../shared/data, seen from the
checkout), which also holds the networks' code (models.py) and a loader for its packed images
(load_cifar10.py). The whole test file evaluates; some of the training images calibrate and train.
"""

from __future__ import annotations

import importlib.util
import os
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file

import edgeprune
from edgeprune.records.task import Predict

DATA = Path(os.environ.get("EDGEPRUNE_DATA", Path(__file__).parents[2] / "shared" / "data"))
TRAINING_IMAGES = 10_000
CALIBRATION_IMAGES = 256
SUBSET = 512  # test images that INT8 forms are compared on first
BATCH = 64


@dataclass(frozen=True)
class Images:
    """pixels: float32 [N, 3, 32, 32], as the network takes them; labels: int64 [N]. In a seeded order."""

    pixels: torch.Tensor
    labels: torch.Tensor

    def __iter__(self) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        return zip(self.pixels.split(BATCH), self.labels.split(BATCH), strict=True)


def resnet20() -> edgeprune.Task:
    """ResNet-20 (He et al. 2015), weights of akamaster/pytorch_resnet_cifar10; normalised pixels."""
    loader = _module("load_cifar10")
    mean, std = (np.array(value, np.float32)[:, None, None] for value in (loader.MEAN, loader.STD))
    return _task(_module("models").CifarResNet(20), "resnet20", lambda x: (x / np.float32(255) - mean) / std)


def resnet8() -> edgeprune.Task:
    """The ResNet-8 of MLPerf Tiny; pixels from 0 to 255."""
    return _task(_module("models").ResNet8(), "resnet8", lambda x: x.astype(np.float32))


def _task(model: torch.nn.Module, name: str, prepare: Callable[[Any], Any]) -> edgeprune.Task:
    model.load_state_dict(load_file(DATA / f"{name}_cifar10.safetensors"))
    test = _images("cifar10_test.npz", prepare)
    train = _images("cifar10_train_a.npz", prepare, TRAINING_IMAGES)
    few = Images(test.pixels[:SUBSET], test.labels[:SUBSET])
    return edgeprune.Task(
        model=model.eval(),
        example=test.pixels[:1],
        calibration=list(train.pixels[:CALIBRATION_IMAGES].split(BATCH)),
        train=train,
        evaluate=lambda predict: float(right(predict, test).mean()),
        evaluate_subset=lambda predict: float(right(predict, few).mean()),
        evaluate_samples=lambda predict: right(predict, test),
        metric="top-1",
    )


def right(predict: Predict, images: Images) -> np.ndarray[tuple[int], np.dtype[np.bool_]]:
    """[N], whether the largest logit is the label."""
    parts = [predict(pixels.numpy()).argmax(axis=1) == labels.numpy() for pixels, labels in images]
    return np.concatenate(parts)


def _images(file: str, prepare: Callable[[Any], Any], count: int | None = None) -> Images:
    pixels, labels, _ = _module("load_cifar10").load(DATA / file)
    order = np.random.default_rng(0).permutation(len(labels))[:count]  # the files are sorted by class
    return Images(torch.from_numpy(prepare(pixels[order])), torch.from_numpy(labels[order].astype(np.int64)))


def _module(name: str) -> ModuleType:
    """A module of the data folder."""
    full = f"_edgeprune_data_{name}"
    if full not in sys.modules:
        spec = importlib.util.spec_from_file_location(full, DATA / f"{name}.py")
        if spec is None or spec.loader is None:
            raise ImportError(f"{DATA / name}.py cannot be imported")
        sys.modules[full] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(sys.modules[full])
    return sys.modules[full]

"""CIFAR-10 and networks with published weights, as they are and with outliers planted in them."""

from __future__ import annotations

import copy
import importlib.util
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch
from torch import nn

CALIBRATION, TRAINING = 256, 4096  # images
MLPERF_INT8 = "resnet8_cifar10_int8.tflite"


@dataclass(frozen=True)
class Data:
    """uint8 images [N, 3, 32, 32] and labels; both parts shuffled."""

    test: tuple[Any, Any]
    train: tuple[Any, Any]


@dataclass(frozen=True)
class Network:
    """prepared: raw images -> what the network takes."""

    title: str
    net: nn.Module
    prepared: Callable[[Any], Any]


def load(folder: Path) -> tuple[Data, tuple[Network, ...]]:
    """`folder` holds the files that its README lists."""
    from safetensors.torch import load_file

    cifar, models = _module(folder / "load_cifar10.py"), _module(folder / "models.py")
    mean, std = (np.array(value, np.float32)[:, None, None] for value in (cifar.MEAN, cifar.STD))
    residual, tiny = models.CifarResNet(20), models.ResNet8()
    for net, file in ((residual, "resnet20_cifar10"), (tiny, "resnet8_cifar10")):
        net.load_state_dict(load_file(folder / f"{file}.safetensors"))
        net.eval()

    def normalised(images: Any) -> Any:
        return ((images / np.float32(255) - mean) / std).astype(np.float32)

    data = Data(*(_shuffled(cifar.load(folder / f"cifar10_{part}.npz")) for part in ("test", "train_a")))
    return data, (
        Network("ResNet-20", residual, normalised),
        Network("MLPerf Tiny ResNet-8", tiny, lambda images: images.astype(np.float32)),
        Network("ResNet-20, outliers in blocks", planted_in_blocks(residual), normalised),
        Network("ResNet-20, outlier in the stream", planted_in_stream(residual), normalised),
    )


def planted_in_blocks(net: nn.Module, channels: int = 2, factor: float = 1e3) -> nn.Module:
    """The same function with outliers: in every block of a CifarResNet the first channels between its
    convolutions are `factor` times as large."""
    net = copy.deepcopy(net)
    with torch.no_grad():
        for block in _blocks(net):
            block.bn1.weight[:channels] *= factor
            block.bn1.bias[:channels] *= factor
            block.conv2.weight[:, :channels] /= factor
    return net


def planted_in_stream(net: Any, channel: int = 0, factor: float = 30.0) -> nn.Module:
    """The same function with one channel of a CifarResNet's residual stream `factor` times as large, from the
    first convolution to the classifier."""
    net = copy.deepcopy(net)
    with torch.no_grad():
        _enlarge(net.bn1, channel, factor)
        for block in _blocks(net):
            block.conv1.weight[:, channel] /= factor
            channel += block.grow  # a shortcut pads with so many zero channels in front
            _enlarge(block.bn2, channel, factor)
        net.linear.weight[:, channel] /= factor
    return net


def _enlarge(norm: Any, channel: int, factor: float) -> None:
    norm.weight[channel] *= factor
    norm.bias[channel] *= factor


def _blocks(net: nn.Module) -> list[Any]:
    return [module for module in net.modules() if hasattr(module, "bn1") and hasattr(module, "conv2")]


def _shuffled(loaded: tuple[Any, ...]) -> tuple[Any, Any]:
    """The files are sorted by class."""
    images, labels = loaded[:2]
    order = np.random.default_rng(0).permutation(len(images))
    return images[order], labels[order]


def _module(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"benchmark_{path.stem}", path)
    if spec is None or spec.loader is None:
        raise FileNotFoundError(path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module

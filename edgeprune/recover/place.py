"""Place of a training: the device that computes it, and the number type of its products."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch.utils import _pytree as pytree

from edgeprune.errors import InputError
from edgeprune.graph.moving import CPU
from edgeprune.limits import AUTO_DEVICE
from edgeprune.meaning.losses import Loss
from edgeprune.meaning.yardstick import Yardstick
from edgeprune.tasks import GuardedLoss

_WITHOUT = "Leave --train-device out to train on what is there, or say --train-device cpu."


@dataclass(frozen=True)
class Place:
    """Place of a training. half: number type of products and convolutions in it; None is float32.

    What is trained, compared and judged lies on `device`; weights, sums and losses stay float32.
    """

    device: torch.device = CPU
    half: torch.dtype | None = None

    @property
    def words(self) -> str:
        """The place for people, such as "cuda:0 (NVIDIA L4), bfloat16"."""
        name = f" ({torch.cuda.get_device_name(self.device)})" if self.device.type == "cuda" else ""
        half = f", {self.half}".replace("torch.", "") if self.half is not None else ""
        return f"{self.device}{name}{half}"

    def tensors(self, tree: Any) -> Any:
        """A tensor or a tree of them, there."""
        return pytree.tree_map_only(torch.Tensor, lambda tensor: tensor.to(self.device), tree)

    def batches(self, pairs: Iterable[Any]) -> Iterator[Any]:
        """Batches, each moved there when it is asked for."""
        return map(self.tensors, pairs)

    def yardstick(self, yardstick: Yardstick) -> Yardstick:
        """The yardstick there."""
        return replace(yardstick, spreads=self.tensors(yardstick.spreads))

    def loss(self, loss: Loss | None) -> Loss | None:
        """The loss there: tensors that a module or a `functools.partial` holds are copied."""
        if self.device == CPU or not isinstance(loss, GuardedLoss):
            return loss
        return replace(loss, own=self._held(loss.own))

    def mixed(self, run: Callable[..., Any]) -> Callable[..., Any]:
        """A forward pass whose products have the number type `half`, and its outputs their own."""
        if self.half is None:
            return run

        def with_half(*inputs: torch.Tensor) -> Any:
            with torch.autocast(self.device.type, self.half):
                answer = run(*inputs)
            return pytree.tree_map_only(torch.Tensor, self._whole, answer)

        return with_half

    @contextmanager
    def seeded(self, seed: int) -> Iterator[None]:
        """Context in which random numbers follow from the seed, there too; the caller's state stays."""
        devices = [self.device] if self.device.type == "cuda" else []
        with torch.random.fork_rng(devices=devices):
            torch.manual_seed(seed)
            yield

    def _whole(self, output: torch.Tensor) -> torch.Tensor:
        return output.float() if output.dtype == self.half else output

    def _held(self, own: Any) -> Any:
        if isinstance(own, torch.nn.Module):
            return copy.deepcopy(own).to(self.device)
        if isinstance(own, partial):
            return partial(self._held(own.func), *self.tensors(own.args), **self.tensors(own.keywords))
        return own


def training_place(name: str) -> Place:
    """The place that `--train-device` names, with bfloat16 products on a GPU that has them.

    "auto" is a GPU where PyTorch finds one, else the processor. Raises `InputError` when PyTorch does not
    find the device that is named.
    """
    kind = torch.device(_found() if name == AUTO_DEVICE else name)
    if kind.type == "cuda":
        count = torch.cuda.device_count() if torch.cuda.is_available() else 0
        if not count:
            raise InputError(
                f"--train-device is {name}, and PyTorch {torch.__version__} finds no CUDA device here.",
                _WITHOUT,
            )
        index = torch.cuda.current_device() if kind.index is None else kind.index
        if index >= count:
            raise InputError(
                f"--train-device is {name}, and PyTorch finds {count} CUDA device{'s' * (count != 1)} here, "
                "counted from 0.",
                _WITHOUT,
            )
        half = torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else None
        return Place(torch.device("cuda", index), half)
    if kind.type == "mps" and not torch.backends.mps.is_available():
        raise InputError(f"--train-device is {name}, and PyTorch finds no Apple GPU here.", _WITHOUT)
    return Place(kind)


def _found() -> str:
    if torch.cuda.is_available():
        return "cuda"
    return "mps" if torch.backends.mps.is_available() else "cpu"

"""Gradients of the loss in the dense model, step by step, and what they say of parameters and units.

A step is a batch of the data, or a single sample. At a trained optimum the gradients of the steps cancel, so
that their mean says little: their mean squares are kept beside it. The mean square of single samples'
gradients is the diagonal of the empirical Fisher information, an estimate of the loss' curvature.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from operator import itemgetter
from typing import Any, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils import _pytree as pytree

from edgeprune.errors import InputError
from edgeprune.graph.capture import Captured
from edgeprune.graph.coupling import Group
from edgeprune.meaning.losses import Loss
from edgeprune.pruning.criteria import Slopes, summed

Step: TypeAlias = tuple[tuple[torch.Tensor, ...], Any]  # (inputs, target or None)
Tensors: TypeAlias = dict[str, torch.Tensor]
SAMPLES = 1024  # samples at most whose gradients are taken one by one


def slopes(captured: Captured, groups: Iterable[Group], steps: Iterable[Step], loss: Loss) -> Slopes | None:
    """Slopes over `steps`; None when there is no step.

    Taken on a copy: the captured graph shares its parameters, and so their gradients and what is
    trainable, with the user's model.
    Raises `InputError` when the loss has no gradient.
    """
    copy = captured.copy()
    named = dict(copy.module.named_parameters(remove_duplicate=False))
    for parameter in named.values():
        parameter.requires_grad_(parameter.is_floating_point())
    sums, groups, count = _SlopeSums(), tuple(groups), 0
    for inputs, target in steps:
        objective = loss(copy.answer(*inputs), target)
        if not objective.requires_grad:
            raise InputError(
                "The criterion looks at gradients, and the loss of this model has none.",
                "Return scores instead of classes, or choose l1 or l2.",
            )
        objective.backward()  # type: ignore[no-untyped-call]
        sums.add(named, groups)
        copy.module.zero_grad(set_to_none=True)
        count += 1
    return sums.over(count) if count else None


def samples(batches: Iterable[Step]) -> Iterator[Step]:
    """Each sample of the batches as a batch of one, SAMPLES at most.

    Not by `torch.func.vmap`: a loss may look at its values, and not every operation has a batching rule.
    Tensors of a target have the batch first, as those of a task do.
    """
    seen = 0
    for inputs, target in batches:
        for row in range(len(inputs[0])):
            one = slice(row, row + 1)
            yield pytree.tree_map_only(torch.Tensor, itemgetter(one), (inputs, target))
            seen += 1
            if seen == SAMPLES:
                return


class _SlopeSums:
    """Sums over steps, by parameter and by group."""

    def __init__(self) -> None:
        self._mean: Tensors = {}
        self._square: Tensors = {}
        self._change: dict[str, NDArray[np.float64]] = {}

    def add(self, parameters: Mapping[str, torch.nn.Parameter], groups: Iterable[Group]) -> None:
        products: Tensors = {}
        for name, parameter in parameters.items():
            if parameter.grad is None:
                continue
            gradient = parameter.grad.float()  # the square of a half may be zero
            if name not in self._mean:
                self._mean[name], self._square[name] = (torch.zeros_like(gradient) for _ in range(2))
            self._mean[name] += gradient
            self._square[name].addcmul_(gradient, gradient)
            products[name] = gradient * parameter.detach()
        for group in groups:
            read = [axis for axis in group.axes if axis.role == "in" and axis.parameter in products]
            change = summed(group.units, read or group.axes, products.get)
            self._change[group.name] = self._change.get(group.name, 0.0) + change**2

    def over(self, steps: int) -> Slopes:
        return Slopes(
            {name: total / steps for name, total in self._mean.items()},
            {name: total / steps for name, total in self._square.items()},
            {name: total / steps for name, total in self._change.items()},
        )

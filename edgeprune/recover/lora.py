"""Low-rank updates (LoRA, Hu et al. 2021): train two thin factors of each layer instead of its weight.

    W' = W + LORA_ALPHA / RANK * B A,   W [out, in * kernel],   A [rank, in * kernel],   B [out, rank]

Gradients and optimiser state exist for A and B alone, which is what saves memory. All else is frozen, but
BatchNorm follows the statistics of the batches as in any training. The update is merged into W afterwards,
so the graph that ships is the one that was cut.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn
from torch.nn.utils import parametrize

from edgeprune.errors import InputError
from edgeprune.graph.capture import Captured
from edgeprune.graph.fx import attribute, op_name

# LLM-Pruner's, which recovers pruned networks with them (Ma et al. 2023; the defaults of post_training.py).
RANK = 8
LORA_ALPHA = 16

_ADAPTABLE = frozenset(
    {
        *("aten.linear", "aten.addmm", "aten.matmul", "aten.mm"),  # a product with a parameter is linear too
        *(f"aten.conv{space}d" for space in (1, 2, 3)),
        *(f"aten.conv_transpose{space}d" for space in (1, 2, 3)),
    }
)


def adaptable(captured: Captured) -> tuple[tuple[str, ...], ...]:
    """Weights of linear and convolution layers, each by all its names (tied weights have several).

    Raises `InputError` when there are none.
    """
    module = captured.module
    names: dict[int, list[str]] = {}
    for name, parameter in module.named_parameters(remove_duplicate=False):
        names.setdefault(id(parameter), []).append(name)
    read = {
        id(attribute(module, str(source.target)))
        for node in module.graph.nodes
        if node.op == "call_function" and op_name(node) in _ADAPTABLE
        for source in node.all_input_nodes
        if source.op == "get_attr"
    }
    found = tuple(
        tuple(aliases)
        for key, aliases in names.items()
        if key in read and _rank(attribute(module, aliases[0])) > 0
    )
    if not found:
        raise InputError(
            "The model has no linear or convolution layer that low-rank updates could train.",
            "Recover with distill or finetune.",
        )
    return found


@contextmanager
def low_rank(captured: Captured) -> Iterator[list[nn.Parameter]]:
    """Context in which the model computes with low-rank updates, and only their factors are trained.

    On leaving, the updates are merged into the weights. The graph must not be recompiled inside: a
    parametrised weight changes its owner's class, and the owner may be the `GraphModule` itself.
    """
    module = captured.module
    updates = {names: _Update(attribute(module, names[0])) for names in adaptable(captured)}
    trainable = [parameter for parameter in module.parameters() if parameter.requires_grad]
    module.requires_grad_(False)
    for names, update in updates.items():
        for name in names:
            parametrize.register_parametrization(*_place(module, name), update)
    try:
        yield [factor for update in updates.values() for factor in update.parameters()]
    finally:
        for names, update in updates.items():
            _merge(module, names, update)
        for parameter in trainable:
            parameter.requires_grad_(True)


class _Update(nn.Module):
    """Low-rank update of one weight: B starts at zero, so training starts from the weight as it is."""

    def __init__(self, weight: torch.Tensor) -> None:
        super().__init__()
        rows, columns = _matrix(weight)
        rank = _rank(weight)
        self.a = nn.Parameter(weight.new_empty(rank, columns))
        self.b = nn.Parameter(weight.new_zeros(rows, rank))
        nn.init.kaiming_uniform_(self.a, a=math.sqrt(5))  # as nn.Linear initialises its weight

    def forward(self, weight: torch.Tensor) -> torch.Tensor:
        return weight + (LORA_ALPHA / RANK * self.b @ self.a).reshape(weight.shape)


def _merge(module: nn.Module, names: tuple[str, ...], update: _Update) -> None:
    """Take the update off all names of a weight, then add it once: names of one tensor stay tied."""
    for name in names:
        parametrize.remove_parametrizations(*_place(module, name), leave_parametrized=False)
    weight = attribute(module, names[0])
    with torch.no_grad():
        weight.copy_(update(weight))


def _place(module: nn.Module, name: str) -> tuple[nn.Module, str]:
    """The submodule that owns a parameter, and the parameter's name in it."""
    owner, _, leaf = name.rpartition(".")
    return module.get_submodule(owner), leaf


def _matrix(weight: torch.Tensor) -> tuple[int, int]:
    return weight.shape[0], math.prod(weight.shape[1:])


def _rank(weight: torch.Tensor) -> int:
    """Rank of an update: RANK, or less where the factors would outgrow the weight; 0 leaves it frozen."""
    rows, columns = _matrix(weight)
    return min(RANK, rows * columns // (rows + columns))

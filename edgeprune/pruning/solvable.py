"""Linear layers and convolutions of a graph, and the inputs that their weights multiply."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch.fx import Node

from edgeprune.graph.capture import Captured
from edgeprune.graph.fx import argument, attribute, op_name, tensor_uses

MAX_FEATURES = 8192  # a Gram matrix of 8192 x 8192 doubles is 512 MiB
LINEAR = "aten.linear"
_OPERATIONS = (LINEAR, "aten.conv2d", "aten.conv1d")


@dataclass(frozen=True)
class Layer:
    """A linear layer or convolution: its node, and the names of its weight and its bias.

    groups: of a convolution; 1 for a linear layer.
    """

    node: Node
    weight: str
    bias: str | None
    groups: int


def layers_of(captured: Captured) -> Mapping[str, Layer]:
    """Layers whose weights can be set, by their nodes' names, in the order of the graph.

    None whose weight or bias is computed, tied or used twice, or that reads more than MAX_FEATURES inputs.
    """
    module = captured.module
    uses = tensor_uses(module)
    found: dict[str, Layer] = {}
    for node in module.graph.nodes:
        if node.op != "call_function" or op_name(node) not in _OPERATIONS:
            continue
        tensors = [node.args[1], argument(node, 2, "bias")]
        parts = [tensor for tensor in tensors if tensor is not None]
        if any(p.op != "get_attr" or uses[id(attribute(module, str(p.target)))] > 1 for p in parts):
            continue
        weight, *bias = (str(part.target) for part in parts)
        if attribute(module, weight)[0].numel() > MAX_FEATURES:
            continue
        groups = 1 if op_name(node) == LINEAR else int(argument(node, 6, "groups", 1))
        found[node.name] = Layer(node, weight, bias[0] if bias else None, groups)
    return found


def windows(node: Node, x: torch.Tensor, kernel: Sequence[int]) -> torch.Tensor:
    """Patches of a convolution's input as a view, [B, I, *positions, *kernel]."""
    space = len(kernel)
    stride = _each(argument(node, 3, "stride", 1), space)
    dilation = _each(argument(node, 5, "dilation", 1), space)
    x = F.pad(x, _margins(argument(node, 4, "padding", 0), kernel, dilation))
    for dim, (size, step, reach) in enumerate(zip(kernel, stride, dilation, strict=True), start=2):
        x = x.unfold(dim, reach * (size - 1) + 1, step)
    inside: tuple[Any, ...] = tuple(slice(None, None, reach) for reach in dilation)
    return x[(..., *inside)]


def _margins(padding: Any, kernel: Sequence[int], dilation: Sequence[int]) -> list[int]:
    """Padding as `F.pad` takes it: (before, after) of each dimension, the last one first."""
    if padding == "valid":
        return [0, 0] * len(kernel)
    if padding == "same":  # an odd position goes after
        totals = [reach * (size - 1) for size, reach in zip(kernel, dilation, strict=True)]
        return [side for total in reversed(totals) for side in (total // 2, total - total // 2)]
    return [side for side in reversed(_each(padding, len(kernel))) for _ in range(2)]


def _each(value: Any, space: int) -> list[int]:
    """Argument of a convolution as one number per dimension."""
    values = list(value) if isinstance(value, list | tuple) else [int(value)]
    return values * space if len(values) == 1 else values

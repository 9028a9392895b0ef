"""Readers of `torch.fx` nodes: arguments, operation names, parameters, sizes."""

from __future__ import annotations

from typing import Any

import torch
from torch.fx import Node

from edgeprune.graph.blocks import BATCH


def argument(node: Node, position: int, name: str, default: Any = None) -> Any:
    """An argument of a node, wherever the call put it."""
    return node.args[position] if position < len(node.args) else node.kwargs.get(name, default)


def aten(names: str) -> list[str]:
    return [f"aten.{name}" for name in names.split()]


def module_name(parameter: str) -> str:
    """The module that a weight belongs to, a parametrised one (weight_norm) too."""
    return parameter.partition(".parametrizations.")[0].removesuffix(".weight")


def concrete(size: Any) -> int:
    """A size as an integer; the symbolic batch is BATCH."""
    if isinstance(size, int):
        return size
    expression = size.node.expr
    return int(expression.subs(dict.fromkeys(expression.free_symbols, BATCH)))


def attribute(module: torch.nn.Module, name: str) -> Any:
    value: Any = module
    for part in name.split("."):
        value = getattr(value, part)
    return value


def op_name(node: Node) -> str:
    """`aten.conv2d` for every overload; `getitem` for tuple access."""
    target = node.target
    if isinstance(target, torch._ops.OpOverload):
        return str(target.overloadpacket)
    return getattr(target, "__name__", str(target))

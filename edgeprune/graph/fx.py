"""Helpers to read `torch.fx` nodes: arguments, operation names, tensors, sizes."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from torch.fx import Graph, GraphModule, Node

from edgeprune.graph.blocks import SYMBOLIC_BATCH

_LENGTH = "edgeprune_length"  # attribute of an export's environment: (its symbol, number in its place)
_LINE = re.compile(r'File "([^"]+)", line (\d+), in .*\n\s*(.*)')  # of a stack trace


def argument(node: Node, position: int, name: str, default: Any = None) -> Any:
    """Argument of a node, given by position or by name; left out, the operation's own default."""
    if position < len(node.args):
        return node.args[position]
    if name in node.kwargs:
        return node.kwargs[name]
    if isinstance(node.target, torch._ops.OpOverload):
        for declared in node.target._schema.arguments:
            if declared.name == name:
                return declared.default_value if declared.has_default_value() else default
    return default


def set_argument(node: Node, position: int, name: str, value: object) -> None:
    """Give a node another argument, at its position where it has one there, else by its name."""
    if position < len(node.args):
        node.update_arg(position, value)  # type: ignore[arg-type]
    else:
        node.update_kwarg(name, value)  # type: ignore[arg-type]


def arguments(node: Node) -> dict[str, Any]:
    """Arguments of a node by the names of its operation's schema, those left out at their defaults."""
    declared = node.target._schema.arguments  # type: ignore[union-attr]
    return {each.name: argument(node, place, each.name) for place, each in enumerate(declared)}


def aten(names: str) -> list[str]:
    """Operation names as `op_name` gives them, of a list separated by spaces."""
    return [f"aten.{name}" for name in names.split()]


def module_name(parameter: str) -> str:
    """Name of the module that a weight belongs to, a parametrised module (weight_norm) too."""
    return parameter.partition(".parametrizations.")[0].removesuffix(".weight")


def concrete(size: Any, length: int | None = None) -> int:
    """Size as an integer; the symbolic batch becomes SYMBOLIC_BATCH.

    length: in place of a symbolic one; None is the number that stands for it in analyses.
    """
    if isinstance(size, int):
        return size
    symbol, number = length_symbol(size)
    return _evaluated(size.node.expr, symbol, number if length is None else length)


def length_symbol(size: Any) -> tuple[Any, int]:
    """Symbol of the length in the environment of a symbolic size, and the number that stands for it.

    (None, 0) where lengths do not vary.
    """
    found: tuple[Any, int] = getattr(size.node.shape_env, _LENGTH, (None, 0))
    return found


def mark_length(size: Any, number: int) -> None:
    """Note that a symbolic size is the length, for all sizes of its environment."""
    setattr(size.node.shape_env, _LENGTH, (size.node.expr, number))


def varies_with_length(size: Any) -> bool:
    """Whether a size is not the same at all lengths."""
    return not isinstance(size, int) and length_symbol(size)[0] in size.node.expr.free_symbols


@lru_cache(maxsize=4096)  # the same few expressions, over and over
def _evaluated(expression: Any, symbol: Any, length: int) -> int:
    numbers = dict.fromkeys(expression.free_symbols, SYMBOLIC_BATCH)
    if symbol in numbers:
        numbers[symbol] = length
    return int(expression.subs(numbers))


def attribute(module: torch.nn.Module, name: str) -> Any:
    """Attribute of a module by its qualified name, such as "layer1.0.weight"."""
    value: Any = module
    for part in name.split("."):
        value = getattr(value, part)
    return value


def owner_of(module: torch.nn.Module, name: str) -> tuple[torch.nn.Module, str]:
    """Submodule that a tensor of qualified name `name` is stored in, and the tensor's name there."""
    path, _, leaf = name.rpartition(".")
    return attribute(module, path) if path else module, leaf


def op_name(node: Node) -> str:
    """Name of a node's operation: `aten.conv2d` for every overload, `getitem` for tuple access."""
    target = node.target
    if isinstance(target, torch._ops.OpOverload):
        return str(target.overloadpacket)
    return getattr(target, "__name__", str(target))


def written_at(node: Node) -> str:
    """` (FILE, line N: CODE)` of the deepest line outside torch that made the node, else nothing."""
    torch_files = str(Path(torch.__file__).parent)
    lines = _LINE.findall(node.meta.get("stack_trace") or "")
    own = [found for found in lines if not found[0].startswith(torch_files)]
    return " ({}, line {}: {})".format(*own[-1]) if own else ""


def is_pointwise(node: Node) -> bool:
    """Whether PyTorch says of an operation that it works position by position, and draws no numbers."""
    tags = getattr(node.target, "tags", ())
    return torch.Tag.pointwise in tags and torch.Tag.nondeterministic_seeded not in tags


def shape_of(module: torch.nn.Module, value: Node, part: int | None = None) -> tuple[int, ...]:
    """Concrete shape of a node's tensor, or of one of several; () for a value that is no tensor."""
    if value.op == "get_attr":
        return tuple(attribute(module, str(value.target)).shape)
    meta = value.meta.get("val")
    if part is not None and meta is not None:
        meta = meta[part]
    return tuple(concrete(size) for size in meta.shape) if isinstance(meta, torch.Tensor) else ()


def constant_nodes(graph: Graph) -> frozenset[Node]:
    """Nodes whose tensor is stored, or computed from stored tensors alone: no input is behind them."""
    found: set[Node] = set()
    for node in graph.nodes:
        if node.op == "get_attr" or (
            node.op == "call_function" and node.all_input_nodes and found.issuperset(node.all_input_nodes)
        ):
            found.add(node)
    return frozenset(found)


def tensor_readers(module: GraphModule) -> Mapping[int, frozenset[str]]:
    """Names of the `get_attr` nodes that read a stored tensor, by the tensor's `id`.

    A tied parameter has several names, and several nodes.
    """
    found: dict[int, set[str]] = {}
    for node in module.graph.nodes:
        if node.op == "get_attr":
            found.setdefault(id(attribute(module, str(node.target))), set()).add(node.name)
    return {tensor: frozenset(names) for tensor, names in found.items()}


def tensor_uses(module: GraphModule) -> Mapping[int, int]:
    """Number of times that operations read a stored tensor, by the tensor's `id`."""
    return Counter(
        id(attribute(module, str(node.target)))
        for node in module.graph.nodes
        if node.op == "get_attr"
        for _ in node.users
    )

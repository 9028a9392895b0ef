"""Device of an exported graph, which holds it as arguments of its operations too.

An operation that makes a tensor or moves one (`arange`, `zeros`, `to`) was exported with the device that the
model lay on: weights that are moved without it meet tensors that stayed behind.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch.fx import GraphModule, Node

from edgeprune.graph.fx import argument, set_argument

CPU = torch.device("cpu")


def device_of(module: torch.nn.Module) -> torch.device:
    """Device of a module: of its first parameter or buffer, else of the first operation that names one."""
    for tensor in (*module.parameters(), *module.buffers()):
        return tensor.device
    named = (argument(*place) for place in _places(module))
    return next((device for device in named if device is not None), CPU)


def put_operations(module: torch.nn.Module, device: torch.device) -> None:
    """Let all operations of the graphs in a module make their tensors on `device`."""
    changed = set()
    for node, position, name in _places(module):
        if argument(node, position, name) != device:
            set_argument(node, position, name, device)
            changed.add(node.graph)
    for graph in _graphs(module):
        if graph.graph in changed:
            graph.recompile()


def _places(module: torch.nn.Module) -> Iterator[tuple[Node, int, str]]:
    """Operations with an argument that says where their tensor lies: position and name of the argument.

    An operation that takes a tensor and is told nothing gives one of the same device.
    """
    for graph in _graphs(module):
        for node in graph.graph.nodes:
            schema = getattr(node.target, "_schema", None)
            if node.op != "call_function" or schema is None:
                continue
            follows = any("Tensor" in str(each.type) for each in schema.arguments)
            for position, each in enumerate(schema.arguments):
                if "Device" in str(each.type) and not (
                    follows and argument(node, position, each.name) is None
                ):
                    yield node, position, each.name


def _graphs(module: torch.nn.Module) -> list[GraphModule]:
    return [each for each in module.modules() if isinstance(each, GraphModule)]

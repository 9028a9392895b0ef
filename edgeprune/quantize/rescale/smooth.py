"""SmoothQuant (Xiao et al. 2023): moves outliers of a norm's output into the weights of the next layers.

    s_j = max|X_j|^a / max|W_j|^(1 - a),   norm's scale and shift / s,   columns of W * s

X_j is channel j of the norm's output on calibration data, W_j is column j of all layers that read this
output. The model computes the same; a few channels a hundred times larger than the others no longer cost all
channels their resolution. A norm (LayerNorm, or the product with a weight that ends an RMSNorm) is smoothed
where linear layers alone read its output.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch.fx import Interpreter, Node

from edgeprune.graph.capture import Captured
from edgeprune.graph.fx import argument, attribute, op_name, shape_of, tensor_uses

MIGRATION_STRENGTH = 0.5  # `a` above; the paper's, for all but the most extreme models
_LEAST_MAGNITUDE = 1e-5


@dataclass(frozen=True)
class Norm:
    """A norm that can be smoothed.

    affine: names of the norm's scale and shift; readers: names of the weights that multiply its output.
    """

    node: str
    affine: tuple[str, ...]
    readers: tuple[str, ...]


def smooth(captured: Captured, batches: Iterable[tuple[torch.Tensor, ...]]) -> Captured:
    """Copy of the model that computes the same, with norms scaled down in channels with outliers.

    batches: calibration inputs in placeholder order.
    """
    result = captured.copy()
    found = norms(result)
    if not found:
        return result
    watcher = _Largest(result, {norm.node for norm in found})
    with torch.no_grad():
        for inputs in (query for batch in batches for query in captured.queries(batch)):
            watcher.run(*inputs)
        for norm in found:
            _scale(result, norm, watcher.found[norm.node])
    return result


def norms(captured: Captured) -> list[Norm]:
    """Norms of a graph that can be smoothed, in execution order."""
    module = captured.module
    uses = tensor_uses(module)

    def own(node: Any) -> bool:
        return (
            isinstance(node, Node)
            and node.op == "get_attr"
            and uses[id(attribute(module, str(node.target)))] == 1
        )

    found = []
    for node in module.graph.nodes:
        affine = [value for value in _affine(captured, node) if value is not None]
        readers = [_reader(user, node) for user in node.users]
        if affine and readers and all(own(value) for value in affine) and all(own(each) for each in readers):
            names = [tuple(str(value.target) for value in group if value) for group in (affine, readers)]
            found.append(Norm(node.name, names[0], names[1]))
    return found


def _affine(captured: Captured, node: Node) -> tuple[Node | None, ...]:
    """Nodes of the scale and shift that a norm applies to its last dimension; () for any other node."""
    if node.op != "call_function":
        return ()
    if op_name(node) == "aten.layer_norm" and argument(node, 2, "weight") is not None:
        shape: Any = node.args[1]
        return (argument(node, 2, "weight"), argument(node, 3, "bias")) if len(shape) == 1 else ()
    if op_name(node) == "aten.rms_norm" and argument(node, 2, "weight") is not None:
        return (argument(node, 2, "weight"),)
    if op_name(node) == "aten.mul":
        for value in node.args:
            if isinstance(value, Node) and value.op == "get_attr":
                stored = shape_of(captured.module, value)
                return (value,) if stored == shape_of(captured.module, node)[-1:] else ()
    return ()


def _reader(user: Node, norm: Node) -> Node | None:
    """Weight of a linear layer that reads the norm; None for any other reader."""
    if op_name(user) != "aten.linear" or user.args[0] is not norm:
        return None
    weight = user.args[1]
    return weight if isinstance(weight, Node) else None


def _scale(captured: Captured, norm: Norm, activations: torch.Tensor) -> None:
    weights = [attribute(captured.module, name) for name in norm.readers]
    columns = torch.stack([weight.abs().amax(0).double() for weight in weights]).amax(0)
    activations, columns = activations.clamp(min=_LEAST_MAGNITUDE), columns.clamp(min=_LEAST_MAGNITUDE)
    factor = activations**MIGRATION_STRENGTH / columns ** (1 - MIGRATION_STRENGTH)
    factor = factor.clamp(min=_LEAST_MAGNITUDE).to(weights[0].dtype)
    for name in norm.affine:
        attribute(captured.module, name).div_(factor)
    for weight in weights:
        weight.mul_(factor)


class _Largest(Interpreter):
    """Interpreter that keeps the largest absolute value of every channel of some nodes."""

    def __init__(self, captured: Captured, nodes: set[str]) -> None:
        super().__init__(captured.module)
        self._nodes = nodes
        self.found: dict[str, torch.Tensor] = {}

    def run_node(self, n: Node) -> Any:
        value = super().run_node(n)
        if n.name in self._nodes:
            largest = value.abs().flatten(0, -2).amax(0).double()
            self.found[n.name] = torch.maximum(self.found.get(n.name, largest), largest)
        return value

"""Bias correction: the mean of every output channel is what it is in float.

Rounding errors do not cancel behind a ReLU: weights see inputs of positive mean, and noise moves the mean of
what the ReLU lets through. So each layer's bias gives back what INT8 adds on average (Nagel et al. 2019,
"Data-Free Quantization through Weight Equalization and Bias Correction", section 4.2, measured instead of
derived). Layers are corrected in the graph's order, each behind those before it, in one pass.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch.fx import Interpreter, Node

from edgeprune.graph.capture import Captured
from edgeprune.graph.fx import op_name
from edgeprune.quantize.dialects import Dialect
from edgeprune.quantize.ranges import Ranges
from edgeprune.quantize.simulate.planned import Simulation, layer_nodes

ROWS = 64  # of calibration data: means of channels need no more


def correct_means(
    captured: Captured,
    ranges: Ranges,
    dialect: Dialect,
    batches: Sequence[tuple[torch.Tensor, ...]],
    *,
    reduce_range: bool = False,
    float_layers: Sequence[str] = (),
) -> Ranges:
    """The same ranges, with the shift that each layer's bias has to take back.

    batches: calibration inputs; the first ROWS rows are used. A layer that is called twice has one bias
    and two means, and stays as it is.
    """
    inputs = _first_rows(batches)
    layers = {
        nodes[0]: _end(nodes[0])
        for layer, nodes in layer_nodes(captured).items()
        if len(nodes) == 1 and layer not in float_layers
    }
    with torch.no_grad():
        exact = _Means(captured, layers.values())
        exact.run(*inputs, enable_io_processing=False)
        corrected = _Corrected(captured, ranges, dialect, reduce_range, layers, exact.found)
        corrected.outputs(inputs, tuple(layers))
    shifts = {
        name: shift.double().numpy() for name, shift in corrected.shifts.items() if shift.isfinite().all()
    }
    return replace(ranges, shifts=shifts)


def _first_rows(batches: Sequence[tuple[torch.Tensor, ...]]) -> tuple[torch.Tensor, ...]:
    taken: list[tuple[torch.Tensor, ...]] = []
    for batch in batches:
        if sum(len(inputs[0]) for inputs in taken) >= ROWS:
            break
        taken.append(batch)
    return tuple(torch.cat(parts)[:ROWS] for parts in zip(*taken, strict=True))


def _end(node: Node) -> Node:
    """The BatchNorm behind a convolution, which the exporter folds into it; else the node itself."""
    users = list(node.users)
    return users[0] if len(users) == 1 and op_name(users[0]) == "aten.batch_norm" else node


def _channel_means(value: torch.Tensor, image: bool) -> torch.Tensor:
    return value.movedim(1 if image else -1, 0).flatten(1).mean(1)


def _image(node: Node) -> bool:
    return "conv" in op_name(node) or op_name(node) == "aten.batch_norm"


class _Means(Interpreter):
    """Runs the float graph and keeps the channel means of some nodes."""

    def __init__(self, captured: Captured, nodes: Any) -> None:
        super().__init__(captured.module)
        self._nodes = set(nodes)
        self.found: dict[Node, torch.Tensor] = {}

    def run_node(self, n: Node) -> Any:
        value = super().run_node(n)
        if n in self._nodes:
            self.found[n] = _channel_means(value, _image(n))
        return value


class _Corrected(Simulation):
    """Runs the graph in INT8; every layer's mean is put right before the next layer sees it."""

    def __init__(
        self,
        captured: Captured,
        ranges: Ranges,
        dialect: Dialect,
        reduce_range: bool,
        layers: Mapping[Node, Node],
        exact: Mapping[Node, torch.Tensor],
    ) -> None:
        super().__init__(captured, ranges, dialect, reduce_range)
        self._ends = set(layers.values())
        self._exact = exact
        self.shifts: dict[str, torch.Tensor] = {}

    def written(self, node: Node, result: Any) -> Any:
        """As computed: a kernel that swallows its ReLU writes no negative values, which are in the mean."""
        return result

    def run_node(self, n: Node) -> Any:
        value = super().run_node(n)
        if n not in self._ends:
            return value
        image = _image(n)
        shift = _channel_means(value, image) - self._exact[n]
        self.shifts[n.name] = shift
        shape = [1] * value.dim()
        shape[1 if image else -1] = -1
        return value - shift.reshape(shape)

"""Bias correction: gives every output channel of an INT8 layer the mean that it has in float.

Rounding errors do not cancel behind a ReLU: inputs of a positive mean turn errors of weights into a shift of
the output's mean, and noise shifts the mean of the ReLU's output. So the mean error of INT8 is subtracted
from each layer's bias (Nagel et al. 2019, "Data-Free Quantization through Weight Equalization and Bias
Correction", section 4.2; the mean is measured here, and derived there). Layers are corrected in execution
order in one pass, each with all layers in front of it corrected.
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

CORRECTION_ROWS = 64  # of calibration data; means of channels need no more


def correct_means(
    captured: Captured,
    ranges: Ranges,
    dialect: Dialect,
    batches: Sequence[tuple[torch.Tensor, ...]],
    *,
    reduce_range: bool = False,
    float_layers: Sequence[str] = (),
) -> Ranges:
    """Ranges with the mean error of each layer as `shifts`, to be subtracted from the layer's bias.

    batches: calibration inputs; the first CORRECTION_ROWS rows are used. A layer that is called twice has one
    bias and two means, and is not corrected.
    """
    inputs = _first_rows(batches)
    layers = {
        nodes[0]: _with_norm(nodes[0])
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
        if sum(len(inputs[0]) for inputs in taken) >= CORRECTION_ROWS:
            break
        taken.append(batch)
    return tuple(torch.cat(parts)[:CORRECTION_ROWS] for parts in zip(*taken, strict=True))


def _with_norm(node: Node) -> Node:
    """BatchNorm behind a convolution, which the exporter folds into the convolution; else the node itself."""
    users = list(node.users)
    return users[0] if len(users) == 1 and op_name(users[0]) == "aten.batch_norm" else node


def _channel_means(value: torch.Tensor, image: bool) -> torch.Tensor:
    return value.movedim(1 if image else -1, 0).flatten(1).mean(1)


def _image(node: Node) -> bool:
    return "conv" in op_name(node) or op_name(node) == "aten.batch_norm"


class _Means(Interpreter):
    """Interpreter of the float graph that keeps the channel means of some nodes."""

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
    """Interpreter of the graph in INT8 that corrects every layer's mean before the next layer runs."""

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
        """Output of a layer without rounding, which would clip negative values at a fused ReLU."""
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

"""Damage of quantisation per layer: the error of the model's outputs when one layer alone is quantised.

The damage is simulated, so that no artefact has to be built for each layer. It ranks layers only: the metric
with some layers given back to float is measured in the runtime.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch

from edgeprune.graph.capture import Captured
from edgeprune.graph.fx import op_name
from edgeprune.meaning.yardstick import Yardstick
from edgeprune.quantize.dialects import Dialect
from edgeprune.quantize.ranges import Ranges
from edgeprune.quantize.simulate.planned import Simulation, layer_nodes
from edgeprune.quantize.weight_only import WeightFormat


def damage(
    captured: Captured,
    ranges: Ranges,
    dialect: Dialect,
    layers: Sequence[str],
    inputs: tuple[torch.Tensor, ...],
    yardstick: Yardstick,
    *,
    reduce_range: bool = False,
) -> Mapping[str, float]:
    """Distance of the outputs from the original's with one of `layers` in INT8, by layer.

    layers: names as in `Quantised.layers_int8`; a layer that is not in the graph gets 0.
    inputs: one batch, in placeholder order.
    """
    nodes = layer_nodes(captured)
    simulation = Simulation(captured, ranges, dialect, reduce_range)
    with torch.no_grad():
        exact = simulation.outputs(inputs, ())
        return {
            layer: float(yardstick.distance(simulation.outputs(inputs, nodes[layer]), exact))
            if layer in nodes
            else 0.0
            for layer in layers
        }


def weight_damage(
    captured: Captured,
    stored_as: WeightFormat,
    layers: Sequence[str],
    inputs: tuple[torch.Tensor, ...],
    yardstick: Yardstick,
) -> Mapping[str, float]:
    """Distance of the outputs from the original's with the weights of one of `layers` in blocks, by layer.

    As for `damage`, a layer that is not in the graph gets 0.
    """
    copied = captured.copy()
    weights = dict(copied.module.named_parameters(remove_duplicate=False))
    nodes = layer_nodes(copied)
    found = dict.fromkeys(layers, 0.0)
    with torch.no_grad():
        exact = copied.run(*inputs)
        for layer in (name for name in layers if name in nodes and f"{name}.weight" in weights):
            weight = weights[f"{layer}.weight"]
            kept = weight.detach().clone()
            # The weight of a linear layer is [outputs, inputs], that of a matrix product [inputs, outputs].
            transposed = op_name(nodes[layer][0]) == "aten.linear"
            matrix = (kept.T if transposed else kept).numpy(force=True)
            rounded = torch.from_numpy(stored_as.rounded(matrix).restored())
            weight.copy_(rounded.T if transposed else rounded)
            found[layer] = float(yardstick.distance(copied.run(*inputs), exact))
            weight.copy_(kept)
    return found

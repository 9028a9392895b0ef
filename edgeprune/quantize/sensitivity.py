"""Which layers INT8 hurts: the error of the output when a single layer is quantised.

Simulated, so that no artefact has to be built for each. It only ranks; whether giving a layer back is enough
is measured in the runtime.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch

from edgeprune.graph.capture import Captured
from edgeprune.quantize.dialects import Dialect
from edgeprune.quantize.ranges import Ranges
from edgeprune.quantize.simulate import Simulation, layer_nodes


def damage(
    captured: Captured,
    ranges: Ranges,
    dialect: Dialect,
    layers: Sequence[str],
    inputs: tuple[torch.Tensor, ...],
    *,
    reduce_range: bool = False,
) -> Mapping[str, float]:
    """Relative squared error of the outputs with one of `layers` in INT8, by layer.

    layers: as `Quantised.layers_int8` names them; those that the simulation does not know get 0.
    inputs: one batch, in placeholder order.
    """
    nodes = layer_nodes(captured)
    simulation = Simulation(captured, ranges, dialect, reduce_range)
    with torch.no_grad():
        exact = simulation.outputs(inputs, ())
        return {
            layer: _distance(simulation.outputs(inputs, nodes[layer]), exact) if layer in nodes else 0.0
            for layer in layers
        }


def _distance(found: Sequence[torch.Tensor], exact: Sequence[torch.Tensor]) -> float:
    pairs = [(one.double(), other.double()) for one, other in zip(found, exact, strict=True)]
    wrong = sum(float(((one - other) ** 2).sum()) for one, other in pairs)
    return wrong / max(sum(float((other**2).sum()) for _, other in pairs), 1e-30)

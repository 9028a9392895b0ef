"""Milliseconds of each layer, in the dense model and in the chosen candidate, as a page draws them."""

from __future__ import annotations

from dataclasses import dataclass

from edgeprune.records.trial import FitResult
from edgeprune.report.figures import layer_name


@dataclass(frozen=True)
class LayerTime:
    """Milliseconds of one layer, with what runs behind it; None where a model has it not."""

    name: str
    dense_ms: float | None
    chosen_ms: float | None


def layer_times(result: FitResult) -> tuple[LayerTime, ...]:
    """Layers from input to output; none where the dense model or the chosen candidate was not timed."""
    timed = {each.name: dict(each.layers) for each in result.layers}
    dense, chosen = timed.get(result.baseline.name, {}), timed.get(result.chosen.name, {})
    if not dense or not chosen:
        return ()
    return tuple(
        LayerTime(layer_name(name), dense.get(name), chosen.get(name))
        for name in dict.fromkeys((*dense, *chosen))
    )

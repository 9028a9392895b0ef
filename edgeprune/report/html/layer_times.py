"""Milliseconds of each layer, as a page draws them."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class LayerTime:
    """Milliseconds of one layer, with what a runtime fuses into it; None where a model has it not."""

    name: str
    dense_ms: float | None
    chosen_ms: float | None

"""Figures as reports write them."""

from __future__ import annotations

from edgeprune.records.trial import FitResult

SMALL_SCORE = 0.01
_START = "start"  # layer's name of what a runtime runs in front of the first one


def score(value: float, result: FitResult, sign: str = "") -> str:
    """A metric or a change of it: four digits behind the point, or four that count where it is small."""
    return format(value, sign + (".4f" if abs(result.baseline.metric) >= SMALL_SCORE else ".4g"))


def milliseconds(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


def counted(value: int) -> str:
    for scale, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if value >= scale:
            return f"{value / scale:.3g} {letter}"
    return str(value)


def layer_name(name: str) -> str:
    """Name of a layer for people."""
    return "before the first" if name == _START else name

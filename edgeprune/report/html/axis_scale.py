"""Scale and ticks of a picture's horizontal axis."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from edgeprune.report.html.canvas import DrawingSize

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def scale_axis(axes: Axes, size: DrawingSize, values: Sequence[float]) -> None:
    """Scale of a horizontal axis for positive numbers: logarithmic where they differ much."""
    low, high = min(values), max(values)
    if low > 0 and high > 4 * low:
        axes.set_xscale("log")
        axes.set_xlim(low / 1.3, high * 1.3)
        ticks = log_ticks(low / 1.3, high * 1.3, 4 if size.narrow else 9)
        axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
        axes.set_xticks([], minor=True)
    else:
        around = 0.08 * (high - low) or 0.05 * abs(high) or 1.0
        axes.set_xlim(low - around, high + around)
        few_ticks(axes, size)


def log_ticks(low: float, high: float, most: int) -> list[float]:
    """At most `most` round numbers between the ends of a logarithmic axis: 1, 2, 5, 10, ..."""
    exponents = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    for steps in ((1, 2, 5), (1, 3), (1,)):
        found = [step * 10.0**power for power in exponents for step in steps]
        ticks = [tick for tick in found if low <= tick <= high]
        if len(ticks) <= most:
            return ticks
    return ticks[:: -(-len(ticks) // most)]


def few_ticks(axes: Axes, size: DrawingSize) -> None:
    """Ticks of a horizontal axis that leave room for their numbers, with a grid."""
    axes.locator_params(axis="x", nbins=4 if size.narrow else 8)
    axes.grid(axis="x")

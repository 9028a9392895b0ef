"""Ranges from the histogram of an activation, for calibrators that neural-compressor does not have.

The functions take bin counts and the two ends of the histogram and return (low, high), with zero inside.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

PERCENTILE = 99.99  # of the values stay inside (Wu et al. 2020, "Integer Quantization", table 5)
CLIP_THRESHOLDS = 64  # number of thresholds that are tried on each side
LEVELS = 255

Counts = NDArray[np.float64]


def percentile(counts: Counts, low: float, high: float) -> tuple[float, float]:
    """Range of the middle 99.99 % of the values; half of the others lie beyond each end."""
    share = np.cumsum(counts) / counts.sum()
    rest = (100 - PERCENTILE) / 200
    edges = np.linspace(low, high, len(counts) + 1)
    first = int(np.searchsorted(share, rest))
    last = int(np.searchsorted(share, 1 - rest))
    return _around_zero(edges[first], edges[min(last, len(counts) - 1) + 1])


def squared_error(counts: Counts, low: float, high: float) -> tuple[float, float]:
    """Range with the least squared error of 8-bit rounding, clipping included.

    One end is searched at a time, the outer end first, from the whole range inwards (Banner et al. 2019,
    "ACIQ", have the closed form for known distributions).
    """
    edges = np.linspace(low, high, len(counts) + 1)
    values = (edges[:-1] + edges[1:]) / 2
    ends = list(_around_zero(low, high))
    for end in sorted((0, 1), key=lambda end: -abs(ends[end])):
        shares = np.linspace(1, 1 / CLIP_THRESHOLDS, CLIP_THRESHOLDS) * ends[end]
        tried = [(share, ends[1]) if end == 0 else (ends[0], share) for share in shares.tolist()]
        ends = list(min(tried, key=lambda found: _error(counts, values, *found)))
    return ends[0], ends[1]


def _error(counts: Counts, values: NDArray[np.float64], low: float, high: float) -> float:
    """Sum of squared differences between values and quantised values."""
    step = (high - low) / LEVELS
    if step <= 0:
        return float((counts * values**2).sum())
    rounded = np.rint((np.clip(values, low, high) - low) / step) * step + low
    return float((counts * (values - rounded) ** 2).sum())


def _around_zero(low: float, high: float) -> tuple[float, float]:
    return min(float(low), 0.0), max(float(high), 0.0)

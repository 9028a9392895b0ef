"""Ranges out of a histogram of an activation, for calibrators that neural-compressor does not have.

Pure: bin counts and the two ends of the histogram in, (low, high) out. Zero is inside every range.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

PERCENTILE = 99.99  # of the values stay inside (Wu et al. 2020, "Integer Quantization", table 5)
STEPS = 64  # clipping thresholds that are tried on each side
LEVELS = 255

Counts = NDArray[np.float64]


def percentile(counts: Counts, low: float, high: float) -> tuple[float, float]:
    """The range that leaves out half of the rarest 0.01 % of the values at each end."""
    share = np.cumsum(counts) / counts.sum()
    rest = (100 - PERCENTILE) / 200
    edges = np.linspace(low, high, len(counts) + 1)
    first = int(np.searchsorted(share, rest))
    last = int(np.searchsorted(share, 1 - rest))
    return _around_zero(edges[first], edges[min(last, len(counts) - 1) + 1])


def squared_error(counts: Counts, low: float, high: float) -> tuple[float, float]:
    """The range whose 8-bit values differ least from the original ones, clipping included.

    One end at a time, outer first, from the whole range inwards (as in Banner et al. 2019, "ACIQ", which
    does it in closed form for known distributions).
    """
    edges = np.linspace(low, high, len(counts) + 1)
    values = (edges[:-1] + edges[1:]) / 2
    ends = list(_around_zero(low, high))
    for end in sorted((0, 1), key=lambda end: -abs(ends[end])):
        shares = np.linspace(1, 1 / STEPS, STEPS) * ends[end]
        tried = [(share, ends[1]) if end == 0 else (ends[0], share) for share in shares.tolist()]
        ends = list(min(tried, key=lambda found: _error(counts, values, *found)))
    return ends[0], ends[1]


def _error(counts: Counts, values: NDArray[np.float64], low: float, high: float) -> float:
    """Sum of squared differences between values and their quantised form."""
    step = (high - low) / LEVELS
    if step <= 0:
        return float((counts * values**2).sum())
    rounded = np.rint((np.clip(values, low, high) - low) / step) * step + low
    return float((counts * (values - rounded) ** 2).sum())


def _around_zero(low: float, high: float) -> tuple[float, float]:
    return min(float(low), 0.0), max(float(high), 0.0)

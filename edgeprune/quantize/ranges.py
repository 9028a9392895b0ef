"""Ranges of activations, which calibration finds and emission turns into scales."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Ranges:
    """Range of every activation that may be quantised; a tensor that is not in `bounds` stays float.

    shifts: [channels], the mean error of INT8 in a layer's outputs, by the captured node whose value the
        layer's kernel computes (the layer, or a BatchNorm that is folded into the layer). See
        `simulate.bias_correction`.
    """

    bounds: Mapping[str, tuple[float, float]]  # captured node -> (low, high), low <= 0 <= high
    calibrator: str
    samples: int  # rows of calibration data
    shifts: Mapping[str, NDArray[np.float64]] = field(default_factory=dict, compare=False)

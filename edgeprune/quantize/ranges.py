"""What calibration hands to emission."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Ranges:
    """The range of every activation that may be quantised; a tensor that is not in `bounds` stays float.

    shifts: [channels], what INT8 adds on average to a layer's outputs, by the captured node whose value
        the layer's kernel computes (a BatchNorm that is folded into it). See `correction`.
    """

    bounds: Mapping[str, tuple[float, float]]  # captured node -> (low, high), low <= 0 <= high
    calibrator: str
    samples: int  # rows of calibration data that were seen
    shifts: Mapping[str, NDArray[np.float64]] = field(default_factory=dict, compare=False)

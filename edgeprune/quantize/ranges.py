"""What calibration hands to emission."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Ranges:
    """The range of every activation that may be quantised; a tensor that is not in `bounds` stays float."""

    bounds: Mapping[str, tuple[float, float]]  # captured node -> (low, high), low <= 0 <= high
    calibrator: str
    samples: int  # rows of calibration data that were seen

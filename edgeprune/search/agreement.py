"""Agreement of a runtime's outputs with the arithmetic that an INT8 artefact describes."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
from numpy.typing import NDArray

LARGEST_ERROR = 0.02
# Near the border between two integers either one is right. Behind many layers such flips grow into another
# rounding of the same graph, and two independent roundings are sqrt(2) of either's error apart.
ROUNDINGS = 1.5
_LEAST_NORM = float(np.finfo(np.float32).tiny)


def relative_error(found: Iterable[NDArray[Any]], expected: Iterable[NDArray[Any]]) -> float:
    """Largest relative error of the outputs: |found - expected| / |expected|, both Frobenius norms.

    Infinite where shapes differ or `found` is not finite.
    """
    return max(_distance(one, other) for one, other in zip(found, expected, strict=True))


def agrees(error: float, rounding: float) -> bool:
    """Whether a runtime's outputs are those of the artefact's integers.

    error: relative, of the runtime to the fake-quantised graph. rounding: of that graph to the float one.
    """
    return error <= max(LARGEST_ERROR, ROUNDINGS * rounding)


def _distance(found: NDArray[Any], expected: NDArray[Any]) -> float:
    if found.shape != expected.shape:
        return float("inf")
    wanted = expected.astype(np.float64)
    gap, scale = float(np.linalg.norm(found.astype(np.float64) - wanted)), float(np.linalg.norm(wanted))
    return gap / max(scale, _LEAST_NORM) if np.isfinite(gap) else float("inf")

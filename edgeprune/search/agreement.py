"""Do two computations of one artefact agree? From arrays alone: no torch, no runtime."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
from numpy.typing import NDArray

LIMIT = 0.02
# Two values on either side of the edge between two integers are both right. Behind many layers such flips
# grow into another rounding of the same graph: two independent ones are sqrt(2) of either's error apart.
ROUNDINGS = 1.5
_SMALLEST = float(np.finfo(np.float32).tiny)


def relative_error(found: Iterable[NDArray[Any]], expected: Iterable[NDArray[Any]]) -> float:
    """The largest over the outputs of |found - expected| / |expected|, both Frobenius norms.

    Infinite where shapes differ or `found` is not finite.
    """
    return max(_distance(one, other) for one, other in zip(found, expected, strict=True))


def agrees(error: float, rounding: float) -> bool:
    """Whether an artefact computes what its integers say.

    error: relative, of the runtime to the fake-quantised graph. rounding: of that graph to the float one.
    """
    return error <= max(LIMIT, ROUNDINGS * rounding)


def _distance(found: NDArray[Any], expected: NDArray[Any]) -> float:
    if found.shape != expected.shape:
        return float("inf")
    wanted = expected.astype(np.float64)
    gap, scale = float(np.linalg.norm(found.astype(np.float64) - wanted)), float(np.linalg.norm(wanted))
    return gap / max(scale, _SMALLEST) if np.isfinite(gap) else float("inf")

"""Error of a model's outputs by the width of one group, interpolated between the widths that were measured.

An error of outputs (a divergence, a squared distance) is quadratic in how far the outputs moved, and small
movements by different groups add up like independent errors: in squares. So the errors of several groups are
added, and those between two widths are interpolated in their roots.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.interpolate import PchipInterpolator

Floats = NDArray[np.float64]


def width_errors(points: Sequence[tuple[int, float]], units: int, widths: Sequence[int]) -> Floats:
    """Error at each of `widths`: 0 for all `units`, never less for fewer.

    points: (width, error) as measured; noise by which a narrower group does better is evened out. Below the
    narrowest point the curve goes on with the slope between the last two.
    """
    known = {units: 0.0, **{width: max(0.0, error) for width, error in points if width < units}}
    wide_first = sorted(known, reverse=True)
    moved = np.maximum.accumulate(np.sqrt([known[width] for width in wide_first]))
    if len(wide_first) == 1:
        return np.zeros(len(widths))
    at, root = np.array(wide_first[::-1], np.float64), moved[::-1]
    wanted = np.asarray(widths, np.float64)
    found = PchipInterpolator(at, root)(np.maximum(wanted, at[0]))
    steep = (root[0] - root[1]) / (at[1] - at[0])
    found = found + steep * np.maximum(at[0] - wanted, 0)
    result: Floats = np.square(np.where(wanted < units, found, 0.0))  # interpolation rounds
    return result

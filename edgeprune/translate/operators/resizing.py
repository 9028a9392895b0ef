"""Operators that resize images."""

from __future__ import annotations

from typing import Any

import torch.nn.functional as F
from torch import Tensor

from edgeprune.translate.calls import Call, Untranslated, operator

_LINEAR = {1: "linear", 2: "bilinear", 3: "trilinear"}


@operator("Upsample", plain=(1,))
def upsample(call: Call, x: Tensor, scales: Any = None) -> Tensor:
    """Operator of opsets 7 to 9, which later ones write as Resize with floored positions."""
    factors = call.get("scales", scales)
    kind = call.get("mode", "nearest")
    return _resized(x, kind, _sizes(x, factors, None), "asymmetric", call)


@operator("Resize", plain=(1, 2, 3))
def resize(call: Call, x: Tensor, roi: Any = None, scales: Any = None, sizes: Any = None) -> Tensor:
    if call.opset < 11:
        return _resized(x, call.get("mode", "nearest"), _sizes(x, roi, None), "asymmetric", call)
    call.only(antialias=(0,), keep_aspect_ratio_policy=("stretch",), exclude_outside=(0,))
    axes = call.get("axes")
    wanted = _sizes(x, _everywhere(x, scales, axes, 1.0), _everywhere(x, sizes, axes, None))
    return _resized(
        x, call.get("mode", "nearest"), wanted, call.get("coordinate_transformation_mode", "half_pixel"), call
    )


def _everywhere(x: Tensor, given: Any, axes: Any, rest: Any) -> Any:
    """Factors or sizes of all dimensions, where only those of some axes are given."""
    if not given or axes is None:
        return given
    found = [x.shape[dim] if rest is None else rest for dim in range(x.dim())]
    for axis, value in zip(axes, given, strict=True):
        found[axis] = value
    return found


def _sizes(x: Tensor, scales: Any, sizes: Any) -> list[int]:
    """Sizes of the dimensions of space. Raises `Untranslated` where batch or channels change, too."""
    if sizes:
        kept = [int(size) for size in sizes[2:]]
        if int(sizes[1]) != x.shape[1]:
            raise Untranslated("it resizes channels")
        return kept
    if not scales or any(factor != 1.0 for factor in scales[:2]):
        raise Untranslated("it resizes the batch or channels")
    found = [size * factor for size, factor in zip(x.shape[2:], scales[2:], strict=True)]
    if any(size != int(size) for size in found):  # positions follow the factor, which sizes alone do not tell
        raise Untranslated("its factors give no whole sizes")
    return [int(size) for size in found]


def _resized(x: Tensor, mode: str, sizes: list[int], places: str, call: Call) -> Tensor:
    whole = all(size % old == 0 for size, old in zip(sizes, x.shape[2:], strict=True))
    if mode == "nearest":
        rounding = call.get("nearest_mode", "round_prefer_floor" if call.opset >= 11 else "floor")
        floored = places == "asymmetric" and rounding == "floor"
        # By whole factors every rounding of centres gives the same positions as floored ones.
        if floored or (whole and places == "half_pixel" and rounding != "ceil"):
            return F.interpolate(x, size=sizes, mode="nearest")
        raise Untranslated(f"its positions are {places} and rounded by {rounding}")
    cornered = places == "align_corners"
    if not cornered and places != "half_pixel" and (places != "pytorch_half_pixel" or 1 in sizes):
        raise Untranslated(f"its positions are {places}")
    if mode == "linear" and x.dim() - 2 in _LINEAR:
        return F.interpolate(x, size=sizes, mode=_LINEAR[x.dim() - 2], align_corners=cornered)
    if mode == "cubic" and x.dim() == 4 and call.get("cubic_coeff_a", -0.75) == -0.75:
        return F.interpolate(x, size=sizes, mode="bicubic", align_corners=cornered)
    raise Untranslated(f"its mode is {mode!r} in {x.dim() - 2} dimensions")

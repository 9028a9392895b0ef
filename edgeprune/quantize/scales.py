"""Real range -> scale and zero point; weights -> integers."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edgeprune.quantize.dialects import Dialect

_LIMITS = {"uint8": (0, 255), "int8": (-128, 127)}
_SMALLEST = float(np.finfo(np.float32).tiny)  # a range of zero width still needs a scale
_BIAS_LIMIT = 2.0**31 - 1


def half_scale(scale: NDArray[np.float32]) -> NDArray[np.float32]:
    """The smallest float16 numbers that are not below `scale`, so that no range is cut; as float32.

    Where float16 ends a scale stays as it is.
    """
    with np.errstate(over="ignore"):
        near = scale.astype(np.float16)
        up = np.where(near.astype(np.float32) < scale, np.nextafter(near, np.float16(np.inf)), near)
    return np.where(np.isfinite(up), up.astype(np.float32), scale).astype(np.float32)


@dataclass(frozen=True)
class Scale:
    """real = scale * (integer - zero_point)."""

    scale: np.float32
    zero_point: int


@dataclass(frozen=True)
class Weight:
    """A weight tensor as integers: real = scale * integer, one scale per channel of `axis` (or one)."""

    integers: NDArray[np.int8]
    scale: NDArray[np.float32]  # shape (channels,) or ()


def activation_scale(low: float, high: float, dialect: Dialect) -> Scale:
    """Scale and zero point of a range; zero is always exact, and the range never grows beyond its bounds
    by more than rounding (a Clip is only fused when it does not)."""
    low, high = min(low, 0.0), max(high, 0.0)
    bottom, top = _LIMITS[dialect.activation]
    if dialect.symmetric:
        wanted = np.asarray(max(-low, high, _SMALLEST) / top, np.float32)
        return Scale(np.float32(half_scale(wanted) if dialect.half else wanted), 0)
    scale = max((high - low) / (top - bottom), _SMALLEST)
    zero_point = int(np.clip(round(bottom - low / scale), bottom, top))
    return Scale(np.float32(scale), zero_point)


def quantise_weight(
    weight: NDArray[np.float32],
    axis: int,
    per_channel: bool,
    reduce_range: bool,
    bias: NDArray[np.float32] | None,
    activation: Scale,
    *,
    half: bool = False,
) -> Weight:
    """Symmetric INT8 weights.

    half: scales that float16 holds exactly.
    reduce_range: 7 bits, [-64, 64]: the sum of two products with unsigned activations, 2 * 255 * 64,
        stays inside the 16 bits of x86 machines without VNNI.
    A channel whose bias would not fit in INT32 at its own scale (a pruned or dead channel has nearly
    none) gets the scale that the bias needs.
    """
    limit = 64 if reduce_range else 127
    channels = weight.shape[axis]
    flat = np.moveaxis(weight, axis, 0).reshape(channels, -1).astype(np.float64)
    largest = np.abs(flat).max(axis=1, initial=0.0)
    if not per_channel:
        largest = np.full(channels, largest.max(initial=0.0))
    scale = np.maximum(largest / limit, _SMALLEST)
    if bias is not None:
        needed = np.abs(bias.astype(np.float64)) / (_BIAS_LIMIT * float(activation.scale))
        scale = np.maximum(scale, needed if per_channel else needed.max(initial=0.0))
    scale = half_scale(scale.astype(np.float32)) if half else scale.astype(np.float32)
    shape = [1] * weight.ndim
    shape[axis] = channels
    integers = np.clip(np.rint(weight / scale.reshape(shape)), -limit, limit).astype(np.int8)
    return Weight(integers, scale if per_channel else scale[0].reshape(()))


def quantise_bias(bias: NDArray[np.float32], weight: Weight, activation: Scale) -> NDArray[np.int32]:
    """INT32 bias at the scale of the accumulator, activation scale * weight scale."""
    accumulator = weight.scale.astype(np.float64) * float(activation.scale)
    return np.clip(np.rint(bias / accumulator), -_BIAS_LIMIT, _BIAS_LIMIT).astype(np.int32)

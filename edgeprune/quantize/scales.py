"""Conversion of ranges to scales and zero points, and of weights and biases to integers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edgeprune.quantize.dialects import Dialect, IntegerType

ACTIVATION_LIMITS: Mapping[IntegerType, tuple[int, int]] = {"uint8": (0, 255), "int8": (-128, 127)}
SMALLEST_SCALE = float(np.finfo(np.float32).tiny)  # a range of zero width still needs a scale
_BIAS_LIMIT = 2.0**31 - 1


def half_scale(scale: NDArray[np.float32]) -> NDArray[np.float32]:
    """Scales rounded up to float16 numbers, so that no range is clipped; as float32.

    A scale beyond the largest float16 number is returned as it is.
    """
    with np.errstate(over="ignore"):
        near = scale.astype(np.float16)
        up = np.where(near.astype(np.float32) < scale, np.nextafter(near, np.float16(np.inf)), near)
    return np.where(np.isfinite(up), up.astype(np.float32), scale).astype(np.float32)


@dataclass(frozen=True)
class Scale:
    """Scale and zero point of an activation: real = scale * (integer - zero_point)."""

    scale: np.float32
    zero_point: int


@dataclass(frozen=True)
class IntegerWeight:
    """A weight tensor as integers: real = scale * integer, one scale per output channel (or one for all)."""

    integers: NDArray[np.int8]
    scale: NDArray[np.float32]  # shape (channels,) or ()


def activation_scale(low: float, high: float, dialect: Dialect) -> Scale:
    """Scale and zero point of a range, which represent zero exactly.

    The range grows by no more than rounding: a runtime fuses a Clip only if the range is inside the Clip's.
    """
    low, high = min(low, 0.0), max(high, 0.0)
    bottom, top = ACTIVATION_LIMITS[dialect.activation]
    if dialect.symmetric:
        wanted = np.asarray(max(-low, high, SMALLEST_SCALE) / top, np.float32)
        return Scale(np.float32(half_scale(wanted) if dialect.half else wanted), 0)
    scale = max((high - low) / (top - bottom), SMALLEST_SCALE)
    zero_point = int(np.clip(round(bottom - low / scale), bottom, top))
    return Scale(np.float32(scale), zero_point)


def weight_limit(reduce_range: bool) -> int:
    """Largest magnitude of an INT8 weight: 127, or 64 with 7-bit weights.

    With 7 bits the sum of two products with unsigned activations, 2 * 255 * 64, stays inside the 16 bits of
    x86 machines without VNNI.
    """
    return 64 if reduce_range else 127


def quantise_weight(
    weight: NDArray[np.float32],
    axis: int,
    per_channel: bool,
    reduce_range: bool,
    bias: NDArray[np.float32] | None,
    activation: Scale,
    *,
    half: bool = False,
) -> IntegerWeight:
    """Round a weight to symmetric INT8, with one scale per channel along `axis` or one for all.

    half: scales are float16 numbers. reduce_range: 7 bits (`weight_limit`).
    A channel whose bias would not fit in INT32 at the channel's own scale (nearly zero for a dead channel)
    gets the scale that the bias needs.
    """
    limit = weight_limit(reduce_range)
    channels = weight.shape[axis]
    flat = np.moveaxis(weight, axis, 0).reshape(channels, -1).astype(np.float64)
    largest = np.abs(flat).max(axis=1, initial=0.0)
    if not per_channel:
        largest = np.full(channels, largest.max(initial=0.0))
    scale = np.maximum(largest / limit, SMALLEST_SCALE)
    if bias is not None:
        needed = np.abs(bias.astype(np.float64)) / (_BIAS_LIMIT * float(activation.scale))
        scale = np.maximum(scale, needed if per_channel else needed.max(initial=0.0))
    scale = half_scale(scale.astype(np.float32)) if half else scale.astype(np.float32)
    shape = [1] * weight.ndim
    shape[axis] = channels
    integers = np.clip(np.rint(weight / scale.reshape(shape)), -limit, limit).astype(np.int8)
    return IntegerWeight(integers, scale if per_channel else scale[0].reshape(()))


def quantise_bias(bias: NDArray[np.float32], weight: IntegerWeight, activation: Scale) -> NDArray[np.int32]:
    """Round a bias to INT32 at the scale of the accumulator, activation scale * weight scale."""
    accumulator = weight.scale.astype(np.float64) * float(activation.scale)
    return np.clip(np.rint(bias / accumulator), -_BIAS_LIMIT, _BIAS_LIMIT).astype(np.int32)

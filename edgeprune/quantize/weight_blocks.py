"""Rounding of weights to 4- or 8-bit integers in blocks that share a scale, for less memory and bandwidth.

The range of a block is clipped where clipping lowers the error: of several ranges the one with the least
squared error is taken, block by block. This is the grid search of AWQ's clipping (Lin et al. 2023, "AWQ:
Activation-aware Weight Quantization") on the weights alone, so that no data is needed.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edgeprune.quantize.scales import SMALLEST_SCALE

CLIPS = (1.0, 0.95, 0.9, 0.85, 0.8, 0.75, 0.7)  # shares of a block's range that are tried
_WEIGHTS_AT_ONCE = 1 << 22  # the search for ranges needs several copies of these weights


@dataclass(frozen=True)
class Blocks:
    """A weight matrix as integers in blocks along the inputs: real = scale * (integer - zero_point).

    integers: [outputs, blocks, block], the last block filled up with zeros. scales: [outputs, blocks].
    zero_points: [outputs, blocks], None where all are the middle of the integers.
    """

    bits: int
    inputs: int
    integers: NDArray[np.uint8]
    scales: NDArray[np.float32]
    zero_points: NDArray[np.uint8] | None

    def restored(self) -> NDArray[np.float32]:
        """Real weights of these integers, [inputs, outputs]."""
        middle = np.float32(2 ** (self.bits - 1))
        zeros = middle if self.zero_points is None else self.zero_points[..., None].astype(np.float32)
        weights = (self.integers.astype(np.float32) - zeros) * self.scales[..., None]
        flat: NDArray[np.float32] = weights.reshape(len(self.integers), -1)[:, : self.inputs].T
        return flat


def to_blocks(weight: NDArray[np.float32], bits: int, block: int, *, symmetric: bool) -> Blocks:
    """Round a matrix [inputs, outputs]; `block` inputs of an output share a scale.

    symmetric: the zero point is the middle of the integers, and is not stored.
    """
    inputs, outputs = weight.shape
    padded = np.zeros((outputs, -(-inputs // block) * block), np.float32)
    padded[:, :inputs] = weight.T
    blocks = padded.reshape(outputs, -1, block)
    rows = max(1, _WEIGHTS_AT_ONCE // padded.shape[1])
    parts = [
        _searched(blocks[at : at + rows], bits, CLIPS if bits < 8 else CLIPS[:1], symmetric)
        for at in range(0, outputs, rows)
    ]
    integers, scales, zeros = (np.concatenate(column) for column in zip(*parts, strict=True))
    return Blocks(bits, inputs, integers, scales, None if symmetric else zeros)


def _searched(
    blocks: NDArray[np.float32], bits: int, clips: tuple[float, ...], symmetric: bool
) -> tuple[NDArray[np.uint8], NDArray[np.float32], NDArray[np.uint8]]:
    low, high = np.minimum(blocks.min(2), 0), np.maximum(blocks.max(2), 0)
    top = 2**bits - 1
    best = np.full(low.shape, np.inf)
    integers = np.zeros(blocks.shape, np.uint8)
    scales, zeros = np.zeros(low.shape, np.float32), np.zeros(low.shape, np.uint8)
    for clip in clips:
        if symmetric:
            scale = np.maximum(np.maximum(-low, high) * clip / (2 ** (bits - 1) - 1), SMALLEST_SCALE)
            zero = np.full(low.shape, 2 ** (bits - 1), np.float32)
        else:
            scale = np.maximum((high - low) * clip / top, SMALLEST_SCALE)
            zero = np.clip(np.rint(-low * clip / scale), 0, top)
        scale = scale.astype(np.float32)
        found = np.clip(np.rint(blocks / scale[..., None]) + zero[..., None], 0, top)
        error = np.square((found - zero[..., None]) * scale[..., None] - blocks).sum(2)
        better = error < best
        best = np.where(better, error, best)
        integers[better] = found[better].astype(np.uint8)
        scales[better], zeros[better] = scale[better], zero[better].astype(np.uint8)
    return integers, scales, zeros


__all__ = ["Blocks", "to_blocks"]

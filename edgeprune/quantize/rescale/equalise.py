"""Cross-layer equalisation (Nagel et al. 2019, "Data-Free Quantization"): gives channels similar ranges.

Where only operations f(s x) = s f(x) lie between two layers, channel i may be divided by s_i in the layer
that writes the channel and multiplied by s_i in the layer that reads it: the model computes the same, and a
channel a thousand times larger than its neighbours no longer takes all 256 values for itself. With r1 and r2
the largest weights of channel i in the two layers, s_i = sqrt(r1_i / r2_i) makes them equal. The paper has
one writer and one reader; here all layers of a residual stream are rescaled together (`channels`).
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from edgeprune.graph.blocks import Ids
from edgeprune.graph.capture import Captured
from edgeprune.graph.fx import argument, attribute
from edgeprune.quantize.rescale.channels import Channels, ReadingLayer, WritingLayer, channels

_LEAST_FACTOR, _LARGEST_FACTOR = 1e-6, 1e6


def equalise(captured: Captured, rounds: int = 2) -> Captured:
    """Copy of the model that computes the same, with channels rescaled to similar ranges where possible.

    rounds: passes over all layers; more than one, because a layer both reads and writes channels.
    """
    result = captured.copy()
    found = channels(result)
    with torch.no_grad():
        for _ in range(rounds):
            for writer in found.writers:
                _balance(result, found, writer.classes)
    return result


def _balance(captured: Captured, found: Channels, wanted: Ids) -> None:
    """Rescale the classes `wanted` in every layer that writes or reads their channels."""
    written, read = np.zeros(len(found.free)), np.zeros(len(found.free))
    chosen = np.zeros(len(found.free), dtype=np.bool_)
    chosen[wanted] = found.free[wanted]
    writers = [writer for writer in found.writers if chosen[writer.classes].any()]
    readers = [reader for reader in found.readers if chosen[reader.classes].any()]
    for writer in writers:
        np.maximum.at(written, writer.classes, _row_sizes(captured, writer))
    for reader in readers:
        np.maximum.at(read, reader.classes, _column_sizes(captured, reader))
    known = chosen & (written > 0) & (read > 0)  # a channel of zeros has no range to equalise
    factor = np.ones(len(found.free))
    factor[known] = np.clip(np.sqrt(written[known] / read[known]), _LEAST_FACTOR, _LARGEST_FACTOR)
    for writer in writers:
        for name in writer.rows:
            _multiply(attribute(captured.module, name), 0, 1 / factor[writer.classes])
    for reader in readers:
        _multiply(attribute(captured.module, reader.weight), reader.dim, factor[reader.classes])


def _multiply(tensor: torch.Tensor, dim: int, factor: NDArray[np.float64]) -> None:
    shape = [1] * tensor.dim()
    shape[dim] = -1
    tensor.mul_(torch.from_numpy(factor).to(tensor.dtype).reshape(shape))


def _row_sizes(captured: Captured, writer: WritingLayer) -> NDArray[np.float64]:
    sizes = attribute(captured.module, writer.weight).abs().flatten(1).amax(1).double()
    if writer.norm is not None:
        scale, variance = (
            attribute(captured.module, str(argument(writer.norm, place, name).target))
            for place, name in ((1, "weight"), (4, "running_var"))
        )
        sizes = sizes * scale.abs() / torch.sqrt(variance + float(argument(writer.norm, 7, "eps", 1e-5)))
    return np.asarray(sizes.numpy(force=True))


def _column_sizes(captured: Captured, reader: ReadingLayer) -> NDArray[np.float64]:
    weight = attribute(captured.module, reader.weight)
    sizes = weight.abs().movedim(reader.dim, 0).flatten(1).amax(1).double()
    return np.asarray(sizes.numpy(force=True))

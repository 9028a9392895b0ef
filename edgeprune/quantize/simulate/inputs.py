"""Rounding of operators' inputs from query to query, in torch, where a file has no Q/DQ pair for them."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import onnx
import torch

from edgeprune.quantize.scales import SMALLEST_SCALE


def range_of_query(x: torch.Tensor) -> torch.Tensor:
    """Rounding as by DynamicQuantizeLinear of ONNX: unsigned 8 bits in the tensor's range; zero is exact."""
    low, high = x.amin().clamp(max=0.0), x.amax().clamp(min=0.0)
    scale = ((high - low) / 255).clamp(min=SMALLEST_SCALE)
    zero = torch.round(-low / scale).clamp(0, 255)
    integers = (torch.round(x / scale) + zero).clamp(0, 255)
    return (integers - zero) * scale


def in_blocks(x: torch.Tensor, block: int) -> torch.Tensor:
    """Rounding to signed 8 bits, with one scale for every `block` values of the last dimension."""
    size = x.shape[-1]
    padded = torch.nn.functional.pad(x, (0, -size % block))
    blocks = padded.reshape(*x.shape[:-1], -1, block)
    scale = (blocks.abs().amax(-1, keepdim=True) / 127).clamp(min=SMALLEST_SCALE)
    return (torch.round(blocks / scale) * scale).reshape(padded.shape)[..., :size]


def rounded_input(node: onnx.NodeProto) -> Callable[[torch.Tensor], torch.Tensor] | None:
    """Rounding of a MatMulNBits node's input: `in_blocks` from accuracy level 4 on, None below.

    The level permits rounding. ONNX Runtime does round on every x86 and ARM processor that edgeprune serves.
    """
    attributes = {entry.name: onnx.helper.get_attribute_value(entry) for entry in node.attribute}
    if attributes.get("accuracy_level", 0) < 4:
        return None
    return partial(in_blocks, block=int(attributes["block_size"]))

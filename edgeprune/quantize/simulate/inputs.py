"""How operators round their input from query to query, in torch: what no Q/DQ pair of a file says."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import onnx
import torch

_SMALLEST = torch.finfo(torch.float32).tiny


def range_of_query(x: torch.Tensor) -> torch.Tensor:
    """DynamicQuantizeLinear of ONNX: 8 bits, unsigned, from the tensor's own extremes; zero is exact."""
    low, high = x.amin().clamp(max=0.0), x.amax().clamp(min=0.0)
    scale = ((high - low) / 255).clamp(min=_SMALLEST)
    zero = torch.round(-low / scale).clamp(0, 255)
    integers = (torch.round(x / scale) + zero).clamp(0, 255)
    return (integers - zero) * scale


def in_blocks(x: torch.Tensor, block: int) -> torch.Tensor:
    """Signed 8 bits, every `block` values of the last dimension by their largest."""
    size = x.shape[-1]
    padded = torch.nn.functional.pad(x, (0, -size % block))
    blocks = padded.reshape(*x.shape[:-1], -1, block)
    scale = (blocks.abs().amax(-1, keepdim=True) / 127).clamp(min=_SMALLEST)
    return (torch.round(blocks / scale) * scale).reshape(padded.shape)[..., :size]


def rounded_input(node: onnx.NodeProto) -> Callable[[torch.Tensor], torch.Tensor] | None:
    """What MatMulNBits does to its input: nothing below accuracy level 4, else `in_blocks`.

    The level is a permission. ONNX Runtime takes it up on every x86 and ARM processor that edgeprune serves.
    """
    attributes = {entry.name: onnx.helper.get_attribute_value(entry) for entry in node.attribute}
    if attributes.get("accuracy_level", 0) < 4:
        return None
    return partial(in_blocks, block=int(attributes["block_size"]))

"""Operators that move, choose, repeat or join values."""

from __future__ import annotations

from math import prod
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from edgeprune.translate.calls import Call, Untranslated, operator

_FAR = 2**31 - 1  # bounds of slices from there on mean the end


@operator("Reshape", plain=(1,))
def reshape(call: Call, x: Tensor, shape: Any) -> Tensor:
    """0 is the size that the input has there."""
    if not call.get("allowzero", 0):
        shape = [x.shape[at] if _is(size, 0) else size for at, size in enumerate(shape)]
    return x.reshape(shape)


@operator("Flatten")
def flatten(call: Call, x: Tensor) -> Tensor:
    axis = call.get("axis", 1)
    axis = axis + x.dim() if axis < 0 else axis
    if axis == 1 and x.dim() > 1:
        return torch.flatten(x, 1)
    return x.reshape(prod(x.shape[:axis]), -1)


@operator("Transpose")
def transpose(call: Call, x: Tensor) -> Tensor:
    order = list(call.get("perm") or reversed(range(x.dim())))
    moved = [at for at, dim in enumerate(order) if at != dim]
    if len(moved) == 2:
        return x.transpose(*moved)
    return x.permute(order) if moved else x


@operator("Squeeze", plain=(1,))
def squeeze(call: Call, x: Tensor, given: Any = None) -> Tensor:
    axes = call.axes(given)
    if axes is None:
        axes = [dim for dim in range(1, x.dim()) if _is(x.shape[dim], 1)]
        if x.dim() and _is(x.shape[0], 1):
            raise Untranslated("it squeezes whatever is 1 long, the batch among it")
    return x.squeeze(axes[0]) if len(axes) == 1 else x.squeeze(tuple(axes)) if axes else x


@operator("Unsqueeze", plain=(1,))
def unsqueeze(call: Call, x: Tensor, given: Any = None) -> Tensor:
    axes = call.axes(given) or []
    rank = x.dim() + len(axes)
    for axis in sorted(axis % rank for axis in axes):
        x = x.unsqueeze(axis)
    return x


@operator("Expand", plain=(1,))
def expand(call: Call, x: Tensor, shape: Any) -> Tensor:
    """A size of 1 leaves what is there."""
    missing = len(shape) - x.dim()
    shape = [1] * -missing + list(shape) if missing < 0 else list(shape)
    own = [1] * max(missing, 0) + list(x.shape)
    wanted = [there if _is(size, 1) else size for size, there in zip(shape, own, strict=True)]
    if all(_is(a, b) for a, b in zip(wanted, own, strict=True)) and missing <= 0:
        return x
    return x.expand(wanted)


@operator("Concat")
def concat(call: Call, *values: Tensor) -> Tensor:
    return torch.cat(values, call.attributes["axis"])


@operator("Split", plain=(1,))
def split(call: Call, x: Tensor, given: Any = None) -> tuple[Tensor, ...]:
    axis = call.get("axis", 0)
    sizes = call.axes(given, "split")
    if sizes is None:
        parts = call.get("num_outputs", call.outputs)
        return tuple(torch.split(x, -(-x.shape[axis] // parts), axis))
    return tuple(torch.split(x, sizes, axis))


@operator("Slice", plain=(1, 2, 3, 4))
def cut(
    call: Call, x: Tensor, starts: Any = None, ends: Any = None, axes: Any = None, steps: Any = None
) -> Any:
    starts, ends = call.get("starts", starts), call.get("ends", ends)
    axes = call.axes(axes) or list(range(len(starts)))
    for start, end, axis, step in zip(starts, ends, axes, steps or [1] * len(starts), strict=True):
        axis = axis % x.dim()
        if step < 0:
            size = x.shape[axis]
            places = range(size)[slice(start, None if end < -size else end, step)]
            x = x.index_select(axis, torch.tensor(list(places), dtype=torch.int64))
        else:
            bounds = slice(start, None if _is_far(end) else end, step)
            x = _at(x, axis, bounds)
    return x


@operator("Gather", known=(1,))
def gather(call: Call, x: Tensor, index: Tensor | NDArray[Any]) -> Tensor:
    """Positions along one axis; those that the file holds may count from the end."""
    axis = call.get("axis", 0) % x.dim()
    if isinstance(index, Tensor):
        if axis == 0 and x.dim() == 2 and isinstance(x, torch.nn.Parameter) and index.dim():
            return F.embedding(index, x)
        return _at(x, axis, index)
    places = np.where(index < 0, index + x.shape[axis], index).astype(np.int64)
    if not places.ndim:
        return x.select(axis, int(places))
    if places.ndim == 1:
        return x.index_select(axis, torch.from_numpy(places))
    return _at(x, axis, torch.from_numpy(places))


@operator("GatherElements")
def gather_elements(call: Call, x: Tensor, index: Tensor) -> Tensor:
    axis = call.get("axis", 0)
    return torch.gather(x, axis, torch.where(index < 0, index + x.shape[axis], index))


@operator("Tile", plain=(1,))
def tile(call: Call, x: Tensor, repeats: Any) -> Tensor:
    return x.repeat(repeats)


@operator("Pad", plain=(1, 2, 3))
def pad(call: Call, x: Tensor, given: Any = None, value: Any = None, axes: Any = None) -> Tensor:
    pads = [int(size) for size in call.get("pads", given)]
    mode = {"constant": "constant", "reflect": "reflect", "edge": "replicate", "wrap": "circular"}.get(
        call.get("mode", "constant")
    )
    if mode is None:
        raise Untranslated(f"its mode is {call.get('mode')!r}")
    half = len(pads) // 2
    around = [[0, 0] for _ in range(x.dim())]
    for at, axis in enumerate(axes or range(half)):
        around[int(axis)] = [pads[at], pads[at + half]]
    while len(around) > 1 and around[0] == [0, 0]:  # torch pads the last ones
        del around[0]
    flat = [size for sizes in reversed(around) for size in sizes]
    if mode != "constant":
        return F.pad(x, flat, mode)
    filled = value[0] if value else call.get("value", 0.0)
    return F.pad(x, flat, "constant", filled) if any(flat) else x


@operator("Shape")
def shape(call: Call, x: Tensor) -> Tensor:
    return torch.tensor(list(x.shape)[call.get("start", 0) : call.get("end")], dtype=torch.int64)


@operator("ConstantOfShape", plain=(0,))
def filled(call: Call, shape: Any) -> Tensor:
    value = call.get("value")
    if value is None:
        return torch.zeros(shape)
    return torch.full(shape, value.flat[0].item(), dtype=torch.tensor(value).dtype)


@operator("Range", plain=(0, 1, 2))
def counted(call: Call, start: Any, limit: Any, delta: Any) -> Tensor:
    return torch.arange(start[0], limit[0], delta[0])


@operator("DepthToSpace")
def depth_to_space(call: Call, x: Tensor) -> Tensor:
    block = call.attributes["blocksize"]
    if call.get("mode", "DCR") == "CRD":
        return F.pixel_shuffle(x, block)
    rows, channels, height, width = x.shape
    parts = x.reshape(rows, block, block, channels // block**2, height, width).permute(0, 3, 4, 1, 5, 2)
    return parts.reshape(rows, channels // block**2, height * block, width * block)


@operator("SpaceToDepth")
def space_to_depth(call: Call, x: Tensor) -> Tensor:
    call.only(mode=("DCR",))
    block = call.attributes["blocksize"]
    rows, channels, height, width = x.shape
    parts = x.reshape(rows, channels, height // block, block, width // block, block).permute(0, 3, 5, 1, 2, 4)
    return parts.reshape(rows, channels * block**2, height // block, width // block)


@operator("Trilu", plain=(1,))
def triangle(call: Call, x: Tensor, k: Any = None) -> Tensor:
    function = torch.triu if call.get("upper", 1) else torch.tril
    return function(x, int(k[0]) if k else 0)


@operator("ScatterElements")
def scatter_elements(call: Call, x: Tensor, index: Tensor, updates: Tensor) -> Tensor:
    call.only(reduction=("none",))
    axis = call.get("axis", 0)
    return torch.scatter(x, axis, torch.where(index < 0, index + x.shape[axis], index), updates)


@operator("ScatterND")
def scatter_nd(call: Call, x: Tensor, index: Tensor, updates: Tensor) -> Tensor:
    call.only(reduction=("none",))
    return torch.index_put(x, list(index.unbind(-1)), updates)


@operator("GatherND")
def gather_nd(call: Call, x: Tensor, index: Tensor) -> Tensor:
    call.only(batch_dims=(0,))
    return x[tuple(index.unbind(-1))]


def _at(x: Tensor, axis: int, index: Any) -> Tensor:
    """x[..., index, ...] at an axis."""
    places: Any = (*[slice(None)] * axis, index)
    return x[places]


def _is(size: Any, number: Any) -> bool:
    """Whether a size is this number; one that varies is none."""
    return isinstance(size, int) and isinstance(number, int) and size == number


def _is_far(end: Any) -> bool:
    return isinstance(end, int) and end >= _FAR

"""Rewrites of an operation's size and index arguments after a cut.

    view(x, [B, 64, 49]), 24 channels removed   ->   view(x, [B, 40, 49])

Only operations whose arguments depend on a width need a rewrite. A rewrite reads from the cutter which
positions of a value are kept (`cutter.mask(value, dim)`, None where all are) and changes the node in place.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch.fx import Node

from edgeprune.graph.fx import argument, op_name
from edgeprune.graph.layout import constant_positions, looked_up

Mask = NDArray[np.bool_]


class Cutter(Protocol):
    """A cut, as rewrites see it: [size] masks of the kept positions, and shapes before the cut."""

    def mask(self, value: Any, dim: int) -> Mask | None: ...
    def part_mask(self, node: Node, part: int, dim: int) -> Mask | None: ...
    def shape(self, value: Any) -> tuple[int, ...]: ...


Rewrite = Callable[[Cutter, Node], None]
REWRITES: dict[str, Rewrite] = {}


def rewrite(*names: str) -> Callable[[Rewrite], Rewrite]:
    """Decorator that registers a function as the rewrite of these ATen operations."""

    def register(function: Rewrite) -> Rewrite:
        for name in names:
            REWRITES[f"aten.{name}"] = function
        return function

    return register


def _set(node: Node, position: int, name: str, value: Any) -> None:
    if name in node.kwargs:
        node.update_kwarg(name, value)
    elif position < len(node.args):
        node.update_arg(position, value)
    else:
        node.kwargs = {**node.kwargs, name: value}


def _sizes(cutter: Cutter, node: Node, sizes: Sequence[Any], first: int = 0) -> list[Any]:
    """Sizes after the cut; `sizes[i]` is that of dimension first + i of the node's output."""
    found = list(sizes)
    for place, size in enumerate(found):
        keep = cutter.mask(node, first + place)
        if keep is None or (isinstance(size, int) and size == -1):
            continue
        if isinstance(size, int):
            found[place] = int(keep.sum())
        else:  # batch times width in one dimension: the width is len(keep) before the cut
            with node.graph.inserting_before(node):
                many = node.graph.call_function(operator.mul, (size, int(keep.sum())))
                found[place] = node.graph.call_function(operator.floordiv, (many, len(keep)))
    return found


@rewrite("view", "reshape", "_unsafe_view", "expand", "broadcast_to")
def resize(cutter: Cutter, node: Node) -> None:
    name = "shape" if op_name(node) in ("aten.reshape",) else "size"
    sizes = argument(node, 1, name)
    if isinstance(sizes, list | tuple):  # not the dtype overload
        _set(node, 1, name, _sizes(cutter, node, sizes))


@rewrite("zeros", "ones", "full", "empty")
def fill(cutter: Cutter, node: Node) -> None:
    _set(node, 0, "size", _sizes(cutter, node, argument(node, 0, "size")))


@rewrite("new_zeros", "new_ones", "new_full", "new_empty")
def fill_like(cutter: Cutter, node: Node) -> None:
    _set(node, 1, "size", _sizes(cutter, node, argument(node, 1, "size")))


@rewrite("unflatten")
def unflatten(cutter: Cutter, node: Node) -> None:
    dim = int(argument(node, 1, "dim")) % len(cutter.shape(node.args[0]))
    _set(node, 2, "sizes", _sizes(cutter, node, argument(node, 2, "sizes"), first=dim))


@rewrite("squeeze")
def squeeze(cutter: Cutter, node: Node) -> None:
    """Dimensions that are dropped: those of size 1 before the cut, and none that a cut leaves so."""
    value, shape = node.args[0], cutter.shape(node.args[0])
    if all(cutter.mask(value, dim) is None for dim in range(len(shape))):
        return
    chosen: Any = argument(node, 1, "dim", range(len(shape)))
    dims = {int(dim) % len(shape) for dim in ([chosen] if isinstance(chosen, int) else chosen)}
    node.target = torch.ops.aten.squeeze.dims
    node.args, node.kwargs = (value, [dim for dim in sorted(dims) if shape[dim] == 1]), {}


@rewrite("slice", "narrow")
def slice_(cutter: Cutter, node: Node) -> None:
    dim = int(argument(node, 1, "dim", 0)) % len(cutter.shape(node.args[0]))
    keep = cutter.mask(node.args[0], dim)
    if keep is None:
        return
    start = argument(node, 2, "start", 0) or 0
    before = range(len(keep))[slice(start, None)].start if start else 0
    if str(node.target).startswith("aten.narrow"):
        length = argument(node, 3, "length")
        _set(node, 2, "start", int(keep[:before].sum()))
        _set(node, 3, "length", int(keep[before : before + length].sum()))
        return
    end = argument(node, 3, "end")
    after = slice(start, end).indices(len(keep))[1]
    node.args = (node.args[0], dim, int(keep[:before].sum()), int(keep[:after].sum()))
    node.kwargs = {}


@rewrite("select")
def select(cutter: Cutter, node: Node) -> None:
    dim = int(argument(node, 1, "dim")) % len(cutter.shape(node.args[0]))
    keep = cutter.mask(node.args[0], dim)
    if keep is not None:
        index = int(argument(node, 2, "index")) % len(keep)
        _set(node, 2, "index", int(keep[:index].sum()))


@rewrite("index", "index_select")
def look_up(cutter: Cutter, node: Node) -> None:
    """Constant indices: those of removed positions go, the others count kept positions only."""
    one = looked_up(node)
    module = node.graph.owning_module
    if one is None or module is None:
        return
    shape = cutter.shape(node.args[0])
    dim = one[0] % len(shape)
    keep = cutter.mask(node.args[0], dim)
    positions = constant_positions(module, one[1], shape[dim])
    if keep is None or positions is None:
        return
    moved = (np.cumsum(keep) - 1)[positions[keep[positions]]]
    name = f"{node.name}_positions"
    module.register_buffer(name, torch.from_numpy(moved))
    with node.graph.inserting_before(node):
        node.replace_input_with(one[1], node.graph.get_attr(name))


@rewrite(
    "split",
    "split_with_sizes",
    "chunk",
    "unsafe_split",
    "unsafe_split_with_sizes",
    "unsafe_chunk",
    "tensor_split",
)
def split(cutter: Cutter, node: Node) -> None:
    dim = int(argument(node, 2, "dim", 0)) % len(cutter.shape(node.args[0]))
    if cutter.mask(node.args[0], dim) is None:
        return
    sizes = []
    for part, meta in enumerate(node.meta["val"]):
        keep = cutter.part_mask(node, part, dim)
        sizes.append(int(meta.shape[dim]) if keep is None else int(keep.sum()))
    node.target = torch.ops.aten.split_with_sizes.default
    node.args = (node.args[0], sizes, dim)
    node.kwargs = {}


@rewrite("pad", "constant_pad_nd")
def pad(cutter: Cutter, node: Node) -> None:
    amounts = list(argument(node, 1, "pad"))
    rank = len(cutter.shape(node))
    for pair in range(len(amounts) // 2):
        low, high = amounts[2 * pair : 2 * pair + 2]
        keep = cutter.mask(node, rank - 1 - pair)
        if keep is not None and (low or high):
            amounts[2 * pair] = int(keep[:low].sum())
            amounts[2 * pair + 1] = int(keep[len(keep) - high :].sum()) if high else 0
    _set(node, 1, "pad", amounts)


@rewrite(
    "conv1d", "conv2d", "conv3d", "conv_transpose1d", "conv_transpose2d", "conv_transpose3d", "convolution"
)
def convolution(cutter: Cutter, node: Node) -> None:
    keep = cutter.mask(node, 1)
    place = 8 if op_name(node) == "aten.convolution" else 6
    if keep is not None and argument(node, place, "groups", 1) != 1:
        groups = int(argument(node, place, "groups"))
        _set(node, place, "groups", int(keep.reshape(groups, -1).any(axis=1).sum()))


@rewrite("channel_shuffle", "native_channel_shuffle")
def channel_shuffle(cutter: Cutter, node: Node) -> None:
    keep = cutter.mask(node.args[0], 1)
    if keep is not None:
        groups = int(argument(node, 1, "groups"))
        _set(node, 1, "groups", int(keep.reshape(groups, -1).any(axis=1).sum()))


@rewrite("layer_norm", "rms_norm", "native_layer_norm")
def layer_norm(cutter: Cutter, node: Node) -> None:
    sizes = argument(node, 1, "normalized_shape")
    value: Any = node.args[0]  # of the result's shape
    _set(node, 1, "normalized_shape", _sizes(cutter, value, sizes, len(cutter.shape(value)) - len(sizes)))


@rewrite("group_norm")
def group_norm(cutter: Cutter, node: Node) -> None:
    keep = cutter.mask(node, 1)
    if keep is not None:
        groups = int(argument(node, 1, "num_groups"))
        _set(node, 1, "num_groups", int(keep.reshape(groups, -1).any(axis=1).sum()))


@rewrite("scaled_dot_product_attention")
def attention(cutter: Cutter, node: Node) -> None:
    """Attention scale: the default is 1 / sqrt(D), so the original D is written down when D is cut."""
    query = node.args[0]
    rank = len(cutter.shape(query))
    if cutter.mask(query, rank - 1) is not None and node.kwargs.get("scale") is None:
        node.kwargs = {**node.kwargs, "scale": 1.0 / math.sqrt(cutter.shape(query)[-1])}

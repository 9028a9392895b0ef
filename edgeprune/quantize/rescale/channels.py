"""Channels that may be rescaled, each with the layers that write the channel and the layers that read it.

    conv1 -> ReLU -> conv2     row i of conv1 may be divided by s where column i of conv2 is multiplied by s

A channel is followed from the layer that computes it through operations f(s x) = s f(x) (ReLU, pools,
residual sums, concatenations, padding with zeros) to every layer that reads it. Channels that are added are
one class: all writers and readers of a residual stream are rescaled together. Any other operation that reads
a channel fixes the channel's scale.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.fx import Node

from edgeprune.graph.blocks import Book, Ids
from edgeprune.graph.capture import Captured
from edgeprune.graph.fx import argument, attribute, op_name, shape_of, tensor_uses

_CONVOLUTIONS = ("aten.conv1d", "aten.conv2d", "aten.conv3d")
_SCALABLE = (*_CONVOLUTIONS, "aten.linear")  # layers whose weights take the factors


@dataclass(frozen=True)
class WritingLayer:
    """A layer that writes channels, dimension 0 of its weight. classes: [channels].

    rows: tensors that are divided by the factors along dimension 0: weight and bias, or the scale and shift
    of `norm`, the BatchNorm behind the layer.
    """

    weight: str
    rows: tuple[str, ...]
    norm: Node | None
    classes: Ids


@dataclass(frozen=True)
class ReadingLayer:
    """A layer that reads channels, dimension `dim` of its weight. classes: [channels]."""

    weight: str
    dim: int
    classes: Ids


@dataclass(frozen=True)
class Channels:
    """Layers that write and read channels; channels of one class have one factor.

    free: [classes], True where no operation fixes the scale.
    """

    writers: tuple[WritingLayer, ...]
    readers: tuple[ReadingLayer, ...]
    free: NDArray[np.bool_]


@dataclass(frozen=True)
class _Lane:
    """Channels of a value: the dimension that they lie along, and one atom for each."""

    dim: int
    ids: Ids


def channels(captured: Captured) -> Channels:
    """Channels of a graph, followed from the layers that write them to the layers that read them."""
    walk = _ChannelWalk(captured)
    for node in captured.module.graph.nodes:
        if node.op == "call_function":
            walk.lanes[node] = walk.follow(node)
        elif node.op == "output":
            walk.fix(node)
    classes = walk.book.classes()
    free = np.ones(int(classes.max(initial=-1)) + 1, dtype=np.bool_)
    for frozen in walk.book.frozen:
        free[classes[frozen.ids]] = False
    return Channels(
        tuple(WritingLayer(w.weight, w.rows, w.norm, classes[w.classes]) for w in walk.writers),
        tuple(ReadingLayer(r.weight, r.dim, classes[r.classes]) for r in walk.readers),
        free,
    )


class _ChannelWalk:
    """Walk over a graph with a rule per operation; `lanes` are of every value passed so far.

    A value whose channels are not followed has the lane None.
    """

    def __init__(self, captured: Captured) -> None:
        self.module = captured.module
        self.book = Book()
        self.lanes: dict[Node, _Lane | None] = {}
        self.writers: list[WritingLayer] = []
        self.readers: list[ReadingLayer] = []
        self._uses = tensor_uses(self.module)

    def follow(self, node: Node) -> _Lane | None:
        rule = _RULES.get(op_name(node))
        lane = rule(self, node) if rule is not None else None
        if lane is None and op_name(node) not in _SCALABLE:
            self.fix(node)
        return lane

    def fix(self, node: Node) -> None:
        """Fix the scale of all channels that `node` reads."""
        for value in node.all_input_nodes:
            self.fix_lane(node, self.lanes.get(value))

    def fix_lane(self, node: Node, lane: _Lane | None) -> None:
        if lane is not None:
            self.book.freeze(lane.ids, node.name, op_name(node), "is read by this operation")

    def own(self, value: Any) -> bool:
        """Whether a value is a stored tensor that only one operation reads."""
        if not isinstance(value, Node) or value.op != "get_attr":
            return False
        return self._uses[id(attribute(self.module, str(value.target)))] == 1

    def layer(self, node: Node) -> _Lane | None:
        """Record a layer as reader of its input's channels, and as writer of new channels."""
        weight, bias = argument(node, 1, "weight"), argument(node, 2, "bias")
        lane, dim = self.lanes.get(node.args[0]), self._read_dim(node)  # type: ignore[arg-type]
        if lane is not None:
            if self.own(weight) and dim is not None and lane.dim == _channel_dim(node):
                self.readers.append(ReadingLayer(str(weight.target), dim, lane.ids))
            else:
                self.fix_lane(node, lane)
        if not self.own(weight):
            return None
        user = next(iter(node.users)) if len(node.users) == 1 else None
        tensors, norm = [weight, bias], None
        if user is not None and op_name(user) == "aten.batch_norm":
            norm, tensors = user, [argument(user, 1, "weight"), argument(user, 2, "bias")]
            if tensors[0] is None:
                return None
        rows = [tensor for tensor in tensors if tensor is not None]
        if not all(self.own(tensor) for tensor in rows):
            return None
        stored = attribute(self.module, str(weight.target))
        ids = self.book.fresh(len(stored))
        self.writers.append(WritingLayer(str(weight.target), tuple(str(t.target) for t in rows), norm, ids))
        return _Lane(_channel_dim(node), ids)

    def _read_dim(self, node: Node) -> int | None:
        """Dimension of the input channels in a layer's weight; None where groups split the channels."""
        if op_name(node) == "aten.linear":
            return 1
        groups = int(argument(node, 6, "groups", 1))
        weight = shape_of(self.module, argument(node, 1, "weight"))
        if groups == 1:
            return 1
        return 0 if weight[:2] == (groups, 1) else None

    def normed(self, node: Node) -> _Lane | None:
        """Lane of a BatchNorm, which is followed only behind a layer of its own."""
        return self.passed(node) if any(writer.norm is node for writer in self.writers) else None

    def passed(self, node: Node) -> _Lane | None:
        """Lane of an operation f(s x) = s f(x)."""
        return self.lanes.get(node.args[0])  # type: ignore[arg-type]

    def pooled(self, node: Node) -> _Lane | None:
        lane = self.passed(node)
        return lane if lane is not None and lane.dim == 1 and len(_shape(node)) > 2 else None

    def reshaped(self, node: Node) -> _Lane | None:
        """Lane of a view that keeps [batch, channels] and joins or drops the dimensions behind."""
        lane, before, after = self.passed(node), _shape(node.args[0]), _shape(node)
        same = len(before) > 1 and before[:2] == after[:2]
        return lane if lane is not None and lane.dim == 1 and same else None

    def averaged(self, node: Node) -> _Lane | None:
        dims: Any = argument(node, 1, "dim")
        lane, rank = self.passed(node), len(_shape(node.args[0]))
        places = {int(dim) % rank for dim in (dims if isinstance(dims, list | tuple) else [])}
        return lane if lane is not None and lane.dim == 1 and places and min(places) > 1 else None

    def summed(self, node: Node) -> _Lane | None:
        """Lane of a sum of values of one shape; channels that are added are united."""
        lanes = [self.lanes.get(value) for value in node.args[:2] if isinstance(value, Node)]
        if len(lanes) != 2 or len({_shape(value) for value in node.args[:2]}) != 1:
            return None
        return self._united(lanes)

    def joined(self, node: Node) -> _Lane | None:
        values: Any = node.args[0]
        lanes = [self.lanes.get(value) for value in values]
        dim = int(argument(node, 1, "dim", 0)) % len(_shape(node))
        known = next((lane for lane in lanes if lane is not None), None)
        if known is None or known.dim != dim:
            return self._united(lanes)
        if any(lane is not None and lane.dim != dim for lane in lanes):
            return None
        parts = [
            self._fixed(node, int(_shape(value)[dim])) if lane is None else lane.ids
            for value, lane in zip(values, lanes, strict=True)
        ]
        return _Lane(dim, np.concatenate(parts))

    def _fixed(self, node: Node, size: int) -> Ids:
        """Fixed channels in place of a value that is not followed."""
        ids = self.book.fresh(size)
        self.fix_lane(node, _Lane(0, ids))
        return ids

    def _united(self, lanes: Sequence[_Lane | None]) -> _Lane | None:
        first = lanes[0]
        for lane in lanes:
            if first is None or lane is None or lane.dim != first.dim or lane.ids.shape != first.ids.shape:
                return None
            self.book.unite(first.ids, lane.ids)
        return first

    def padded(self, node: Node) -> _Lane | None:
        """Lane of a padding: zeros are zeros at any scale, around an image or as new channels."""
        lane, pads = self.passed(node), argument(node, 1, "pad")
        mode = argument(node, 2, "mode", "constant") if op_name(node) == "aten.pad" else "constant"
        value = argument(node, 3 if op_name(node) == "aten.pad" else 2, "value", 0)
        if lane is None or not isinstance(pads, list | tuple):
            return None
        at = 2 * (len(_shape(node)) - 1 - lane.dim)
        before, after = pads[at : at + 2] if len(pads) > at else (0, 0)
        whole = all(isinstance(size, int) and size >= 0 for size in (before, after))
        if not whole or (mode == "constant" and value):
            return None
        if mode != "constant":
            return lane if before == after == 0 else None
        return _Lane(lane.dim, np.concatenate([self.book.fresh(before), lane.ids, self.book.fresh(after)]))

    def sliced(self, node: Node) -> _Lane | None:
        lane, rank = self.passed(node), len(_shape(node))
        if lane is None or int(argument(node, 1, "dim", 0)) % rank != lane.dim:
            return lane
        bounds = [argument(node, place, name) for place, name in ((2, "start"), (3, "end"), (4, "step"))]
        if not all(bound is None or isinstance(bound, int) for bound in bounds):
            return None
        return _Lane(lane.dim, lane.ids[slice(*bounds)])


def _channel_dim(layer: Node) -> int:
    return 1 if op_name(layer) in _CONVOLUTIONS else len(_shape(layer)) - 1


def _shape(value: Any) -> tuple[Any, ...]:
    """Shape for comparisons; a symbolic size is given by its name."""
    meta = value.meta.get("val") if isinstance(value, Node) else None
    sizes = meta.shape if isinstance(meta, torch.Tensor) else ()
    return tuple(size if isinstance(size, int) else str(size) for size in sizes)


_Rule = Callable[[_ChannelWalk, Node], "_Lane | None"]
_RULES: Mapping[str, _Rule] = {
    **dict.fromkeys(_SCALABLE, _ChannelWalk.layer),
    "aten.batch_norm": _ChannelWalk.normed,
    **dict.fromkeys(
        (
            *("aten.relu", "aten.relu_", "aten.leaky_relu", "aten.leaky_relu_", "aten.clone"),
            *("aten.contiguous", "aten.dropout", "aten.dropout_", "aten.detach"),
        ),
        _ChannelWalk.passed,
    ),
    **dict.fromkeys(("aten.max_pool2d", "aten.avg_pool2d", "aten.adaptive_avg_pool2d"), _ChannelWalk.pooled),
    **dict.fromkeys(("aten.flatten", "aten.view", "aten.reshape", "aten.squeeze"), _ChannelWalk.reshaped),
    **dict.fromkeys(("aten.mean", "aten.amax"), _ChannelWalk.averaged),
    **dict.fromkeys(("aten.add", "aten.add_"), _ChannelWalk.summed),
    **dict.fromkeys(("aten.cat", "aten.concat"), _ChannelWalk.joined),
    **dict.fromkeys(("aten.pad", "aten.constant_pad_nd"), _ChannelWalk.padded),
    "aten.slice": _ChannelWalk.sliced,
}

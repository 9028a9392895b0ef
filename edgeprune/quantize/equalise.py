"""Cross-layer equalisation (Nagel et al. 2019, "Data-Free Quantization"): channels of like size.

Between two layers with nothing but operations f(s x) = s f(x) in between, channel i of the first may be
divided by s_i and the second multiplied by it: the function stays, and one channel a thousand times larger
than its neighbours no longer takes all 256 values for itself. With r1 and r2 the largest weights of
channel i in the two layers, s_i = sqrt(r1_i / r2_i) makes them equal.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

import torch
from torch.fx import Node

from edgeprune.graph.capture import Captured
from edgeprune.graph.rules import argument
from edgeprune.graph.walk import attribute, op_name

_LAYERS = ("aten.conv1d", "aten.conv2d", "aten.linear")
_ELEMENTWISE = (
    *("aten.relu", "aten.relu_", "aten.leaky_relu", "aten.leaky_relu_", "aten.clone", "aten.contiguous"),
    *("aten.dropout", "aten.dropout_"),
)
_POOLS = ("aten.max_pool2d", "aten.avg_pool2d", "aten.adaptive_avg_pool2d")
_TO_VECTOR = ("aten.flatten", "aten.view", "aten.reshape", "aten.squeeze", "aten.mean")
_SMALLEST, _LARGEST = 1e-6, 1e6  # a channel of zeros has no size to equalise


@dataclass(frozen=True)
class Pair:
    """Two layers whose channels may be rescaled against each other.

    rows: tensors of the first, whose dimension 0 are the channels. norm: of its BatchNorm, which then
    takes the factor. columns: the second's weight, and the dimension of the channels in it.
    """

    weight: str
    rows: tuple[str, ...]
    norm: Node | None
    columns: str
    dim: int


def equalise(captured: Captured, rounds: int = 2) -> Captured:
    """A copy that computes the same with channels of like size; what cannot be rescaled stays as it is.

    rounds: over all pairs; a layer between two others takes part in both.
    """
    result = captured.copy()
    with torch.no_grad():
        for _ in range(rounds):
            for pair in pairs(result):
                _balance(result, pair)
    return result


def pairs(captured: Captured) -> list[Pair]:
    """All pairs of a graph, in its order."""
    uses = Counter(
        id(attribute(captured.module, str(node.target)))
        for node in captured.module.graph.nodes
        if node.op == "get_attr"
        for _ in node.users
    )

    def own(node: Node | None) -> bool:
        return (
            isinstance(node, Node)
            and node.op == "get_attr"
            and uses[id(attribute(captured.module, str(node.target)))] == 1
        )

    found = []
    for node in captured.module.graph.nodes:
        if op_name(node) not in _LAYERS or not own(argument(node, 1, "weight")):
            continue
        tensors = [argument(node, 1, "weight"), argument(node, 2, "bias")]
        end, norm = node, None
        follower = _only_user(node)
        if follower is not None and op_name(follower) == "aten.batch_norm":
            if argument(follower, 1, "weight") is None:
                continue
            end = norm = follower
            tensors = [argument(norm, 1, "weight"), argument(norm, 2, "bias")]
        given = [tensor for tensor in tensors if tensor is not None]
        consumer = _consumer(end, image=op_name(node) != "aten.linear")
        if consumer is None or not given or not all(own(tensor) for tensor in given):
            continue
        first, second = argument(node, 1, "weight"), argument(consumer, 1, "weight")
        dim = _channel_dim(captured, consumer)
        if dim is not None and own(second):
            rows = tuple(str(tensor.target) for tensor in given)
            found.append(Pair(str(first.target), rows, norm, str(second.target), dim))
    return found


def _only_user(node: Node) -> Node | None:
    return next(iter(node.users)) if len(node.users) == 1 else None


def _consumer(node: Node, image: bool) -> Node | None:
    """The layer at the end of a chain of homogeneous operations that nothing else reads from.

    image: channels are dimension 1 and may be pooled; else they are the last, and are not.
    """
    channels = node.meta["val"].shape[1 if image else -1]
    while (user := _only_user(node)) is not None:
        if op_name(user) in _LAYERS:
            return user if user.args[0] is node else None
        value = user.meta.get("val")
        shape = list(value.shape) if isinstance(value, torch.Tensor) else []
        vector = image and op_name(user) in _TO_VECTOR and len(shape) == 2 and shape[1] == channels
        if not vector and op_name(user) not in (*_ELEMENTWISE, *(_POOLS if image else ())):
            return None
        node = user
    return None


def _channel_dim(captured: Captured, consumer: Node) -> int | None:
    """The dimension of a consumer's weight along which its input channels lie; None where it has none."""
    if op_name(consumer) == "aten.linear":
        return 1
    groups = int(argument(consumer, 6, "groups", 1))
    weight = attribute(captured.module, str(argument(consumer, 1, "weight").target))
    if groups == 1:
        return 1
    return 0 if groups == weight.shape[0] and weight.shape[1] == 1 else None


def _balance(captured: Captured, pair: Pair) -> None:
    first, second = attribute(captured.module, pair.weight), attribute(captured.module, pair.columns)
    sizes = first.abs().flatten(1).amax(1).double()
    if pair.norm is not None:
        scale, variance = (
            attribute(captured.module, str(argument(pair.norm, place, name).target))
            for place, name in ((1, "weight"), (4, "running_var"))
        )
        sizes = sizes * scale.abs() / torch.sqrt(variance + float(argument(pair.norm, 7, "eps")))
    others = second.abs().movedim(pair.dim, 0).flatten(1).amax(1).double()
    factor = torch.sqrt(sizes / others).clamp(_SMALLEST, _LARGEST)
    factor = torch.where(torch.isfinite(factor) & (sizes > 0) & (others > 0), factor, 1.0).to(first.dtype)
    for name in pair.rows:
        tensor = attribute(captured.module, name)
        tensor.div_(factor.reshape(-1, *[1] * (tensor.dim() - 1)))
    shape = [1] * second.dim()
    shape[pair.dim] = -1
    second.mul_(factor.reshape(shape))

"""Simulation of INT8 layers on the captured graph, by rounding as a dialect would, without a Q/DQ file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch.fx import Interpreter, Node

from edgeprune.graph.capture import Captured, flatten
from edgeprune.graph.fx import argument, module_name, op_name
from edgeprune.quantize.dialects import Dialect
from edgeprune.quantize.ranges import Ranges
from edgeprune.quantize.scales import ACTIVATION_LIMITS, Scale, activation_scale, quantise_weight

# Operation -> (position of the input, position of the weight, dimension of its output channels).
LAYERS: Mapping[str, tuple[int, int, int]] = {
    **dict.fromkeys(("aten.conv1d", "aten.conv2d", "aten.conv3d", "aten.linear"), (0, 1, 0)),
    **dict.fromkeys(("aten.matmul", "aten.mm"), (0, 1, -1)),
    "aten.addmm": (1, 2, -1),
}
# Clipping to a range that starts at zero replaces the activation function. A norm is not among them: a norm
# changes the scale.
_FUSED = ("aten.relu", "aten.relu_", "aten.hardtanh", "aten.hardtanh_", "aten.relu6", "aten.clamp")


def layer_nodes(captured: Captured) -> Mapping[str, list[Node]]:
    """Nodes that multiply with a layer's weight, by the layer's name; several for a shared weight."""
    found: dict[str, list[Node]] = {}
    for node in captured.module.graph.nodes:
        weight = _weight(node)
        if weight is not None:
            found.setdefault(module_name(weight), []).append(node)
    return found


def _weight(node: Node) -> str | None:
    """Qualified name of the weight that a node multiplies with; None for a node that is no layer."""
    if node.op != "call_function" or op_name(node) not in LAYERS:
        return None
    weight = argument(node, LAYERS[op_name(node)][1], "weight")
    return str(weight.target) if isinstance(weight, Node) and weight.op == "get_attr" else None


class Simulation(Interpreter):
    """Interpreter of the float graph that rounds the inputs and weights of some nodes to INT8."""

    def __init__(self, captured: Captured, ranges: Ranges, dialect: Dialect, reduce_range: bool) -> None:
        super().__init__(captured.module)
        self._captured, self._ranges = captured, ranges
        self._dialect, self._reduce_range = dialect, reduce_range
        self._quantised: frozenset[Node] = frozenset()

    def outputs(self, inputs: tuple[torch.Tensor, ...], nodes: Sequence[Node]) -> tuple[torch.Tensor, ...]:
        """Outputs of the model with `nodes` in INT8."""
        self._quantised = frozenset(nodes)
        # The graph's own outputs, flat: the model may return a dict of them.
        return self._captured.joined(
            flatten(self.run(*query, enable_io_processing=False)) for query in self._captured.queries(inputs)
        )

    def run_node(self, n: Node) -> Any:
        if n not in self._quantised:
            return super().run_node(n)
        return self.in_int8(n)

    def in_int8(self, n: Node) -> Any:
        """Value of a layer with its input and weight rounded, and its output where the dialect needs it."""
        args, kwargs = self.fetch_args_kwargs_from_env(n)
        changed = list(args)
        x_at, weight_at, channels = LAYERS[op_name(n)]
        bound = self._ranges.bounds.get(getattr(n.args[x_at], "name", ""))
        scale = activation_scale(*(bound or (-1.0, 1.0)), self._dialect)
        if bound is not None:
            changed[x_at] = _rounded(args[x_at], scale, self._dialect)
        weight = args[weight_at].detach().float().numpy(force=True)
        axis = channels % weight.ndim
        dialect = self._dialect
        integer = quantise_weight(
            *(weight, axis, dialect.per_channel, self._reduce_range, None, scale), half=dialect.half
        )
        shape = [1] * weight.ndim
        shape[axis] = -1
        scales = integer.scale.reshape(shape if integer.scale.ndim else ())
        changed[weight_at] = torch.from_numpy(integer.integers.astype(np.float32) * scales)
        return self.written(n, self.call_function(n.target, tuple(changed), kwargs))

    def written(self, node: Node, result: Any) -> Any:
        """Layer output, rounded in the range behind a fused activation if the kernel writes integers."""
        if not op_name(node).startswith("aten.conv") or "Conv" not in self._dialect.integer_output:
            return result
        end, users = node, list(node.users)
        if len(users) == 1 and op_name(users[0]) in _FUSED:
            end = users[0]
        bound = self._ranges.bounds.get(end.name)
        if bound is None:
            return result
        return _rounded(result, activation_scale(*bound, self._dialect), self._dialect)


def _rounded(x: torch.Tensor, scale: Scale, dialect: Dialect) -> torch.Tensor:
    low, high = ACTIVATION_LIMITS[dialect.activation]
    return torch.fake_quantize_per_tensor_affine(x, float(scale.scale), scale.zero_point, low, high)

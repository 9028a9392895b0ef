"""INT8 simulated in torch on the captured graph: values rounded to what integers of a dialect can hold."""

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
from edgeprune.quantize.scales import Scale, activation_scale, quantise_weight

# Operation -> (position of the input, position of the weight, dimension of its output channels).
LAYERS: Mapping[str, tuple[int, int, int]] = {
    **dict.fromkeys(("aten.conv1d", "aten.conv2d", "aten.conv3d", "aten.linear"), (0, 1, 0)),
    **dict.fromkeys(("aten.matmul", "aten.mm"), (0, 1, -1)),
    "aten.addmm": (1, 2, -1),
}
# A range that starts at zero does the work of the activation; a norm changes the scale, and is left out.
_FUSED = ("aten.relu", "aten.relu_", "aten.hardtanh", "aten.hardtanh_", "aten.relu6", "aten.clamp")


def layer_nodes(captured: Captured) -> Mapping[str, list[Node]]:
    """The nodes that multiply with a layer's weight, by the layer's name; more than one when it is shared."""
    found: dict[str, list[Node]] = {}
    for node in captured.module.graph.nodes:
        weight = _weight(node)
        if weight is not None:
            found.setdefault(module_name(weight), []).append(node)
    return found


def _weight(node: Node) -> str | None:
    """The qualified name of the weight that a layer's node multiplies with."""
    if node.op != "call_function" or op_name(node) not in LAYERS:
        return None
    weight = argument(node, LAYERS[op_name(node)][1], "weight")
    return str(weight.target) if isinstance(weight, Node) and weight.op == "get_attr" else None


class Simulation(Interpreter):
    """Runs the float graph with some nodes' inputs and weights rounded to what INT8 can hold."""

    def __init__(self, captured: Captured, ranges: Ranges, dialect: Dialect, reduce_range: bool) -> None:
        super().__init__(captured.module)
        self._captured, self._ranges = captured, ranges
        self._dialect, self._reduce_range = dialect, reduce_range
        self._quantised: frozenset[Node] = frozenset()

    def outputs(self, inputs: tuple[torch.Tensor, ...], nodes: Sequence[Node]) -> tuple[torch.Tensor, ...]:
        self._quantised = frozenset(nodes)
        # The graph's own outputs, flat: the model may return a dict of them.
        return flatten(self.run(*inputs, enable_io_processing=False))

    def run_node(self, n: Node) -> Any:
        if n not in self._quantised:
            return super().run_node(n)
        return self.in_int8(n)

    def in_int8(self, n: Node) -> Any:
        """The value of a layer whose input and weight, and where the dialect has it output, are rounded."""
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
        held = quantise_weight(
            *(weight, axis, dialect.per_channel, self._reduce_range, None, scale), half=dialect.half
        )
        shape = [1] * weight.ndim
        shape[axis] = -1
        restored = held.integers.astype(np.float32) * held.scale.reshape(shape if held.scale.ndim else ())
        changed[weight_at] = torch.from_numpy(restored)
        return self.written(n, self.call_function(n.target, tuple(changed), kwargs))

    def written(self, node: Node, result: Any) -> Any:
        """A convolution's kernel also writes integers, of the range behind its norm and activation."""
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
    low, high = (0, 255) if dialect.activation == "uint8" else (-128, 127)
    return torch.fake_quantize_per_tensor_affine(x, float(scale.scale), scale.zero_point, low, high)

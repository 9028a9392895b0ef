"""Quantisation-aware training: the graph runs with the artefact's roundings, which gradients pass through.

Rounding has the gradient of the identity inside its range and zero outside (Jacob et al. 2018, "Quantization
and Training of Neural Networks for Efficient Integer-Arithmetic-Only Inference"). Activations are rounded
where the graph's Q/DQ file rounds them (see `written`), and every layer's current weight is rounded. A
convolution's weight is rounded with the following BatchNorm folded into the weight, as by torchao's
`prepare_qat_pt2e` (which assumes an epsilon of 1e-5 for every BatchNorm, in 0.18). BatchNorm statistics are
fixed from the first step: updating them with the batches cost a converged network more than INT8 did.
docs/int8.md has the figures.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch.fx import Node

from edgeprune.graph.capture import Captured, flatten
from edgeprune.graph.fx import argument, attribute, op_name
from edgeprune.graph.moving import CPU
from edgeprune.quantize.dialects import Dialect
from edgeprune.quantize.emit import Quantised
from edgeprune.quantize.scales import SMALLEST_SCALE, weight_limit
from edgeprune.quantize.simulate.planned import LAYERS, layer_nodes
from edgeprune.quantize.simulate.written import FakeQuantised

Emit = Callable[[Captured], Quantised]  # calibrates a graph and makes its Q/DQ model


class QuantisationAware:
    """Runner of a graph in INT8 for training.

    emit: calibrates the graph with its current weights and writes its Q/DQ file.
    """

    def __init__(self, captured: Captured, dialect: Dialect, emit: Emit, *, reduce_range: bool) -> None:
        self._captured, self._emit = captured, emit
        self._dialect, self._reduce_range = dialect, reduce_range
        self.refresh()

    def refresh(self) -> None:
        """Calibrate again, with the current weights."""
        written = self._emit(self._captured.on(CPU))
        self._graph = _Trained(self._captured, written, self._dialect, self._reduce_range)

    def run(self, *inputs: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Outputs for flat inputs, as by `Captured.run`, in INT8."""
        return self._captured.joined(
            flatten(self._graph.run(*query, enable_io_processing=False))
            for query in self._captured.queries(inputs)
        )


class _Trained(FakeQuantised):
    """Interpreter with the file's roundings of activations, and with the current weights rounded."""

    def __init__(self, captured: Captured, written: Quantised, dialect: Dialect, reduce_range: bool) -> None:
        super().__init__(captured, written.model)
        self._captured = captured
        nodes = layer_nodes(captured)
        self._integer = {node for layer in written.layers_int8 for node in nodes.get(layer, ())}
        self._per_channel = dialect.per_channel
        self._limit = weight_limit(reduce_range)

    def _value(self, n: Node) -> Any:
        if n not in self._folded:
            return super()._value(n)
        args, kwargs = self.fetch_args_kwargs_from_env(n)  # the BatchNorm, on the layer's output
        return self.call_function(n.target, args, kwargs)

    def _layer(self, n: Node, stored: Any) -> Any:
        """Value of a layer with its current weight instead of the file's."""
        args, kwargs = self.fetch_args_kwargs_from_env(n)
        if n not in self._integer:
            return self.call_function(n.target, args, kwargs)
        _, at, channels = LAYERS[op_name(n)]
        weight = args[at]
        axis = channels % weight.dim()
        factor = self._folded_factor(n)
        if factor is None:
            rounded = self._rounded(weight, axis)
        else:
            factor = factor.reshape(-1, *[1] * (weight.dim() - 1))
            rounded = self._rounded(weight * factor, axis) / torch.where(factor == 0, 1.0, factor)
        return self.call_function(n.target, (*args[:at], rounded, *args[at + 1 :]), kwargs)

    def _folded_factor(self, n: Node) -> torch.Tensor | None:
        """[channels], factor of the exporter on a convolution's weight; None without a folded BatchNorm."""
        norm = next((user for user in n.users if user in self._folded), None)
        if norm is None:
            return None
        variance = attribute(self._captured.module, str(argument(norm, 4, "running_var").target))
        scale = argument(norm, 1, "weight")
        factor = torch.rsqrt(variance + float(argument(norm, 7, "eps", 1e-5)))
        return factor if scale is None else factor * attribute(self._captured.module, str(scale.target))

    def _rounded(self, weight: torch.Tensor, axis: int) -> torch.Tensor:
        """Weight rounded as by `scales.quantise_weight`, with gradients."""
        largest = weight.detach().abs()
        if not self._per_channel:
            scale = (largest.amax() / self._limit).clamp(min=SMALLEST_SCALE)
            zero = torch.zeros((), dtype=torch.int32, device=weight.device)
            return torch.fake_quantize_per_tensor_affine(weight, scale, zero, -self._limit, self._limit)
        others = [dim for dim in range(weight.dim()) if dim != axis]
        scale = (largest.amax(others) / self._limit).clamp(min=SMALLEST_SCALE)
        zeros = torch.zeros_like(scale, dtype=torch.int32)
        return torch.fake_quantize_per_channel_affine(weight, scale, zeros, axis, -self._limit, self._limit)

"""Operators that run along axes: sums, extremes, order, running sums."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from edgeprune.translate.calls import Call, Untranslated, operator

_REDUCTIONS: Mapping[str, Callable[[Tensor, list[int], bool], Tensor]] = {
    "ReduceSum": lambda x, dims, keep: x.sum(dims, keepdim=keep),
    "ReduceMean": lambda x, dims, keep: x.mean(dims, keepdim=keep),
    "ReduceMax": lambda x, dims, keep: x.amax(dims, keepdim=keep),
    "ReduceMin": lambda x, dims, keep: x.amin(dims, keepdim=keep),
    "ReduceL1": lambda x, dims, keep: x.abs().sum(dims, keepdim=keep),
    "ReduceL2": lambda x, dims, keep: x.square().sum(dims, keepdim=keep).sqrt(),
    "ReduceSumSquare": lambda x, dims, keep: x.square().sum(dims, keepdim=keep),
    "ReduceLogSum": lambda x, dims, keep: x.sum(dims, keepdim=keep).log(),
    "ReduceLogSumExp": lambda x, dims, keep: torch.logsumexp(x, dims, keepdim=keep),
}


@operator(*_REDUCTIONS, plain=(1,))
def reduction(call: Call, x: Tensor, given: Any = None) -> Tensor:
    axes = call.axes(given)
    if not axes and call.get("noop_with_empty_axes", 0):
        return x
    dims = axes or list(range(x.dim()))
    return _REDUCTIONS[call.op_type](x, dims, bool(call.get("keepdims", 1)))


@operator("ReduceProd", plain=(1,))
def product(call: Call, x: Tensor, given: Any = None) -> Tensor:
    axes = call.axes(given)
    if not axes and call.get("noop_with_empty_axes", 0):
        return x
    keep = bool(call.get("keepdims", 1))
    dims = sorted({axis % x.dim() for axis in axes or range(x.dim())}, reverse=True)
    for dim in dims:
        x = x.prod(dim, keepdim=keep)
    return x


@operator("ArgMax", "ArgMin")
def extreme(call: Call, x: Tensor) -> Tensor:
    call.only(select_last_index=(0,))
    function = torch.argmax if call.op_type == "ArgMax" else torch.argmin
    found: Tensor = function(x, call.get("axis", 0), keepdim=bool(call.get("keepdims", 1)))
    return found


@operator("TopK", plain=(1,))
def top_k(call: Call, x: Tensor, count: Any = None) -> tuple[Tensor, Tensor]:
    k = int(count[0]) if count else call.attributes["k"]
    values, places = torch.topk(x, k, call.get("axis", -1), bool(call.get("largest", 1)))
    return values, places


@operator("CumSum", plain=(1,))
def running_sum(call: Call, x: Tensor, axis: Any) -> Tensor:
    call.only(exclusive=(0,), reverse=(0,))
    return torch.cumsum(x, int(axis[0])).to(x.dtype)


@operator("LpNormalization")
def unit_length(call: Call, x: Tensor) -> Tensor:
    axis, p = call.get("axis", -1), call.get("p", 2)
    if p not in (1, 2):
        raise Untranslated(f"its p is {p}")
    norm = torch.linalg.vector_norm(x, p, axis, keepdim=True)
    return torch.where(norm > 0, x / norm, 0.0)

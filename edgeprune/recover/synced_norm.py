"""BatchNorm over the shares of a batch that several processes hold (Zhang et al. 2018, "CBN", section 3.2).

Each process normalises its rows by the mean and variance of all rows, and gradients flow back through them:
training in shares is then training on the whole batch.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import distributed
from torch.overrides import TorchFunctionMode


class SyncedNorms(TorchFunctionMode):
    """Mode in which a captured graph's BatchNorms in training share their statistics.

    All processes of the default group must run the same graph at the same time, forward and backward.
    """

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if func is torch.ops.aten.batch_norm.default and args[5]:
            return synced_batch_norm(*args)
        return func(*args, **(kwargs or {}))


def synced_batch_norm(
    x: torch.Tensor,
    weight: torch.Tensor | None,
    bias: torch.Tensor | None,
    running_mean: torch.Tensor | None,
    running_var: torch.Tensor | None,
    training: bool,
    momentum: float,
    eps: float,
    cudnn_enabled: bool,
) -> torch.Tensor:
    """`aten.batch_norm` of [N, C, ...] in training, with the statistics of all processes' rows."""
    others = [0, *range(2, x.dim())]
    shape = [1, -1, *[1] * (x.dim() - 2)]
    wide = x.float()
    count = wide.new_full((1,), x.numel() / x.shape[1])
    sums = _summed(torch.cat([wide.sum(others), count]))
    rows, mean = sums[-1].detach(), sums[:-1] / sums[-1].detach()
    centred = wide - mean.reshape(shape)
    variance = _summed(centred.square().sum(others)) / rows
    if running_mean is not None and running_var is not None:
        with torch.no_grad():
            running_mean.lerp_(mean, momentum)
            running_var.lerp_(variance * rows / (rows - 1), momentum)
    normed = centred * torch.rsqrt(variance + eps).reshape(shape)
    normed = normed if weight is None else normed * weight.reshape(shape)
    return (normed if bias is None else normed + bias.reshape(shape)).to(x.dtype)


def _summed(tensor: torch.Tensor) -> torch.Tensor:
    total: torch.Tensor = _Summed.apply(tensor)  # type: ignore[no-untyped-call]
    return total


class _Summed(torch.autograd.Function):
    """Sum of a tensor over all processes; its gradient is the sum of theirs."""

    @staticmethod
    def forward(ctx: Any, tensor: torch.Tensor) -> torch.Tensor:
        total = tensor.clone()
        distributed.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> torch.Tensor:
        total = gradients[0].contiguous().clone()
        distributed.all_reduce(total)
        return total

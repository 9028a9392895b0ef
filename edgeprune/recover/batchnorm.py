"""Re-estimation of BatchNorm statistics: the cheapest recovery, without labels and gradients."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch.fx import Interpreter, Node

from edgeprune.graph.capture import Captured
from edgeprune.graph.fx import argument, attribute, op_name


def reestimate(captured: Captured, batches: Iterable[tuple[torch.Tensor, ...]]) -> int:
    """Replace every BatchNorm's running mean and variance by those of the data; the number of norms replaced.

    In one pass each norm uses the statistics of its batch, as in training, and they are pooled over all
    batches, so that batches of one class or one sample give the variance of the whole data
    ("precise BN", Wu and Johnson 2021). A norm that saw a single value per channel, or no
    data, keeps its statistics, and so do those of a graph that takes one row at a time.
    """
    if captured.fixed_batch:  # the statistics of one row are not those of the data
        return 0
    collector = _BatchStatistics(captured)
    with torch.no_grad():
        for inputs in batches:
            collector.run(*inputs)
        for (mean, var), seen in collector.seen.items():
            attribute(captured.module, mean).copy_(seen.mean)
            attribute(captured.module, var).copy_(seen.squares / (seen.count - 1))
    return len(collector.seen)


@dataclass(frozen=True)
class _Moments:
    """Moments of a sample, float64 per channel. squares: sum of squared distances from the mean."""

    count: int
    mean: torch.Tensor
    squares: torch.Tensor

    def pooled(self, other: _Moments) -> _Moments:
        """Moments of both samples together (Chan, Golub and LeVeque 1983: no cancellation)."""
        count = self.count + other.count
        step = other.mean - self.mean
        mean = self.mean + step * (other.count / count)
        squares = self.squares + other.squares + step.square() * (self.count * other.count / count)
        return _Moments(count, mean, squares)


class _BatchStatistics(Interpreter):
    """Interpreter that runs every BatchNorm on the statistics of its batch, and pools them.

    seen: by (running mean, running variance), since a norm may be used at several places.
    """

    def __init__(self, captured: Captured) -> None:
        super().__init__(captured.module)
        self.seen: dict[tuple[str, str], _Moments] = {}
        self._buffers: dict[int, str] = {}

    def run_node(self, n: Node) -> Any:
        if n.op != "call_function" or op_name(n) != "aten.batch_norm" or n.args[3] is None:
            return super().run_node(n)
        x: torch.Tensor = self.env[n.args[0]]  # type: ignore[index]
        weight, bias = (None if v is None else self.env[v] for v in n.args[1:3])  # type: ignore[index]
        count = x.numel() // x.shape[1]
        if count < 2:
            return super().run_node(n)
        var, mean = torch.var_mean(x.double(), [0, *range(2, x.dim())], correction=0)
        found = _Moments(count, mean, var * count)
        key = self._name(n.args[3]), self._name(n.args[4])
        self.seen[key] = self.seen[key].pooled(found) if key in self.seen else found
        eps = argument(n, 7, "eps", 1e-5)
        return torch.nn.functional.batch_norm(x, None, None, weight, bias, training=True, eps=eps)

    def _name(self, buffer: Any) -> str:
        """Name of a buffer: the same one for all aliases of one tensor."""
        return self._buffers.setdefault(id(self.env[buffer]), str(buffer.target))

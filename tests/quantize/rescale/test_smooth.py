"""Smoothing: the function stays, outliers behind a norm move into the weights."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import pytest
import torch
from torch import nn

from edgeprune.graph.capture import capture
from edgeprune.quantize.calibrate import calibrate
from edgeprune.quantize.rescale.smooth import norms, smooth


class Rms(nn.Module):
    """An RMSNorm as Llama writes it."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.weight * (x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-6))


class Block(nn.Module):
    def __init__(self, norm: Callable[[int], nn.Module]) -> None:
        super().__init__()
        self.norm = norm(8)
        self.query, self.key = nn.Linear(8, 6), nn.Linear(8, 6, bias=False)
        with torch.no_grad():
            self.norm.weight[2] *= 300
            for layer in (self.query, self.key):
                layer.weight[:, 2] /= 300

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.norm(x)
        return torch.tanh(self.query(x)) * self.key(x)


@dataclass(frozen=True)
class Case:
    name: str
    norm: Callable[[int], nn.Module]
    affine: tuple[str, ...]


CASES = (
    Case("a layer norm", nn.LayerNorm, ("norm.weight", "norm.bias")),
    Case("a layer norm without shift", lambda width: nn.LayerNorm(width, bias=False), ("norm.weight",)),
    Case("torch's RMS norm", nn.RMSNorm, ("norm.weight",)),
    Case("an RMS norm written out", Rms, ("norm.weight",)),
)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_the_function_stays_and_the_outlier_goes(case: Case) -> None:
    torch.manual_seed(0)
    captured = capture(Block(case.norm), torch.randn(2, 5, 8))
    (found,) = norms(captured)
    assert (found.affine, found.readers) == (case.affine, ("query.weight", "key.weight"))
    batches = [(torch.randn(4, 5, 8),) for _ in range(2)]
    result = smooth(captured, batches)
    with torch.no_grad():
        (before,), (after,) = captured.run(batches[0][0]), result.run(batches[0][0])
    assert torch.allclose(before, after, atol=1e-5)
    ranges = [calibrate(each, batches, "minmax").bounds[found.node] for each in (captured, result)]
    assert ranges[1][1] - ranges[1][0] < 0.05 * (ranges[0][1] - ranges[0][0])


class Other(nn.Module):
    """A norm that is also read by a sum, and a scale that is used twice."""

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.twice = nn.LayerNorm(8), nn.LayerNorm(8)
        self.layers = nn.ModuleList(nn.Linear(8, 8) for _ in range(3))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.norm(x)
        y = y + self.layers[0](y)
        return self.layers[1](self.twice(y)) + self.layers[2](self.twice(y + 1))


def test_a_norm_that_others_read_is_left_alone() -> None:
    captured = capture(Other(), torch.randn(2, 8))
    assert norms(captured) == []
    assert torch.equal(smooth(captured, []).run(torch.ones(3, 8))[0], captured.run(torch.ones(3, 8))[0])


class Gain(nn.Module):
    """One factor for all channels in front of a linear layer, which is no scale of channels."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.gain, self.last = nn.Linear(8, 8), nn.Parameter(torch.ones(1)), nn.Linear(8, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.last(self.gain * torch.tanh(self.first(x)))


def test_one_factor_for_all_channels_is_no_norm() -> None:
    captured = capture(Gain(), torch.randn(2, 8))
    assert norms(captured) == []

"""Cross-layer equalisation: the function stays, channels get one size."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import pytest
import torch
from torch import nn

from edgeprune.graph.capture import capture
from edgeprune.quantize.equalise import equalise, pairs


def planted(first: nn.Module, second: nn.Module, dim: int = 1) -> None:
    """Make channel 0 a thousand times larger in the first layer and as much smaller in the second."""
    with torch.no_grad():
        first.weight[0] *= 1e3
        if first.bias is not None:
            first.bias[0] *= 1e3
        second.weight.movedim(dim, 0)[0] /= 1e3


def convolutions() -> tuple[nn.Module, torch.Tensor]:
    model = nn.Sequential(
        *(nn.Conv2d(2, 6, 3), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Conv2d(6, 6, 3, groups=6), nn.ReLU(), nn.Conv2d(6, 5, 1), nn.ReLU()),
        *(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(5, 3)),
    )
    planted(model[0], model[3], dim=0)
    planted(model[5], model[9])
    return model, torch.randn(2, 2, 12, 12)


def normed() -> tuple[nn.Module, torch.Tensor]:
    model = nn.Sequential(nn.Conv2d(2, 6, 3), nn.BatchNorm2d(6), nn.ReLU(), nn.Conv2d(6, 4, 3))
    for _ in range(3):
        model(torch.randn(8, 2, 9, 9))
    planted(model[1], model[3])
    return model, torch.randn(2, 2, 9, 9)


def linear() -> tuple[nn.Module, torch.Tensor]:
    model = nn.Sequential(nn.Linear(4, 6), nn.LeakyReLU(), nn.Dropout(), nn.Linear(6, 2))
    planted(model[0], model[3])
    return model, torch.randn(2, 7, 4)


@dataclass(frozen=True)
class Case:
    name: str
    build: Callable[[], tuple[nn.Module, torch.Tensor]]
    pairs: int


CASES = (
    Case("convolutions, one of them depthwise, and a classifier", convolutions, 3),
    Case("a norm in between takes the factor", normed, 1),
    Case("linear layers of a sequence", linear, 1),
)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_the_function_stays_and_large_channels_shrink(case: Case) -> None:
    torch.manual_seed(0)
    model, x = case.build()
    captured = capture(model.eval(), x)
    found = pairs(captured)
    assert len(found) == case.pairs
    result = equalise(captured)
    with torch.no_grad():
        (before,), (after,) = captured.run(x), result.run(x)
    assert torch.allclose(before, after, rtol=1e-4, atol=1e-5 * float(before.abs().max()))
    weights = result.module.state_dict()
    sizes = weights[found[-1].rows[0]].abs().reshape(len(weights[found[-1].rows[0]]), -1).amax(1)
    assert float(sizes.max() / sizes.min()) < 100


class Apart(nn.Module):
    """What may not be rescaled: a curved activation, two readers, a shared weight, a residual sum."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(5, 5) for _ in range(7))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        a, b, c, d, e, f, g = self.layers
        x = b(torch.sigmoid(a(x)))
        y = torch.relu(c(x))
        y = d(y) + e(y)
        return g(torch.relu(f(torch.relu(f(y))) + x))


def test_what_another_reads_or_curves_is_left_alone() -> None:
    captured = capture(Apart(), torch.randn(2, 5))
    assert pairs(captured) == []


def test_a_dead_channel_is_left_alone() -> None:
    model = nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2))
    with torch.no_grad():
        model[0].weight[1] = 0
        model[2].weight[:, 2] = 0
    result = equalise(capture(model, torch.randn(2, 4)))
    assert all(bool(parameter.isfinite().all()) for parameter in result.module.parameters())
    assert torch.equal(dict(result.module.named_parameters())["2.weight"][:, 1:], model[2].weight[:, 1:])

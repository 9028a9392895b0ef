"""Cross-layer equalisation: the function stays, channels get one size."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import pytest
import torch
from torch import nn

from edgeprune.graph.capture import capture
from edgeprune.quantize.rescale.channels import channels
from edgeprune.quantize.rescale.equalise import equalise


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
    free: int  # channels that may be rescaled


class Stream(nn.Module):
    """A residual stream with two blocks, that grows by zero channels and by a concatenation."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.norm = nn.Conv2d(2, 6, 3, padding=1), nn.BatchNorm2d(6)
        self.blocks = nn.ModuleList(
            nn.Sequential(nn.Conv2d(n, 5, 3, padding=1), nn.ReLU(), nn.Conv2d(5, n, 1)) for n in (6, 8)
        )
        self.beside, self.head = nn.Conv2d(8, 3, 1), nn.Linear(11, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.relu(self.norm(self.stem(x)))
        x = torch.relu(x + self.blocks[0](x))
        x = nn.functional.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, 1, 1))
        x = torch.relu(x + self.blocks[1](x))
        return self.head(torch.cat([x, self.beside(x)], 1).mean((2, 3)))


def streamed() -> tuple[nn.Module, torch.Tensor]:
    model = Stream()
    with torch.no_grad():  # channel 0 of the stream, which is channel 1 behind the padding
        for made in (model.norm.weight, model.norm.bias, model.blocks[0][2].weight, model.blocks[0][2].bias):
            made[0] *= 1e3
        for made in (model.blocks[1][2].weight, model.blocks[1][2].bias):
            made[1] *= 1e3
        model.blocks[0][0].weight[:, 0] /= 1e3
        for read in (model.blocks[1][0], model.beside, model.head):
            read.weight[:, 1] /= 1e3
    return model, torch.randn(2, 2, 8, 8)


CASES = (
    Case("convolutions, one of them depthwise, and a classifier", convolutions, 6 + 6 + 5),
    Case("a norm in between takes the factor", normed, 6),
    Case("linear layers of a sequence", linear, 6),
    # The stream of 6 that grows to 8, the inside of each block, what is joined to the stream.
    Case("a residual stream", streamed, 8 + 5 + 5 + 3),
)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_the_function_stays_and_large_channels_shrink(case: Case) -> None:
    torch.manual_seed(0)
    model, x = case.build()
    captured = capture(model.eval(), x)
    found = channels(captured)
    assert found.free.sum() == case.free
    result = equalise(captured)
    with torch.no_grad():
        (before,), (after,) = captured.run(x), result.run(x)
    assert torch.allclose(before, after, rtol=1e-4, atol=1e-5 * float(before.abs().max()))
    weights = result.module.state_dict()
    for writer in found.writers:
        if found.free[writer.classes].all():
            rows = weights[writer.rows[0]].flatten(1) if weights[writer.rows[0]].dim() > 1 else None
            sizes = weights[writer.rows[0]].abs() if rows is None else rows.abs().amax(1)
            assert float(sizes.max() / sizes.min()) < 100, writer.weight


class Apart(nn.Module):
    """What may not be rescaled: a curved activation, a shared weight, a sum with a constant or a view."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(6, 6) for _ in range(7))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        a, b, c, d, e, f, g = self.layers
        x = b(torch.sigmoid(a(x)))
        y = d(torch.relu(c(x)) + 1)
        z = e(y.reshape(-1, 2, 3).flatten(1))
        return g(torch.relu(f(torch.relu(f(z))) + x))


def test_what_is_curved_or_shared_or_cannot_be_followed_is_left_alone() -> None:
    captured = capture(Apart(), torch.randn(2, 6))
    assert channels(captured).free.sum() == 0
    kept = dict(captured.module.named_parameters())
    for name, parameter in equalise(captured).module.named_parameters():
        assert torch.equal(parameter, kept[name]), name


class Refused(nn.Module):
    """Two layers with one operation in between that does not keep channels apart, or not their scale."""

    def __init__(self, between: Callable[[torch.Tensor], torch.Tensor], channels: int = 4) -> None:
        super().__init__()
        self.between = between
        self.first, self.second = nn.Conv2d(2, 4, 3), nn.Conv2d(channels, 3, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.second(self.between(self.first(x)))


REFUSED: Mapping[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "a ReLU6": nn.functional.relu6,
    "padding with ones": lambda x: nn.functional.pad(x, (1, 1, 1, 1), value=1.0),
    "pixels taken for channels": lambda x: x.transpose(1, 2)[:, :4],
    "a sum over channels, broadcast": lambda x: x + x.mean(1, keepdim=True),
    "channels added in another order": lambda x: x + x.flip(1),
    "a product": lambda x: x * x,
    "rows taken for images": lambda x: x.reshape(-1, 4, 5, 1),
    "a shuffle of channels": lambda x: x.reshape(-1, 2, 2, 25).transpose(1, 2).reshape(-1, 4, 5, 5),
}


@pytest.mark.parametrize("between", REFUSED)
def test_an_operation_that_scale_does_not_pass_keeps_its_channels(between: str) -> None:
    captured = capture(Refused(REFUSED[between]).eval(), torch.randn(2, 2, 7, 7))
    assert not channels(captured).free[channels(captured).writers[0].classes].any()


PASSED: Mapping[str, tuple[Callable[[torch.Tensor], torch.Tensor], int]] = {
    "padding with zeros": (lambda x: nn.functional.pad(x, (1, 1, 1, 1)), 4),
    "reflected padding": (lambda x: nn.functional.pad(x, (1, 1, 1, 1), mode="reflect"), 4),
    "a slice of channels": (lambda x: x[:, 1:3], 2),
    "a slice of the image": (lambda x: x[:, :, 1:3], 4),
    "a mean over the image": (lambda x: x.mean((2, 3), keepdim=True), 4),
    "the largest of the image": (lambda x: x.amax((2, 3), keepdim=True), 4),
    "a sum with half of itself": (lambda x: torch.add(x, torch.relu(x), alpha=0.5), 4),
    "itself twice": (lambda x: torch.cat([x, torch.relu(x)], 1), 8),
    "two halves above each other": (lambda x: torch.cat([x[:, :, :2], x[:, :, 2:]], 2), 4),
}


@pytest.mark.parametrize("between", PASSED)
def test_an_operation_that_scale_passes_lets_channels_through(between: str) -> None:
    torch.manual_seed(0)
    operation, width = PASSED[between]
    model = Refused(operation, width).eval()
    with torch.no_grad():
        model.first.weight[1] *= 50
    x = torch.randn(2, 2, 7, 7)
    captured = capture(model, x)
    found = channels(captured)
    assert found.free[found.writers[0].classes].all()
    result = equalise(captured)
    assert not torch.allclose(result.module.state_dict()["first.weight"], model.first.weight)
    with torch.no_grad():
        (before,), (after,) = captured.run(x), result.run(x)
    assert torch.allclose(before, after, rtol=1e-4, atol=1e-5 * float(before.abs().max()))


def test_a_dead_channel_is_left_alone() -> None:
    model = nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2))
    with torch.no_grad():
        model[0].weight[1] = 0
        model[2].weight[:, 2] = 0
    result = equalise(capture(model, torch.randn(2, 4)))
    assert all(bool(parameter.isfinite().all()) for parameter in result.module.parameters())
    assert torch.equal(dict(result.module.named_parameters())["2.weight"][:, 1:], model[2].weight[:, 1:])


class Parametrised(nn.Module):
    """Weights that the graph computes: a magnitude and a direction."""

    def __init__(self) -> None:
        super().__init__()
        norm = nn.utils.parametrizations.weight_norm
        self.first, self.second = norm(nn.Conv1d(4, 8, 3)), norm(nn.Conv1d(8, 8, 3, groups=4))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.second(torch.relu(self.first(x)))


def test_weights_that_the_graph_computes_are_left_alone() -> None:
    x = torch.randn(2, 4, 12)
    captured = capture(Parametrised().eval(), x)
    with torch.no_grad():
        assert torch.equal(equalise(captured).run(x)[0], captured.run(x)[0])

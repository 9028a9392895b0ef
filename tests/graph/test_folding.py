"""Weights that are computed from parameters: the layer's weight counts, and is cut and trained."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from types import ModuleType

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.nn.utils import parametrizations
from torch.nn.utils import prune as masks
from torch.nn.utils import weight_norm as old_weight_norm
from torch.nn.utils.parametrize import register_parametrization

import edgeprune
from edgeprune.graph.capture import Captured, capture
from edgeprune.graph.coupling import analyse
from edgeprune.graph.fx import attribute, op_name
from edgeprune.graph.surgery import cut


class Standardised(nn.Conv2d):
    """Each filter has mean 0 and variance 1, over its inputs."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        centred = self.weight - self.weight.mean((1, 2, 3), keepdim=True)
        weight = centred / (self.weight.std((1, 2, 3), keepdim=True) + 1e-5)
        return F.conv2d(x, weight, self.bias, self.stride, self.padding)


class LowRank(nn.Conv2d):
    """A weight with its low-rank update, added in every call."""

    def __init__(self, *sizes: int) -> None:
        super().__init__(*sizes)
        self.down, self.up = (
            nn.Parameter(torch.randn(2, sizes[0] * 9)),
            nn.Parameter(torch.randn(sizes[1], 2)),
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.conv2d(x, self.weight + 0.1 * (self.up @ self.down).view_as(self.weight), self.bias)


class Symmetric(nn.Module):
    def forward(self, weight: torch.Tensor) -> torch.Tensor:
        return weight + weight.flip(-1)


def masked(layer: nn.Module) -> nn.Module:
    return masks.l1_unstructured(layer, "weight", 0.4)


def normalised(layer: nn.Module) -> nn.Module:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        return old_weight_norm(layer)


def parametrised(layer: nn.Module) -> nn.Module:
    register_parametrization(layer, "weight", Symmetric())
    return layer


MADE: dict[str, Callable[[int, int], nn.Module]] = {
    "spectral norm": lambda i, o: parametrizations.spectral_norm(nn.Conv2d(i, o, 3)),
    "spectral norm, old": lambda i, o: nn.utils.spectral_norm(nn.Conv2d(i, o, 3)),
    "weight norm": lambda i, o: parametrizations.weight_norm(nn.Conv2d(i, o, 3)),
    "weight norm, old": lambda i, o: normalised(nn.Conv2d(i, o, 3)),
    "standardised": lambda i, o: Standardised(i, o, 3),
    "low rank": lambda i, o: LowRank(i, o, 3),
    "masks": lambda i, o: masked(nn.Conv2d(i, o, 3)),
    "parametrisation": lambda i, o: parametrised(nn.Conv2d(i, o, 3)),
}


def two_layers(make: Callable[[int, int], nn.Module]) -> tuple[nn.Module, torch.Tensor]:
    torch.manual_seed(0)
    net = nn.Sequential(make(3, 8), nn.ReLU(), make(8, 6), nn.ReLU(), nn.Flatten(), nn.Linear(6 * 16, 2))
    return net.eval(), torch.randn(2, 3, 8, 8)


@pytest.mark.parametrize("name", MADE)
def test_a_computed_weight_is_the_parameter_that_is_cut(name: str, references: ModuleType) -> None:
    model, x = two_layers(MADE[name])
    wanted, theirs = model(x), dict(model.state_dict())
    captured = capture(model, x)
    names = [name for name, _ in captured.module.named_parameters()]
    assert sorted(names) == sorted(f"{layer}.{part}" for layer in (0, 2, 5) for part in ("weight", "bias"))
    assert list(captured.module.buffers()) == []
    assert torch.equal(captured.run(x)[0], wanted)
    assert model.state_dict().keys() == theirs.keys()
    coupling = analyse(captured)
    assert {group.name: group.units for group in coupling.groups} == {"0": 8, "2": 6}
    assert not any(group.normed for group in coupling.groups)
    assert_survivors_stay(captured, references)


def assert_survivors_stay(captured: Captured, references: ModuleType) -> None:
    """What stays has the weights that it had, and computes what the dense does with the rest at zero."""
    coupling = analyse(captured)
    kept = references.random_kept(coupling, 1, 0.5)
    smaller = cut(captured, coupling, kept)
    whole = attribute(captured.module, "2.weight").detach()
    left = whole[list(kept["2"])][:, list(kept["0"])]
    assert torch.equal(attribute(smaller.module, "2.weight").detach(), left)
    with torch.no_grad():
        found = smaller.run(*captured.inputs)
        zeroed = references.zeroed(captured, coupling, kept).run(*captured.inputs)
    assert references.difference(found, zeroed) < references.LIMIT


@pytest.mark.parametrize("name", ["spectral norm", "standardised", "masks"])
def test_training_moves_the_weight_that_the_layer_multiplies_with(name: str) -> None:
    model, x = two_layers(MADE[name])
    pruned = edgeprune.prune(model, x, ratio=0.5)
    pruned.module(x).square().sum().backward()
    for parameter in pruned.module.parameters():
        assert parameter.grad is not None
        assert parameter.grad.abs().sum() > 0


def test_units_that_masks_took_out_leave_first() -> None:
    torch.manual_seed(1)
    first = nn.Conv2d(3, 12, 3)
    live = torch.randperm(12)[:6].sort().values
    mask = torch.zeros(12, 1, 1, 1)
    mask[live] = 1.0
    masks.custom_from_mask(first, "weight", mask.expand_as(first.weight))
    with torch.no_grad():
        first.bias.zero_()
    model = nn.Sequential(first, nn.ReLU(), nn.Conv2d(12, 4, 1)).eval()
    x = torch.randn(2, 3, 8, 8)
    pruned = edgeprune.prune(model, x, ratio=0.5)
    assert pruned.kept["0"] == tuple(live.tolist())
    assert torch.allclose(pruned.module(x), model(x), atol=1e-5)


class Twice(nn.Module):
    """One normalised layer, called twice: its weight is computed twice and is one."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = parametrizations.weight_norm(nn.Linear(8, 8))
        self.first, self.last = nn.Linear(4, 8), nn.Linear(8, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.last(self.layer(torch.relu(self.layer(self.first(x)))))


def test_a_layer_that_is_used_twice_keeps_one_weight() -> None:
    model, x = Twice().eval(), torch.randn(2, 4)
    captured = capture(model, x)
    readers = [node for node in captured.module.graph.nodes if node.target == "layer.weight"]
    assert [len(node.users) for node in readers] == [2]
    assert torch.equal(captured.run(x)[0], model(x))


class Kept(nn.Module):
    """What must not be folded: a low-rank product, a tied source, a scale, and what noise makes."""

    def __init__(self) -> None:
        super().__init__()
        self.narrow, self.wide = nn.Parameter(torch.randn(16, 2)), nn.Parameter(torch.randn(2, 16))
        self.words = nn.Embedding(10, 16)
        self.scale = nn.Parameter(torch.tensor(0.5))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = F.linear(self.words(x), self.narrow @ self.wide) * self.scale.exp()
        return F.linear(y, F.normalize(self.words.weight, dim=1))


def test_what_is_made_of_few_parameters_or_tied_stays_as_it_is() -> None:
    model, x = Kept().eval(), torch.randint(0, 10, (2, 3))
    captured = capture(model, x)
    assert {name for name, _ in captured.module.named_parameters()} == {
        *("narrow", "wide", "words.weight", "scale")
    }
    operations = {op_name(node) for node in captured.module.graph.nodes if node.op == "call_function"}
    assert {"aten.matmul", "aten.exp", "aten.linalg_vector_norm"} <= operations
    assert torch.equal(captured.run(x)[0], model(x))


class Causal(Standardised):
    """A standardised filter of which the middle is set to zero, in every call and in place."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        weight = self.weight - self.weight.mean((1, 2, 3), keepdim=True)
        weight = weight @ weight.transpose(-1, -2)
        weight[:, :, 1, 1:] = 0
        return F.conv2d(x, weight, self.bias)


class TwoStates(nn.Conv2d):
    """Two states that start alike, of which one is written to."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        mean, scale = torch.zeros(self.out_channels, 1, 1), torch.zeros(self.out_channels, 1, 1)
        x = super().forward(x)
        scale += x.square().mean((0, 2, 3))[:, None, None]
        return (x - mean) / (scale + 1).sqrt()


@pytest.mark.parametrize("layer", [Causal, TwoStates])
def test_what_is_written_to_in_place_is_not_taken_for_a_constant(layer: type[nn.Conv2d]) -> None:
    torch.manual_seed(0)
    model, x = nn.Sequential(nn.Conv2d(3, 4, 1), layer(4, 5, 3)).eval(), torch.randn(2, 3, 6, 6)
    with torch.no_grad():
        torch.testing.assert_close(capture(model, x).run(x)[0], model(x))

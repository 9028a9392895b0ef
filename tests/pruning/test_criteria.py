"""Every criterion gives each unit one finite score that belongs to the unit and not to its place."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, scaled_dot_product_attention

from edgeprune.errors import InputError
from edgeprune.graph.capture import Captured, capture
from edgeprune.graph.coupling import Coupling, Group, analyse
from edgeprune.graph.fx import attribute
from edgeprune.meaning.losses import Loss, or_own
from edgeprune.pruning import importance as measured
from edgeprune.pruning.criteria import TABLE
from tests.support.yardsticks import yardstick_of

# Noise belongs to no unit, and `bn-scale` refuses groups without a BatchNorm: both have tests of their own.
ANYWHERE = [name for name in TABLE if name != "bn-scale"]
OF_UNITS = [name for name in ANYWHERE if name != "random"]


class Convolutional(nn.Module):
    """Residual, depthwise, and a flatten that gives every channel several inputs of the classifier."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.norm = nn.Conv2d(2, 8, 3, padding=1), nn.BatchNorm2d(8)
        self.body, self.depth = nn.Conv2d(8, 8, 3, padding=1), nn.Conv2d(8, 8, 3, padding=1, groups=8)
        self.narrow, self.head = nn.Conv2d(8, 6, 3, stride=2), nn.Linear(6 * 4, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = nn.functional.silu(self.norm(self.stem(x)))
        x = nn.functional.silu(x + self.depth(self.body(x)))
        return self.head(nn.functional.silu(self.narrow(x)).flatten(1))


class Transformer(nn.Module):
    """One block of four heads; heads and hidden neurons are units."""

    def __init__(self) -> None:
        super().__init__()
        self.fused, self.project = nn.Linear(8, 24), nn.Linear(8, 8)
        self.norm, self.up, self.down = nn.LayerNorm(8), nn.Linear(8, 12), nn.Linear(12, 8)
        self.head = nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.fused(x).view(-1, 5, 3, 4, 2).permute(2, 0, 3, 1, 4).unbind(0)
        x = x + self.project(scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(-1, 5, 8))
        return self.head((x + self.down(nn.functional.gelu(self.up(self.norm(x))))).mean(1))


MODELS = {"convolutional": Convolutional, "transformer": Transformer}
SHAPES = {"convolutional": (4, 2, 6, 6), "transformer": (4, 5, 8)}


def importance(
    captured: Captured,
    coupling: Coupling,
    criterion: str,
    batches: Any = (),
    loss: Loss = cross_entropy,
    **options: Any,
) -> Mapping[str, Any]:
    """Scores by class numbers, or without any by the model's own classes."""
    objective = or_own(loss, yardstick_of(captured, "classes"))
    return measured.importance(captured, coupling, criterion, batches, objective, **options)


@cache
def analysed(name: str) -> tuple[Captured, Coupling]:
    torch.manual_seed(0)
    model = MODELS[name]()
    for parameter in model.parameters():  # norms start as all ones, which would hide a permutation
        nn.init.normal_(parameter, std=0.5)
    captured = capture(model, torch.randn(SHAPES[name]))
    return captured, analyse(captured)


def data(name: str) -> list[tuple[tuple[Tensor, ...], Tensor | None]]:
    generator = torch.Generator().manual_seed(1)
    return [
        ((torch.randn(SHAPES[name], generator=generator),), torch.randint(5, (4,), generator=generator))
        for _ in range(2)
    ]


@pytest.mark.parametrize("criterion", ANYWHERE)
@pytest.mark.parametrize("model", MODELS)
def test_every_unit_has_one_finite_score_and_a_group_has_mean_one_unless_groups_compare(
    model: str, criterion: str
) -> None:
    captured, coupling = analysed(model)
    scores = importance(captured, coupling, criterion, data(model))
    assert list(scores) == [group.name for group in coupling.groups]
    for group in coupling.groups:
        found = scores[group.name]
        assert found.dtype == np.float32
        assert found.shape == (group.units,)
        assert np.isfinite(found).all()
        assert (found >= 0).all()
        assert TABLE[criterion].comparable or found.mean() == pytest.approx(1, rel=1e-5)


@pytest.mark.parametrize("criterion", ANYWHERE)
def test_the_same_seed_gives_the_same_scores(criterion: str) -> None:
    captured, coupling = analysed("convolutional")
    first, again = (
        importance(captured, coupling, criterion, data("convolutional"), seed=-7) for _ in range(2)
    )
    for name, scores in first.items():
        np.testing.assert_array_equal(scores, again[name])


def reordered(captured: Captured, group: Group, order: np.ndarray) -> Captured:
    """The same function with the group's units in another order: new unit i is the old order[i]."""
    result = captured.copy()
    for axis in group.axes:
        index = np.arange(axis.size)
        index[axis.positions.ravel()] = axis.positions[order].ravel()
        tensor = attribute(result.module, axis.parameter)
        with torch.no_grad():
            tensor.copy_(tensor.index_select(axis.dim, torch.from_numpy(index)))
    return result


@pytest.mark.parametrize("criterion", OF_UNITS)
@pytest.mark.parametrize("model", MODELS)
def test_reordered_units_take_their_scores_with_them(model: str, criterion: str) -> None:
    captured, coupling = analysed(model)
    before = importance(captured, coupling, criterion, data(model))
    for group in coupling.groups:
        order = np.random.default_rng(0).permutation(group.units)
        moved = reordered(captured, group, order)
        with torch.no_grad():  # or the test would compare two different models
            torch.testing.assert_close(moved.run(*moved.inputs), captured.run(*captured.inputs))
        after = importance(moved, coupling, criterion, data(model))
        np.testing.assert_allclose(after[group.name], before[group.name][order], rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("criterion", OF_UNITS)
@pytest.mark.parametrize("model", MODELS)
def test_a_zeroed_unit_scores_zero_and_lowest(model: str, criterion: str) -> None:
    captured, coupling = analysed(model)
    for group in coupling.groups:
        zeroed = captured.copy()
        for axis in group.axes:
            tensor = attribute(zeroed.module, axis.parameter)
            if isinstance(tensor, nn.Parameter):
                index = torch.from_numpy(axis.positions[2])
                with torch.no_grad():
                    tensor.index_fill_(axis.dim, index, 0.0)
        scores = importance(zeroed, coupling, criterion, data(model))[group.name]
        assert scores[2] == 0
        assert (np.delete(scores, 2) > 0).all()


def two_layers() -> tuple[nn.Sequential, Captured, Coupling]:
    torch.manual_seed(3)
    model = nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 5))
    captured = capture(model, torch.randn(2, 4))
    return model, captured, analyse(captured)


@pytest.mark.parametrize(("criterion", "power"), [("l1", 1), ("l2", 2)])
def test_magnitude_sums_the_weights_that_leave_with_a_unit(criterion: str, power: int) -> None:
    model, captured, coupling = two_layers()
    first, second = (layer.weight.detach().double().numpy() for layer in (model[0], model[2]))
    sums = (np.abs(first) ** power).sum(axis=1) + (np.abs(second) ** power).sum(axis=0)
    expected = sums ** (1 / power)  # the biases are left out
    (scores,) = importance(captured, coupling, criterion).values()
    np.testing.assert_allclose(scores, expected / expected.mean(), rtol=1e-5)


def test_taylor_scores_frozen_parameters_and_leaves_the_users_model_as_it_was() -> None:
    model, captured, coupling = two_layers()
    model.requires_grad_(False)
    mine = model[2].weight.grad = torch.ones(5, 6)
    (scores,) = importance(captured, coupling, "taylor", [((torch.randn(8, 4),), None)]).values()
    assert (scores > 0).all()
    assert model[2].weight.grad is mine
    assert model[0].weight.grad is None
    assert not any(parameter.requires_grad for parameter in captured.module.parameters())


def test_scoring_does_not_move_the_callers_random_numbers() -> None:
    _, captured, coupling = two_layers()
    batches = [((torch.randn(8, 4),), None)]
    state = torch.get_rng_state()
    importance(captured, coupling, "taylor", batches, seed=5)
    assert torch.equal(torch.get_rng_state(), state)


def test_a_loader_that_shuffles_gives_the_same_scores_for_a_seed() -> None:
    _, captured, coupling = two_layers()
    pool = torch.randn(64, 4)

    def scored(seed: int) -> list[float]:
        drawn = (((pool[torch.randperm(64)[:8]],), None) for _ in range(2))
        return importance(captured, coupling, "taylor", drawn, seed=seed)["0"].tolist()

    first, again, other = scored(1), scored(1), scored(2)
    assert first == again != other


def test_random_scores_differ_between_seeds_and_between_groups() -> None:
    captured, coupling = analysed("convolutional")
    one, other = (importance(captured, coupling, "random", seed=seed) for seed in (0, 1))
    drawn = [scores.tolist() for found in (one, other) for scores in found.values()]
    assert len({score for scores in drawn for score in scores}) == sum(map(len, drawn))


def test_a_group_of_vectors_alone_is_scored_by_them() -> None:
    class Scale(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.scale = nn.Parameter(torch.tensor([1.0, -3.0, 2.0, 0.5]))

        def forward(self, x: Tensor) -> Tensor:
            return (x[:, :, None] * self.scale).sum(-1)

    captured = capture(Scale(), torch.randn(2, 3))
    (scores,) = importance(captured, analyse(captured), "l1").values()
    np.testing.assert_allclose(scores, np.array([1, 3, 2, 0.5]) / 1.625, rtol=1e-6)


def test_weights_in_half_precision_are_squared_in_double() -> None:
    model = nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 5)).half()
    with torch.no_grad():
        for layer in (model[0], model[2]):
            layer.weight.fill_(1e-4)  # 1e-8 is zero in half precision
        model[0].weight[1] *= 2
    captured = capture(model, torch.randn(2, 4).half())
    (scores,) = importance(captured, analyse(captured), "l2").values()
    ratio = ((4 * 4 + 5) / (4 + 5)) ** 0.5
    assert scores[1] / scores[0] == pytest.approx(ratio, rel=1e-4)


def test_a_group_of_zeros_scores_zero_and_not_nan() -> None:
    _, captured, coupling = two_layers()
    zero = captured.copy()
    with torch.no_grad():
        for parameter in zero.module.parameters():
            parameter.zero_()
    for criterion in OF_UNITS:
        (scores,) = importance(zero, coupling, criterion, [((torch.randn(8, 4),), None)]).values()
        assert scores.tolist() == [0] * 6


@pytest.mark.parametrize("bias", [True, False])
def test_wanda_weighs_each_column_by_the_norm_of_its_input(bias: bool) -> None:
    torch.manual_seed(3)
    model = nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 5, bias=bias))
    captured = capture(model, torch.randn(2, 4))
    x = torch.randn(40, 4)
    (scores,) = importance(
        captured, analyse(captured), "wanda", [((x[:30],), None), ((x[30:],), None)]
    ).values()
    with torch.no_grad():
        norms = model[:2](x).norm(dim=0)
        raw = model[2].weight.abs().sum(dim=0) * norms
    np.testing.assert_allclose(scores, raw / raw.mean(), rtol=1e-5)


def test_wanda_of_a_convolution_weighs_each_place_of_the_kernel() -> None:
    torch.manual_seed(4)
    model = nn.Sequential(nn.Conv2d(2, 6, 1), nn.Tanh(), nn.Conv2d(6, 3, 3, stride=2), nn.Flatten())
    captured = capture(model, torch.randn(2, 2, 7, 7))
    x = torch.randn(8, 2, 7, 7)
    scores = importance(captured, analyse(captured), "wanda", [((x,), None)])["0"]
    with torch.no_grad():
        patches = nn.functional.unfold(model[:2](x), 3, stride=2)  # [images, channels * 9, places]
        norms = patches.square().sum(dim=(0, 2)).sqrt().reshape(6, 3, 3)
        raw = (model[2].weight.abs() * norms).sum(dim=(0, 2, 3))
    np.testing.assert_allclose(scores, raw / raw.mean(), rtol=1e-5)


def test_wanda_of_a_group_without_gram_matrices_is_the_sum_of_weights() -> None:
    torch.manual_seed(5)
    model = nn.Sequential(nn.Conv2d(2, 6, 1), nn.Tanh(), nn.ConvTranspose2d(6, 3, 2), nn.Flatten())
    captured = capture(model, torch.randn(2, 2, 3, 3))
    batches = [((torch.randn(4, 2, 3, 3),), None)]
    (found,), (weights,) = (
        importance(captured, analyse(captured), name, batches).values() for name in ("wanda", "l1")
    )
    np.testing.assert_array_equal(found, weights)


@pytest.mark.parametrize("criterion", [name for name in TABLE if TABLE[name].needs])
def test_a_criterion_that_needs_data_says_so_when_there_is_none(criterion: str) -> None:
    _, captured, coupling = two_layers()
    with pytest.raises(InputError, match=f"'{criterion}' needs data") as caught:
        importance(captured, coupling, criterion)
    assert "calibration" in caught.value.hint


def test_an_unknown_criterion_names_those_that_there_are() -> None:
    _, captured, coupling = two_layers()
    with pytest.raises(InputError, match="no criterion 'L3'") as caught:
        importance(captured, coupling, "L3")
    assert all(name in caught.value.hint for name in TABLE)


@pytest.mark.parametrize("criterion", OF_UNITS)
def test_weights_that_are_not_finite_are_refused(criterion: str) -> None:
    _, captured, coupling = two_layers()
    broken = captured.copy()
    with torch.no_grad():
        next(broken.module.parameters())[0, 0] = float("nan")
    with pytest.raises(InputError, match="group '0' scores that are not finite"):
        importance(broken, coupling, criterion, [((torch.randn(8, 4),), None)])

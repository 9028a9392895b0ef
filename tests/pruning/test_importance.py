"""Each criterion is what its paper says: closed forms and brute force on small problems."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from edgeprune.errors import InputError
from edgeprune.graph.capture import capture
from edgeprune.graph.coupling import analyse
from edgeprune.meaning.losses import Loss, or_own
from edgeprune.pruning.criteria import TABLE
from edgeprune.pruning.importance import importance
from tests.support.yardsticks import yardstick_of

Batches = Sequence[tuple[tuple[Tensor, ...], Any]]


def scored(
    model: nn.Module,
    criterion: str,
    batches: Batches = (),
    *,
    loss: Loss = cross_entropy,
    example: Tensor | None = None,
) -> np.ndarray:
    """Scores of the only group of a model of vectors of 4."""
    captured = capture(model, torch.randn(2, 4) if example is None else example)
    objective = or_own(loss, yardstick_of(captured, "classes"))
    (found,) = importance(captured, analyse(captured), criterion, batches, objective).values()
    return np.asarray(found, np.float64)


def relative(raw: np.ndarray) -> np.ndarray:
    """Raw scores of a group by their mean, as groups are ranked together."""
    return raw / raw.mean()


def two_layers() -> nn.Sequential:
    torch.manual_seed(3)
    return nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 5))


def labelled(sizes: Sequence[int] = (8, 8, 8)) -> Batches:
    generator = torch.Generator().manual_seed(2)
    return [
        ((torch.randn(size, 4, generator=generator),), torch.randint(5, (size,), generator=generator))
        for size in sizes
    ]


class Softmax:
    """Gradients of the cross-entropy of `two_layers` for every sample, written out in numpy.

    parts: [samples, units, k] each, g * w of the first layer's weights, of its biases and of the second
    layer's weights, which leave with the hidden units.
    """

    def __init__(self, model: nn.Sequential, x: np.ndarray, y: np.ndarray) -> None:
        first, bias, second, last = (p.detach().double().numpy() for p in model.parameters())
        hidden = np.tanh(x @ first.T + bias)
        scores = np.exp(hidden @ second.T + last)
        above = scores / scores.sum(1, keepdims=True) - np.eye(5)[y]
        below = above @ second * (1 - hidden**2)
        self.parts = (
            below[:, :, None] * x[:, None, :] * first,
            (below * bias)[:, :, None],
            (above[:, :, None] * hidden[:, None, :] * second).swapaxes(1, 2),
        )

    @classmethod
    def of(cls, model: nn.Sequential, batches: Batches) -> Softmax:
        x = np.concatenate([inputs[0].double().numpy() for inputs, _ in batches])
        return cls(model, x, np.concatenate([target.numpy() for _, target in batches]))

    def changes(self) -> np.ndarray:
        """[samples, units], sum of g * w over the weights that read a unit."""
        return self.parts[2].sum(2)


def test_lamp_is_the_squared_norm_by_that_of_all_that_are_as_large() -> None:
    model = two_layers()
    first, second = (layer.weight.detach().double().numpy() for layer in (model[0], model[2]))
    squares = (first**2).sum(axis=1) + (second**2).sum(axis=0)
    expected = [square / sum(other for other in squares if other >= square) for square in squares]
    found = scored(model, "lamp")
    np.testing.assert_allclose(found, expected, rtol=1e-5)
    assert found.max() == 1
    assert list(np.argsort(found)) == list(np.argsort(scored(model, "l2")))


def test_lamp_of_equal_units_is_equal() -> None:
    model = two_layers()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.fill_(0.5)
    np.testing.assert_allclose(scored(model, "lamp"), 1 / 6, rtol=1e-6)


class Residual(nn.Module):
    """Two BatchNorms on one stream, another inside the branch."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.norm = nn.Conv2d(2, 4, 1), nn.BatchNorm2d(4)
        self.up, self.inner = nn.Conv2d(4, 3, 1), nn.BatchNorm2d(3)
        self.down, self.outer = nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4)
        self.head = nn.Linear(4, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.norm(self.stem(x)))
        x = x + self.outer(self.down(torch.relu(self.inner(self.up(x)))))
        return self.head(x.mean((2, 3)))


def test_bn_scale_is_the_mean_of_the_scales_on_a_stream_and_comparable_between_groups() -> None:
    model = Residual()
    with torch.no_grad():
        model.norm.weight.copy_(torch.tensor([1.0, -2.0, 3.0, 0.0]))
        model.outer.weight.copy_(torch.tensor([-1.0, 1.0, 0.5, 0.25]))
        model.inner.weight.copy_(torch.tensor([0.1, -0.2, 0.3]))
    captured = capture(model, torch.randn(2, 2, 3, 3))
    scores = importance(captured, analyse(captured), "bn-scale")
    np.testing.assert_allclose(scores["stem"], [1.0, 1.5, 1.75, 0.125])
    np.testing.assert_allclose(scores["up"], [0.1, 0.2, 0.3], rtol=1e-6)


@pytest.mark.parametrize("norm", [nn.Identity(), nn.LayerNorm(6), nn.BatchNorm1d(6, affine=False)])
def test_bn_scale_refuses_a_group_without_a_scale(norm: nn.Module) -> None:
    model = nn.Sequential(nn.Linear(4, 6), norm, nn.ReLU(), nn.Linear(6, 5)).eval()
    with pytest.raises(InputError, match="'bn-scale' looks at the scales of BatchNorms, and group '0' has"):
        scored(model, "bn-scale")


def test_taylor_sums_gradient_times_weight_of_the_mean_loss() -> None:
    model, batches = two_layers(), labelled()
    raw = sum(np.abs(part.mean(0)).sum(1) for part in Softmax.of(model, batches).parts)
    np.testing.assert_allclose(scored(model, "taylor", batches), relative(raw), rtol=1e-4)


def test_taylor_unit_is_the_mean_square_of_each_batchs_change() -> None:
    model, batches = two_layers(), labelled((8, 3))
    per_batch = [Softmax.of(model, [batch]).changes().mean(0) for batch in batches]
    np.testing.assert_allclose(
        scored(model, "taylor-unit", batches), relative(np.square(per_batch).mean(0)), rtol=1e-4
    )


def test_taylor_unit_does_not_vanish_where_the_gradient_of_all_the_data_does() -> None:
    model = two_layers()
    x = torch.randn(2, 4)
    batches = [((x,), torch.tensor([2.0])), ((x,), torch.tensor([-2.0]))]  # their slopes cancel

    def loss(answer: Tensor, target: Tensor) -> Tensor:
        return (answer * target).sum()

    assert (scored(model, "taylor-unit", batches, loss=loss) > 0).all()
    assert (scored(model, "taylor", batches, loss=loss) == 0).all()


def scaled(model: nn.Sequential, unit: int, scale: float) -> nn.Sequential:
    """The model with what a hidden unit gives scaled."""
    result = copy.deepcopy(model)
    with torch.no_grad():
        result[2].weight[:, unit] *= scale
    return result


def test_taylor_unit_is_the_change_of_the_loss_as_a_unit_begins_to_vanish() -> None:
    model, x = two_layers().double(), torch.randn(8, 4, dtype=torch.float64)
    target, step = torch.randint(5, (8,)), 1e-6
    slopes = []
    for unit in range(6):
        with torch.no_grad():
            more, less = (cross_entropy(scaled(model, unit, 1 + by)(x), target) for by in (step, -step))
        slopes.append(float(more - less) / (2 * step))
    found = scored(model, "taylor-unit", [((x,), target)], example=x)
    np.testing.assert_allclose(found, relative(np.square(slopes)), rtol=1e-4)


def test_fisher_is_the_divergence_of_the_answers_as_a_unit_begins_to_vanish() -> None:
    """With every class as the label, weighted by its probability, it is the curvature of the divergence."""
    model, x = two_layers().double(), torch.randn(8, 4, dtype=torch.float64)
    with torch.no_grad():
        answers = torch.log_softmax(model(x), 1)
    labels = torch.arange(5).repeat(8)
    weights = (5 * answers.exp()).sqrt().flatten()  # squared and averaged over the classes: the probability

    def loss(answer: Tensor, target: tuple[Tensor, Tensor]) -> Tensor:
        return (target[1] * cross_entropy(answer, target[0], reduction="none")).mean()

    divergences, step = [], 1e-3
    for unit in range(6):
        with torch.no_grad():
            moved = torch.log_softmax(scaled(model, unit, 1 - step)(x), 1)
        divergences.append(float((answers.exp() * (answers - moved)).sum(1).mean()))
    found = scored(model, "fisher", [((x.repeat_interleave(5, 0),), (labels, weights))], loss=loss, example=x)
    np.testing.assert_allclose(found, relative(np.array(divergences)), rtol=1e-2)


def test_fisher_is_half_the_mean_square_of_each_samples_change() -> None:
    model, batches = two_layers(), labelled()
    expected = (Softmax.of(model, batches).changes() ** 2).mean(0) / 2
    np.testing.assert_allclose(scored(model, "fisher", batches), relative(expected), rtol=1e-4)


def test_obd_is_the_diagonal_of_the_fisher_information_of_a_softmax() -> None:
    model, batches = two_layers(), labelled()
    expected = sum((part**2).mean(0).sum(1) for part in Softmax.of(model, batches).parts) / 2
    np.testing.assert_allclose(scored(model, "obd", batches), relative(expected), rtol=1e-4)


def test_llm_pruner_element_adds_the_second_order_to_each_weight_of_a_coupled_group() -> None:
    model, batches = two_layers(), labelled()
    parts = Softmax.of(model, batches).parts
    expected = sum(np.abs(part.mean(0) - (part**2).mean(0) / 2).sum(1) for part in parts)
    np.testing.assert_allclose(scored(model, "llm-pruner-element", batches), relative(expected), rtol=1e-4)


def test_llm_pruner_vector_takes_the_weights_of_each_coupled_layer_together() -> None:
    model, batches = two_layers(), labelled()
    parts = Softmax.of(model, batches).parts
    expected = sum(np.abs(part.mean(0).sum(1)) for part in parts)
    np.testing.assert_allclose(scored(model, "llm-pruner-vector", batches), relative(expected), rtol=1e-4)


def test_gradients_of_single_samples_do_not_depend_on_the_batches() -> None:
    model, batches = two_layers(), labelled((24,))
    inputs, target = batches[0]
    parts = [((x,), y) for x, y in zip(inputs[0].split(5), target.split(5), strict=True)]
    for criterion in ("fisher", "obd", "llm-pruner-element"):
        whole, split = (scored(model, criterion, given) for given in (batches, parts))
        np.testing.assert_allclose(split, whole, rtol=1e-5)


@pytest.mark.parametrize("criterion", [name for name in TABLE if "gradients" in TABLE[name].needs])
def test_without_labels_the_models_own_answer_is_the_target(criterion: str) -> None:
    model, batches = two_layers(), labelled()
    own = [(inputs, model(*inputs).argmax(1)) for inputs, _ in batches]
    unlabelled = [(inputs, None) for inputs, _ in batches]
    np.testing.assert_array_equal(scored(model, criterion, unlabelled), scored(model, criterion, own))
    assert not np.array_equal(scored(model, criterion, batches), scored(model, criterion, own))


@pytest.mark.parametrize("outputs", ["values", "embeddings", None])
@pytest.mark.parametrize("criterion", ["taylor", "taylor-unit", "fisher"])
def test_outputs_that_decide_nothing_have_an_objective_of_their_own(
    criterion: str, outputs: str | None
) -> None:
    captured = capture(two_layers(), torch.randn(2, 4))
    objective = or_own(cross_entropy, yardstick_of(captured, outputs))
    given = [(inputs, None) for inputs, _ in labelled()]
    (scores,) = importance(captured, analyse(captured), criterion, given, objective).values()
    assert (scores > 0).all()

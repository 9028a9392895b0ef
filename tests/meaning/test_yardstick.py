"""A distance is 0 for equal outputs alone, and looks at each kind of output in its own way."""

from __future__ import annotations

import math
from dataclasses import dataclass

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from edgeprune.errors import InputError
from edgeprune.meaning.kinds import Outputs
from edgeprune.meaning.yardstick import SPREAD_ROWS, Yardstick, yardstick
from edgeprune.records.meaning import Meaning, OutputKind


def yards(*pairs: tuple[Meaning, Tensor]) -> Yardstick:
    meanings = tuple(meaning for meaning, _ in pairs)
    outputs = Outputs(tuple(str(at) for at in range(len(pairs))), meanings, (True,) * len(pairs))
    return yardstick(outputs, [[tensor for _, tensor in pairs]])


def distance(meaning: Meaning, ours: Tensor, theirs: Tensor, temperature: float = 1.0) -> float:
    return float(yards((meaning, theirs)).distance([ours], [theirs], temperature))


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def test_class_scores_are_compared_by_hintons_divergence() -> None:
    ours, theirs, temperature = drawn(5, 4), drawn(5, 4, seed=1), 3.0
    p, q = (theirs / temperature).softmax(1), (ours / temperature).softmax(1)
    expected = float(temperature**2 * (p * (p / q).log()).sum(1).mean())
    assert distance(Meaning("classes", 1), ours, theirs, temperature) == pytest.approx(expected, rel=1e-5)
    assert distance(Meaning("classes", 1), theirs + 5, theirs) == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize("axis", [1, 2, 3])
def test_classes_of_pixels_and_tokens_are_compared_place_by_place(axis: int) -> None:
    ours, theirs = drawn(5, 3, 4, 6), drawn(5, 3, 4, 6, seed=1)
    size = ours.shape[axis]
    rows = (each.movedim(axis, -1).reshape(-1, size) for each in (ours, theirs))
    expected = distance(Meaning("classes", 1), *rows)
    assert distance(Meaning("classes", axis), ours, theirs) == pytest.approx(expected, rel=1e-5)


def test_probabilities_are_compared_without_a_second_softmax() -> None:
    ours, theirs = drawn(5, 4), drawn(5, 4, seed=1)
    expected = distance(Meaning("classes", 1), ours, theirs, 2.0)
    found = distance(Meaning("probabilities"), ours.softmax(1), theirs.softmax(1), 2.0)
    assert found == pytest.approx(expected, rel=1e-3)


def test_labels_are_compared_one_by_one() -> None:
    ours, theirs = drawn(5, 4), drawn(5, 4, seed=1)
    p, q = theirs.sigmoid(), ours.sigmoid()
    expected = (p * (p / q).log() + (1 - p) * ((1 - p) / (1 - q)).log()).mean()
    assert distance(Meaning("labels"), ours, theirs) == pytest.approx(float(expected), rel=1e-5)
    assert distance(Meaning("labels"), theirs + 5, theirs) > 0.5
    alone = distance(Meaning("probabilities"), ours.sigmoid(), theirs.sigmoid())
    assert alone == pytest.approx(float(expected), rel=1e-3), "they sum to 1 along no axis"


def test_embeddings_are_compared_by_their_direction() -> None:
    theirs = drawn(5, 8)
    assert distance(Meaning("embeddings", 1), 3 * theirs, theirs) == pytest.approx(0, abs=1e-6)
    assert distance(Meaning("embeddings", 1), -theirs, theirs) == pytest.approx(2)


@pytest.mark.parametrize("kind", ["values", None])
@pytest.mark.parametrize("offset", [0.0, 1e4])
def test_values_are_compared_by_the_spread_of_the_original_not_by_its_mean(
    kind: OutputKind | None, offset: float
) -> None:
    theirs = drawn(400, 8) + offset
    assert distance(Meaning(kind), theirs + 5, theirs) == pytest.approx(25, rel=0.2)
    mean = theirs.mean(0, keepdim=True).expand_as(theirs)
    assert distance(Meaning(kind), mean, theirs) == pytest.approx(1, rel=1e-3)


def test_quantities_of_other_units_count_alike() -> None:
    theirs = drawn(400, 2) * torch.tensor([1.0, 50.0]) + torch.tensor([3.0, 1000.0])
    for column in (0, 1):
        ours = theirs.clone()
        ours[:, column] = theirs[:, column].mean()
        assert distance(Meaning("values"), ours, theirs) == pytest.approx(0.5, rel=0.01)


@pytest.mark.parametrize("shape", [(64, 10, 30), (64, 30, 10), (64, 10, 6, 5)], ids=str)
def test_a_dead_channel_beside_large_ones_is_seen_wherever_its_axis_is(shape: tuple[int, ...]) -> None:
    """As in a detector that returns boxes in pixels and scores in one tensor."""
    axis = shape.index(10)
    scale = torch.ones(10)
    scale[:4] = 30.0
    theirs = (drawn(*shape).movedim(axis, -1) * scale).movedim(-1, axis)
    ours = theirs.clone()
    ours.movedim(axis, 0)[4:] = 0
    assert distance(Meaning(None), ours, theirs) > 0.1
    assert distance(Meaning("values", axis), ours, theirs) == pytest.approx(0.6, rel=0.05)


def test_what_never_moves_has_a_finite_distance() -> None:
    still = torch.ones(6, 3)
    assert distance(Meaning("values"), still, still) == 0
    assert distance(Meaning("values"), still * 1.1, still) == pytest.approx(0.01, rel=1e-3)
    assert distance(Meaning("values"), torch.ones(6, 3), torch.zeros(6, 3)) == 1
    half = torch.cat([drawn(6, 1), torch.ones(6, 1)], dim=1)
    assert math.isfinite(distance(Meaning("values"), half + 0.1, half))
    assert math.isfinite(distance(Meaning("values"), torch.ones(1), torch.zeros(1)))


@dataclass(frozen=True)
class Kind:
    name: str
    meaning: Meaning
    shape: tuple[int, ...]


KINDS = (
    Kind("classes", Meaning("classes", 1), (6, 5)),
    Kind("pixels", Meaning("classes", 1), (6, 5, 3, 2)),
    Kind("labels", Meaning("labels"), (6, 5)),
    Kind("values", Meaning("values"), (6,)),
    Kind("maps", Meaning("values"), (6, 1, 4, 3)),
    Kind("channels", Meaning("values", 1), (6, 4, 3)),
    Kind("embeddings", Meaning("embeddings", 1), (6, 5)),
    Kind("unsaid", Meaning(None), (6, 5, 2)),
)


@settings(deadline=None)
@given(kind=st.sampled_from(KINDS), seed=st.integers(0, 999), step=st.floats(0.01, 3))
def test_a_distance_is_nought_for_the_same_and_more_for_another_and_has_a_gradient(
    kind: Kind, seed: int, step: float
) -> None:
    theirs = drawn(*kind.shape, seed=seed)
    measure = yards((kind.meaning, theirs))
    assert float(measure.distance([theirs], [theirs])) == pytest.approx(0, abs=1e-6)
    assert measure.agreement([theirs], [theirs]) == pytest.approx(1)
    ours = (theirs + step * drawn(*kind.shape, seed=seed + 1)).requires_grad_()
    found = measure.distance([ours], [theirs], 2.0)
    assert found.item() > 0
    (gradient,) = torch.autograd.grad(found, ours)
    assert bool(gradient.isfinite().all())
    assert bool(gradient.any())


def test_several_outputs_are_summed_each_by_its_kind_and_none_counts_nothing() -> None:
    scores, boxes, other = drawn(5, 4), drawn(5, 3), drawn(5, 2)
    meanings = Meaning("classes", 1), Meaning("values"), Meaning("none")
    measure = yards(*zip(meanings, (scores, boxes, other), strict=True))
    found = float(measure.distance([2 * scores, 2 * boxes, -other], [scores, boxes, other]))
    parts = distance(meanings[0], 2 * scores, scores) + distance(meanings[1], 2 * boxes, boxes)
    assert found == pytest.approx(parts)


def test_decisions_alone_are_compared_by_the_share_that_differs() -> None:
    theirs, ours = torch.tensor([1, 2, 3, 4]), torch.tensor([1, 2, 3, 5])
    measure = yards((Meaning(None), theirs))
    assert float(measure.distance([ours], [theirs])) == 0.25
    assert measure.agreement([ours], [theirs]) == 0.75


def test_agreement_is_of_decisions_where_an_output_decides() -> None:
    theirs = torch.eye(4)
    ours = theirs.roll(1, 0)
    ours[0] = theirs[0]
    assert yards((Meaning("classes", 1), theirs)).agreement([ours], [theirs]) == 0.25
    assert yards((Meaning("probabilities"), theirs)).agreement([ours], [theirs]) == 0.25
    assert yards((Meaning("labels"), theirs - 0.5)).agreement([ours - 0.5], [theirs - 0.5]) == 10 / 16
    assert yards((Meaning("embeddings", 1), theirs)).agreement([-theirs], [theirs]) == pytest.approx(-1)


def test_the_axis_of_probabilities_is_where_they_sum_to_one() -> None:
    assert yards((Meaning("probabilities"), drawn(5, 3, 4).softmax(1))).meanings[0].axis == 1
    assert yards((Meaning("probabilities"), drawn(5, 3, 4).softmax(2))).meanings[0].axis == 2
    assert yards((Meaning("probabilities"), drawn(5, 3, 4).sigmoid())).meanings[0].axis is None
    for meaning, tensor, sentence in (
        (Meaning("probabilities"), drawn(5, 4), "which is no probability"),
        (Meaning("probabilities", 1), drawn(5, 4).sigmoid(), "does not sum to 1 along axis 1"),
        (Meaning("probabilities"), torch.full((2, 4, 4), 0.25), "sums to 1 along axis 1 and 2"),
    ):
        with pytest.raises(InputError, match=sentence):
            yards((meaning, tensor))


def test_no_more_rows_are_read_than_the_spread_needs() -> None:
    read = []

    def answers() -> object:
        while True:
            read.append(1)
            yield [drawn(64, 3)]

    yardstick(Outputs(("",), (Meaning("values"),), (True,)), answers())  # type: ignore[arg-type]
    assert len(read) == SPREAD_ROWS // 64


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
def test_a_model_has_an_objective_of_its_own_for_every_kind(kind: Kind) -> None:
    output = drawn(*kind.shape).requires_grad_()
    objective = yards((kind.meaning, output.detach())).own_objective([output])
    (gradient,) = torch.autograd.grad(objective, output)
    assert bool(gradient.any())

"""A task without a loss has the one that its outputs and targets make certain, or a sentence."""

from __future__ import annotations

import collections
from dataclasses import dataclass
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from edgeprune.errors import InputError
from edgeprune.meaning.kinds import Outputs, named
from edgeprune.meaning.losses import default_loss, told
from edgeprune.meaning.yardstick import yardstick
from edgeprune.records.meaning import Meaning

Two = collections.namedtuple("Two", "boxes scores")
VECTOR, TOKENS, IMAGE = torch.randn(6, 5), torch.randn(6, 7, 5), torch.randn(6, 5, 4, 4)
NUMBERS = torch.arange(6) % 5
HARD = torch.tensor([0.0, 1.0]).repeat(15).reshape(6, 5)


def loss_of(answer: Any, target: Any, *meanings: Meaning, said: bool = True) -> Tensor:
    tensors = named(answer)
    outputs = Outputs(tuple(name for name, _ in tensors), meanings, (said,) * len(meanings))
    measure = yardstick(outputs, [[tensor for _, tensor in tensors]])
    return default_loss(measure)(answer, target)


@dataclass(frozen=True)
class Certain:
    name: str
    answer: Any
    target: Any
    expected: tuple[Meaning | None, ...]


CERTAIN = (
    Certain("class numbers", VECTOR, NUMBERS, (Meaning("classes", 1),)),
    Certain("class numbers of bytes", VECTOR, NUMBERS.to(torch.uint8), (Meaning("classes", 1),)),
    Certain("a class per pixel", IMAGE, torch.zeros(6, 4, 4, dtype=torch.long), (Meaning("classes", 1),)),
    Certain("a class per token", TOKENS, torch.zeros(6, 7, dtype=torch.long), (Meaning("classes", 2),)),
    Certain("as many as classes", TOKENS[:, :5], torch.zeros(6, 5, dtype=torch.long), (Meaning("classes"),)),
    Certain("values", VECTOR, 3 * torch.randn(6, 5), (Meaning("values"),)),
    Certain("a value per sample", VECTOR[:, :1], torch.full((6,), 7.0), (Meaning("values"),)),
    Certain("a tuple", (VECTOR, TOKENS), (NUMBERS, None), (Meaning("classes", 1), None)),
    Certain(
        "a list for a named tuple", Two(VECTOR, TOKENS), [9 * VECTOR, 9 * TOKENS], (Meaning("values"),) * 2
    ),
    Certain("a dict of some", {"a": VECTOR, "b": TOKENS}, {"a": NUMBERS}, (Meaning("classes", 1), None)),
    Certain("scores beside decisions", (VECTOR, NUMBERS), NUMBERS, (Meaning("classes", 1), None)),
)


@pytest.mark.parametrize("case", CERTAIN, ids=lambda case: case.name)
def test_targets_tell_what_is_certain(case: Certain) -> None:
    assert told(case.answer, case.target, [None] * len(case.expected)) == list(case.expected)


UNCERTAIN = (
    Certain("between 0 and 1", VECTOR, HARD, ()),
    Certain("marks of several labels", VECTOR, HARD.long(), ()),
    Certain("true and false", VECTOR, HARD.bool(), ()),
    Certain("one score and two classes", VECTOR[:, :1], NUMBERS % 2, ()),
    Certain("quantiles of one value", VECTOR, 3 * torch.randn(6), ()),
    Certain("two outputs and one target", (VECTOR, TOKENS), NUMBERS, ()),
    Certain("another name", {"a": VECTOR}, {"b": NUMBERS}, ()),
    Certain("more targets than outputs", VECTOR, (NUMBERS, NUMBERS), ()),
)


@pytest.mark.parametrize("case", UNCERTAIN, ids=lambda case: case.name)
def test_targets_that_could_be_several_things_are_refused_with_a_way_out(case: Certain) -> None:
    with pytest.raises(InputError, match="there is no loss") as refused:
        told(case.answer, case.target, [None] * len(named(case.answer)))
    assert "Task.outputs" in refused.value.hint


def test_what_is_said_needs_no_certainty() -> None:
    assert told(VECTOR, HARD, [Meaning("labels")]) == [None]
    assert told((VECTOR, TOKENS), NUMBERS, [Meaning("classes"), None]) == [Meaning("classes", 1), None]
    assert told(TOKENS, NUMBERS[:, None].repeat(1, 7), [Meaning("classes")]) == [Meaning("classes", 2)]


def test_class_numbers_have_the_cross_entropy_of_torch() -> None:
    places = torch.randint(5, (6, 7))
    places[0] = -100
    for answer, target, axis in ((VECTOR, NUMBERS, 1), (TOKENS, places, 2)):
        found = loss_of(answer, target, Meaning("classes", axis))
        torch.testing.assert_close(found, F.cross_entropy(answer.movedim(axis, 1), target))
    probabilities = VECTOR.softmax(1)
    found = loss_of(probabilities, NUMBERS, Meaning("probabilities", 1))
    torch.testing.assert_close(found, F.nll_loss(probabilities.log(), NUMBERS))
    soft = torch.randn(6, 5).softmax(1)
    torch.testing.assert_close(loss_of(VECTOR, soft, Meaning("classes", 1)), F.cross_entropy(VECTOR, soft))


def test_a_batch_of_which_nothing_counts_has_no_loss() -> None:
    assert float(loss_of(VECTOR, torch.full((6,), -100), Meaning("classes", 1))) == 0


def test_labels_and_single_probabilities_have_the_binary_cross_entropy_of_torch() -> None:
    expected = F.binary_cross_entropy_with_logits(VECTOR, HARD)
    for target in (HARD, HARD.long(), HARD.bool()):
        torch.testing.assert_close(loss_of(VECTOR, target, Meaning("labels")), expected)
    torch.testing.assert_close(loss_of(VECTOR.sigmoid(), HARD, Meaning("probabilities")), expected)
    torch.testing.assert_close(
        loss_of(VECTOR[:, :1], HARD[:, 0], Meaning("labels")),
        F.binary_cross_entropy_with_logits(VECTOR[:, 0], HARD[:, 0]),
    )


def test_values_have_the_squared_error_and_a_row_of_targets_is_not_spread_over_all() -> None:
    answer, target = VECTOR[:, :1], VECTOR[:, 1]
    spread = answer.var(correction=0)
    expected = F.mse_loss(answer[:, 0], target) / spread
    torch.testing.assert_close(loss_of(answer, target, Meaning("values")), expected)


def test_embeddings_have_the_cosine() -> None:
    found = loss_of(VECTOR, 7 * VECTOR.roll(1, 0), Meaning("embeddings", 1))
    torch.testing.assert_close(found, (1 - F.cosine_similarity(VECTOR, VECTOR.roll(1, 0))).mean())


def test_several_outputs_add_up_and_none_has_no_part() -> None:
    answer = {"scores": VECTOR, "boxes": TOKENS, "rest": IMAGE}
    target = {"boxes": 2 * TOKENS, "scores": NUMBERS, "rest": IMAGE}
    meanings = Meaning("classes", 1), Meaning("values"), Meaning("none")
    parts = loss_of(VECTOR, NUMBERS, meanings[0]) + loss_of(TOKENS, 2 * TOKENS, meanings[1])
    torch.testing.assert_close(loss_of(answer, target, *meanings), parts)


@pytest.mark.parametrize(
    ("meaning", "target", "sentence"),
    [
        (Meaning("classes", 1), NUMBERS + 1, "from 1 to 5, and 0 to 4 are possible"),
        (Meaning("classes", 1), NUMBERS[:, None], r"along axis 1 would be \[6\]"),
        (Meaning("classes", 1), 3 * VECTOR, "0 to 1 are possible"),
        (Meaning("labels"), 2 * HARD, "from 0 to 2, and 0 to 1 are possible"),
        (Meaning("values"), torch.randn(6), "not one number for each"),
    ],
    ids=["a class too many", "a column", "no probabilities", "no labels", "too few"],
)
def test_targets_that_do_not_fit_what_is_said_are_refused(
    meaning: Meaning, target: Tensor, sentence: str
) -> None:
    with pytest.raises(InputError, match=sentence) as refused:
        loss_of(VECTOR, target, meaning)
    assert refused.value.hint

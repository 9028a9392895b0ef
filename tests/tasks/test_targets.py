"""Targets are trees of tensors with the batch first, and every batch's are laid out as the first one's."""

from __future__ import annotations

import collections
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch

from edgeprune import InputError, Task
from edgeprune.tasks.check import training_pairs
from edgeprune.tasks.targets import as_tensors

Two = collections.namedtuple("Two", "boxes names")
X = torch.randn(3, 4)


def task(*targets: Any) -> Task:
    pairs = [(X, target) for target in targets]
    return Task(torch.nn.Identity(), X, [X], lambda predict: 0.0, train=pairs)


def read(*targets: Any) -> list[Any]:
    return [target for _, target in training_pairs(task(*targets))]


@dataclass(frozen=True)
class Case:
    name: str
    target: Any
    expected: Any


ONE, TWO = torch.tensor([1, 2, 3]), torch.randn(3, 2)
CASES = (
    Case("a tensor", ONE, ONE),
    Case("an array", ONE.numpy(), ONE),
    Case("a list of numbers", [1, 2, 3], ONE),
    Case("a list of lists of numbers", [[1.0], [2.0], [3.0]], torch.tensor([[1.0], [2.0], [3.0]])),
    Case("a tuple", (ONE, TWO), (ONE, TWO)),
    Case("a dict of arrays", {"a": TWO.numpy(), "b": {"c": ONE}}, {"a": TWO, "b": {"c": ONE}}),
    Case("a named tuple", Two(TWO, [1, 2, 3]), Two(TWO, ONE)),
    Case("nothing for one of two", [ONE, None], [ONE, None]),
    Case("nothing", None, None),
)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_a_target_becomes_a_tree_of_tensors(case: Case) -> None:
    (found,) = read(case.target)
    assert type(found) is type(case.expected)
    torch.testing.assert_close(found, case.expected)


def test_a_tensor_that_needs_a_gradient_is_taken() -> None:
    (found,) = read(torch.randn(3, requires_grad=True))
    assert found.shape == (3,)


@pytest.mark.parametrize(
    ("target", "sentence"),
    [
        ("cats", "Training batch 1, target is str 'cats', not a tensor"),
        ({"a": ["x", "y", "z"]}, "target 'a' 0 is str 'x', not a tensor"),
        (np.array(["a", "b", "c"]), "target is an array of <U1"),
        (torch.ones(2), r"has 3 rows of inputs, and in its target a tensor of torch.float32 \[2\]"),
        ((ONE, torch.tensor(5)), r"in its target a tensor of torch.int64 \[\]"),
        ({"a": ONE, "weight": 0.5}, r"in its target a tensor of torch.float32 \[\]"),
    ],
    ids=["text", "a list of texts", "an array of texts", "too few rows", "one number", "a number for all"],
)
def test_anything_else_is_refused(target: Any, sentence: str) -> None:
    with pytest.raises(InputError, match=sentence) as refused:
        read(target)
    assert refused.value.hint


@pytest.mark.parametrize(
    ("first", "second"),
    [
        (ONE, None),
        (None, ONE),
        (TWO, TWO[:, :1]),
        (ONE, ONE.float()),
        ((ONE, TWO), [ONE, TWO]),
        ({"a": ONE}, {"b": ONE}),
    ],
    ids=["none later", "some later", "another width", "another type", "another form", "another name"],
)
def test_every_batch_has_targets_like_the_first(first: Any, second: Any) -> None:
    with pytest.raises(InputError, match="Training batch 2 has the target"):
        read(first, second)


def test_numbers_of_any_depth_are_one_tensor() -> None:
    assert torch.equal(as_tensors([[1, 2], [3, 4]], "it"), torch.tensor([[1, 2], [3, 4]]))
    with pytest.raises(InputError, match="not a tensor"):
        as_tensors([[1, 2], [3]], "it")

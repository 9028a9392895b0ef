"""Items of all usual kinds come as tensors in the example's order."""

from __future__ import annotations

from collections import UserDict
from typing import Any

import numpy as np
import pytest
import torch

from edgeprune.tasks.items import flat_inputs, laid_out, left_out

X = torch.zeros(1, 3, 4)


@pytest.mark.parametrize(
    ("example", "item"),
    [
        (X, X),
        (X, X.numpy()),
        (X, [X]),
        ((X,), X),
        ([X], (X.numpy(),)),
        ({"a": X}, {"a": X.numpy()}),
        ({"a": X}, UserDict(a=X)),
    ],
)
def test_inputs_come_as_tensors_however_they_are_given(example: Any, item: Any):
    (tensor,) = flat_inputs(example, item)
    assert torch.equal(tensor, X)


def test_inputs_of_a_dict_come_in_the_order_of_the_example():
    first, second = torch.ones(1), torch.zeros(1)
    assert flat_inputs({"b": X, "a": X}, {"a": second, "b": first}) == (first, second)


def test_arrays_that_numpy_may_not_write_are_copied():
    array = np.zeros((1, 3, 4), np.float32)
    array.flags.writeable = False
    (tensor,) = flat_inputs(X, array)
    tensor += 1
    assert array.max() == 0


def test_names_that_the_example_has_not_are_left_out():
    example, item = {"ids": X}, {"labels": X + 1, "ids": X + 2, "idx": 3}
    (tensor,) = flat_inputs(example, item)
    assert torch.equal(tensor, X + 2)
    assert left_out(example, item) == ("labels", "idx")
    assert left_out(X, item) == left_out(example, X) == ()


@pytest.mark.parametrize("example", [X, (X, X + 1), {"b": X, "a": X + 1}])
def test_what_is_laid_out_as_the_example_reads_as_it_was(example: Any):
    tensors = flat_inputs(example, example)
    assert all(map(torch.equal, flat_inputs(example, laid_out(example, tensors)), tensors))

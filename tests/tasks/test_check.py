from __future__ import annotations

import math
from collections import UserDict
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest
import torch

from edgeprune import InputError, Task
from edgeprune.tasks import check_task, flat_inputs, training_again
from edgeprune.tasks.check import CHANGED

X = torch.zeros(1, 3, 4)
LINEAR = torch.nn.Linear(4, 2)


def task(**parts: Any) -> Task:
    base = Task(
        model=torch.nn.Identity(), example=X, calibration=[torch.zeros(2, 3, 4)], evaluate=lambda p: 0.5
    )
    return replace(base, **parts)


def test_a_good_task_passes_with_any_batch_size():
    check_task(task(calibration=[torch.zeros(7, 3, 4), torch.zeros(1, 3, 4)], train=[(X, torch.zeros(1))]))


def with_nan(value: float = math.nan) -> torch.Tensor:
    x = torch.zeros(2, 3, 4)
    x[1, 2, 3] = value
    return x


class Failing:
    def __iter__(self):
        yield X
        raise OSError("the disk went away")


@dataclass(frozen=True)
class Bad:
    why: str
    parts: dict[str, Any]
    says: str


BAD = [
    Bad("no tensors", {"example": "x"}, "Task.example is str 'x', not tensors."),
    Bad("empty tuple", {"example": ()}, "Task.example is tuple of 0, not tensors."),
    Bad(
        "an array in the example",
        {"example": {"a": np.zeros((1, 2))}},
        "Task.example, input 'a', is an array of float64 [1, 2], not a tensor.",
    ),
    Bad("no batch", {"example": torch.tensor(1.0)}, "Task.example, input 0, has shape []; dimension 0"),
    Bad(
        "empty batch", {"example": torch.zeros(0, 3)}, "Task.example, input 0, has shape [0, 3]; dimension 0"
    ),
    Bad(
        "unequal batches",
        {"example": (torch.zeros(2, 3), torch.zeros(1, 3))},
        "Task.example has unequal batches: 2 in input 0, 1 in input 1.",
    ),
    Bad("empty calibration", {"calibration": []}, "The task's calibration data is empty."),
    Bad(
        "wrong shape in the second batch",
        {"calibration": [X, torch.zeros(2, 4, 3)]},
        "Calibration batch 2, input 0, has shape [2, 4, 3], and the example asks for [N, 3, 4].",
    ),
    Bad(
        "wrong dtype",
        {"calibration": [np.zeros((2, 3, 4))]},
        "Calibration batch 1, input 0, is torch.float64, and the example is torch.float32.",
    ),
    Bad(
        "NaN",
        {"calibration": [X, X, with_nan()]},
        "Calibration batch 3, input 0, holds NaN or infinite values.",
    ),
    Bad(
        "infinity",
        {"calibration": [with_nan(-math.inf)]},
        "Calibration batch 1, input 0, holds NaN or infinite",
    ),
    Bad("an empty batch", {"calibration": [X[:0]]}, "Calibration batch 1, input 0, is empty."),
    Bad(
        "labels in the calibration",
        {"calibration": [(X, torch.zeros(1))]},
        "Calibration batch 1 is tuple of 2, and the example has 1 input.",
    ),
    Bad(
        "unequal rows",
        {"example": (X, X), "calibration": [(X, torch.zeros(2, 3, 4))]},
        "Calibration batch 1, input 0, has 1 rows, unlike another input.",
    ),
    Bad(
        "a missing key",
        {"example": {"ids": X, "mask": X}, "calibration": [{"ids": X}]},
        "Calibration batch 1 has no 'mask'; it has ids.",
    ),
    Bad(
        "a key too many",
        {"example": {"ids": X}, "calibration": [{"ids": X, "labels": X}]},
        "Calibration batch 1 has 'labels', which the example has not: it has ids.",
    ),
    Bad(
        "no dict",
        {"example": {"ids": X}, "calibration": [X]},
        "Calibration batch 1 is a tensor of torch.float32 [1, 3, 4], and the example is a dict of ids.",
    ),
    Bad(
        "strings",
        {"calibration": [["text"]]},
        "Calibration batch 1, input 0, is str 'text', not a tensor or a numeric numpy array.",
    ),
    Bad(
        "a data set that raises",
        {"calibration": Failing()},
        "Reading the task's calibration data raised OSError: the disk went away",
    ),
    Bad("empty training data", {"train": []}, "The task's training data is empty."),
    Bad(
        "unlabelled training data",
        {"train": [X]},
        "Training batch 1 is a tensor of torch.float32 [1, 3, 4], not",
    ),
    Bad(
        "training inputs of another shape",
        {"train": [(torch.zeros(1, 3), torch.zeros(1))]},
        "Training batch 1, input 0, has shape [1, 3], and the example asks for [N, 3, 4].",
    ),
    Bad(
        "earlier weights without a name",
        {"model": LINEAR, "earlier": {"weight": LINEAR.weight}},
        "Task.earlier has no 'bias', which the model has.",
    ),
    Bad(
        "earlier weights of another shape",
        {"model": LINEAR, "earlier": {"weight": torch.zeros(2, 3), "bias": torch.zeros(2)}},
        "Task.earlier['weight'] has shape [2, 3], and the model's has [2, 4].",
    ),
    Bad(
        "earlier weights that are no tensors",
        {"model": LINEAR, "earlier": {"weight": np.zeros((2, 4)), "bias": torch.zeros(2)}},
        "Task.earlier['weight'] is an array of float64 [2, 4], not a tensor.",
    ),
    Bad(
        "a checkpoint with more than weights",
        {"model": LINEAR, "earlier": {**LINEAR.state_dict(), "epoch": torch.tensor(3)}},
        "Task.earlier has 'epoch', which the model has not.",
    ),
]


@pytest.mark.parametrize("bad", BAD, ids=lambda bad: bad.why)
def test_a_bad_task_is_refused_in_one_sentence(bad: Bad):
    with pytest.raises(InputError) as refused:
        check_task(task(**bad.parts))
    assert refused.value.what.startswith(bad.says)
    assert refused.value.hint


def test_earlier_weights_of_the_same_model_pass():
    check_task(task(model=LINEAR, earlier=torch.nn.Linear(4, 2).state_dict()))


def test_earlier_weights_that_are_no_mapping_are_refused():
    with pytest.raises(InputError, match=r"Task\.earlier is str"):
        task(earlier="early.pt")


def test_labels_in_the_calibration_data_are_explained():
    with pytest.raises(InputError) as refused:
        check_task(task(calibration=[(X, torch.zeros(1))]))
    assert "unlabelled" in refused.value.hint


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


class Passes:
    """Data that differ from pass to pass; an exception is raised in its place."""

    def __init__(self, *passes: list[Any]) -> None:
        self.passes = list(passes)

    def __iter__(self):
        for item in self.passes.pop(0) if self.passes else ():
            if isinstance(item, BaseException):
                raise item
            yield item


class Exhausted:
    """A generator in the clothes of a collection."""

    def __init__(self) -> None:
        self.items = (X for _ in range(3))

    def __iter__(self):
        yield from self.items


SECOND_PASS = [
    Bad(
        "fails",
        {"calibration": Passes([X], [X, OSError("gone")])},
        "Reading the task's calibration data a second time raised OSError: gone",
    ),
    Bad(
        "is exhausted",
        {"calibration": Exhausted()},
        "The task's calibration data has 3 samples, and 0 when it is read a second time.",
    ),
    Bad(
        "has fewer samples",
        {"calibration": Passes([X, X, X], [X])},
        "The task's calibration data has 3 samples, and 1 when it is read a second time.",
    ),
    Bad(
        "has more samples",
        {"calibration": Passes([X], [X, X])},
        "The task's calibration data has 1 samples, and 2 when it is read a second time.",
    ),
    Bad(
        "has another shape",
        {"calibration": Passes([X], [torch.zeros(1, 3, 5)])},
        "Calibration batch 1, read a second time, input 0, has shape [1, 3, 5]",
    ),
    Bad(
        "has NaN",
        {"calibration": Passes([torch.zeros(2, 3, 4)], [with_nan()])},
        "Calibration batch 1, read a second time, input 0, holds NaN",
    ),
]


@pytest.mark.parametrize("bad", SECOND_PASS, ids=lambda bad: bad.why)
def test_calibration_data_whose_second_pass_is_another_is_refused(bad: Bad):
    with pytest.raises(InputError) as refused:
        check_task(task(**bad.parts))
    assert refused.value.what.startswith(bad.says)


@pytest.mark.parametrize(
    ("first", "second"),
    [([X, X + 1], [X + 1, X]), ([X], [X + 1]), ([X, X], [torch.cat([X, X])])],
    ids=["in another order", "augmented", "in other batches"],
)
def test_calibration_data_that_change_are_told_and_the_first_are_kept(first: Any, second: Any):
    held, remarks = check_task(task(calibration=Passes(first, second)))
    assert remarks == (CHANGED,)
    for _ in range(2):
        batches = [flat_inputs(X, batch)[0] for batch in held.calibration]
        assert len(batches) == len(first)
        assert all(map(torch.equal, batches, first))


@pytest.mark.parametrize("example", [X, (X, X), {"b": X, "a": X}])
def test_a_fixed_copy_is_laid_out_as_the_example(example: Any):
    given = task(example=example, calibration=[example])
    held, remarks = check_task(given)
    assert not remarks
    (batch,) = held.calibration
    assert all(map(torch.equal, flat_inputs(example, batch), flat_inputs(example, example)))


def test_a_loader_that_fills_one_buffer_again_and_again_gives_every_batch():
    class Buffer:
        def __iter__(self):
            buffer = torch.zeros(1, 3, 4)
            for number in range(3):
                yield buffer.fill_(number)

    held, remarks = check_task(task(calibration=Buffer()))
    assert not remarks
    assert [float(flat_inputs(X, batch)[0].mean()) for batch in held.calibration] == [0.0, 1.0, 2.0]


def test_training_data_may_come_in_another_order_but_not_run_out():
    pair = (X, torch.zeros(1))
    shuffled = task(train=Passes([pair], [(X + 1, torch.ones(1))], []))
    check_task(shuffled)
    assert len(list(training_again(shuffled))) == 1
    with pytest.raises(InputError, match="training data is empty when it is read again"):
        list(training_again(shuffled))


@pytest.mark.parametrize(
    ("item", "says"),
    [
        (X, "Training batch 2 is a tensor of"),
        ((torch.zeros(1, 3, 5), torch.zeros(1)), "Training batch 2, input 0, has shape"),
        (OSError("gone"), "Reading the task's train data raised OSError: gone"),
    ],
)
def test_a_later_training_batch_is_looked_at_like_the_first(item: Any, says: str):
    with pytest.raises(InputError) as refused:
        list(training_again(task(train=Passes([(X, torch.zeros(1)), item]))))
    assert refused.value.what.startswith(says)

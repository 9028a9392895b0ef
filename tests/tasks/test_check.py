from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest
import torch

from edgeprune import InputError, Task
from edgeprune.tasks import check_task, flat_inputs, training_again
from edgeprune.tasks.check import MOST_UNCOUNTED

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
        "one sample without a batch",
        {"calibration": list(torch.zeros(8, 3, 4))},
        "Calibration batch 1, input 0, has shape [3, 4], and the example asks for [N, 3, 4].",
    ),
    Bad(
        "a batch as a list of samples",
        {"calibration": [list(torch.zeros(8, 3, 4))]},
        "Calibration batch 1 is list of 8, and the example has 1 input.",
    ),
    Bad(
        "rows of a table without a format",
        {"example": {"ids": torch.zeros(1, 3)}, "calibration": [{"ids": [0, 1, 2]}]},
        "Calibration batch 1, input 'ids', is list of 3, not a tensor or a numeric numpy array.",
    ),
    Bad(
        "nested inputs",
        {"example": {"image": (X, X)}},
        "Task.example, input 'image', is tuple of 2, not a tensor.",
    ),
    Bad("a half example", {"example": X.half()}, "Task.example, input 0, is torch.float16."),
    Bad("a double example", {"example": X.double()}, "Task.example, input 0, is torch.float64."),
    Bad(
        "a complex example", {"example": X.to(torch.complex64)}, "Task.example, input 0, is torch.complex64."
    ),
    Bad(
        "a half model",
        {"model": torch.nn.Linear(4, 2).half()},
        "Task.model's 'weight' is torch.float16: 2 of 2 parameters are not float32.",
    ),
    Bad(
        "one bfloat16 layer",
        {"model": torch.nn.Sequential(torch.nn.Linear(4, 2), torch.nn.Linear(2, 2).bfloat16())},
        "Task.model's '1.weight' is torch.bfloat16: 2 of 4 parameters are not float32.",
    ),
    Bad(
        "a double model", {"model": torch.nn.Linear(4, 2).double()}, "Task.model's 'weight' is torch.float64"
    ),
    Bad("no module", {"model": torch.relu}, "Task.model is builtin_function_or_method, not an nn.Module."),
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
        "training batches with their labels inside",
        {"example": {"ids": X}, "calibration": [{"ids": X}], "train": [{"ids": X, "labels": torch.zeros(1)}]},
        "Training batch 1 is a dict of ids, labels, not a pair (inputs, target).",
    ),
    Bad(
        "training samples without a batch",
        {"train": torch.utils.data.TensorDataset(torch.zeros(8, 3, 4), torch.zeros(8))},
        "Training batch 1, input 0, has shape [3, 4], and the example asks for [N, 3, 4].",
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


class Passes:
    """Data that differ from pass to pass; an exception is raised in its place."""

    def __init__(self, *passes: list[Any]) -> None:
        self.passes = list(passes)

    def __iter__(self):
        for item in self.passes.pop(0) if self.passes else ():
            if isinstance(item, BaseException):
                raise item
            yield item


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


class Endless:
    """Pairs without an end; `read` counts them."""

    read = 0

    def __iter__(self):
        while True:
            type(self).read += 1
            yield torch.zeros(100, 3, 4), torch.zeros(100)


class Said(Endless):
    def __len__(self):
        return 5


@pytest.mark.parametrize(
    ("data", "samples", "says"),
    [
        (Endless(), MOST_UNCOUNTED, "does not say its length, and goes on: an epoch is the first "),
        (
            Said(),
            500,
            "has 5 batches by its len(), and goes on: an epoch is the first 500 samples of a pass.",
        ),
    ],
)
def test_a_pass_over_endless_training_data_ends_and_is_told(data: Endless, samples: int, says: str):
    told: list[str] = []
    endless = task(train=data)
    check_task(endless)
    type(data).read = 0
    read = sum(len(inputs) for (inputs,), _ in training_again(endless, told.append))
    assert samples <= read < samples + 100
    assert type(data).read == -(-samples // 100) + 1
    assert len(told) == 1
    assert says in told[0]


def test_training_data_that_end_by_themselves_are_read_to_their_end_and_nothing_is_told():
    def pairs():
        yield from [(X, torch.zeros(1))] * 3

    told: list[str] = []
    for data in (pairs, list(pairs()), Passes(*[list(pairs())] * 3)):
        given = task(train=data)
        check_task(given)
        assert len(list(training_again(given, told.append))) == 3
    assert told == []


def test_a_length_that_raises_is_a_sentence():
    class Broken(list[Any]):
        def __len__(self):
            raise OSError("no index")

    with pytest.raises(InputError, match=r"len\(\) of the task's train data raised OSError: no index"):
        list(training_again(task(train=Broken([(X, torch.zeros(1))]))))


ONCE = [(iter([X]), "list_iterator"), ((x for x in [X]), "generator"), (map(torch.relu, [X]), "map")]


@pytest.mark.parametrize(("data", "kind"), ONCE, ids=[kind for _, kind in ONCE])
@pytest.mark.parametrize("field", ["calibration", "train"])
def test_data_that_can_be_read_once_are_refused(field: str, data: Any, kind: str):
    with pytest.raises(
        InputError, match=rf"Task\.{field} is {kind}, which cannot be iterated more than once"
    ):
        task(**{field: data})


class Unnumbered(torch.utils.data.Dataset[Any]):
    def __getitem__(self, number):
        return X


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (3, "int, which has neither"),
        (Unnumbered(), "Unnumbered, which has neither"),
        (lambda: [X], "a function, and no generator function"),
        (torch.zeros, "a function, and no generator function"),
    ],
)
def test_what_cannot_be_read_is_refused_by_its_kind(data: Any, says: str):
    with pytest.raises(InputError, match=says):
        task(calibration=data)


@pytest.mark.parametrize("example", [X, (X, X), {"b": X, "a": X}])
def test_a_fixed_copy_is_laid_out_as_the_example(example: Any):
    held, remarks = check_task(task(example=example, calibration=[example]))
    assert not remarks
    (batch,) = held.calibration
    assert all(map(torch.equal, flat_inputs(example, batch), flat_inputs(example, example)))

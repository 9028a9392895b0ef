"""What an evaluation or a loss returns is one number, or one sentence says what it was."""

from __future__ import annotations

import math
from decimal import Decimal
from enum import IntEnum
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
import torch

from edgeprune import DeviceError, InputError, Task
from edgeprune.tasks import GuardedLoss, call_evaluate, call_evaluate_samples

Half = IntEnum("Half", {"one": 1})


class Lazy(float):
    def __float__(self) -> float:
        raise RuntimeError("not computed yet")


def task(**parts: Any) -> Task:
    fields: dict[str, Any] = {"evaluate": lambda predict: 0.5, **parts}
    x = torch.zeros(1, 3)
    return Task(model=torch.nn.Identity(), example=x, calibration=[x], **fields)


def predict(x: Any) -> Any:
    return x


NUMBERS = {
    "float": 0.25,
    "whole": 1,
    "enum": Half.one,
    "fraction": Fraction(1, 4),
    "decimal": Decimal("0.25"),
    "numpy float32": np.float32(0.25),
    "numpy float16": np.float16(0.25),
    "numpy long": np.longdouble(0.25),
    "numpy integer": np.uint8(1),
    "array without an axis": np.array(0.25),
    "object array without an axis": np.array(Fraction(1, 4), dtype=object),
    "tensor": torch.tensor(0.25),
    "bfloat16": torch.tensor(0.25, dtype=torch.bfloat16),
    "float8": torch.tensor(0.25).to(torch.float8_e4m3fn),
    "tensor of integers": torch.tensor(1),
    "with a gradient": torch.tensor(0.25, requires_grad=True),
    "parameter": torch.nn.Parameter(torch.tensor(0.25)),
}


@pytest.mark.parametrize("name", ["evaluate", "evaluate_subset"])
@pytest.mark.parametrize("value", NUMBERS.values(), ids=NUMBERS)
def test_a_metric_may_be_any_kind_of_number(value: Any, name: str) -> None:
    found = call_evaluate(task(**{name: lambda predict: value}), predict, subset=name != "evaluate")
    assert type(found) is float
    assert found in (0.25, 1.0)


NOT_NUMBERS = {
    "nothing": (None, "returned None, not a number"),
    "digits": ("0.9", "returned str '0.9', not a number"),
    "bytes": (b"0.9", "returned bytes b'0.9', not a number"),
    "true": (True, "returned bool True, not a number"),
    "numpy true": (np.bool_(True), "returned bool"),
    "tensor of true": (torch.tensor(True), "returned a tensor of torch.bool [], not a number"),
    "array of true": (np.array(True), "returned an array of bool [], not a number"),
    "pair": ((0.9, 0.8), "returned tuple of 2, not a number"),
    "list of one": ([0.9], "returned list of 1, not a number"),
    "dict": ({"top-1": 0.9}, "returned a dict of top-1, not a number"),
    "array of one": (np.array([0.9]), "returned an array of float64 [1], not a number"),
    "tensor of one": (torch.tensor([0.9]), "returned a tensor of torch.float32 [1], not a number"),
    "complex": (0.9 + 0j, "returned complex (0.9+0j), not a number"),
    "numpy complex": (np.complex64(1), "returned complex64"),
    "tensor of complex": (torch.tensor(1 + 0j), "returned a tensor of torch.complex64 [], not a number"),
    "duration": (np.timedelta64(3, "s"), "returned timedelta64"),
    "masked": (np.ma.masked, "returned an array of float64 [], not a number"),
    "generator": ((x for x in [0.9]), "returned generator, not a number"),
    "function": (len, "returned builtin_function_or_method, not a number"),
    "NaN": (math.nan, "returned nan"),
    "decimal NaN": (Decimal("NaN"), "returned nan"),
    "infinite tensor": (torch.tensor(math.inf), "returned inf"),
    "half that overflowed": (np.float16(math.inf), "returned inf"),
    "number beyond floats": (10**400, "returned inf"),
    "fraction beyond floats": (Fraction(10**400), "returned inf"),
    "tensor without data": (torch.zeros((), device="meta"), "Reading the result of"),
    "number that raises": (Lazy(), "Reading the result of"),
    "signalling NaN": (Decimal("sNaN"), "Reading the result of"),
}


@pytest.mark.parametrize("name", ["evaluate", "evaluate_subset"])
@pytest.mark.parametrize(("value", "says"), NOT_NUMBERS.values(), ids=NOT_NUMBERS)
def test_what_is_no_number_is_refused_in_one_sentence(value: Any, says: str, name: str) -> None:
    with pytest.raises(InputError) as refused:
        call_evaluate(task(**{name: lambda predict: value}), predict, subset=name != "evaluate")
    assert refused.value.what.startswith(says if says.startswith("Reading") else f"{name} {says}")
    assert name in refused.value.what
    if not says.startswith("Reading"):
        assert f"({__file__}, line " in refused.value.what


SCORES = {
    "array": np.array([0.0, 1.0]),
    "right and wrong": np.array([False, True]),
    "whole numbers": [0, 1],
    "tuple": (0.0, 1.0),
    "bfloat16": torch.tensor([0, 1], dtype=torch.bfloat16),
    "tensor with a gradient": torch.tensor([0.0, 1.0], requires_grad=True),
    "tensor of bool": torch.tensor([False, True]),
    "list of tensors": [torch.tensor(0.0), torch.tensor(1.0, requires_grad=True)],
}


@pytest.mark.parametrize("value", SCORES.values(), ids=SCORES)
def test_scores_may_be_any_kind_of_array(value: Any) -> None:
    found = call_evaluate_samples(task(evaluate_samples=lambda predict: value), predict)
    assert (found.dtype, found.tolist()) == (np.float64, [0.0, 1.0])


NOT_SCORES = {
    "nothing": (None, "evaluate_samples returned None, not an array of numbers"),
    "digits": (["0", "1"], "evaluate_samples returned list of 2, not an array of numbers"),
    "generator": ((x for x in [0.9]), "evaluate_samples returned generator, not an array"),
    "set": ({0.5}, "evaluate_samples returned set, not an array"),
    "complex": (np.array([1j]), "evaluate_samples returned an array of complex128 [1], not an array"),
    "tensor of complex": (
        torch.tensor([1j]),
        "evaluate_samples returned a tensor of torch.complex64 [1], not",
    ),
    "with a gap": ([1.0, None], "evaluate_samples returned list of 2, not an array"),
    "masked": (
        np.ma.array([1.0, 2.0], mask=[0, 1]),
        "evaluate_samples returned an array of float64 [2], not",
    ),
    "tensors of more": ([torch.zeros(2)], "evaluate_samples returned list of 1, not an array"),
    "one number": (0.5, "evaluate_samples returned an array of shape ()"),
    "column": (np.zeros((2, 1)), "evaluate_samples returned an array of shape (2, 1)"),
    "empty": (np.zeros(0), "evaluate_samples returned an array of shape (0,)"),
    "NaN": ([0.5, math.nan], "evaluate_samples returned nan for sample 1"),
    "ragged": ([[1.0], [1.0, 2.0]], "Reading the result of evaluate_samples raised ValueError"),
    "durations": (np.array([1], "m8[s]"), "evaluate_samples returned an array of timedelta64[s] [1], not"),
}


@pytest.mark.parametrize(("value", "says"), NOT_SCORES.values(), ids=NOT_SCORES)
def test_what_are_no_scores_is_refused_in_one_sentence(value: Any, says: str) -> None:
    with pytest.raises(InputError) as refused:
        call_evaluate_samples(task(evaluate_samples=lambda predict: value), predict)
    assert refused.value.what.startswith(says)


def failing_metric(predict: Any) -> float:
    right = int(predict(np.zeros(3)).sum())
    return right / len([])


def test_an_evaluate_that_raises_is_named_with_its_line() -> None:
    line = failing_metric.__code__.co_firstlineno + 2
    with pytest.raises(InputError) as refused:
        call_evaluate(task(evaluate=failing_metric), lambda x: x)
    assert refused.value.what.startswith("evaluate raised ZeroDivisionError: ")
    assert refused.value.what.endswith(f"({__file__}, line {line}).")


def test_a_device_that_fails_under_evaluate_is_not_the_users_fault() -> None:
    def lost(x: Any) -> Any:
        raise DeviceError("The agent ended.", "Look at its log.")

    with pytest.raises(DeviceError, match="The agent ended"):
        call_evaluate(task(evaluate=failing_metric), lost)


def test_a_loss_is_a_scalar_tensor_or_a_sentence() -> None:
    output = torch.zeros(2, 3)
    assert GuardedLoss(lambda given, target: given.mean())(output, None).item() == 0
    with pytest.raises(InputError, match=r"loss returned a tensor of torch.float32 \[2, 3\], not a scalar"):
        GuardedLoss(lambda given, target: given)(output, None)
    with pytest.raises(InputError, match="loss raised ZeroDivisionError"):
        GuardedLoss(lambda given, target: 1 / 0)(output, None)

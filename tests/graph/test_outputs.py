"""Outputs that cannot be served are refused by name, before anything is built of them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from edgeprune.errors import InputError
from edgeprune.graph.capture import Captured, capture
from edgeprune.graph.outputs import check_finite, check_sized


def captured(give: Callable[[Tensor], Any]) -> Captured:
    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer, self.table = nn.Linear(4, 6), nn.Buffer(torch.randn(5, 4))

        def forward(self, x: Tensor) -> Any:
            return (self.layer(x), self.table) if give is with_table else give(self.layer(x))

    return capture(Model().eval(), torch.randn(2, 4))


def with_table(y: Tensor) -> Tensor:
    return y


@pytest.mark.parametrize(
    "give",
    [
        lambda y: y,
        lambda y: {"a": y, "b": [y[:, 0], None, 3]},
        lambda y: (y, y.argmax(1), y.reshape(-1, 2, 3), y.shape[0]),
    ],
    ids=["a tensor", "a dict", "a tuple"],
)
def test_outputs_of_one_row_per_sample_are_fine(give: Callable[[Tensor], Any]) -> None:
    check_sized(captured(give))


@pytest.mark.parametrize(
    ("give", "sentence"),
    [
        (lambda y: (y, y.mean()), r"has shape \[\], where"),
        (lambda y: y.reshape(-1, 2), r"has shape \[3N, 2\], where"),
        (lambda y: y.T, r"has shape \[6, N\], where"),
        (with_table, r"table.* has shape \[5, 4\], where"),
        (lambda y: y[y > 0], "depends on the values given"),
    ],
    ids=["a mean", "rows of several", "turned", "a table", "a selection"],
)
def test_outputs_that_belong_to_no_sample_are_refused(give: Callable[..., Any], sentence: str) -> None:
    with pytest.raises(InputError, match=sentence) as refused:
        check_sized(captured(give))
    assert refused.value.hint


def test_the_first_layer_that_is_not_finite_is_named() -> None:
    found = captured(lambda y: 0 * y.abs().log())
    with torch.no_grad():
        found.module.get_parameter("layer.bias").zero_()
    with pytest.raises(InputError, match="batch 1 makes the model compute NaN or infinity, first in log"):
        check_finite(found, [(torch.ones(2, 4),), (torch.zeros(2, 4),)])
    check_finite(found, [(torch.ones(2, 4),)])

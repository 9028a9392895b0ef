"""Gradients of batches and of single samples, with targets of every form."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from edgeprune.graph.capture import capture
from edgeprune.graph.coupling import analyse
from edgeprune.pruning import gradients
from edgeprune.pruning.criteria import Slopes
from edgeprune.pruning.gradients import Step, samples, slopes


def passed(model: nn.Module, steps: list[Step], loss: Any) -> Slopes | None:
    captured = capture(model, torch.randn(2, 3))
    return slopes(captured, analyse(captured).groups, steps, loss)


def hidden() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2))


def test_the_slopes_are_those_of_the_steps_gradients() -> None:
    model = hidden()
    steps: list[Step] = [((torch.randn(5, 3),), torch.randn(5, 2)) for _ in range(3)]
    found = passed(model, steps, nn.functional.mse_loss)
    assert found is not None
    each = []
    for (x,), y in steps:
        model.zero_grad()
        nn.functional.mse_loss(model(x), y).backward()
        each.append({name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None})
    assert set(found.mean) == set(found.square) == set(each[0])
    for name in each[0]:
        stacked = torch.stack([one[name] for one in each])
        torch.testing.assert_close(found.mean[name], stacked.mean(0))
        torch.testing.assert_close(found.square[name], stacked.square().mean(0))


def test_there_are_no_slopes_without_steps() -> None:
    assert passed(hidden(), [], nn.functional.mse_loss) is None


def test_squares_of_gradients_in_half_precision_do_not_vanish() -> None:
    captured = capture(hidden().to(torch.bfloat16), torch.randn(2, 3).to(torch.bfloat16))
    steps: list[Step] = [((torch.randn(5, 3).to(torch.bfloat16),), None)]
    found = slopes(captured, analyse(captured).groups, steps, lambda answer, _: 1e-21 * answer.sum())
    assert found is not None
    assert found.square["0.weight"].dtype == torch.float32
    assert float(found.square["0.weight"].max()) > 0


def test_a_tied_weight_has_one_gradient() -> None:
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.one, self.other = nn.Linear(3, 3, bias=False), nn.Linear(3, 3, bias=False)
            self.other.weight = self.one.weight

        def forward(self, x: Tensor) -> Tensor:
            return self.other(torch.relu(self.one(x)))

    model, x = Tied(), torch.randn(4, 3)
    found = passed(model, [((x,), None)], lambda answer, _: answer.square().sum())
    model(x).square().sum().backward()
    assert found is not None
    for name, gradient in found.mean.items():
        torch.testing.assert_close(gradient, model.one.weight.grad, msg=name)


def test_samples_are_batches_of_one_whatever_the_target_is_made_of() -> None:
    x, other = torch.arange(6.0).reshape(3, 2), torch.arange(3)
    target = {"label": torch.tensor([7, 8, 9]), "weight": 0.5, "parts": [torch.arange(3.0)[:, None]]}
    found = list(samples([((x, other), target), ((x[:1], other[:1]), None)]))
    assert [inputs[0].tolist() for inputs, _ in found] == [[[0, 1]], [[2, 3]], [[4, 5]], [[0, 1]]]
    assert [inputs[1].tolist() for inputs, _ in found] == [[0], [1], [2], [0]]
    assert [each["label"].tolist() for _, each in found[:3]] == [[7], [8], [9]]
    assert [each["parts"][0].tolist() for _, each in found[:3]] == [[[0.0]], [[1.0]], [[2.0]]]
    assert {each["weight"] for _, each in found[:3]} == {0.5}
    assert found[3][1] is None


def test_no_more_batches_are_read_than_there_are_samples_to_take(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gradients, "SAMPLES", 5)
    read = []

    def endless() -> Iterator[Step]:
        while True:
            read.append(1)
            yield (torch.zeros(3, 2),), None

    assert len(list(samples(endless()))) == 5
    assert len(read) == 2

"""The average of a training's weights is their weighted mean, in a network that evaluates."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from edgeprune.graph.capture import Captured, capture
from edgeprune.recover.average import SHARPNESS, Average
from edgeprune.recover.lora import low_rank


def net() -> Captured:
    torch.manual_seed(0)
    return capture(
        nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3), nn.Dropout(0.5)).eval(), torch.randn(2, 3)
    )


def test_the_average_weighs_steps_by_a_power_of_their_number() -> None:
    student = net()
    average, steps = Average(student), 40
    for step in range(1, steps + 1):
        with torch.no_grad():
            for tensor in student.module.state_dict().values():
                tensor.fill_(step)
        average.update(student, step)
    # The closed form of the recursion: (s / S) ^ p - ((s - 1) / S) ^ p is the weight of step s.
    power = 1 + SHARPNESS
    expected = sum(
        step * ((step / steps) ** power - ((step - 1) / steps) ** power) for step in range(1, steps + 1)
    )
    found = average.network.module.state_dict()
    for name in ("0.weight", "1.running_var", "1.bias"):
        assert found[name] == pytest.approx(torch.full_like(found[name], expected), rel=1e-4), name
    assert int(found["1.num_batches_tracked"]) == steps, "a counter has no mean"


def test_the_average_of_weights_that_stay_is_these_weights_and_it_evaluates() -> None:
    student = net()
    student.module.train()
    average = Average(student)
    for step in range(1, 4):
        average.update(student, step)
    student.module.eval()
    x = torch.randn(5, 3)
    assert torch.equal(average.network.run(x)[0], student.run(x)[0])


def test_tied_weights_are_averaged_once_and_low_rank_updates_count() -> None:
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed, self.head = nn.Embedding(16, 16), nn.Linear(16, 16, bias=False)
            self.head.weight = self.embed.weight

        def forward(self, x: Tensor) -> Tensor:
            return self.head(self.embed(x))

    torch.manual_seed(0)
    student = capture(Tied().eval(), torch.zeros(2, 4, dtype=torch.long))
    average = Average(student)
    with low_rank(student) as factors:
        average.update(student, 1)
        before = student.module.get_parameter("embed.parametrizations.weight.original").detach().clone()
        with torch.no_grad():
            for factor in factors:
                factor.fill_(0.1)
        after = student.module.get_submodule("embed").weight.detach().clone()  # type: ignore[operator]
        average.update(student, 2)
    share = 1 - 0.5 ** (1 + SHARPNESS)
    torch.testing.assert_close(
        average.network.module.get_parameter("embed.weight").detach(), before.lerp(after, share)
    )
    assert not torch.equal(before, after)

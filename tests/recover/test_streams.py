"""Streams are compared where both networks have them whole, and nowhere else."""

from __future__ import annotations

from functools import cache

import pytest
import torch
from torch import Tensor, nn

from edgeprune.graph.capture import Captured, capture
from edgeprune.graph.coupling import Coupling, analyse
from edgeprune.graph.surgery import cut
from edgeprune.recover.objective import Objective
from edgeprune.recover.recipe import Recipe, TrainingOptions
from edgeprune.recover.streams import observed, whole_streams
from edgeprune.recover.train import train
from tests.support.yardsticks import yardstick_of


class Net(nn.Module):
    """[N, 5] -> [N, 3]: a stream of 6 units with two branches of 8."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.head = nn.Linear(5, 6), nn.Linear(6, 3)
        self.up = nn.ModuleList(nn.Linear(6, 8) for _ in range(2))
        self.down = nn.ModuleList(nn.Linear(8, 6) for _ in range(2))

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        for up, down in zip(self.up, self.down, strict=True):
            x = x + down(torch.relu(up(x)))
        return self.head(x)


@cache
def dense() -> tuple[Captured, Coupling]:
    torch.manual_seed(0)
    captured = capture(Net().eval(), torch.randn(4, 5))
    return captured, analyse(captured)


def pruned(groups: dict[str, int]) -> Captured:
    """The network with so many units left of the groups whose names end like these."""
    captured, coupling = dense()
    names = {group.name: group for group in (*coupling.groups, *coupling.branches)}
    kept = {name: range(left) for name in names for end, left in groups.items() if name.endswith(end)}
    assert len(kept) == len(groups), names
    return cut(captured, coupling, kept)


def test_a_stream_that_was_not_cut_is_compared_and_one_that_was_is_not() -> None:
    assert whole_streams(pruned({"up.0": 3}), dense()[0]) == ("add", "add_1")
    (stream,) = [group.name for group in dense()[1].groups if group.units == 6]
    assert whole_streams(pruned({stream: 4}), dense()[0]) == ()


def test_a_sum_of_another_place_that_has_the_name_is_not_compared() -> None:
    captured, coupling = dense()
    shorter = cut(captured, coupling, {coupling.branches[0].name: ()})
    again = capture(shorter.module, captured.inputs[0])  # sums are numbered anew
    assert whole_streams(shorter, captured) == ("add_1",)
    assert whole_streams(again, captured) == (), "the only sum left is called add, and was add_1"


def test_the_distance_is_the_relative_squared_error_of_each_stream() -> None:
    teacher, student = dense()[0], pruned({"up.1": 2})
    codes = teacher.module.code, student.module.code
    x = torch.randn(16, 5)
    with torch.no_grad(), observed(student, teacher, ("add", "add_1")) as streams:
        for network in (student, teacher):
            network.run(x)
        (first, ours), (other, theirs) = map(tuple, (streams.student, streams.teacher))
        assert torch.equal(first, other), "nothing before it was cut"
        expected = (ours - theirs).square().mean() / theirs.var() / 2
        assert float(streams.distance()) == pytest.approx(float(expected))
        assert (streams.student, streams.teacher) == ([], [])
    assert (teacher.module.code, student.module.code) == codes


@pytest.mark.parametrize("meaning", ["classes", "values"])
def test_streams_are_trained_towards_the_teacher_where_outputs_are_scores(meaning: str) -> None:
    teacher = dense()[0]
    pairs = [((torch.randn(32, 5),), None) for _ in range(8)]

    def gap(features: float) -> float:
        student = pruned({"up.0": 4, "up.1": 4})
        recipe = Recipe(TrainingOptions(10), learning_rate=1e-2, features=features)
        objective = Objective(teacher, yardstick_of(teacher, meaning), recipe)
        train(student, objective, lambda _: pairs, 8)
        with torch.no_grad(), observed(student, teacher, ("add", "add_1")) as streams:
            for network in (student, teacher):
                network.run(torch.cat([x for (x,), _ in pairs]))
            return float(streams.distance())

    with_features, without = gap(10.0), gap(0.0)
    assert (with_features < 0.9 * without) if meaning == "classes" else (with_features == without)


def test_masks_and_biases_are_no_streams() -> None:
    class Masked(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.up, self.down = nn.Linear(5, 5), nn.Linear(5, 5)
            self.bias = nn.Parameter(torch.randn(5))

        def forward(self, x: Tensor, mask: Tensor) -> Tensor:
            away = self.down.bias - 1e30 * mask  # depends on weights and on inputs, as a masked bias does
            scores = self.up(x)
            scores = torch.softmax(scores + self.bias, 1) + torch.softmax(scores + mask, 1)
            return x + torch.softmax(scores + away, 1) + self.down(scores) + scores

    captured = capture(Masked().eval(), (torch.randn(4, 5), torch.ones(4, 5)))
    found = whole_streams(captured, captured)
    with torch.no_grad(), observed(captured, captured, found) as streams:
        captured.run(*captured.inputs)
        assert len(found) > 1
        assert all(float(value.abs().max()) < 100 for value in streams.teacher)

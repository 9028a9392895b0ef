"""Rewinding keeps the units that were chosen and gives them their earlier values."""

from __future__ import annotations

from functools import cache

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from edgeprune.graph.capture import Captured, capture
from edgeprune.graph.coupling import Coupling, analyse
from edgeprune.graph.surgery import cut
from edgeprune.recover import ladder
from edgeprune.recover.data import split
from edgeprune.recover.ladder import judge_of, train_rungs
from edgeprune.recover.objective import Pair
from edgeprune.recover.recipe import TrainingOptions
from edgeprune.recover.rewind import rewound
from edgeprune.recover.train import TrainingAccount
from tests.support.yardsticks import yardstick_of

UNITS = (1, 4, 5, 9)


def model(seed: int) -> nn.Module:
    torch.manual_seed(seed)
    net = nn.Sequential(nn.Linear(4, 12), nn.BatchNorm1d(12), nn.Tanh(), nn.Linear(12, 3))
    for _ in range(20):  # statistics of its own
        net(torch.randn(64, 4))
    return net.eval()


@cache
def trained() -> tuple[Captured, Coupling]:
    dense = capture(model(0), torch.randn(2, 4))
    return dense, analyse(dense)


def pruned() -> Captured:
    dense, coupling = trained()
    (group,) = coupling.groups
    return cut(dense, coupling, {group.name: UNITS})


def early() -> dict[str, Tensor]:
    """Weights and statistics of another seed."""
    return model(1).state_dict()


def rewound_early(by: float = 1.0) -> Captured:
    """by: what the earlier weights are multiplied with."""
    state = {name: value * by if value.is_floating_point() else value for name, value in early().items()}
    dense, coupling = trained()
    return rewound(dense, coupling, {coupling.groups[0].name: UNITS}, state)


def same(one: Captured, other: Captured) -> bool:
    ours, theirs = one.module.state_dict(), other.module.state_dict()
    return all(torch.equal(ours[name], theirs[name]) for name in ours)


def test_the_kept_units_have_their_earlier_values_to_the_bit() -> None:
    found, units = rewound_early().module.state_dict(), list(UNITS)
    expected = early()
    for name in ("0.weight", "0.bias", "1.weight", "1.bias", "1.running_mean", "1.running_var"):
        assert torch.equal(found[name], expected[name][units]), name
    assert torch.equal(found["3.weight"], expected["3.weight"][:, units])
    assert torch.equal(found["3.bias"], expected["3.bias"])


def test_the_rewound_model_is_the_earlier_model_cut_at_the_same_units() -> None:
    dense = capture(model(1), torch.randn(2, 4))
    coupling = analyse(dense)
    (group,) = coupling.groups
    x = torch.randn(8, 4)
    with torch.no_grad():
        expected = cut(dense, coupling, {group.name: UNITS}).run(x)[0]
        assert torch.equal(rewound_early().run(x)[0], expected)


def test_the_dense_model_keeps_its_weights() -> None:
    before = {name: tensor.clone() for name, tensor in trained()[0].module.state_dict().items()}
    rewound_early()
    assert all(torch.equal(before[name], tensor) for name, tensor in trained()[0].module.state_dict().items())


def labelled() -> list[Pair]:
    """Labels that the trained model gives."""
    dense, _ = trained()
    generator = torch.Generator().manual_seed(2)
    inputs = [torch.randn(16, 4, generator=generator) for _ in range(12)]
    with torch.no_grad():
        return [((x,), dense.run(x)[0].argmax(1)) for x in inputs]


def test_training_starts_from_the_earlier_values(monkeypatch: pytest.MonkeyPatch) -> None:
    starts: list[Captured] = []

    def train(tried: Captured, *rest: object, **more: object) -> TrainingAccount:
        starts.append(tried.copy())
        return TrainingAccount((), 0, 0)

    monkeypatch.setattr(ladder, "train", train)
    dense, found = trained()[0], split(labelled)
    judge = judge_of(dense, yardstick_of(dense, "classes"), found.held_back, cross_entropy)
    train_rungs(pruned(), dense, "rewind", found, judge, TrainingOptions(1), start=rewound_early())
    (start,) = starts
    assert same(start, rewound_early())


@pytest.mark.parametrize(("by", "kept"), [(1.0, True), (30.0, False)], ids=["helps", "harms"])
def test_rewinding_is_kept_only_when_it_beats_what_it_replaces(by: float, kept: bool) -> None:
    dense, found, student = trained()[0], split(labelled), pruned()
    judge = judge_of(dense, yardstick_of(dense, "classes"), found.held_back, cross_entropy)
    options = TrainingOptions(1)
    better, (rung,) = train_rungs(student, dense, "rewind", found, judge, options, start=rewound_early(by))
    assert (rung.name, rung.kept) == ("rewind", kept)
    assert (better is student) == (not kept)

"""The accuracy benchmark: its table and goals, its search for equal latency, and the peer's recipe."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

import numpy as np
import pytest
import torch
from torch import nn

import edgeprune
from benchmarks.accuracy import ours, peer
from benchmarks.accuracy.cases import CASES, UNIFORM, Case
from benchmarks.accuracy.rows import OURS, PEERS, Goal, Row, add, peers_of, read
from benchmarks.accuracy.subject import Shuffled, Subject
from benchmarks.accuracy.tables import printed
from benchmarks.contract.baselines import search
from edgeprune.errors import MissingExtraError

pytestmark = pytest.mark.filterwarnings("ignore")  # the peer's and torch's own


def row(method: str = OURS, **figures: Any) -> Row:
    given = {"dense": 0.92, "before": 0.7, "after": 0.91, "int8": 0.9, "ratio": 0.49, "used": 0.98}
    return Row("resnet20", method, 0.5, 40_000, 3, None, seconds=60.0, **{**given, **figures})


# Rows and goals --------------------------------------------------------------------------------------------


def test_a_row_that_was_made_again_replaces_the_earlier_one(tmp_path: Path) -> None:
    file = tmp_path / "rows.jsonl"
    assert read(file) == []
    for made in (row(int8=0.8), row(UNIFORM), row(int8=0.9), replace(row(), minutes=30.0)):
        add(file, made)
    assert [(each.method, each.minutes, each.int8) for each in read(file)] == [
        (OURS, None, 0.9),
        (UNIFORM, None, 0.9),
        (OURS, 30.0, 0.9),
    ]


def test_what_is_served_is_what_is_lost() -> None:
    assert row().lost == pytest.approx(2.0)
    assert row(int8=None).lost == pytest.approx(1.0)
    assert row(int8=None, after=None).lost == pytest.approx(22.0)
    assert row(dense=None).lost is None


def test_goals_are_computed_from_the_figures() -> None:
    goal = Goal(lost=2.5, used=0.99, margin=1.5)
    assert [met for _, met in goal.parts(row(), [])] == [True, False, None]
    close, far = row(PEERS[0], int8=0.89), row(PEERS[1], int8=0.8)
    assert goal.parts(row(), [far])[-1] == ("1.5 above every peer that gets there", True)
    assert goal.parts(row(), [close, far])[-1][1] is False
    slow = row(PEERS[0], before=None, after=None, int8=None, out_of_reach=1.4)
    assert goal.parts(row(), [far, slow])[-1][1] is True, "a peer that is too slow is no rival"
    assert goal.parts(row(), [slow])[-1][1] is True
    assert Goal(margin=0).parts(row(), [row(PEERS[0])])[0] == ("above every peer that gets there", False)
    served = row(speed_up=4.2, size_ratio=0.126)
    assert [met for _, met in Goal(speed_up=4, smaller=8, kept=0.97).parts(served, [])] == [True, False, True]
    cost = replace(row(peak_gib=5.0), seconds=200.0)
    assert [met for _, met in Goal(minutes=3, gib=6).parts(cost, [])] == [False, True]


def test_peers_are_those_of_the_same_budget_and_data() -> None:
    others = [
        row(PEERS[0]),
        row(UNIFORM),
        replace(row(PEERS[1]), share=0.7),
        replace(row(PEERS[1]), images=9),
    ]
    assert peers_of(row(), others) == [others[0]]


def test_the_table_says_who_cannot_get_there_and_what_was_not_measured() -> None:
    slow = row(PEERS[0], before=None, after=None, int8=None, ratio=None, out_of_reach=1.44)
    text = printed([slow, row(version="abc")])
    assert text.splitlines()[0] == (
        "**ResNet-20, CIFAR-10**, 0.5 of the dense INT8 model's latency, 40,000 training samples, 3 epochs, "
        "dense 92.00"
    )
    first, second = text.splitlines()[-2:]
    assert first == (
        f"| {OURS} (abc) | 70.00 | 91.00 | 90.00 | +2.00 | 0.490 | 98.0% | 60 | "
        "lost at most 3; 1.5 above every peer that gets there | yes; yes |"
    )
    assert "its smallest takes 1.44x the budget" in second
    assert printed([]) == ""


def test_every_case_has_its_goals_and_a_way_to_make_its_rows() -> None:
    from benchmarks.accuracy.__main__ import KINDS

    assert len({case.name for case in CASES}) == len(CASES)
    for case in CASES:
        assert set(case.methods) <= set(KINDS[case.kind])
        assert case.methods[0] == OURS
        assert all(goal != Goal() for goal in case.goals.values())
        assert set(case.minutes) <= set(case.goals)


@dataclass(frozen=True)
class Tried:
    name: str
    metric: float
    broken: tuple[str, ...] = ()

    @property
    def verdict(self) -> Any:
        return SimpleNamespace(breaches=[SimpleNamespace(line=line) for line in self.broken])


def test_of_a_fit_that_misses_the_best_within_the_latency_counts() -> None:
    cut, trained = Tried("cut", 0.7, ("metric",)), Tried("trained", 0.88, ("metric",))
    dense = Tried("dense", 0.92, ("latency_ms",))
    missed = SimpleNamespace(verdict=SimpleNamespace(kind="misses"), chosen=cut, trials=(dense, cut, trained))
    assert ours._within_latency(missed) == trained  # type: ignore[arg-type]
    missed.trials = (dense,)
    assert ours._within_latency(missed) == cut  # type: ignore[arg-type]
    missed.verdict.kind, missed.trials = "fits", (dense, cut, trained)
    assert ours._within_latency(missed) == cut  # type: ignore[arg-type]


# Equal latency ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("step", [0.001, 0.125], ids=["fine", "coarse"])
def test_the_search_finds_what_is_as_fast(step: float) -> None:
    """Latency is 0.2 + share of the dense model's; the budget is half of it."""

    def made(share: float) -> tuple[float, float]:
        kept = max(step, round(share / step) * step)
        return kept, kept

    found = search(made, lambda kept: (0.2 + kept) / (1.2 * 0.5), 0.04, 0.5, builds=9)
    assert 0.98 <= found.ratio <= (1.02 if step < 0.1 else 1.2)
    assert found.ratio == pytest.approx((0.2 + found.made) / 0.6)
    assert found.reached


def test_the_search_ends_with_the_smallest_where_all_are_too_slow() -> None:
    found = search(lambda share: (share, share), lambda kept: 1.3 + kept, 0.04, 0.5, builds=9)
    assert found.made == pytest.approx(0.04)
    assert found.ratio == pytest.approx(1.34)
    assert not found.reached


# The peer --------------------------------------------------------------------------------------------------


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(8, 64, 3, 1, 1), nn.Conv2d(64, 8, 3, 1, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.conv2(torch.relu(self.conv1(x)))


class Net(nn.Module):
    """[N, 1, 6, 6] -> [N, 2]"""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.block, self.linear = nn.Conv2d(1, 8, 3, 1, 1), Block(), nn.Linear(8, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.linear(self.block(self.stem(x)).mean((2, 3)))


@pytest.fixture
def subject(tmp_path: Path) -> Subject:
    torch.manual_seed(0)
    labels = torch.arange(128) % 2
    inputs = torch.randn(128, 1, 6, 6) + labels.view(-1, 1, 1, 1)
    rows, wanted = inputs.numpy(), labels.numpy()
    train, net = Shuffled(inputs, labels), Net().eval()
    task = edgeprune.Task(
        model=net,
        example=inputs[:2],
        calibration=[inputs[:64]],
        train=train,
        evaluate=lambda predict: float(np.mean(predict(rows).argmax(1) == wanted)),
    )
    case = Case("toy", "toy", "latency", "toy", {0.5: Goal(lost=0)})
    return Subject(case, net, task, train, tmp_path, epochs=8, minutes=None)


def test_the_training_data_come_in_another_order_each_pass(subject: Subject) -> None:
    first, second = ([labels.tolist() for _, labels in subject.train] for _ in range(2))
    assert first != second
    assert [sorted(chain(*order)) for order in (first, second)] == 2 * [[0] * 64 + [1] * 64]


def test_the_usual_recipe_learns(subject: Subject) -> None:
    net = Net()
    before = subject.metric(peer.tasks.eager(net.eval()))
    peer.train(net, replace(subject, epochs=32))
    assert not net.training
    assert subject.metric(peer.tasks.eager(net)) > max(before, 0.8)


def test_gradients_are_the_mean_or_the_mean_of_squares(subject: Subject) -> None:
    few = replace(subject, train=Shuffled(subject.train.inputs[:4], subject.train.labels[:4]))
    assert peer.gradients_of(few, peer.Criterion("")) == {}
    singles = []
    for at in range(4):
        one = replace(few, train=Shuffled(few.train.inputs[at : at + 1], few.train.labels[at : at + 1]))
        singles.append(peer.gradients_of(one, peer.Criterion("", gradients=True))["linear.weight"])
    stacked = torch.stack(singles)
    mean, squared = (
        peer.gradients_of(few, peer.Criterion("", gradients=True, squared=squared))["linear.weight"]
        for squared in (False, True)
    )
    assert torch.allclose(mean, stacked.mean(0), atol=1e-6)
    assert torch.allclose(squared, stacked.square().mean(0), atol=1e-6)


@pytest.mark.parametrize("method", PEERS)
def test_the_peer_cuts_what_it_may(subject: Subject, method: str) -> None:
    pytest.importorskip("torch_pruning")
    criterion = peer.CRITERIA[method]
    gradients = peer.gradients_of(subject, criterion)
    everywhere, inside = peer._left_alone(subject.network)
    net: Any = peer.pruned(subject, criterion, gradients, 0.5, everywhere)
    assert net.linear.out_features == 2
    assert net(subject.task.example).shape == (2, 2)
    assert sum(p.numel() for p in net.parameters()) < 0.8 * sum(p.numel() for p in Net().parameters())
    net = peer.pruned(subject, criterion, gradients, 0.5, inside)
    assert (net.stem.out_channels, net.block.conv1.out_channels) == (8, 32)
    assert subject.network.block.conv1.out_channels == 64, "the original stays as it is"


def test_a_peer_that_is_not_installed_is_said(subject: Subject) -> None:
    with patch.dict("sys.modules", {"torch_pruning": None}), pytest.raises(MissingExtraError) as error:
        peer.pruned(subject, peer.CRITERIA[PEERS[0]], {}, 0.5, peer._left_alone(subject.network)[0])
    assert "Torch-Pruning is not installed" in error.value.what


@dataclass(frozen=True)
class Timed:
    """A yardstick by which latency is the share of parameters that is left, plus a constant."""

    constant: float
    sessions: int = 3

    def ratio(self, net: nn.Module) -> float:
        share = sum(p.numel() for p in net.parameters()) / sum(p.numel() for p in Net().parameters())
        return (share + self.constant) / 0.5


@contextmanager
def by_parameters(constant: float) -> Iterator[None]:
    """Latency that is computed instead of measured, and a network that is its own artefact."""
    with (
        patch.object(Subject, "workshop", lambda self: None),
        patch.object(Subject, "reference", lambda self, workshop, share: Timed(constant)),
        patch.object(Subject, "load", lambda self, artefact: artefact),
        patch.object(Subject, "served", lambda self, net: self.metric(peer.tasks.eager(net))),
        patch.object(peer, "quantised", lambda subject, net, folder: net),
    ):
        yield


def test_a_peer_is_cut_to_the_budget_and_trained(subject: Subject) -> None:
    pytest.importorskip("torch_pruning")
    asked = Row("toy", PEERS[0], 0.5, 128, 8, None, seconds=0.0)
    with by_parameters(0.0):
        found = peer.trained(subject, asked)
    assert found.used is not None
    assert 0.98 <= found.used < 1.1, "this small net's widths move in steps"
    assert found.ratio == pytest.approx(0.5 * found.used)
    assert found.out_of_reach is None
    assert found.int8 == found.after
    assert found.before is not None
    assert found.after is not None
    assert found.after > found.before
    with by_parameters(0.6):
        found = peer.trained(subject, asked)
    assert found.out_of_reach is not None
    assert found.out_of_reach > 1.2
    assert found.last is None

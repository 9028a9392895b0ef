"""Residual branches: which are found, and what is left when one is dropped."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from types import ModuleType

import pytest
import torch
from torch import nn

from edgeprune.graph.capture import capture
from edgeprune.graph.cost import count
from edgeprune.graph.coupling import analyse
from edgeprune.graph.surgery import cut

Step = Callable[["Net", torch.Tensor], torch.Tensor]


class Net(nn.Module):
    """A stream of width 6 between two layers; `step` is what happens to it."""

    def __init__(self, step: Step) -> None:
        super().__init__()
        self.start, self.end = nn.Linear(4, 6), nn.Linear(6, 2)
        self.a, self.b, self.c = (nn.Linear(6, 6) for _ in range(3))
        self.norm = nn.LayerNorm(6)
        self.step = step

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.end(self.step(self, self.start(x)))


def in_place(net: Net, x: torch.Tensor) -> torch.Tensor:
    """Behind the branch an activation writes into the sum; x is read again after it."""
    y = net.a(x)
    y += x
    y = torch.relu_(y)
    return y * torch.sigmoid(x)


def through_a_view(net: Net, x: torch.Tensor) -> torch.Tensor:
    """The branch writes into the stream, through a view that the stream's other readers do not read."""
    rows = x.view(-1, 6)
    rows.relu_()
    return x + net.a(rows)


def parallel(net: Net, x: torch.Tensor) -> torch.Tensor:
    """As in GPT-J: both branches read the same norm, and the second is added to a sum."""
    y = net.norm(x)
    return net.a(y) + x + net.b(y)


def shared(net: Net, x: torch.Tensor) -> torch.Tensor:
    """As in ALBERT: no weight is the branch's own."""
    x = x + net.a(x)
    return x + net.a(x)


def projected(net: Net, x: torch.Tensor) -> torch.Tensor:
    """As where a ResNet changes its width: neither side is the stream."""
    return torch.relu(net.a(x)) + net.b(x)


@dataclass(frozen=True)
class Case:
    name: str
    step: Step
    branches: tuple[str, ...]


CASES = [
    Case("a branch", lambda net, x: x + net.a(x), ("branch:a",)),
    Case("the stream on the right", lambda net, x: net.a(net.norm(x)) + x, ("branch:a",)),
    Case("the norm behind the sum", lambda net, x: net.norm(x + net.b(net.a(x))), ("branch:b",)),
    Case("one in another", lambda net, x: x + (lambda y: y + net.b(y))(net.a(x)), ("branch:b", "branch:b#2")),
    Case("in place", in_place, ("branch:a",)),
    Case("in place through a view", through_a_view, ("branch:a",)),
    Case("side by side", parallel, ("branch:a", "branch:b")),
    Case("shared weights", shared, ()),
    Case("two projections", projected, ()),
    Case("a scaled sum", lambda net, x: torch.add(x, net.a(x), alpha=2), ()),
    Case("a constant", lambda net, x: net.a(x) + 1.0, ()),
    Case("broadcast", lambda net, x: x + net.a(x).mean(0, keepdim=True), ()),
    Case("a branch that is read elsewhere", lambda net, x: (lambda y: (x + y) * y)(net.a(x)), ()),
]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_a_branch_is_what_is_only_added_to_what_it_came_from(case: Case) -> None:
    captured = capture(Net(case.step), torch.randn(2, 4))
    assert tuple(branch.name for branch in analyse(captured).branches) == case.branches


@pytest.mark.parametrize("case", [case for case in CASES if case.branches], ids=lambda case: case.name)
def test_what_is_left_is_the_dense_model_without_the_branch(case: Case, references: ModuleType) -> None:
    torch.manual_seed(0)
    captured = capture(Net(case.step), torch.randn(2, 4))
    coupling = analyse(captured)
    for branch in coupling.branches:
        kept = {**references.random_kept(coupling, 0), branch.name: ()}
        x = torch.randn(3, 4)
        pruned = cut(captured, coupling, kept)
        with torch.no_grad():
            found = pruned.run(x)
        assert references.difference(found, references.masked(captured, coupling, kept, (x,))) < 1e-5


def test_the_weights_of_a_dropped_branch_leave_with_it() -> None:
    captured = capture(Net(parallel), torch.randn(2, 4))
    coupling = analyse(captured)
    pruned = cut(captured, coupling, {"branch:a": ()})
    left = {name.partition(".")[0] for name, _ in pruned.module.named_parameters()}
    assert left == {"start", "end", "norm", "b"}  # nothing read c before either: it was not captured
    cost = count(captured, coupling)
    assert cost.params({}) - cost.params({"branch:a": ()}) == 6 * 6 + 6
    assert cost.macs({}) - cost.macs({"branch:a": ()}) == 36
    assert {name for name, _ in captured.module.named_parameters()} > {"a.weight"}


def test_a_model_keeps_its_inputs_when_only_a_dropped_branch_read_one() -> None:
    class Two(Net):
        def forward(self, x: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
            x = self.start(x)
            return self.end(x + self.a(x * scale))

    captured = capture(Two(in_place), (torch.randn(2, 4), torch.randn(2, 1)))
    pruned = cut(captured, analyse(captured), {"branch:a": ()})
    assert pruned.input_names == captured.input_names
    (output,) = pruned.run(torch.randn(3, 4), torch.randn(3, 1))
    assert output.shape == (3, 2)

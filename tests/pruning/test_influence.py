"""Importance of residual branches: against a network that is written without them."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cosine_similarity, mse_loss

from edgeprune.graph.capture import capture
from edgeprune.graph.coupling import analyse
from edgeprune.pruning.influence import influence, least_missed, output_loss


class Blocks(nn.Module):
    """Three residual branches; skip: those that forward leaves out."""

    def __init__(self, skip: tuple[int, ...] = ()) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.start, self.end = nn.Linear(4, 8), nn.Linear(8, 3)
        self.blocks = nn.ModuleList(
            nn.Sequential(nn.Linear(8, 6), nn.ReLU(inplace=True), nn.Linear(6, 8)) for _ in range(3)
        )
        self.skip = skip

    def forward(self, x: Tensor) -> Tensor:
        x = self.start(x)
        for place, block in enumerate(self.blocks):
            if place not in self.skip:
                x = x + block(x)
        return self.end(x)


def batches() -> list[tuple[Tensor, ...]]:
    generator = torch.Generator().manual_seed(1)
    return [(torch.randn(5, 4, generator=generator),) for _ in range(3)]


def distance(given: tuple[Tensor, ...], wanted: tuple[Tensor, ...]) -> Tensor:
    return mse_loss(given[0], wanted[0])


NAMES = [f"branch:blocks.{place}.2" for place in range(3)]


@pytest.mark.parametrize("gone", [(), (1,)])
def test_the_output_loss_is_that_of_a_network_written_without_the_branch(gone: tuple[int, ...]) -> None:
    captured = capture(Blocks(), torch.randn(2, 4))
    coupling = analyse(captured)
    assert [branch.name for branch in coupling.branches] == NAMES
    without = [coupling.branches[place] for place in gone]
    found = output_loss(captured, coupling, batches(), distance, without)
    left = [place for place in range(3) if place not in gone]
    assert list(found) == [NAMES[place] for place in left]
    with torch.no_grad():
        for place in left:
            shorter = Blocks(skip=(*gone, place))
            each = [mse_loss(shorter(x), Blocks()(x)).item() for (x,) in batches()]
            assert found[NAMES[place]] == pytest.approx(sum(each) / 3, rel=1e-5)


def test_branches_are_dropped_one_after_another_each_the_one_that_is_missed_least() -> None:
    captured = capture(Blocks(), torch.randn(2, 4))
    coupling = analyse(captured)
    first = output_loss(captured, coupling, batches(), distance)
    order = least_missed(captured, coupling, batches(), distance, 3)
    assert order[0] == min(first, key=lambda name: first[name])
    gone = [branch for branch in coupling.branches if branch.name == order[0]]
    second = output_loss(captured, coupling, batches(), distance, gone)
    assert order[1] == min(second, key=lambda name: second[name])
    assert sorted(order) == NAMES


class Nested(nn.Module):
    """A branch that contains another."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.start, self.end = nn.Linear(4, 8), nn.Linear(8, 3)
        self.outer, self.inner = nn.Linear(8, 8), nn.Linear(8, 8)
        with torch.no_grad():
            self.outer.weight.mul_(0.01)
            self.outer.bias.mul_(0.01)

    def forward(self, x: Tensor) -> Tensor:
        x = self.start(x)
        y = torch.relu(x)
        return self.end(x + self.outer(y + self.inner(y)))


def test_what_left_with_a_larger_branch_is_not_spared_a_second_time() -> None:
    captured = capture(Nested(), torch.randn(2, 4))
    coupling = analyse(captured)
    inner, outer = (branch for branch in coupling.branches)
    assert (inner.name, outer.name) == ("branch:inner", "branch:outer")
    assert set(output_loss(captured, coupling, batches(), distance, [outer])) == set()
    assert set(output_loss(captured, coupling, batches(), distance, [inner])) == {"branch:outer"}
    assert sorted(least_missed(captured, coupling, batches(), distance, 2)) == [
        "branch:inner",
        "branch:outer",
    ]


def test_the_model_is_left_as_it_was() -> None:
    captured = capture(Blocks(), torch.randn(2, 4))
    code, weights = captured.module.code, [p.clone() for p in captured.module.parameters()]
    output_loss(captured, analyse(captured), batches(), distance)
    assert captured.module.code == code
    assert all(torch.equal(p, w) for p, w in zip(captured.module.parameters(), weights, strict=True))


def test_influence_is_the_turn_of_the_stream_at_each_branch() -> None:
    model = Blocks()
    captured = capture(model, torch.randn(2, 4))
    found = influence(captured, analyse(captured), batches())
    x = torch.cat([inputs[0] for inputs in batches()])
    with torch.no_grad():
        stream = model.start(x)
        for name, block in zip(NAMES, model.blocks, strict=True):
            after = stream + block(stream)
            turned = 1 - cosine_similarity(stream, after).mean().item()
            assert found[name] == pytest.approx(turned, rel=1e-4)
            stream = after

"""Low-rank updates train only thin factors, and leave plain weights in the same graph."""

from __future__ import annotations

from functools import cache
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.functional import cross_entropy

from edgeprune.errors import InputError
from edgeprune.graph.capture import Captured, capture
from edgeprune.graph.coupling import analyse
from edgeprune.graph.surgery import cut
from edgeprune.recover.data import split
from edgeprune.recover.ladder import judge_of, train_rungs
from edgeprune.recover.lora import RANK, adaptable, low_rank
from edgeprune.recover.objective import Objective, Pair
from edgeprune.recover.recipe import Recipe, TrainingOptions
from edgeprune.recover.train import train
from tests.support.yardsticks import yardstick_of


class Net(nn.Module):
    """A tied pair, a depthwise convolution, a weight of the root and parameters that no layer multiplies."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(11, 24)
        self.depthwise = nn.Conv1d(24, 24, 3, padding=1, groups=24)
        self.norm = nn.BatchNorm1d(24)
        self.root = nn.Parameter(torch.randn(24, 24) / 5)
        self.head = nn.Linear(24, 11)
        self.head.weight = self.embed.weight

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.norm(self.depthwise(self.embed(tokens).transpose(1, 2)))
        return self.head(F.linear(x.mean(2), self.root))


@cache
def _captured() -> Captured:
    torch.manual_seed(0)
    return capture(Net().eval(), torch.zeros(2, 5, dtype=torch.long))


def net() -> Captured:
    return _captured().copy()


def tokens(rows: int = 16, seed: int = 1) -> Tensor:
    return torch.randint(11, (rows, 5), generator=torch.Generator().manual_seed(seed))


def weights(captured: Captured) -> dict[str, Tensor]:
    return {name: tensor.detach().clone() for name, tensor in captured.module.state_dict().items()}


def stir(factors: list[nn.Parameter]) -> None:
    with torch.no_grad():
        for factor in factors:
            factor.normal_(generator=torch.Generator().manual_seed(2))


def trained(student: Captured, pairs: list[Pair], **options: Any) -> None:
    torch.manual_seed(0)
    recipe = Recipe(TrainingOptions(epochs=2), low_rank=True)
    objective = Objective(net(), yardstick_of(net(), "classes:-1"), recipe)
    train(student, objective, lambda epoch: pairs, len(pairs), **options)


def test_weights_of_linear_and_convolution_layers_are_adapted_and_tied_ones_together() -> None:
    assert set(adaptable(net())) == {("embed.weight", "head.weight"), ("depthwise.weight",), ("root",)}


def test_training_starts_from_the_weights_as_they_are() -> None:
    captured = net()
    before = captured.run(tokens())[0]
    with low_rank(captured):
        assert torch.equal(captured.run(tokens())[0], before)
    assert torch.equal(captured.run(tokens())[0], before)


def test_only_the_factors_have_gradients() -> None:
    captured = net()
    with low_rank(captured) as factors:
        captured.run(tokens())[0].square().sum().backward()
        parameters = list(captured.module.parameters())
        assert {id(p) for p in parameters if p.requires_grad} == {id(factor) for factor in factors}
        assert all(factor.grad is not None for factor in factors)
        assert sum(p.grad is not None for p in parameters) == len(factors)


def test_the_optimiser_holds_less_than_the_weights_it_replaces(monkeypatch: pytest.MonkeyPatch) -> None:
    held: list[int] = []

    class Spy(torch.optim.AdamW):
        def __init__(self, groups: list[dict[str, Any]], **options: Any) -> None:
            super().__init__(groups, **options)
            held.append(sum(factor.numel() for group in groups for factor in group["params"]))

    monkeypatch.setattr(torch.optim, "AdamW", Spy)
    captured = capture(nn.Sequential(nn.Conv2d(16, 64, 3), nn.Flatten(), nn.Linear(64, 64)), images(2, 1))
    student = captured.copy()
    pairs: list[Pair] = [((images(4, 2),), None)]
    recipe = Recipe(TrainingOptions(1), low_rank=True)
    train(student, Objective(captured, yardstick_of(captured), recipe), lambda epoch: pairs, 1)
    assert held == [RANK * (64 + 16 * 9) + RANK * (64 + 64)]
    assert held[0] < sum(parameter.numel() for parameter in student.module.parameters()) / 4


def images(rows: int, seed: int) -> Tensor:
    return torch.randn(rows, 16, 3, 3, generator=torch.Generator().manual_seed(seed))


def test_everything_else_is_frozen_and_what_changes_has_low_rank() -> None:
    student, before = net(), weights(net())
    trained(student, [((tokens(seed=seed),), torch.arange(16) % 11) for seed in range(6)])
    moved = {name: tensor - before[name] for name, tensor in weights(student).items() if "norm" not in name}
    assert {name for name, by in moved.items() if by.any()} == {
        "embed.weight",
        "head.weight",
        "depthwise.weight",
        "root",
    }
    assert torch.linalg.matrix_rank(moved["root"], rtol=1e-4) <= RANK
    for name in ("norm.weight", "norm.bias"):
        assert torch.equal(student.module.state_dict()[name], before[name])


def test_the_factors_are_never_more_than_the_weight() -> None:
    student = net()
    with low_rank(student) as factors:
        sizes = [one.numel() + other.numel() for one, other in zip(factors[::2], factors[1::2], strict=True)]
    originals = [student.module.get_parameter(names[0]).numel() for names in adaptable(student)]
    assert all(size <= original for size, original in zip(sizes, originals, strict=True))


def test_the_merged_model_answers_as_the_trained_one_and_its_graph_is_the_same() -> None:
    captured, names = net(), set(net().module.state_dict())
    code, nodes = captured.module.code, [node.name for node in captured.module.graph.nodes]
    with low_rank(captured) as factors:
        stir(factors)
        inside = captured.run(tokens())[0]
    assert torch.equal(captured.run(tokens())[0], inside)
    assert not torch.equal(inside, net().run(tokens())[0])
    assert captured.module.code == code
    assert [node.name for node in captured.module.graph.nodes] == nodes
    assert set(captured.module.state_dict()) == names
    assert torch.equal(captured.copy().run(tokens())[0], inside)


def test_tied_weights_stay_tied() -> None:
    captured = net()
    with low_rank(captured) as factors:
        stir(factors)
    assert captured.module.get_parameter("embed.weight") is captured.module.get_parameter("head.weight")


def test_what_the_user_froze_is_frozen_again_afterwards() -> None:
    captured = net()
    captured.module.get_parameter("root").requires_grad_(False)
    with low_rank(captured):
        pass
    flags = {name: parameter.requires_grad for name, parameter in captured.module.named_parameters()}
    assert [name for name, flag in flags.items() if not flag] == ["root"]


def test_an_error_inside_leaves_plain_weights_behind() -> None:
    captured = net()
    with pytest.raises(ZeroDivisionError), low_rank(captured):
        raise ZeroDivisionError
    before = weights(net())
    assert all(torch.equal(before[name], tensor) for name, tensor in weights(captured).items())


def test_a_model_without_such_layers_is_refused() -> None:
    captured = capture(nn.Sequential(nn.BatchNorm1d(3)).eval(), torch.randn(2, 3))
    with pytest.raises(InputError, match="no linear or convolution layer"):
        adaptable(captured)


def halved(dense: Captured) -> Captured:
    """Half of the units of every group are cut, as an allocation would leave it."""
    coupling = analyse(dense)
    return cut(dense, coupling, {group.name: range(group.units // 2) for group in coupling.groups})


@pytest.mark.parametrize("labels", [True, False], ids=["with labels", "without labels"])
def test_low_rank_updates_recover_a_cut_network(nets: ModuleType, labels: bool) -> None:
    dense = nets.residual()
    student = halved(dense)
    code, names = student.module.code, set(student.module.state_dict())

    def pairs() -> list[Pair]:
        with torch.no_grad():
            return [(x, dense.run(*x)[0].argmax(1) if labels else None) for x in nets.images(6, 16)]

    found = split(pairs)
    judge = judge_of(dense, yardstick_of(dense, "classes"), found.held_back, cross_entropy)
    better, (rung,) = train_rungs(student, dense, "lora", found, judge, TrainingOptions(6))
    assert (rung.name, rung.kept) == ("lora", True)
    assert rung.after < 0.9 * rung.before
    assert judge.error(better) == pytest.approx(rung.after)
    assert better.module.code == code
    assert set(better.module.state_dict()) == names
    again, _ = train_rungs(student, dense, "lora", found, judge, TrainingOptions(6))
    assert all(torch.equal(one, other) for one, other in zip(*map(values, (better, again)), strict=True))


def values(captured: Captured) -> list[Tensor]:
    return [tensor for _, tensor in sorted(captured.module.state_dict().items())]

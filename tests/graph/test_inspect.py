"""What `edgeprune inspect` tells: groups, what a unit costs, what is frozen and by which operation."""

from __future__ import annotations

import torch
from torch import nn

from edgeprune.graph.inspect import inspect
from edgeprune.pruning.once import prune


class Renormalised(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.renorm(x, 2, 0, 1.0)


def test_a_group_says_what_leaves_with_one_unit() -> None:
    found = inspect(nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 2)), torch.randn(2, 4))
    (group,) = found.groups
    assert (group.name, group.units, group.parameters) == ("0", 6, 3)
    assert group.unit_params == 4 + 1 + 2
    assert group.unit_macs == 4 + 2
    assert (found.params, found.macs) == (4 * 6 + 6 + 6 * 2 + 2, 4 * 6 + 6 * 2)


def test_what_is_frozen_is_named_with_its_operation_and_counted() -> None:
    found = inspect(nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 2)), torch.randn(2, 4))
    assert [(each.name, each.op, each.reason) for each in found.frozen] == [
        ("2.bias", "output", "is an output of the model")
    ]
    assert found.frozen_params == 2


def test_an_operation_without_a_rule_is_listed() -> None:
    found = inspect(nn.Sequential(nn.Linear(4, 6), Renormalised(), nn.Linear(6, 2)), torch.randn(2, 4))
    assert found.unknown == ("aten.renorm",)
    assert found.groups == ()
    assert {each.name for each in found.frozen if each.op == "aten.renorm"} == {"0.weight", "0.bias"}


class Residual(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.start, self.branch, self.end = nn.Linear(4, 6), nn.Linear(6, 6), nn.Linear(6, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.start(x)
        return self.end(x + torch.relu(self.branch(x)))


def test_a_residual_branch_says_what_leaves_with_it() -> None:
    (branch,) = inspect(Residual(), torch.randn(2, 4)).branches
    assert (branch.name, branch.params, branch.macs) == ("branch:branch", 6 * 6 + 6, 6 * 6)


class Dead(nn.Module):
    """Layers that are never called, and some whose answer nobody reads; `out.weight` has a second name."""

    def __init__(self) -> None:
        super().__init__()
        self.inner, self.out, self.again = nn.Linear(8, 16), nn.Linear(16, 4), nn.Linear(16, 4)
        self.again.weight = self.out.weight
        self.unused, self.unread, self.free = (
            nn.Linear(8, 90),
            nn.Linear(16, 90),
            nn.Parameter(torch.ones(7, 9)),
        )
        self.norm = nn.BatchNorm1d(16)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.relu(self.inner(x))
        self.unread(self.norm(x)).sum()
        return self.out(x)


def test_what_no_output_depends_on_is_left_out() -> None:
    found = inspect(Dead().eval(), torch.randn(2, 8))
    assert [group.name for group in found.groups] == ["inner"]
    assert found.params == (8 + 1) * 16 + (16 + 1) * 4
    pruned = prune(Dead().eval(), torch.randn(2, 8), 0.5)
    assert pruned.params == sum(parameter.numel() for parameter in pruned.module.parameters())
    names = {name for name, _ in pruned.module.named_parameters(remove_duplicate=False)}
    assert names == {"inner.weight", "inner.bias", "out.weight", "out.bias", "again.weight"}


def test_a_model_of_one_row_says_so() -> None:
    class Counted(nn.Linear):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            rows = len(x)
            return super().forward(x).view(rows, -1)

    found = inspect(nn.Sequential(Counted(4, 6), nn.ReLU(), nn.Linear(6, 2)), torch.randn(1, 4))
    assert "fixed at one row" in found.fixed_batch
    assert "rows = len(x)" in found.fixed_batch
    assert (found.groups[0].units, found.macs) == (6, 4 * 6 + 6 * 2)
    assert not inspect(nn.Linear(4, 2), torch.randn(1, 4)).fixed_batch

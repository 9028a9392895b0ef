"""What leaves with a residual branch, of the captured graph and of the ONNX file."""

from __future__ import annotations

from pathlib import Path

import onnx
import pytest
import torch
from torch import nn

from edgeprune.export import export_onnx
from edgeprune.graph.branch_contents import branch_contents, branch_nodes, groups_without_use
from edgeprune.graph.capture import Captured, capture
from edgeprune.graph.coupling import Coupling, analyse
from edgeprune.graph.surgery import cut


class Blocks(nn.Module):
    """Two branches on one stream; the second gates itself, so that it has nodes without a module."""

    def __init__(self) -> None:
        super().__init__()
        self.start, self.end = nn.Linear(6, 8), nn.Linear(8, 3)
        self.one = nn.Sequential(nn.Linear(8, 12), nn.ReLU(), nn.Linear(12, 8))
        self.two = nn.Sequential(nn.Linear(8, 10), nn.SiLU(), nn.Linear(10, 8))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.start(x)
        x = x + self.one(x)
        return self.end(self.two(x) + x)


@pytest.fixture(scope="module")
def captured() -> Captured:
    torch.manual_seed(0)
    return capture(Blocks().eval(), torch.randn(1, 6))


@pytest.fixture(scope="module")
def coupling(captured: Captured) -> Coupling:
    return analyse(captured)


def test_a_branch_holds_the_groups_and_parameters_inside_it(captured: Captured, coupling: Coupling) -> None:
    held = branch_contents(captured.module, coupling)
    assert {name: each.groups for name, each in held.items()} == {
        "branch:one.2": {"one.0"},
        "branch:two.2": {"two.0"},
    }
    assert "two.2.bias" in held["branch:two.2"].parameters
    assert "start.weight" not in held["branch:one.2"].parameters
    assert groups_without_use(captured.module, coupling, coupling.branches) == {"one.0", "two.0"}


def test_the_nodes_that_a_branch_holds_are_those_that_an_export_without_it_lacks(
    captured: Captured, coupling: Coupling, tmp_path: Path
) -> None:
    whole = onnx.load(export_onnx(captured, tmp_path / "whole.onnx", prove=False))
    held = branch_nodes(whole, captured.module, coupling.branches)
    for branch in coupling.branches:
        without = cut(captured, coupling, {branch.name: ()})
        shorter = onnx.load(export_onnx(without, tmp_path / "shorter.onnx", prove=False))
        left = sorted(node.op_type for node in shorter.graph.node)
        assert left == sorted(n.op_type for n in whole.graph.node if n.name not in held[branch.name])
        assert held[branch.name]

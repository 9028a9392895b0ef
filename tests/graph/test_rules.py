"""Rules one by one: what the random networks do not hold."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from types import ModuleType

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from edgeprune.errors import InputError
from edgeprune.graph.capture import capture
from edgeprune.graph.coupling import analyse
from edgeprune.graph.rules import RULES
from edgeprune.graph.surgery import cut

WIDTH = 8


class Around(nn.Module):
    """A width of 8, the operation, and two outputs: whatever the operation does to the width must hold."""

    def __init__(self, work: Callable[[torch.Tensor], torch.Tensor], example: torch.Tensor) -> None:
        super().__init__()
        self.before = nn.Linear(5, WIDTH)
        self.work = work
        with torch.no_grad():
            width = work(self.before(example)).shape[-1]
        self.after = nn.Linear(width, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.after(self.work(self.before(x)))


@dataclass(frozen=True)
class Case:
    """units: how many the width has left after the operation; 0 where it is frozen."""

    name: str
    work: Callable[[torch.Tensor], torch.Tensor]
    units: int


def _topk(x: torch.Tensor) -> torch.Tensor:
    return x + x.topk(2, dim=-1).values.sum(-1, keepdim=True)


def _sampled(x: torch.Tensor) -> torch.Tensor:
    grid = torch.linspace(-1, 1, 12).reshape(1, 1, 6, 2).expand(x.shape[0], 1, 6, 2)
    return F.grid_sample(x.transpose(1, 2)[:, :, None], grid, align_corners=False)[:, :, 0].transpose(1, 2)


def _rotated(x: torch.Tensor) -> torch.Tensor:
    numbers = torch.view_as_complex(x.unflatten(-1, (4, 2))) * torch.polar(torch.ones(6, 1), torch.ones(6, 1))
    return torch.view_as_real(numbers).flatten(-2)


CASES = [
    Case("glu ties the halves", lambda x: F.glu(x, dim=-1), 4),
    Case(
        "unbind keeps the parts equally wide",
        lambda x: torch.cat(x.unflatten(-1, (2, 4)).unbind(-2)[::-1], -1),
        4,
    ),
    Case("stack and flatten", lambda x: torch.stack([x, 2 * x], -1).flatten(-2), 8),
    Case("repeat tiles", lambda x: x.repeat(1, 1, 2), 8),
    Case("repeat_interleave", lambda x: x.repeat_interleave(2, dim=-1), 8),
    Case("overlapping parts unite step by step", lambda x: x.narrow(-1, 2, 4) - x.narrow(-1, 4, 4), 4),
    Case("a slice from behind", lambda x: x[..., -3:], 8),
    Case("pad in front", lambda x: F.pad(x, (2, 1)), 8),
    Case("einsum by labels", lambda x: torch.einsum("bsw,btw->bst", x, x) @ x, 8),
    Case("softmax runs over the units that stay", lambda x: x.softmax(-1), 8),
    Case("log_softmax too", lambda x: x.log_softmax(-1), 8),
    Case("a running sum over the width freezes it", lambda x: x.cumsum(-1), 0),
    Case("a maximum over the width freezes it", lambda x: x * x.amax(-1, keepdim=True), 0),
    Case("the best two are taken of those that stay", _topk, 8),
    Case("the numbers of the best two freeze it", lambda x: x.gather(-1, x.topk(2, dim=-1).indices), 0),
    Case("flip of the width freezes it", lambda x: x.flip(-1), 0),
    Case("a strided slice freezes it", lambda x: x[..., ::2], 0),
    Case("constant positions are followed", lambda x: x[..., torch.tensor([0, 3, -1])], 8),
    Case("positions of the data freeze it", lambda x: x[..., x[0, 0].argsort()], 0),
    Case("a constant of its width freezes nothing", lambda x: x + x.new_zeros(WIDTH), 8),
    Case("variance over the width", lambda x: x * torch.rsqrt(x.var(-1, keepdim=True, correction=0) + 1), 8),
    Case("norm over the width", lambda x: x / (x.norm(dim=-1, keepdim=True) + 1), 8),
    Case("prelu-like clamp", lambda x: x.clamp(min=-0.1) * torch.where(x > 0, x, -x), 8),
    Case("a sequence rolled", lambda x: x.roll(1, 1) + x, 8),
    Case("windows over time", lambda x: x.unfold(1, 2, 1).flatten(2), 8),
    Case("windows over the width freeze it", lambda x: x.unfold(2, 2, 2).flatten(2), 0),
    Case("written to along time, by index", lambda x: x.scatter(1, x.argsort(1)[:, :1], 0.0), 8),
    Case("written to along the width, by index", lambda x: x.scatter(2, x.argsort(2)[..., :1], 0.0), 0),
    Case("added at constant times", lambda x: x.index_add(1, torch.tensor([0, 1]), x[:, :2]), 8),
    Case("a run of times written to", lambda x: x.slice_scatter(2 * x[:, :2], 1, 0, 2), 8),
    Case("a run of the width written to", lambda x: x.slice_scatter(2 * x[..., :2], 2, 0, 2), 0),
    Case("one time written to", lambda x: x.select_scatter(x[:, 0], 1, 1), 8),
    Case("distances of all times", lambda x: torch.cdist(x, x) @ x, 8),
    Case("sampled between times", _sampled, 8),
    Case("pairs of units are complex numbers", _rotated, 4),
    Case("a diagonal over time and width", lambda x: x[:, None].diagonal(dim1=2, dim2=3), 0),
    Case("found among constants", lambda x: x * torch.bucketize(x, torch.arange(3.0)), 8),
]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_an_operation_leaves_the_units_that_it_may_and_cuts_them_exactly(
    case: Case, references: ModuleType
) -> None:
    torch.manual_seed(0)
    example = torch.randn(2, 6, 5)
    captured = capture(Around(case.work, example).eval(), example)
    coupling = analyse(captured)
    before = [g for g in coupling.groups if any(a.parameter == "before.weight" for a in g.axes)]
    assert sum(group.units for group in before) == case.units
    for seed in range(3):
        kept = references.random_kept(coupling, seed)
        x = torch.randn(3, 6, 5)
        with torch.no_grad():
            found = cut(captured, coupling, kept).run(x)
        assert references.difference(found, references.masked(captured, coupling, kept, (x,))) < 1e-5


def test_as_many_units_stay_as_the_best_are_taken_of(references: ModuleType) -> None:
    captured = capture(Around(_topk, torch.randn(2, 6, 5)), torch.randn(2, 6, 5))
    coupling = analyse(captured)
    (group,) = coupling.groups
    assert group.least == 2
    with pytest.raises(InputError, match="would keep 1 units"):
        cut(captured, coupling, {group.name: (3,)})


def test_a_rule_is_one_function_in_one_table(references: ModuleType) -> None:
    """The ten lines of docs/coupling.md: without a rule an operator freezes, with one it is cut exactly."""

    @torch.library.custom_op("edgeprune_test::gate", mutates_args=())
    def gate(x: torch.Tensor) -> torch.Tensor:
        return x * torch.sigmoid(x)

    gate.register_fake(torch.empty_like)

    def position_by_position(walk: object, node: torch.fx.Node) -> object:
        return walk.elementwise(node, node.args)  # type: ignore[attr-defined]

    captured = capture(Around(gate, torch.randn(2, 6, 5)), torch.randn(2, 6, 5))
    assert analyse(captured).groups == ()
    coupling = analyse(captured, rules={**RULES, "edgeprune_test.gate": position_by_position})
    assert [group.units for group in coupling.groups] == [WIDTH]
    kept = references.random_kept(coupling, 0, 0.5)
    with torch.no_grad():
        found = cut(captured, coupling, kept).run(*captured.inputs)
    assert references.difference(found, references.masked(captured, coupling, kept, captured.inputs)) < 1e-5

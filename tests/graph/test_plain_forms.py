"""Forms that the exporter would write wrongly or not at all are proven equal in ONNX Runtime."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from edgeprune.export import to_onnx
from edgeprune.graph.capture import capture

Function = Callable[..., torch.Tensor]


class Plain(nn.Module):
    def __init__(self, function: Function) -> None:
        super().__init__()
        self.function, self.gain = function, nn.Parameter(torch.ones(1))

    def forward(self, *inputs: torch.Tensor) -> torch.Tensor:
        return self.function(*inputs) * self.gain


@dataclass(frozen=True)
class Case:
    name: str
    function: Function
    shapes: tuple[tuple[int, ...], ...]
    left: tuple[str, ...]  # operators of the file, the gain's product apart


IMAGE = ((2, 3, 8, 8),)
CASES = (
    Case("one value per image", lambda x: F.adaptive_avg_pool2d(x, 1), IMAGE, ("GlobalAveragePool",)),
    Case("one value per series", lambda x: F.adaptive_avg_pool1d(x, 1), ((2, 3, 8),), ("ReduceMean",)),
    Case("a divisor", lambda x: F.avg_pool2d(x, 2, divisor_override=3), IMAGE, ("AveragePool", "Mul")),
    Case(
        "a divisor beside a margin",
        lambda x: F.avg_pool2d(x, (3, 2), 2, 1, divisor_override=5),
        IMAGE,
        ("AveragePool", "Mul"),
    ),
    Case(
        "a divisor of volumes",
        lambda x: F.avg_pool3d(x, 2, divisor_override=3),
        ((2, 3, 4, 4, 4),),
        ("AveragePool", "Mul"),
    ),
    Case(
        "an ellipsis that is summed over",
        lambda x, y: torch.einsum("b...c,b...c->bc", x, y),
        ((2, 3, 4, 5), (2, 3, 4, 5)),
        ("Einsum",),
    ),
    Case(
        "an ellipsis of other ranks",
        lambda x, y: torch.einsum("...c,bc -> b...", x, y),
        ((2, 3, 4, 5), (2, 5)),
        ("Einsum",),
    ),
    Case("a mean slope", lambda x: F.rrelu(x, 0.2, 0.4), IMAGE, ("LeakyRelu",)),
)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_a_form(case: Case) -> None:
    torch.manual_seed(0)
    captured = capture(Plain(case.function).eval(), tuple(torch.randn(shape) for shape in case.shapes))
    model = to_onnx(captured)  # proves it equal
    assert tuple(node.op_type for node in model.graph.node)[:-1] == case.left


@pytest.mark.parametrize("left", [0, 2], ids=["all rows in runs", "two rows behind the runs"])
def test_products_of_experts_have_an_onnx_form(left: int) -> None:
    pytest.importorskip("transformers.integrations.moe")
    torch.manual_seed(0)
    matrices, places = torch.randn(3, 4, 5), torch.arange(3)
    short = left * (places == 2)

    def experts(x: torch.Tensor) -> torch.Tensor:
        rows = x.reshape(-1, 4)
        chosen = (rows[:, :2] > 0).sum(1)
        order = chosen.argsort(stable=True)
        ends = (chosen[:, None] == places).sum(0).cumsum(0) - short
        made = torch.ops.transformers.grouped_mm_fallback(rows[order], matrices, ends.to(torch.int32))
        return torch.zeros_like(made).index_copy(0, order, made).reshape(-1, 6, 5)

    x = torch.randn(2, 6, 4)
    captured = capture(Plain(experts).eval(), x)
    (found,) = captured.run(x)
    assert int((found == 0).all(-1).sum()) == left, "rows behind all runs are zero"
    operators = {node.op_type for node in to_onnx(captured).graph.node}  # proves it equal
    assert {"Gather", "MatMul"} <= operators

"""Graphs with a batch of one row: what they are told by, and how they answer several."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from edgeprune.graph.capture import capture
from edgeprune.graph.one_row import first_rows, row_by_row, single_rows, takes_one_row


class Fixed(nn.Module):
    """Takes the length of its batch for a number; `scale` is learnt."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.inner, self.norm, self.out = nn.Linear(4, 6), nn.BatchNorm1d(6), nn.Linear(6, 3)
        self.drop = nn.Dropout(0.5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.norm(self.inner(x)).view(len(x), 6)
        return self.out(self.drop(torch.relu(y)))


def test_a_graph_says_of_itself_whether_it_takes_one_row() -> None:
    fixed = capture(Fixed().eval(), torch.randn(1, 4), rows=1)
    assert takes_one_row(fixed.module.graph)
    assert takes_one_row(fixed.copy().module.graph)
    assert not takes_one_row(capture(nn.Linear(4, 3), torch.randn(1, 4)).module.graph)
    assert not takes_one_row(torch.fx.symbolic_trace(nn.Linear(4, 3)).graph), "nobody knows"


def test_rows_are_told_apart_in_any_structure() -> None:
    given = {"x": torch.arange(6).view(3, 2), "more": [torch.arange(3), None]}
    rows = list(single_rows(given))
    assert [row["x"].tolist() for row in rows] == [[[0, 1]], [[2, 3]], [[4, 5]]]
    assert [row["more"][0].tolist() for row in rows] == [[0], [1], [2]]
    assert first_rows(given)["x"].tolist() == [[0, 1]]


def test_answers_of_single_rows_are_put_together_by_their_leaves() -> None:
    def answer(x: torch.Tensor, *, y: torch.Tensor) -> dict[str, object]:
        assert len(x) == len(y) == 1
        return {"sum": x + y, "pair": (x, None)}

    x, y = torch.randn(3, 2), torch.randn(3, 2)
    found = row_by_row(answer, (x,), {"y": y})
    assert torch.equal(found["sum"], x + y)
    assert torch.equal(found["pair"][0], x)
    assert found["pair"][1] is None


def test_several_rows_train_as_one_batch_and_a_norm_keeps_its_statistics() -> None:
    model = Fixed().eval()
    module = capture(model, torch.randn(1, 4), rows=1).module
    x = torch.randn(5, 4)
    model(x).square().mean().backward()
    wanted = {name: parameter.grad.clone() for name, parameter in model.named_parameters()}
    model.zero_grad()
    module(x).square().mean().backward()
    for name, parameter in module.named_parameters():
        assert torch.allclose(parameter.grad, wanted[name], atol=1e-6), name
    before = model.norm.running_mean.clone()
    module.train()
    torch.manual_seed(0)
    assert not torch.equal(module(x), module(x)), "dropout is on"
    assert torch.equal(model.norm.running_mean, before)
    module.eval()
    assert torch.allclose(module(x), model(x), atol=1e-6)


@pytest.mark.parametrize("rows", [1, 4])
def test_a_captured_graph_asks_an_interpreter_for_one_row_at_a_time(rows: int) -> None:
    x = torch.randn(rows, 4)
    fixed = capture(Fixed().eval(), torch.randn(2, 4), rows=1)
    assert [query[0].shape for query in fixed.queries((x,))] == [(1, 4)] * rows
    joined = fixed.joined(fixed.run(*query) for query in fixed.queries((x,)))
    assert torch.equal(joined[0], fixed.run(x)[0])
    assert len(fixed.inputs[0]) == 1
    free = capture(nn.Linear(4, 3), x)
    assert [query[0].shape for query in free.queries((x,))] == [x.shape]

"""Writes through views: a cut is exact where values share memory, also where a single position is left."""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType

import pytest
import torch
from torch import nn

from edgeprune.graph.capture import capture
from edgeprune.graph.coupling import analyse
from edgeprune.graph.memory import fragile, memory_of, writers
from edgeprune.graph.surgery import cut

HEADS, WIDTH = 3, 4


class Written(nn.Module):
    """Two readers of one layer of `HEADS * WIDTH` channels, behind operations that may write into it."""

    def __init__(self, between: Callable[[torch.Tensor], tuple[torch.Tensor, torch.Tensor]]) -> None:
        super().__init__()
        self.first = nn.Linear(6, HEADS * WIDTH)
        self.left, self.right = nn.Linear(HEADS * WIDTH, 5), nn.Linear(HEADS * WIDTH, 5)
        self._between = between

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        left, right = self._between(self.first(x))
        return self.left(left), self.right(right)


def by_head(x: torch.Tensor) -> torch.Tensor:
    return x.view(x.shape[0], x.shape[1], HEADS, WIDTH)


def flat(x: torch.Tensor) -> torch.Tensor:
    return x.reshape(x.shape[0], -1, HEADS * WIDTH)


def scan(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """A recurrent state with a decay for each head, written position by position into zeros."""
    heads = by_head(x)
    states = torch.zeros_like(heads)
    decay = torch.arange(1, HEADS + 1).view(-1, 1) / 4
    for place in range(x.shape[1]):
        before = states[:, place - 1] if place else 0.0
        states[:, place] = heads[:, place] + decay * before
    return flat(states), x


def rows_from_rows(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Each row of a triangle from the rows above, as the inverse in chunks of linear attention is made."""
    heads = by_head(x).transpose(1, 2)
    scores = (heads @ heads.transpose(-1, -2)).tril(-1)
    for row in range(1, x.shape[1]):
        scores[..., row, :row] += (scores[..., row, :row, None] * scores[..., :row, :row]).sum(-2)
    return flat((scores @ heads).transpose(1, 2)), x


def into_new_memory(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    heads = by_head(x)
    rows = heads.new_empty(x.shape[0], x.shape[1], HEADS, WIDTH)
    rows[:, 0] = 1.0
    rows[:, 1:] = heads[:, :-1]
    like = torch.empty_like(x)
    like.copy_(x.exp())
    return flat(rows), like


def a_part(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    x[:, :, :WIDTH] *= 3.0
    return x, x


def a_copy_of_heads(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """With one head left, `contiguous` has nothing to move and would return the layer's own values."""
    heads = by_head(x).transpose(1, 2)
    queries = heads.contiguous()
    queries *= 0.1
    scores = torch.softmax(queries @ heads.transpose(-1, -2), -1)
    return flat((scores @ heads).transpose(1, 2)), x


def a_copy_by_reshape(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    rows = x.transpose(1, 2).reshape(x.shape[0], -1)
    rows.clamp_(min=0.0)
    return rows.view(x.shape[0], HEADS * WIDTH, -1).transpose(1, 2), x


def behind_a_view(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    rows = x.view(-1, HEADS * WIDTH)
    rows.relu_()
    return x, rows.view(x.shape)


BETWEEN = (scan, rows_from_rows, into_new_memory, a_part, a_copy_of_heads, a_copy_by_reshape, behind_a_view)


@pytest.mark.parametrize("between", BETWEEN, ids=lambda between: between.__name__)
def test_a_cut_to_any_width_is_exact(
    between: Callable[..., tuple[torch.Tensor, torch.Tensor]], references: ModuleType
) -> None:
    torch.manual_seed(0)
    model, x = Written(between).eval(), torch.randn(2, 3, 6)
    captured = capture(model, x)
    coupling = analyse(captured)
    assert coupling.groups
    for group in coupling.groups:
        for width in range(group.least, group.units):
            kept = {group.name: tuple(range(group.units - width, group.units))}
            with torch.no_grad():
                found = cut(captured, coupling, kept).run(x)
                by_weights = references.zeroed(captured, coupling, kept).run(x)
                by_values = references.masked(captured, coupling, kept, (x,))
            assert references.difference(found, by_weights) < references.LIMIT, (group.name, width)
            assert references.difference(found, by_values) < references.LIMIT, (group.name, width)


@pytest.mark.parametrize(
    ("between", "least"), [(a_copy_of_heads, 2), (a_copy_by_reshape, 2), (a_part, 1), (scan, 1)]
)
def test_two_positions_stay_where_one_alone_would_turn_a_copy_into_a_view(
    between: Callable[..., tuple[torch.Tensor, torch.Tensor]], least: int
) -> None:
    coupling = analyse(capture(Written(between).eval(), torch.randn(2, 3, 6)))
    assert [group.least for group in coupling.groups if group.name == "first"] == [least]


def test_memory_is_followed_through_views_parts_and_operations_in_place() -> None:
    class Parts(nn.Module):
        def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            doubled = x * 2
            left, _ = doubled.chunk(2, dim=1)
            left.transpose(1, 2).add_(1)
            return doubled, x.exp().view(-1)

    graph = capture(Parts(), torch.randn(2, 4, 4)).module.graph
    nodes = {node.name: node for node in graph.nodes}
    assert memory_of(nodes["add_"]) == (nodes["transpose"],)
    assert memory_of(nodes["mul"]) == ()
    assert {node.name for node in writers(graph)} >= {"mul", "chunk", "getitem", "transpose", "add_"}
    assert not {"x", "exp", "view"} & {node.name for node in writers(graph)}
    assert not list(fragile(graph))

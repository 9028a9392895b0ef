"""Shapes that are changed in place are followed as the views that they are."""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType

import pytest
import torch
from torch import Tensor, nn

from edgeprune.graph.capture import capture
from edgeprune.graph.coupling import analyse
from edgeprune.graph.inplace_views import as_views
from edgeprune.graph.surgery import cut


class Through(nn.Module):
    """Two linear layers with a change of shape between them."""

    def __init__(self, change: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.a, self.b, self.change = nn.Linear(8, 16), nn.Linear(16, 4), change

    def forward(self, x: Tensor) -> Tensor:
        return self.b(self.change(torch.relu(self.a(x))))


def written_through(y: Tensor) -> Tensor:
    view = y.unsqueeze_(1)
    view.mul_(2)
    return (y + view).squeeze(1)


CHANGES: dict[str, Callable[[Tensor], Tensor]] = {
    "unsqueeze_": lambda y: y.unsqueeze_(1).squeeze(1),
    "squeeze_ of a dimension": lambda y: y.unsqueeze(1).squeeze_(1),
    "squeeze_ of all": lambda y: y.unsqueeze(1).squeeze_(),
    "squeeze_ of several": lambda y: y[:, None, :, None].squeeze_((1, 3)),
    "transpose_": lambda y: y.unsqueeze(1).transpose_(1, 2).amax(2),
    "t_": lambda y: y.t_().t(),
    "swapaxes_": lambda y: y.unsqueeze(1).swapaxes_(1, 2).amax(2),
    "swapdims_": lambda y: y.unsqueeze(1).swapdims_(1, 2).amax(2),
    "a write behind it": written_through,
}


@pytest.mark.parametrize("name", CHANGES)
def test_a_change_in_place_is_cut_exactly(name: str, references: ModuleType) -> None:
    model, x = Through(CHANGES[name]).eval(), torch.randn(5, 8)
    captured = capture(model, torch.randn(3, 8))
    coupling = analyse(captured)
    assert sum(group.units for group in coupling.groups) == 16
    assert not coupling.unknown
    kept = references.random_kept(coupling, 0, 0.5)
    with torch.no_grad():
        assert torch.equal(captured.run(x)[0], model(x))
        pruned, exact = cut(captured, coupling, kept), references.zeroed(captured, coupling, kept)
        assert references.difference(pruned.run(x), exact.run(x)) < 1e-6


@pytest.mark.parametrize("stored", [False, True])
def test_what_is_stored_or_read_again_in_its_new_shape_stays_as_it_is(stored: bool) -> None:
    root = nn.Module()
    root.table = nn.Buffer(torch.zeros(3, 8))
    graph = torch.fx.Graph()
    x = graph.placeholder("x")
    y = graph.get_attr("table") if stored else graph.call_function(torch.ops.aten.relu.default, (x,))
    graph.call_function(torch.ops.aten.unsqueeze_.default, (y, 1))
    graph.output(graph.call_function(torch.ops.aten.add.Tensor, (x, y)))
    module = torch.fx.GraphModule(root, graph)
    as_views(module)
    assert any(node.target is torch.ops.aten.unsqueeze_.default for node in module.graph.nodes)
    assert module(torch.ones(3, 8)).shape == (3, 3, 8)

"""A smaller network begins where a larger one ended: its values where it has them, else the original's."""

from __future__ import annotations

from functools import cache
from types import ModuleType

import pytest
import torch
from torch import nn

from edgeprune.graph.capture import Captured, capture
from edgeprune.graph.coupling import Coupling, analyse
from edgeprune.graph.surgery import cut, uncut
from edgeprune.recover.ladder import judge_of
from edgeprune.recover.warm_start import better_start
from tests.support.yardsticks import yardstick_of


@cache
def dense() -> tuple[Captured, Coupling]:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(4, 12), nn.BatchNorm1d(12), nn.Tanh(), nn.Linear(12, 3)).eval()
    captured = capture(net, torch.randn(2, 4))
    return captured, analyse(captured)


def cut_to(*units: int) -> Captured:
    captured, coupling = dense()
    return cut(captured, coupling, {coupling.groups[0].name: units})


def moved(captured: Captured, by: float = 1.0) -> Captured:
    """As if it had been trained: every number is another one."""
    with torch.no_grad():
        for tensor in captured.module.state_dict().values():
            if tensor.is_floating_point():
                tensor += by
    return captured


def weights(captured: Captured) -> dict[str, torch.Tensor]:
    return captured.module.state_dict()


def kept(*units: int) -> dict[str, tuple[int, ...]]:
    return {dense()[1].groups[0].name: units}


@pytest.mark.parametrize("seed", range(4))
def test_cutting_again_gives_the_trained_network_back_and_leaves_the_original_alone(
    networks: ModuleType, references: ModuleType, seed: int
) -> None:
    layers = ("conv", "batch norm", "squeeze-excite", "grouped conv", "concat")
    captured = capture(*networks.draw(networks.Drawing("image", layers, ("fused attention",), True, seed)))
    coupling = analyse(captured)
    some = references.random_kept(coupling, seed, 0.5)
    before = {name: tensor.clone() for name, tensor in weights(captured).items()}
    trained = moved(cut(captured, coupling, some))
    again = cut(uncut(captured, coupling, some, trained), coupling, some)
    assert weights(again).keys() == weights(trained).keys()
    for name, tensor in weights(trained).items():
        assert torch.equal(weights(again)[name], tensor), name
    for name, tensor in before.items():
        assert torch.equal(weights(captured)[name], tensor), name


def test_the_whole_model_computes_what_the_larger_network_does() -> None:
    captured, coupling = dense()
    larger = moved(cut_to(1, 4, 5, 9))
    whole = uncut(captured, coupling, kept(1, 4, 5, 9), larger)
    x = torch.randn(16, 4)
    with torch.no_grad():
        torch.testing.assert_close(whole.run(x), larger.run(x))


def test_a_unit_that_the_larger_network_had_lost_begins_without_influence() -> None:
    captured, coupling = dense()
    larger = moved(cut_to(1, 4, 5, 9))
    found = weights(cut(uncut(captured, coupling, kept(1, 4, 5, 9), larger), coupling, kept(4, 7)))
    original = weights(captured)
    first, last = (name for name in original if name.endswith("weight") and original[name].dim() == 2)
    assert torch.equal(found[first][0], weights(larger)[first][1])
    assert torch.equal(found[first][1], original[first][7])
    assert torch.equal(found[last][:, 0], weights(larger)[last][:, 1])
    assert not found[last][:, 1].any()


@pytest.mark.parametrize(("by", "taken"), [(0.0, True), (3.0, False)], ids=["nearer", "farther"])
def test_the_start_with_the_lower_held_back_error_is_taken(by: float, taken: bool) -> None:
    captured, _ = dense()
    x = torch.randn(64, 4)
    judge = judge_of(captured, yardstick_of(captured, "classes"), [((x,), None)], None)
    pruned, other = moved(cut_to(0, 1), 0.5), moved(cut_to(0, 1), by)
    start, rung = better_start(pruned, other, judge, [lambda tried: None])
    assert (start is not pruned, rung.kept) == (taken, taken)
    assert rung.name == "descend"
    assert (rung.before, rung.after) == (judge.error(pruned), judge.error(other))

"""Allocations that add up wrongly are found out by the networks that they make."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from edgeprune.fitting.space.reweighing import reweighed, with_factors
from edgeprune.fitting.space.space import MACS, Space
from edgeprune.graph.capture import capture
from edgeprune.graph.cost import count
from edgeprune.graph.coupling import Kept, analyse
from edgeprune.pruning.sensitivity import Sensitivity
from edgeprune.search.ranking import Choice


class Three(nn.Module):
    """Three hidden layers of equal width."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(16, 16) for _ in range(4))

    def forward(self, x: Tensor) -> Tensor:
        for layer in list(self.layers)[:3]:
            x = torch.relu(layer(x))
        return self.layers[3](x)


def space_of(errors: dict[str, float]) -> Space:
    """A space whose groups err by these numbers at half of their units."""
    torch.manual_seed(0)
    captured = capture(Three().eval(), torch.randn(2, 16))
    coupling = analyse(captured)
    choices = tuple(Choice(group.name, np.arange(1, 17, dtype=np.float32), 1) for group in coupling.groups)
    sensed = Sensitivity(tuple((name, ((8, error),)) for name, error in errors.items()))
    return Space(coupling, count(captured, coupling), choices, sensitivity=sensed)


def half(space: Space) -> dict[str, float]:
    return {MACS: 0.5 * space.cost.macs({})}


ALIKE = {f"layers.{at}": 1.0 for at in range(3)}


def true_error(kept: Kept) -> float:
    """In truth only the first layer's units count."""
    return float(16 - len(kept["layers.0"])) ** 2


def test_factors_lead_to_allocations_that_do_better_as_whole_networks() -> None:
    space = space_of(ALIKE)
    limits = half(space)

    found = reweighed(space, limits, true_error, 24, seed=0)

    plain, better = space.keep(limits).kept, with_factors(space, dict(found.factors)).keep(limits).kept
    assert found.before == true_error(plain)
    assert found.after == true_error(better) < 0.5 * found.before
    assert space.cost.macs(better) <= limits[MACS]
    assert 2 <= found.tried <= 24


def test_factors_that_do_harm_beside_the_limits_do_not_count() -> None:
    space = space_of(ALIKE)
    limits = half(space)

    def error(kept: Kept) -> float:
        """At the limit the first layer's units count; beside it each of them does harm."""
        near = 0.93 < space.cost.macs(kept) / limits[MACS] <= 1.0
        return true_error(kept) if near else float(len(kept["layers.0"])) ** 2

    found = reweighed(space, limits, error, 24, seed=0)

    assert reweighed(space, limits, true_error, 24, seed=0).factors
    assert (found.factors, found.after) == ((), found.before)
    assert found.tried <= 24


def test_the_answer_is_the_same_for_the_same_seed() -> None:
    space = space_of(ALIKE)

    one, other = (reweighed(space, half(space), true_error, 12, seed=5) for _ in range(2))

    assert one == other
    assert one != reweighed(space, half(space), true_error, 12, seed=-6)


def test_no_allocation_is_compared_twice_and_none_beyond_the_tries() -> None:
    space, seen = space_of(ALIKE), []

    def error(kept: Kept) -> float:
        seen.append(tuple(sorted(kept.items())))
        return 1.0

    found = reweighed(space, half(space), error, 7, seed=0)

    assert len(seen) == len(set(seen)) == found.tried <= 7
    assert found.factors == ()


def test_an_allocation_without_an_error_is_the_answer_at_once() -> None:
    space = space_of(ALIKE)

    found = reweighed(space, half(space), lambda kept: 0.0, 24, seed=0)

    assert (found.tried, found.factors, found.after) == (1, (), 0.0)


def test_one_try_is_the_allocation_as_it_is() -> None:
    space, told = space_of(ALIKE), []

    found = reweighed(space, half(space), true_error, 1, seed=0, listen=told.append)

    assert (found.tried, found.factors) == (1, ())
    assert told == [1.0]


def test_a_space_without_errors_stays() -> None:
    space = replace(space_of(ALIKE), sensitivity=None)

    assert with_factors(space, {"layers.0": 2.0}) is space
    assert reweighed(space, half(space), true_error, 5, seed=0).tried == 1


@pytest.mark.parametrize("factor", [0.5, 4.0])
def test_factors_multiply_errors(factor: float) -> None:
    space = with_factors(space_of(ALIKE), {"layers.1": factor})

    assert space.sensitivity is not None
    assert dict(space.sensitivity.groups)["layers.1"] == ((8, factor),)
    assert dict(space.sensitivity.groups)["layers.0"] == ((8, 1.0),)

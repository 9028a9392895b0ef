"""Damped least squares: of few rows the dual gives the weights of the normal equations, and none is worse."""

from __future__ import annotations

import pytest
import torch

from edgeprune.pruning.damped_pairs import CHECKED, DAMPINGS, DampedPairs, PairRows, PairSums


def pairs(rows: int, features: int, groups: int = 2, outputs: int = 3) -> tuple[torch.Tensor, ...]:
    """x [rows, groups, features], y [rows, groups, outputs], and weights [groups, outputs, features] near."""
    random = torch.Generator().manual_seed(rows)
    x = torch.randn(rows, groups, features, generator=random)
    weight = torch.randn(groups, outputs, features, generator=random).double()
    noise = torch.randn(rows, groups, outputs, generator=random)
    y = torch.einsum("ngf,gof->ngo", x, weight.float()) + noise / 4
    before = weight + torch.randn(weight.shape, generator=random).double() / 2
    return x, y, before


@pytest.mark.parametrize("damping", DAMPINGS)
@pytest.mark.parametrize("rows", [5, 40])
def test_the_dual_gives_the_weights_of_the_normal_equations(rows: int, damping: float) -> None:
    x, y, before = pairs(rows, 24)
    by_rows = PairRows(x.transpose(0, 1).double(), y.transpose(0, 1).double())
    squares = by_rows.x.mT @ by_rows.x
    by_sums = PairSums(squares, by_rows.y.mT @ by_rows.x)
    own, other = by_rows.at(damping, before), by_sums.at(damping, before)
    assert own is not None
    assert other is not None
    torch.testing.assert_close(own, other, rtol=1e-6, atol=1e-8)
    difference = by_rows.error(own) - by_rows.error(before)
    assert by_sums.error(own) - by_sums.error(before) == pytest.approx(difference, rel=1e-6)


@pytest.mark.parametrize("rows", [20, 23, 24, 60])
def test_weights_are_those_of_the_damping_that_does_best_on_the_other_rows(rows: int) -> None:
    """Whether rows are kept or summed up, and however they come in."""
    x, y, before = pairs(rows, 24)
    whole, parts = DampedPairs(before), DampedPairs(before)
    whole.add(x, y)
    for at in range(0, rows, 7):
        parts.add(x[at : at + 7], y[at : at + 7])
    checks = torch.arange(rows) % CHECKED == 0
    own, check = (
        PairRows(x[which].transpose(0, 1).double(), y[which].transpose(0, 1).double())
        for which in (~checks, checks)
    )
    errors = {damping: check.error(own.at(damping, before)) for damping in DAMPINGS}  # type: ignore[arg-type]
    best = min(errors, key=lambda damping: errors[damping])
    assert errors[best] < check.error(before)
    wanted = own.with_more(check).at(best, before)
    for found in (whole.solved(), parts.solved()):
        assert found is not None
        torch.testing.assert_close(found, wanted, rtol=1e-3, atol=1e-3)


def test_weights_that_nothing_betters_stay() -> None:
    x, _, before = pairs(12, 24)
    exact = DampedPairs(before)
    exact.add(x, torch.einsum("ngf,gof->ngo", x, before.float()))
    solved = exact.solved()
    assert solved is None or torch.allclose(solved, before, atol=1e-4)
    empty = DampedPairs(before)
    empty.add(x[:1], torch.zeros(1, 2, 3))
    assert empty.solved() is None, "one row alone has none to check with"

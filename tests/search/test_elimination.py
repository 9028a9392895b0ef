"""The bound is the maximum while tables are small, and never below it when they have to be split."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgeprune.search import elimination as module
from edgeprune.search.elimination import Elimination, Scope, Table, elimination_order


@st.composite
def sums(draw: st.DrawFn) -> tuple[list[int], list[tuple[Scope, Table]]]:
    """Up to six decisions of four options and tables of two planes over up to three of them."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    sizes = draw(st.lists(st.integers(1, 4), min_size=1, max_size=6))
    factors = [((v,), rng.normal(size=(2, size))) for v, size in enumerate(sizes)]
    for _ in range(draw(st.integers(0, 8))):
        scope = tuple(draw(st.lists(st.integers(0, len(sizes) - 1), min_size=1, max_size=3, unique=True)))
        factors.append((scope, rng.normal(size=(2, *(sizes[v] for v in scope)))))
    return sizes, factors


def planes(factors: list[tuple[Scope, Table]], options: tuple[int, ...]) -> Table:
    return np.sum([table[(slice(None), *(options[v] for v in scope))] for scope, table in factors], axis=0)


@settings(deadline=None, max_examples=200)
@given(sums(), st.sampled_from([(1.0, 0.0), (1.0, -0.7), (0.0, -1.0)]))
def test_the_maximum_is_the_best_of_all_assignments(
    made: tuple[list[int], list[tuple[Scope, Table]]], weights: tuple[float, float]
) -> None:
    sizes, factors = made
    plan = Elimination(sizes, factors)
    assert plan.exact
    got = plan.maximise(weights)
    best = max(float(weights @ planes(factors, each)) for each in product(*map(range, sizes)))
    assert got.bound == pytest.approx(best)
    assert weights @ plan.planes_of(got.assignment()) == pytest.approx(best)


@settings(deadline=None, max_examples=200)
@given(sums(), st.sampled_from([1, 4, 16, 64]))
def test_split_tables_bound_from_above(made: tuple[list[int], list[tuple[Scope, Table]]], cells: int) -> None:
    sizes, factors = made
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "WHOLE_CELLS", 0)
        patch.setattr(module, "SPLIT_CELLS", cells)
        plan = Elimination(sizes, factors)
    best = max(float(planes(factors, each)[0]) for each in product(*map(range, sizes)))
    assert plan.maximise((1.0, 0.0)).bound >= best - 1e-9


@settings(deadline=None, max_examples=100)
@given(sums(), st.sampled_from([1, 16, 1 << 30]), st.integers(0, 2**32))
def test_losses_lead_from_the_bound_to_the_sum(
    made: tuple[list[int], list[tuple[Scope, Table]]], cells: int, seed: int
) -> None:
    sizes, factors = made
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "WHOLE_CELLS", 0)
        patch.setattr(module, "SPLIT_CELLS", cells)
        plan = Elimination(sizes, factors)
    options = np.random.default_rng(seed).integers(0, sizes).astype(np.int32)
    got = plan.maximise((1.0, -0.5))
    left = got.bound
    for v in reversed(plan.order):
        lost = got.losses(v, options[:, None])[:, 0]
        assert lost.max() <= 1e-9
        left += lost[options[v]]
    assert left == pytest.approx(float(np.array([1.0, -0.5]) @ planes(factors, tuple(options.tolist()))))


@settings(deadline=None, max_examples=100)
@given(sums(), st.integers(0, 2**32))
def test_a_move_changes_the_sum_by_what_it_says(
    made: tuple[list[int], list[tuple[Scope, Table]]], seed: int
) -> None:
    sizes, factors = made
    plan = Elimination(sizes, factors)
    options = np.random.default_rng(seed).integers(0, sizes).astype(np.int32)
    np.testing.assert_allclose(plan.planes_of(options), planes(factors, tuple(options.tolist())))
    for v, size in enumerate(sizes):
        moves = plan.moves(v, options)
        for option in range(size):
            other = options.copy()
            other[v] = option
            changed = plan.planes_of(other) - plan.planes_of(options)
            np.testing.assert_allclose(moves[:, option] - moves[:, options[v]], changed, atol=1e-9)


def test_a_chain_leaves_from_its_ends_and_couples_nothing_new() -> None:
    chain = [(at, at + 1) for at in range(9)]
    order = elimination_order([4] * 10, chain)
    assert order[0] == 0
    left = set(range(10))
    for v in order:
        neighbours = [u for u in (v - 1, v + 1) if u in left]
        assert len(neighbours) <= 1
        left.remove(v)


def test_the_decision_with_the_smallest_table_leaves_first() -> None:
    assert elimination_order([32, 2, 32, 32], [(0, 1), (0, 2), (2, 3), (0, 3)])[0] == 1


def test_long_chains_stay_exact_and_dense_ones_are_split() -> None:
    rng = np.random.default_rng(0)
    chain = [((at, at + 1), rng.normal(size=(1, 32, 32))) for at in range(59)]
    assert Elimination([32] * 60, chain).exact
    dense = [((one, two), rng.normal(size=(1, 32, 32))) for two in range(12) for one in range(two)]
    assert not Elimination([32] * 12, dense).exact

"""Optimal Brain Surgeon for units: against brute force on small layers."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from edgeprune.pruning import surgeon
from edgeprune.pruning.surgeon import Reader, removal

Floats = NDArray[np.float64]


def reader(rng: np.random.Generator, units: int, k: int, *, others: int = 0, rows: int = 5) -> Reader:
    """A layer whose inputs are correlated; `others` features belong to no unit."""
    features = units * k + others
    x = rng.normal(size=(200, features)) @ rng.normal(size=(features, features))
    columns = rng.permutation(features)[: units * k].reshape(units, k)
    return Reader(rng.normal(size=(rows, features)), x.T @ x, columns)


def left_over(one: Reader, gone: list[int]) -> float:
    """Share of the output energy that least squares cannot give back when units are gone."""
    lost = one.columns[gone].reshape(-1)
    stay = np.setdiff1d(np.arange(one.gram.shape[0]), lost)
    gram, weight = one.gram, one.weight
    solved = np.linalg.solve(gram[np.ix_(stay, stay)], (weight @ gram[:, stay]).T).T
    whole = np.zeros_like(weight)
    whole[:, stay] = solved
    change = whole - weight
    return float(np.trace(change @ gram @ change.T) / np.trace(weight @ gram @ weight.T))


def greedy(readers: list[Reader], units: int) -> tuple[list[int], list[float]]:
    """The same order by brute force: every unit that is left is tried at every step."""
    gone: list[int] = []
    errors = [0.0]
    while len(gone) < units:
        tried = {
            unit: sum(left_over(one, [*gone, unit]) for one in readers)
            for unit in range(units)
            if unit not in gone
        }
        best = min(tried, key=lambda unit: tried[unit])
        gone.append(best)
        errors.append(tried[best])
    return gone, np.diff(errors).tolist()


@pytest.mark.parametrize(("k", "others", "count"), [(1, 0, 1), (4, 0, 1), (1, 3, 2), (9, 2, 2)])
def test_order_and_errors_are_those_of_brute_force(
    k: int, others: int, count: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(surgeon, "DAMPING", 1e-10)
    rng = np.random.default_rng(k)
    readers = [reader(rng, 7, k, others=others) for _ in range(count)]

    found = removal(readers, 7)

    order, errors = greedy(readers, 7)
    assert found.order.tolist() == order
    assert found.errors == pytest.approx(errors, rel=1e-4, abs=1e-7)


def test_of_two_equal_inputs_one_leaves_for_nothing_and_the_other_stays() -> None:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(300, 6))
    x[:, 4] = x[:, 1]
    weight = rng.normal(size=(3, 6))
    weight[:, [1, 4]] = 10.0  # by their weights the most important two

    found = removal([Reader(weight, x.T @ x, np.arange(6)[:, None])], 6)

    first = int(found.order[0])
    assert first in (1, 4)
    assert found.errors[0] < 1e-3
    assert int(found.order[-1]) == 5 - first


def test_several_units_in_one_update_are_priced_one_after_the_other(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(1)
    x = rng.normal(size=(400, 12))
    x[:, 6:] = x[:, :6] + 0.01 * rng.normal(size=(400, 6))  # pairs that stand for each other
    one = Reader(rng.normal(size=(4, 12)), x.T @ x, np.arange(12)[:, None])

    monkeypatch.setattr(surgeon, "STEPS", 2)
    found = removal([one], 12)

    # No pair is lost whole while there is a pair that has both.
    assert {unit % 6 for unit in found.order[:6].tolist()} == set(range(6))
    assert sorted(found.order.tolist()) == list(range(12))


def test_errors_add_up_to_what_least_squares_leaves_in_wide_groups_too() -> None:
    rng = np.random.default_rng(2)
    one = reader(rng, 300, 1, rows=20)

    found = removal([one], 300)

    for count in (30, 150, 270):
        gone = found.order[:count].tolist()
        assert found.errors[:count].sum() == pytest.approx(left_over(one, gone), rel=2e-2, abs=1e-4)


def test_dead_inputs_leave_first() -> None:
    rng = np.random.default_rng(3)
    x = rng.normal(size=(100, 5))
    x[:, [0, 3]] = 0.0

    found = removal([Reader(rng.normal(size=(2, 5)), x.T @ x, np.arange(5)[:, None])], 5)

    assert set(found.order[:2].tolist()) == {0, 3}
    assert found.errors[:2] == pytest.approx([0, 0], abs=1e-3)


def test_scores_rank_units_by_the_order_even_where_a_later_step_costs_less() -> None:
    found = surgeon.Removal(np.array([2, 0, 1, 3]), np.array([0.5, 0.1, 0.1, 0.7]))

    ranked = np.argsort(found.scores.astype(np.float32), kind="stable")

    assert ranked.tolist() == [2, 0, 1, 3]
    assert found.scores[3] == 0.7


def test_layers_whose_outputs_are_zero_do_not_count() -> None:
    rng = np.random.default_rng(4)
    live = reader(rng, 4, 1)
    dead = Reader(np.zeros_like(live.weight), live.gram, live.columns)

    assert removal([live, dead], 4).order.tolist() == removal([live], 4).order.tolist()
    assert removal([dead], 4).errors.tolist() == [0.0] * 4


def test_a_group_that_nothing_reads_has_no_order() -> None:
    with pytest.raises(ValueError, match="no layer reads"):
        removal([], 3)

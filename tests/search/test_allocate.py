"""The allocation is the best that fits, and proves how far off it may be: against brute force and HiGHS."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import Bounds, LinearConstraint, milp
from scipy.sparse import lil_matrix

from edgeprune.errors import InputError
from edgeprune.search import allocate as module
from edgeprune.search.allocate import Allocation, allocate
from edgeprune.search.problem import Decision, Problem, Table, Term

RESOURCES = ("latency_ms", "size_mib")
NOISE = 1e-6  # relative: what the bound and a sum in another order may differ by


@st.composite
def problems(draw: st.DrawFn) -> Problem:
    """Up to six decisions of four options, tables between up to three; some combinations are forbidden."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    sizes = draw(st.lists(st.integers(1, 4), min_size=1, max_size=6))
    decisions = tuple(
        Decision(f"d{at}", np.sort(rng.integers(-2, 9, size).astype(float))) for at, size in enumerate(sizes)
    )
    terms = []
    for _ in range(draw(st.integers(0, 7))):
        scope = draw(st.lists(st.integers(0, len(sizes) - 1), min_size=1, max_size=3, unique=True))
        shape = tuple(sizes[at] for at in scope)
        named = draw(st.lists(st.sampled_from(RESOURCES), max_size=2, unique=True))
        value = rng.integers(-3, 4, shape).astype(float) if draw(st.booleans()) else None
        if value is not None and draw(st.booleans()):
            value[rng.random(shape) < 0.2] = -np.inf
        costs = {name: rng.integers(0, 6, shape).astype(float) for name in named}
        terms.append(Term(tuple(f"d{at}" for at in scope), costs, value))
    return Problem(
        decisions, tuple(terms), {"latency_ms": 0.5, "size_mib": draw(st.sampled_from([0.0, 1.0]))}
    )


def legal(problem: Problem) -> list[tuple[float, dict[str, float], dict[str, int]]]:
    """(value, costs, options) of every allocation that is not forbidden."""
    found = []
    for picked in product(*(range(size) for size in problem.sizes)):
        options = {each.name: at for each, at in zip(problem.decisions, picked, strict=True)}
        value = problem.value(options)
        if np.isfinite(value):
            found.append((value, {name: problem.cost(options, name) for name in RESOURCES}, options))
    return found


def within(costs: Mapping[str, float], limits: Mapping[str, float]) -> bool:
    return all(costs[name] <= limit + 1e-9 for name, limit in limits.items())


def check(problem: Problem, allocation: Allocation) -> None:
    """What every answer promises about itself."""
    assert allocation.value == pytest.approx(problem.value(allocation.options))
    for name, limit in allocation.limits.items():
        assert allocation.costs[name] == pytest.approx(problem.cost(allocation.options, name))
        assert allocation.costs[name] <= limit * (1 + 1e-8)
    assert allocation.bound >= allocation.value
    assert allocation.gap >= 0


LIMITS = st.dictionaries(
    st.sampled_from(RESOURCES), st.one_of(st.floats(0.25, 30), st.just(np.inf)), max_size=2
)


@settings(deadline=None, max_examples=300)
@given(problems(), LIMITS)
def test_small_problems_are_solved_as_brute_force_solves_them(
    problem: Problem, limits: dict[str, float]
) -> None:
    possible = legal(problem)
    if not possible:
        with pytest.raises(InputError, match="Every allocation is forbidden"):
            allocate(problem, limits)
        return
    fitting = [value for value, costs, _ in possible if within(costs, limits)]
    got = allocate(problem, limits)
    check(problem, got)
    assert got.feasible == bool(fitting)
    if fitting:
        best = max(fitting)
        assert got.limits == limits
        assert got.value <= best + NOISE <= got.bound + 2 * NOISE * max(1, abs(got.bound))
        assert best - got.value <= module.GAP * abs(got.bound) + NOISE


@settings(deadline=None, max_examples=100)
@given(problems(), st.floats(0.01, 3))
def test_an_impossible_limit_is_answered_by_the_best_for_the_smallest_possible_one(
    problem: Problem, limit: float
) -> None:
    possible = legal(problem)
    if not possible:
        return
    cheapest = min(costs["latency_ms"] for _, costs, _ in possible)
    got = allocate(problem, {"latency_ms": limit})
    check(problem, got)
    if cheapest > limit + 1e-9:
        assert not got.feasible
        assert got.limits["latency_ms"] == pytest.approx(cheapest)
        best = max(value for value, costs, _ in possible if costs["latency_ms"] <= cheapest + 1e-9)
        assert got.value == pytest.approx(best, rel=2 * module.GAP)
        assert allocate(problem, got.limits).feasible


@settings(deadline=None, max_examples=100)
@given(problems(), st.floats(0.25, 30), st.floats(0, 10))
def test_a_larger_limit_gives_no_less_up_to_the_gap(problem: Problem, limit: float, more: float) -> None:
    if not legal(problem):
        return
    tight, loose = (allocate(problem, {"latency_ms": each}) for each in (limit, limit + more))
    if tight.feasible:
        assert loose.feasible
        assert loose.value >= tight.value - 2 * module.GAP * abs(loose.bound) - NOISE


@settings(deadline=None, max_examples=50)
@given(problems(), LIMITS)
def test_the_same_question_has_the_same_answer(problem: Problem, limits: dict[str, float]) -> None:
    if legal(problem):
        copy = Problem(
            tuple(Decision(each.name, each.values.copy()) for each in problem.decisions),
            problem.terms,
            dict(problem.constant),
        )
        assert allocate(copy, limits) == allocate(problem, dict(limits))


def benchmark() -> ModuleType:
    """benchmarks.allocation from this checkout, wherever pytest was started."""
    root = str(Path(__file__).parents[2])
    if root not in sys.path:
        sys.path.insert(0, root)
    return importlib.import_module("benchmarks.allocation")


@dataclass(frozen=True)
class Case:
    name: str
    kind: str
    groups: int
    options: int
    arguments: dict[str, bool] = field(default_factory=dict)


CASES = (
    Case("chain", "chain", 24, 16),
    Case("chain with INT8", "chain", 16, 12, {"precision": True}),
    Case("residual stages with branches and INT8", "residual", 14, 8, {"precision": True}),
    Case("bottlenecks", "bottleneck", 20, 12),
    Case("transformer", "transformer", 9, 8),
    Case("skips", "cyclic", 18, 12),
    Case("dense blocks", "dense", 18, 12),
)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
@pytest.mark.parametrize("seed", range(3))
def test_networks_are_allocated_within_one_percent_of_the_bound(case: Case, seed: int) -> None:
    made = benchmark()
    rng = np.random.default_rng(seed)
    problem = getattr(made, case.kind)(rng, case.groups, case.options, **case.arguments)
    for resources in (made.ALL[:1], made.ALL):
        got = allocate(problem, made.limits(problem, resources, rng))
        check(problem, got)
        assert got.gap <= 0.01
        assert problem.value(made.whole(problem)) >= got.value


@pytest.mark.parametrize("seed", range(4))
def test_highs_finds_nothing_better(seed: int) -> None:
    made = benchmark()
    rng = np.random.default_rng(seed)
    problem = made.residual(rng, 7, 5, precision=seed % 2 == 1)
    limits = made.limits(problem, made.ALL[: 1 + seed % 3], rng)
    best = by_highs(problem, limits)
    got = allocate(problem, limits)
    assert got.feasible == (best is not None)
    if best is not None:
        assert got.value <= best * (1 + NOISE)
        assert best <= got.bound * (1 + NOISE)
        assert best - got.value <= module.GAP * got.bound


def by_highs(problem: Problem, limits: Mapping[str, float]) -> float | None:
    """The same problem as a mixed-integer program: a variable per option and per cell of every table."""
    starts = np.cumsum([0, *problem.sizes])
    value = np.concatenate([each.values for each in problem.decisions])
    spent = {name: [np.zeros(value.size)] for name in limits}
    worth, rows, sums = [value], [], []
    for at in range(len(problem.sizes)):
        rows.append({**{int(j): 1.0 for j in range(starts[at], starts[at + 1])}})
        sums.append(1.0)
    count = value.size
    for term in problem.terms:
        shape = tuple(problem.sizes[problem.index[name]] for name in term.decisions)
        cells = np.arange(np.prod(shape)).reshape(shape) + count
        worth.append(np.zeros(cells.size) if term.value is None else term.value.ravel())
        for name in limits:
            spent[name].append(np.asarray(term.costs.get(name, np.zeros(shape))).ravel())
        for axis, name in enumerate(term.decisions):
            for option in range(shape[axis]):
                row = {int(cell): 1.0 for cell in cells.take(option, axis).ravel()}
                rows.append({**row, int(starts[problem.index[name]]) + option: -1.0})
                sums.append(0.0)
        count += cells.size
    matrix = lil_matrix((len(rows), count))
    for number, row in enumerate(rows):
        for column, entry in row.items():
            matrix[number, column] = entry
    constraints = [LinearConstraint(matrix.tocsr(), sums, sums)]
    for name, limit in limits.items():
        row = np.concatenate(spent[name])[None]
        constraints.append(LinearConstraint(row, -np.inf, limit - problem.constant.get(name, 0.0)))
    whole = np.concatenate([np.ones(value.size), np.zeros(count - value.size)])
    solved = milp(
        -np.concatenate(worth),
        constraints=constraints,
        bounds=Bounds(0, 1),
        integrality=whole,
        options={"mip_rel_gap": 1e-9},
    )
    return None if solved.x is None else -float(solved.fun)


def test_a_group_in_a_dropped_branch_costs_nothing_and_is_worth_nothing() -> None:
    rng = np.random.default_rng(0)
    problem = benchmark().residual(rng, 12, 8)
    dense = problem.cost(benchmark().whole(problem), "latency_ms")
    got = allocate(problem, {"latency_ms": 0.2 * dense})
    dropped = {name for name, option in got.options.items() if name.startswith("branch") and not option}
    assert dropped
    inside = {
        term.decisions[0] for term in problem.terms if term.decisions[1:] and term.decisions[1] in dropped
    }
    assert problem.value({**got.options, **dict.fromkeys(inside, 0)}) == pytest.approx(got.value)


def test_several_limits_that_nothing_keeps_are_raised_to_what_something_keeps() -> None:
    rng = np.random.default_rng(0)
    problem = benchmark().chain(rng, 8, 6)
    dense = {name: problem.cost(benchmark().whole(problem), name) for name in RESOURCES}
    limits = {"latency_ms": 1e-3 * dense["latency_ms"], "size_mib": 0.9 * dense["size_mib"]}
    got = allocate(problem, limits)
    check(problem, got)
    assert not got.feasible
    assert got.limits["latency_ms"] > limits["latency_ms"]
    assert got.limits["size_mib"] == limits["size_mib"], "what was not in the way stays as it was asked for"
    assert allocate(problem, got.limits).feasible


A = Decision("a", np.array([0.0, 1.0]))
B = Decision("b", np.array([0.0, 1.0, 2.0]))


@dataclass(frozen=True)
class Wrong:
    name: str
    decisions: tuple[Decision, ...]
    terms: tuple[Term, ...]
    message: str


WRONG = (
    Wrong("two of a name", (A, A), (), "have the same name"),
    Wrong("unknown decision", (A,), (Term(("c",), {"ms": np.zeros(2)}),), "names c"),
    Wrong("the same twice", (A,), (Term(("a", "a"), {"ms": np.zeros((2, 2))}),), "names none of them once"),
    Wrong("turned table", (A, B), (Term(("a", "b"), {"ms": np.zeros((3, 2))}),), r"shape \(3, 2\)"),
    Wrong("infinite cost", (A,), (Term(("a",), {"ms": np.array([0, np.inf])}),), "a cost that is not finite"),
    Wrong("no number", (A,), (Term(("a",), value=np.array([0, np.nan])),), "not a number"),
)


@pytest.mark.parametrize("case", WRONG, ids=lambda case: case.name)
def test_a_problem_that_makes_no_sense_is_refused(case: Wrong) -> None:
    with pytest.raises(InputError, match=case.message):
        Problem(case.decisions, case.terms)


@pytest.mark.parametrize("values", [np.array([]), np.zeros((2, 2)), np.array([np.nan]), np.array([np.inf])])
def test_a_decision_without_sensible_values_is_refused(values: Table) -> None:
    with pytest.raises(InputError, match="Decision a"):
        Decision("a", values)


@pytest.mark.parametrize("limit", [0.0, -1.0, np.nan])
def test_a_limit_that_is_not_positive_is_refused(limit: float) -> None:
    with pytest.raises(InputError, match="limit of ms"):
        allocate(Problem((A,)), {"ms": limit})

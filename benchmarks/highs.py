"""`python -m benchmarks.highs`: allocations by HiGHS, through `scipy.optimize.milp`, beside our own.

The instances of `benchmarks.allocation`, each solved within every limit of `--seconds`; HiGHS may stop at the
gap that we stop at. Both gaps are against the better of the two bounds, over the instances that something
fits; processor seconds, building the program included. `--fits` takes what fits ask for instead, with the
latency tables of this machine (`benchmarks.recorded`).

The program has one binary per option of a decision. A table over several decisions gets one variable per
joint option, whose marginals are the decisions' binaries (the local consistency polytope; Wainwright and
Jordan 2008): integral as soon as these are, and the tightest of the usual linearisations of products. Tables
within a larger one are added to it first.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import Bounds, LinearConstraint, OptimizeResult, milp
from scipy.sparse import csr_array

from benchmarks.allocation import ALL, INSTANCES, KINDS, Kind, limits
from benchmarks.recorded import FITS, recorded
from edgeprune.search.allocate import GAP, allocate
from edgeprune.search.problem import Problem, Table, factors

INFEASIBLE = 2  # a status of `milp`
TOLERANCE = 1e-6  # of a limit: HiGHS's own feasibility tolerance
Cells = tuple[tuple[int, ...], Table]  # positions of decisions; [value and costs, options of each]


@dataclass(frozen=True)
class Solved:
    """Answer of HiGHS.

    options: of every decision, None when the time ended without any. bound: on the value.
    limits: those that were asked for, or the least that something was found to fit when nothing fits them.
    """

    options: Mapping[str, int] | None
    bound: float
    limits: Mapping[str, float]
    feasible: bool = True


def solve(problem: Problem, limits: Mapping[str, float], *, seconds: float, gap: float) -> Solved:
    """Most valuable allocation within every limit, as `search.allocate` is asked for it.

    seconds: HiGHS's time limit for each program; gap: the relative gap at which it may stop.
    When nothing fits, a second program finds the least largest overrun, and a third the best within it.
    """
    program = Program(problem, limits)
    found = program.most_valuable(seconds, gap)
    if found.status != INFEASIBLE:
        bound = np.inf if found.mip_dual_bound is None else -float(found.mip_dual_bound)
        return Solved(program.options(found), bound, limits)
    nearest = program.options(program.least_overrun(seconds, gap))
    if nearest is None:
        return Solved(None, np.inf, limits, feasible=False)
    needed = {
        name: max(limit, problem.cost(nearest, name) * (1 + TOLERANCE)) for name, limit in limits.items()
    }
    return replace(solve(problem, needed, seconds=seconds, gap=gap), feasible=False)


class Program:
    """Mixed-integer program: a variable per option of every decision, then per cell of every table."""

    def __init__(self, problem: Problem, limits: Mapping[str, float]) -> None:
        self.problem = problem
        self.starts = np.cumsum([0, *problem.sizes])  # of each decision's options
        self.binaries = int(self.starts[-1])
        planes = [np.zeros((1 + len(limits), self.binaries))]
        rows, columns, signs = [], [], []
        width, count = self.binaries, 0  # of variables and of equations so far
        for scope, table in _merged(factors(problem, tuple(limits))):
            if len(scope) == 1:
                planes[0][:, self.starts[scope[0]] : self.starts[scope[0] + 1]] += table
                continue
            planes.append(table.reshape(len(table), -1))
            shape = table.shape[1:]
            for v, size, index in zip(scope, shape, np.indices(shape), strict=True):
                options = np.arange(size)  # of each the cells that have it add up to its binary
                rows += [count + index.ravel(), count + options]
                columns += [width + np.arange(index.size), self.starts[v] + options]
                signs += [np.ones(index.size), -np.ones(size)]
                count += size
            width += table[0].size
        rows.append(count + np.repeat(np.arange(len(problem.sizes)), problem.sizes))
        columns.append(np.arange(self.binaries))
        signs.append(np.ones(self.binaries))
        self.equations = (np.concatenate(signs), (np.concatenate(rows), np.concatenate(columns)))
        self.right = np.concatenate([np.zeros(count), np.ones(len(problem.sizes))])
        self.planes = np.concatenate(planes, axis=1) / np.array([1.0, *limits.values()])[:, None]
        spent = [problem.constant.get(name, 0.0) / limit for name, limit in limits.items()]
        self.allowed = 1.0 - np.array(spent, np.float64)

    def most_valuable(self, seconds: float, gap: float) -> OptimizeResult:
        limits = LinearConstraint(csr_array(self.planes[1:]), -np.inf, self.allowed)
        return self._solve(
            -np.where(np.isneginf(self.planes[0]), 0.0, self.planes[0]), [limits], seconds, gap
        )

    def least_overrun(self, seconds: float, gap: float) -> OptimizeResult:
        """Least of one more variable, the largest overrun of any limit."""
        width = self.planes.shape[1]
        uses = np.column_stack([self.planes[1:], -np.ones(self.allowed.size)])
        limits = LinearConstraint(csr_array(uses), -np.inf, self.allowed - 1.0)
        return self._solve(np.append(np.zeros(width), 1.0), [limits], seconds, gap)

    def options(self, found: OptimizeResult) -> dict[str, int] | None:
        if found.x is None:
            return None
        parts = np.split(found.x[: self.binaries], self.starts[1:-1])
        return {
            each.name: int(np.argmax(part)) for each, part in zip(self.problem.decisions, parts, strict=True)
        }

    def _solve(
        self, costs: NDArray[np.float64], limits: list[LinearConstraint], seconds: float, gap: float
    ) -> OptimizeResult:
        extra = costs.size - self.planes.shape[1]
        equal = csr_array(self.equations, shape=(self.right.size, costs.size))
        upper = np.append(np.where(np.isneginf(self.planes[0]), 0.0, 1.0), np.full(extra, np.inf))
        return milp(
            costs,
            integrality=(np.arange(costs.size) < self.binaries).astype(int),
            bounds=Bounds(0.0, upper),
            constraints=[LinearConstraint(equal, self.right, self.right), *limits],
            options={"time_limit": seconds, "mip_rel_gap": gap},
        )


def _merged(tables: list[Cells]) -> list[Cells]:
    """Tables, each added to a larger one that has all of its decisions."""
    found: list[Cells] = []
    for scope, table in sorted(tables, key=lambda each: -len(each[0])):
        home = next((at for at, (other, _) in enumerate(found) if set(scope) <= set(other)), None)
        if home is None or len(scope) == 1:
            found.append((scope, table))
            continue
        other, whole = found[home]
        axes = sorted(range(len(scope)), key=lambda axis: other.index(scope[axis]))
        ordered = table.transpose(0, *(axis + 1 for axis in axes))
        shape = [whole.shape[1 + at] if v in scope else 1 for at, v in enumerate(other)]
        found[home] = (other, whole + ordered.reshape(len(table), *shape))
    return found


@dataclass(frozen=True)
class Instance:
    """Problem and limits; built_s: seconds that making the problem takes in a fit."""

    problem: Problem
    limits: Mapping[str, float]
    built_s: float = 0.0


@dataclass(frozen=True)
class Answer:
    """Value (None where nothing within the limits was found), bound on all values, and processor seconds."""

    value: float | None
    bound: float
    seconds: float
    feasible: bool

    def gap(self, bound: float) -> float:
        """Share of a proven bound that is still missing."""
        return np.inf if self.value is None else max(0.0, bound - self.value) / max(abs(bound), 1e-300)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.highs", description=__doc__)
    parser.add_argument("--seconds", nargs="+", type=float, default=[1.0, 5.0, 30.0])
    parser.add_argument("--instances", type=int, default=INSTANCES)
    parser.add_argument("--only", default="", metavar="WORD")
    parser.add_argument("--fits", action="store_true")
    asked = parser.parse_args()
    heads = ("instances", "solver", "fit", "none found", "gap max", "gap median", "s max", "s median")
    print(f"| {' | '.join(heads)} |\n|{'---|' * len(heads)}", flush=True)
    for name, instances in _from_fits(asked.instances) if asked.fits else _random(asked.instances):
        if asked.only.lower() in name.lower():
            _print(name, list(instances), asked.seconds)


def _random(count: int) -> Iterator[tuple[str, Iterator[Instance]]]:
    def made(kind: Kind, resources: tuple[str, ...]) -> Iterator[Instance]:
        for seed in range(max(1, count // (2 * len(KINDS)))):
            rng = np.random.default_rng(seed)
            started = time.process_time()
            problem = kind.make(rng)
            built_s = time.process_time() - started if kind.built else 0.0
            yield Instance(problem, limits(problem, resources, rng), built_s)

    for kind in KINDS:
        for resources in (ALL[:1], ALL):
            yield f"{kind.name}; limits: {len(resources)}", made(kind, resources)


def _from_fits(most: int) -> Iterator[tuple[str, Iterator[Instance]]]:
    """At most so many of each fit, in even steps."""
    for name in FITS:

        def asked(name: str = name) -> Iterator[Instance]:
            every = recorded(name)
            yield from (Instance(*each) for each in every[:: -(-len(every) // most) or 1])

        yield name, asked()


def _print(name: str, instances: Sequence[Instance], time_limits: Sequence[float]) -> None:
    """Print a row per solver."""
    if not instances:
        print(f"({name}: nothing to allocate, both budgets are met without pruning)", flush=True)
        return
    found = {"edgeprune": [_own(each) for each in instances]}
    for seconds in time_limits:
        found[f"HiGHS, {seconds:g} s"] = [_by_highs(each, seconds) for each in instances]
    bounds = [min(answer.bound for answer in same) for same in zip(*found.values(), strict=True)]
    fitting = [at for at, answer in enumerate(found["edgeprune"]) if answer.feasible]
    for solver, answers in found.items():
        gaps = [gap for at in fitting if np.isfinite(gap := answers[at].gap(bounds[at]))]
        shown = [f"{max(gaps):.3%}", f"{np.median(gaps):.3%}"] if gaps else ["", ""]
        seconds = [answer.seconds for answer in answers]
        shown += [f"{max(seconds):.2f}", f"{np.median(seconds):.2f}"]
        counts = (f"{len(fitting)} of {len(instances)}", str(len(fitting) - len(gaps)))
        print(f"| {' | '.join([name, solver, *counts, *shown])} |", flush=True)


def _own(asked: Instance) -> Answer:
    started = time.process_time()
    found = allocate(asked.problem, asked.limits)
    seconds = asked.built_s + time.process_time() - started
    return Answer(found.value, found.bound, seconds, found.feasible)


def _by_highs(asked: Instance, time_limit: float) -> Answer:
    started = time.process_time()
    found = solve(asked.problem, asked.limits, seconds=time_limit, gap=GAP)
    seconds = asked.built_s + time.process_time() - started
    value = None if found.options is None else asked.problem.value(found.options)
    return Answer(value, found.bound, seconds, found.feasible)


if __name__ == "__main__":
    main()

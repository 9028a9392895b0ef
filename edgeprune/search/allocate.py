"""Most valuable allocation within every limit, with a bound that proves how good it is.

1. Multipliers: a Lagrange multiplier per resource turns the limits into costs, and `elimination` maximises
   the sum of tables that is left. The best multipliers are where the bound is the lowest: found by
   intersecting two lines for one resource (Handler and Zang 1980), by Kelley's cutting planes for several.
2. Moves: the allocations that the multipliers gave are repaired and improved, one decision at a time.
3. Sweep: over the decisions, last eliminated first, every partial allocation is kept whose bound is above the
   best value known (and that no other with the same choices left beats in value and all costs). Of too many,
   the worst are dropped; the largest bound among the dropped is what stays unproven.

The answer is a function of the arguments alone: no clock, no chance.
HiGHS on the same problems: docs/decisions/012-allocation.md.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from edgeprune.errors import InputError
from edgeprune.search.elimination import Elimination, Options
from edgeprune.search.moves import SLACK, improve, overrun, repair
from edgeprune.search.multipliers import least_overrun, lowest_bound
from edgeprune.search.problem import Problem, factors
from edgeprune.search.sweep import sweep

GAP = 0.001  # relative, at which an answer is good enough
BEAMS = ((64, 0.0), (512, GAP), (4096, 0.01))  # partial allocations kept; only while the gap is above this


@dataclass(frozen=True)
class Allocation:
    """Option of every decision.

    bound: no allocation within the limits has a larger value.
    limits: those that were asked for. When nothing fits, the smallest found that something fits, and
        `feasible` is False: the options are the best within these.
    """

    options: Mapping[str, int]
    value: float
    costs: Mapping[str, float]
    limits: Mapping[str, float]
    bound: float
    feasible: bool = True

    @property
    def gap(self) -> float:
        """Share of the bound that a better allocation might still add."""
        return max(0.0, self.bound - self.value) / max(abs(self.bound), 1e-300)


def allocate(problem: Problem, limits: Mapping[str, float]) -> Allocation:
    """Allocation of the most value with every resource at most at its limit.

    limits: per resource, in the tables' units; a resource without one is not limited.
    When nothing fits, the answer is the best for the smallest limits that something fits: with one resource
    the least it can cost, with several the least largest overrun that was found.
    Raises `InputError` for a limit that is not a positive number, and when every option is forbidden.
    """
    return _Search(problem, limits).run()


class _Search:
    """Search for one problem and one set of limits. Costs are in shares of the limits."""

    def __init__(self, problem: Problem, limits: Mapping[str, float]) -> None:
        for name, limit in limits.items():
            if not limit > 0:
                raise InputError(f"The limit of {name} is {limit}.", "Give a positive limit, or none.")
        self.problem, self.limits = problem, dict(limits)
        self.resources = tuple(name for name, limit in limits.items() if np.isfinite(limit))
        scale = np.array([1.0, *(limits[name] for name in self.resources)])
        tables = [
            (scope, planes / scale.reshape(-1, *([1] * len(scope))))
            for scope, planes in factors(problem, self.resources)
        ]
        self.plan = Elimination(problem.sizes, tables)
        spent = [problem.constant.get(name, 0.0) / limits[name] for name in self.resources]
        self.allowed = 1.0 - np.array(spent, np.float64)  # [resources]
        self.best: Options | None = None
        self.best_value = -np.inf

    def run(self) -> Allocation:
        count = len(self.resources)
        free = self.plan.maximise([1.0] + [0.0] * count)
        if not np.isfinite(free.bound):
            raise InputError("Every allocation is forbidden.", "Leave each decision an option that is legal.")
        least = [self.plan.maximise([0.0, *-np.eye(count)[at]]) for at in range(count)]
        seen = [each.assignment() for each in (free, *least)]
        if any(-each.bound > may + SLACK for each, may in zip(least, self.allowed, strict=True)):
            return self._cheapest(seen[1:])
        for options in seen:
            self.offer(options)
        bound = free.bound
        if not self._proven(bound, SLACK):
            lowest = lowest_bound(self.plan, self.allowed, seen)
            bound = min(bound, lowest.bound)
            for options in lowest.seen[-8:]:
                self._mend(options)
            if self.best is None:
                seen += least_overrun(self.plan, 1 - self.allowed, seen)
                for options in seen[-8:]:
                    self._mend(options)
            guide = self.plan.maximise([1.0, *-lowest.multipliers])
            for beam, gap in BEAMS:
                if self._proven(bound, max(gap, SLACK)):
                    break
                swept = sweep(
                    self.plan, guide, least, lowest.multipliers, self.allowed, self.best_value, beam
                )
                for options in swept.found:
                    self._mend(options)
                bound = min(bound, max(swept.bound, self.best_value))
                if self.best is None and bound == -np.inf:
                    break
        if self.best is None:
            return self._cheapest(seen[1:])
        return self._answer(self.best, bound)

    def offer(self, options: Options) -> None:
        """Remember an allocation if it fits and is the best so far."""
        value, *costs = self.plan.planes_of(options)
        if value > self.best_value and (np.array(costs) <= self.allowed + SLACK).all():
            self.best, self.best_value = options.copy(), float(value)

    def _mend(self, options: Options) -> None:
        repaired = repair(self.plan, options, self.allowed)
        if repaired is not None:
            self.offer(improve(self.plan, repaired, self.allowed))

    def _proven(self, bound: float, gap: float) -> bool:
        return self.best is not None and bound - self.best_value <= gap * abs(bound)

    def _answer(self, best: Options, bound: float) -> Allocation:
        options = self._named(best)
        value = self.problem.value(options)
        costs = {name: self.problem.cost(options, name) for name in self.limits}
        return Allocation(options, value, costs, self.limits, max(bound, value))

    def _named(self, options: Options) -> dict[str, int]:
        return {each.name: int(at) for each, at in zip(self.problem.decisions, options, strict=True)}

    def _cheapest(self, candidates: Sequence[Options]) -> Allocation:
        """Best allocation within the smallest limits that something fits."""
        spent = 1 - self.allowed
        candidates = [*candidates, *least_overrun(self.plan, spent, candidates)]
        cheapest = min(candidates, key=lambda options: overrun(self.plan, options, spent))
        named = self._named(cheapest)
        needed = {name: max(limit, self.problem.cost(named, name)) for name, limit in self.limits.items()}
        relaxed = _Search(self.problem, needed)
        relaxed.offer(cheapest)
        return replace(relaxed.run(), feasible=False)

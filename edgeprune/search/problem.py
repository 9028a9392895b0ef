"""Allocation problem: decisions with their options' values, tables of costs, and limits on their sums.

`elimination` bounds such a problem, `allocate` solves it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from edgeprune.errors import InputError

Table = NDArray[np.float64]


@dataclass(frozen=True)
class Decision:
    """Choice of one option: a group's width, keep or drop a branch, a layer's precision.

    values: [options], e.g. the importance kept by the best 8, 16, ... units of a group, or minus the metric
        that INT8 in a layer costs. -inf forbids an option.
    """

    name: str
    values: Table

    def __post_init__(self) -> None:
        object.__setattr__(self, "values", np.asarray(self.values, np.float64))
        if self.values.ndim != 1 or not self.values.size:
            raise InputError(
                f"Decision {self.name} has values of shape {self.values.shape}.",
                "Give one value per option, at least one.",
            )
        if np.isnan(self.values).any() or np.isposinf(self.values).any():
            raise InputError(
                f"Decision {self.name} has an option whose value is not a number or infinite.",
                "Importance must be finite; -inf forbids an option.",
            )


@dataclass(frozen=True)
class Term:
    """Cost of a few decisions together: a layer by its producer's width, its own, its precision and branch.

    decisions: names, one per axis of every table.
    costs: per resource, [options of the first decision, of the second, ...]; finite.
    value: a value that depends on all of them, e.g. a group's importance, which is lost with the group's
        branch; -inf forbids a combination.
    """

    decisions: tuple[str, ...]
    costs: Mapping[str, Table] = field(default_factory=dict)
    value: Table | None = None


@dataclass(frozen=True)
class Problem:
    """Problem of the most valuable option per decision with every resource within its limit.

    constant: per resource, the cost of every allocation.
    Raises `InputError` when a table does not match its decisions or contains what is not a number.
    """

    decisions: tuple[Decision, ...]
    terms: tuple[Term, ...] = ()
    constant: Mapping[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if len(self.index) != len(self.decisions):
            raise InputError(
                "Two decisions of one allocation have the same name.",
                "Give every decision a name of its own.",
            )
        for term in self.terms:
            _check(term, self)

    @cached_property
    def index(self) -> Mapping[str, int]:
        """Position of a decision by its name."""
        return {decision.name: at for at, decision in enumerate(self.decisions)}

    @cached_property
    def sizes(self) -> tuple[int, ...]:
        """Options per decision."""
        return tuple(decision.values.size for decision in self.decisions)

    def value(self, options: Mapping[str, int]) -> float:
        """Objective value of one allocation."""
        total = sum(float(each.values[options[each.name]]) for each in self.decisions)
        for term in self.terms:
            if term.value is not None:
                total += float(term.value[tuple(options[name] for name in term.decisions)])
        return total

    def cost(self, options: Mapping[str, int], resource: str) -> float:
        """Cost of one allocation in a resource, the constant included."""
        total = float(self.constant.get(resource, 0.0))
        for term in self.terms:
            if resource in term.costs:
                total += float(term.costs[resource][tuple(options[name] for name in term.decisions)])
        return total


def factors(problem: Problem, resources: Sequence[str]) -> list[tuple[tuple[int, ...], Table]]:
    """Tables as (positions of decisions, planes): plane 0 is the value, plane 1 + r the r-th cost."""
    found: list[tuple[tuple[int, ...], Table]] = []
    for at, decision in enumerate(problem.decisions):
        planes = np.zeros((1 + len(resources), decision.values.size))
        planes[0] = decision.values
        found.append(((at,), planes))
    for term in problem.terms:
        scope = tuple(problem.index[name] for name in term.decisions)
        planes = np.zeros((1 + len(resources), *(problem.sizes[at] for at in scope)))
        if term.value is not None:
            planes[0] = term.value
        for plane, resource in enumerate(resources, start=1):
            if resource in term.costs:
                planes[plane] = term.costs[resource]
        found.append((scope, planes))
    return found


def _check(term: Term, problem: Problem) -> None:
    where = f"The term of {', '.join(term.decisions) or 'no decision'}"
    unknown = [name for name in term.decisions if name not in problem.index]
    if unknown or len(set(term.decisions)) != len(term.decisions) or not term.decisions:
        raise InputError(
            f"{where} names {', '.join(unknown) or 'none of them once'}.",
            "A term depends on one or more different decisions of the same problem.",
        )
    shape = tuple(problem.sizes[problem.index[name]] for name in term.decisions)
    tables = dict(term.costs) if term.value is None else {**term.costs, "value": term.value}
    for name, table in tables.items():
        if np.shape(table) != shape:
            raise InputError(
                f"{where} has a {name} table of shape {np.shape(table)}; its decisions have {shape} options.",
                "Give one entry per combination of options.",
            )
    if not all(np.isfinite(table).all() for table in term.costs.values()):
        raise InputError(
            f"{where} has a cost that is not finite.",
            "Forbid a combination by a value of -inf, not by its cost.",
        )
    if term.value is not None and (np.isnan(term.value).any() or np.isposinf(term.value).any()):
        raise InputError(
            f"{where} has a value that is not a number or infinite.", "-inf forbids a combination."
        )

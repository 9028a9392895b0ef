"""Search space of one fit as an allocation problem: decisions, their values and their costs.

Decisions: a width per group, keep or drop per residual branch, INT8 or float per layer. A dropped branch's
groups cost nothing and contribute no value. A node of the latency table is a cost by the groups whose widths
its time follows, a parameter a cost by the groups of its dimensions. `search.allocate` chooses.
"""

from __future__ import annotations

import logging
from bisect import bisect_right
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np

from edgeprune.fitting.space.costs import CostOf, Floats, Item, Switches, cost_terms
from edgeprune.fitting.space.precisions import PrecisionChoice, int8
from edgeprune.graph.branch_contents import BranchContents
from edgeprune.graph.cost import Cost, Factor, SizeProduct
from edgeprune.graph.coupling import Coupling, Kept
from edgeprune.graph.fx import module_name
from edgeprune.graph.resize import Integers, Size, at, size_of
from edgeprune.latency.measured import Prediction
from edgeprune.pruning.sensitivity import Sensitivity
from edgeprune.search import problem as allocation
from edgeprune.search.allocate import Allocation, allocate
from edgeprune.search.problem import Decision, Problem
from edgeprune.search.ranking import Choice, Widths
from edgeprune.search.width_errors import width_errors

OPTIONS = 32  # widths of a group at most: wider groups step by several multiples
FLOOR = 0.1  # no group keeps less than this share of its units
LATENCY, BYTES, MACS = "latency_ms", "bytes", "macs"

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class WidthPlan:
    """Widths and precisions that an allocation chose.

    float_layers: of the layers whose precision could be chosen. gone: layers that left with their branch.
    """

    kept: Widths
    float_layers: tuple[str, ...]
    gone: frozenset[str]
    allocation: Allocation


@dataclass(frozen=True)
class Space:
    """Search space of candidates.

    choices: groups as `search.ranking` sees them.
    prediction: latency by widths; without it multiply-accumulates stand for time.
    sensitivity: values of groups and branches; without it the sum of scores, and all branches stay.
    branch_contents, branch_nodes: graph nodes and table nodes that leave with each branch.
    precisions: choice of INT8 or float by layer; None where it is not chosen.
    integer: layers whose weights take one byte, where precisions are not chosen.
    floor: least share of its units that a group keeps.
    """

    coupling: Coupling
    cost: Cost
    choices: tuple[Choice, ...]
    prediction: Prediction | None = None
    sensitivity: Sensitivity | None = None
    branch_contents: Mapping[str, BranchContents] | None = None
    branch_nodes: Mapping[str, frozenset[str]] = field(default_factory=dict)
    precisions: PrecisionChoice | None = None
    integer: frozenset[str] = frozenset()
    floor: float = FLOOR

    def keep(self, limits: Mapping[str, float]) -> WidthPlan:
        """Plan of most value within `limits`, or the one nearest to them."""
        found = allocate(self.problem, limits)
        spent = ", ".join(
            f"{name} {found.costs.get(name, 0.0):.4g} of {limit:.4g}" for name, limit in limits.items()
        )
        _log.info("allocation of value %.5g, at most %.5g: %s", found.value, found.bound, spent)
        dropped = {name for name in self._branches if found.options[name] == 0}
        kept: dict[str, tuple[int, ...]] = dict.fromkeys(sorted(dropped), ())
        for choice in self.choices:
            if dropped.isdisjoint(self._holders[choice.name]):
                width = self.options[choice.name][found.options[choice.name]]
                best = np.argsort(-choice.scores, kind="stable")[:width]
                kept[choice.name] = tuple(np.sort(best).tolist())
        held = self.branch_contents or {}
        gone = frozenset(module_name(parameter) for name in dropped for parameter in held[name].parameters)
        layers = [
            name
            for name in (self.precisions.layers if self.precisions is not None else ())
            if name not in gone
        ]
        return WidthPlan(kept, tuple(name for name in layers if not found.options[int8(name)]), gone, found)

    def costs(self, kept: Kept, float_layers: tuple[str, ...] = ()) -> dict[str, float]:
        """Costs of a model with these units, in the limits' units."""
        widths = {group.name: len(kept.get(group.name, range(group.units))) for group in self.coupling.groups}
        switches = {branch.name: 0 for branch in self.coupling.dropped(kept)}
        switches |= {int8(name): 0 for name in float_layers}
        found: dict[str, float] = {}
        for item in self.items:
            found[item.resource] = found.get(item.resource, 0.0) + item.cost(widths, switches)
        return found

    def value(self, kept: Kept, float_layers: tuple[str, ...] = ()) -> float:
        """Objective value of a model with these units; `allocate` maximises it."""
        dropped = {branch.name for branch in self.coupling.dropped(kept)}
        options = {name: int(name not in dropped) for name in self._branches}
        if self.precisions is not None:
            options |= {int8(name): int(name not in float_layers) for name in self.precisions.layers}
        for choice in self.choices:
            width = len(kept.get(choice.name, range(len(choice.scores))))
            options[choice.name] = max(bisect_right(self.options[choice.name], width) - 1, 0)
        return self.problem.value(options)

    def by_work(self, share: float) -> WidthPlan:
        """Plan of most value with at most this share of the dense model's multiply-accumulates, or the
        nearest."""
        return self._untimed.keep({MACS: share * self.cost.macs({})})

    @cached_property
    def _untimed(self) -> Space:
        return replace(self, prediction=None, precisions=None)

    @cached_property
    def options(self) -> Mapping[str, tuple[int, ...]]:
        """The legal widths of every group, ascending, the whole group last."""
        return {choice.name: widths_of(choice, self.floor) for choice in self.choices}

    @cached_property
    def problem(self) -> Problem:
        terms, constant = cost_terms(self.items, self.options)
        return Problem((*self._decisions(),), (*terms, *self._shared_values()), constant)

    @cached_property
    def items(self) -> tuple[Item, ...]:
        """Costs of nodes, parameters and conversions."""
        return (*self._time(), *(self._weight(term) for term in self.cost.parameter_terms))

    # Values ------------------------------------------------------------------------------------------

    @cached_property
    def _branches(self) -> Mapping[str, float]:
        """Branch -> the error of dropping it, of those that may be dropped."""
        return (
            dict(self.sensitivity.branches) if self.sensitivity is not None and self.branch_contents else {}
        )

    @cached_property
    def _holders(self) -> Mapping[str, tuple[str, ...]]:
        """Group -> the branches that contain it."""
        held = self.branch_contents or {}
        return {
            choice.name: tuple(name for name in self._branches if choice.name in held[name].groups)
            for choice in self.choices
        }

    @cached_property
    def _values(self) -> Mapping[str, Floats]:
        """Group -> value of each of its options."""
        if self.sensitivity is not None:
            points = dict(self.sensitivity.groups)
            return {
                choice.name: -width_errors(points[choice.name], len(choice.scores), self.options[choice.name])
                for choice in self.choices
            }
        total = sum(float(choice.scores.sum(dtype=np.float64)) for choice in self.choices) or 1.0
        found = {}
        for choice in self.choices:
            kept = np.cumsum(np.sort(choice.scores.astype(np.float64))[::-1]) / total
            found[choice.name] = kept[np.array(self.options[choice.name]) - 1]
        return found

    def _decisions(self) -> Iterator[Decision]:
        for name, values in self._values.items():
            yield Decision(name, np.zeros_like(values) if self._holders[name] else values)
        for name, error in self._branches.items():
            yield Decision(name, np.array([-error, 0.0]))
        if self.precisions is not None:
            for name in self.precisions.layers:
                yield Decision(int8(name), np.array([self.precisions.values.get(name, 0.0), 0.0]))

    def _shared_values(self) -> Iterator[allocation.Term]:
        """Values of groups inside branches, lost when a branch is dropped."""
        for name, branches in self._holders.items():
            if branches:
                values = np.zeros((len(self.options[name]), *([2] * len(branches))))
                stays: tuple[Any, ...] = (slice(None), *([1] * len(branches)))
                values[stays] = self._values[name]
                yield allocation.Term((name, *branches), {}, values)

    # Costs ------------------------------------------------------------------------------------------

    def _time(self) -> Iterator[Item]:
        if self.precisions is not None:
            yield from self.precisions.items(LATENCY, self._branches_of)
        elif self.prediction is not None:
            for node in self.prediction.nodes.values():
                cost = self.prediction.node_cost(node.name)
                yield Item(LATENCY, node.groups, _unswitched(cost), (), self._branches_of(node.name))
        else:
            for term in self.cost.mac_terms:
                yield self._product(MACS, term, lambda on: 1.0)

    def _branches_of(self, node: str) -> tuple[str, ...]:
        """The branches that an ONNX node leaves with."""
        return tuple(name for name in self._branches if node in self.branch_nodes.get(name, ()))

    def _weight(self, term: SizeProduct) -> Item:
        layer = module_name(term.parameter) if len(term.factors) > 1 else ""
        if self.precisions is not None and layer in self.precisions.layers:
            switch = int8(layer)
            return self._product(BYTES, term, lambda on: 1.0 if on[switch] else 4.0, (switch,))
        each = 1.0 if layer in self.integer else 4.0
        return self._product(BYTES, term, lambda on: each)

    def _product(
        self,
        resource: str,
        term: SizeProduct,
        each: Callable[[Switches], float],
        switches: tuple[str, ...] = (),
    ) -> Item:
        sizes = [self._size(factor) for factor in term.factors]

        def cost(widths: Mapping[str, Integers], on: Switches) -> Floats:
            found = np.full((), each(on))
            for size in sizes:
                found = found * at(size, widths)
            return found

        groups = tuple(dict.fromkeys(group for size in sizes for group in size.groups))
        held = self.branch_contents or {}
        branches = tuple(name for name in self._branches if term.nodes <= held[name].nodes)
        return Item(resource, groups, cost, switches, branches)

    def _size(self, factor: Factor) -> Size:
        return Size(factor) if isinstance(factor, int) else size_of(self.coupling, factor)


def _unswitched(cost: Callable[[Mapping[str, Integers]], Floats]) -> CostOf:
    return lambda widths, on: cost(widths)


def widths_of(choice: Choice, floor: float) -> tuple[int, ...]:
    """Widths from the floor to the whole group in the group's step, or in whole steps to have OPTIONS."""
    units = len(choice.scores)
    step = choice.step * -(-units // (choice.step * OPTIONS))
    least = max(choice.least, int(np.ceil(floor * units)), 1)
    return (*(width for width in range(step, units, step) if width >= least), units)

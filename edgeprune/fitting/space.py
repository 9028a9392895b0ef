"""The widths that a model may have, as an allocation: what they are worth, and what they cost by the table.

A group is a decision; its options are legal widths, worth the importance of the units kept. A node of the
latency table is a term over the groups whose widths its time follows, a parameter one over those of its
dimensions. `search.allocate` chooses.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from edgeprune.fitting.latency import Prediction
from edgeprune.graph.cost import Cost
from edgeprune.graph.coupling import Coupling
from edgeprune.graph.resize import Size, size_of
from edgeprune.search.allocate import Allocation, allocate
from edgeprune.search.problem import Decision, Problem, Term
from edgeprune.search.ranking import Choice, Widths

OPTIONS = 32  # widths of a group at most: wider groups step by several multiples
JOINT = 3  # groups of one table at most; of a term with more, each group is counted alone
LATENCY, PARAMS = "latency_ms", "params"
Floats = NDArray[np.float64]
Integers = NDArray[np.int64]
Price = Callable[[Mapping[str, Integers]], Floats]  # widths by group, broadcast -> cost


@dataclass(frozen=True)
class Space:
    """What an allocation chooses from.

    choices: as `search.ranking` sees the groups.
    floor: no group keeps less than this share of its units.
    """

    coupling: Coupling
    cost: Cost
    choices: tuple[Choice, ...]
    prediction: Prediction
    floor: float = 0.1

    def keep(self, limits: Mapping[str, float]) -> tuple[Widths, Allocation]:
        """The most important units within `limits` (milliseconds by the table, parameters), or the least."""
        found = allocate(self.problem, limits)
        kept = {}
        for choice in self.choices:
            width = self.options[choice.name][found.options[choice.name]]
            best = np.argsort(-choice.scores, kind="stable")[:width]
            kept[choice.name] = tuple(np.sort(best).tolist())
        return kept, found

    def costs(self, kept: Widths) -> dict[str, float]:
        """What the prediction and the parameters of a model with these units are, in the limits' units."""
        return {LATENCY: self.prediction.ms(self.widths(kept)), PARAMS: float(self.cost.params(kept))}

    def widths(self, kept: Widths) -> dict[str, int]:
        return {group.name: len(kept.get(group.name, range(group.units))) for group in self.coupling.groups}

    @cached_property
    def options(self) -> Mapping[str, tuple[int, ...]]:
        """The legal widths of every group, ascending, the whole group last."""
        return {choice.name: _options(choice, self.floor) for choice in self.choices}

    @cached_property
    def problem(self) -> Problem:
        total = sum(float(choice.scores.sum(dtype=np.float64)) for choice in self.choices) or 1.0
        decisions = []
        for choice in self.choices:
            kept = np.cumsum(np.sort(choice.scores.astype(np.float64))[::-1]) / total
            decisions.append(Decision(choice.name, kept[np.array(self.options[choice.name]) - 1]))
        prices = _Prices(self.options)
        for node in self.prediction.nodes.values():
            curve, ratio = self.prediction.table.curves[node.operator], self.prediction.ratio

            def ms(widths: Mapping[str, Integers]) -> Floats:
                return ratio * curve.ms(node.name, _at(node.reads, widths), _at(node.writes, widths))  # noqa: B023

            prices.add(LATENCY, node.groups, ms)
        for term in self.cost.parameter_terms:
            sizes = [
                Size(factor) if isinstance(factor, int) else size_of(self.coupling, factor)
                for factor in term.factors
            ]

            def params(widths: Mapping[str, Integers]) -> Floats:
                found = np.ones((), np.float64)
                for size in sizes:  # noqa: B023
                    found = found * _at(size, widths)
                return found

            prices.add(PARAMS, tuple(dict.fromkeys(g for size in sizes for g in size.groups)), params)
        return Problem(tuple(decisions), prices.terms(), prices.constant)


class _Prices:
    """Sums of cost tables by the groups that they depend on."""

    def __init__(self, options: Mapping[str, Sequence[int]]) -> None:
        self._options = {name: np.array(widths, np.int64) for name, widths in options.items()}
        self._tables: dict[tuple[str, ...], dict[str, Floats]] = defaultdict(dict)
        self.constant: dict[str, float] = defaultdict(float)

    def add(self, resource: str, groups: Sequence[str], price: Price) -> None:
        groups = tuple(sorted(groups))
        if not groups:
            self.constant[resource] += float(price({}))
        elif len(groups) <= JOINT:
            self._put(resource, groups, price(self._grid(groups)))
        else:  # to first order around two thirds of every width
            middle = {name: np.asarray(self._options[name][-1] * 2 // 3) for name in groups}
            level = float(price(middle))
            self.constant[resource] += level
            for name in groups:
                self._put(resource, (name,), price({**middle, name: self._options[name]}) - level)

    def terms(self) -> tuple[Term, ...]:
        return tuple(Term(groups, dict(costs)) for groups, costs in self._tables.items())

    def _grid(self, groups: Sequence[str]) -> dict[str, Integers]:
        """The options of each group along an axis of its own."""
        return {
            name: self._options[name].reshape([-1 if at == axis else 1 for at in range(len(groups))])
            for axis, name in enumerate(groups)
        }

    def _put(self, resource: str, groups: tuple[str, ...], table: Floats) -> None:
        shape = tuple(len(self._options[name]) for name in groups)
        known = self._tables[groups].get(resource, np.zeros(shape))
        self._tables[groups][resource] = known + table


def _at(size: Size | None, widths: Mapping[str, Integers]) -> Integers:
    if size is None:
        return np.zeros((), np.int64)
    found = np.asarray(size.fixed, np.int64)
    for group, times in size.each:
        found = found + times * widths[group]
    return found


def _options(choice: Choice, floor: float) -> tuple[int, ...]:
    """Multiples from the floor to the whole group; all widths of a group less than twice as wide as one."""
    units = len(choice.scores)
    multiple = choice.multiple if units >= 2 * choice.multiple else 1
    step = multiple * -(-units // (multiple * OPTIONS))
    least = max(choice.least, int(np.ceil(floor * units)), 1)
    return (*(width for width in range(step, units, step) if width >= least), units)

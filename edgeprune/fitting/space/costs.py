"""Costs as functions of widths and switches, and the cost tables of an allocation.

A switch is a decision of two options: whether a branch is kept (0 dropped, 1 kept), a layer's precision (0
float, 1 integer).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeprune.graph.resize import Integers
from edgeprune.search.problem import Term

MOST_GROUPS = 3  # of one cost table; groups of a cost with more are counted one by one
Floats = NDArray[np.float64]
Switches = Mapping[str, int]  # decision -> option
CostOf = Callable[[Mapping[str, Integers], Switches], Floats]  # widths by group, broadcast -> cost


@dataclass(frozen=True)
class Item:
    """Cost of one node, parameter or conversion.

    groups, switches: arguments of `cost_of`. branches: the cost is zero unless all of them are kept.
    """

    resource: str
    groups: tuple[str, ...]
    cost_of: CostOf
    switches: tuple[str, ...] = ()
    branches: tuple[str, ...] = ()

    def cost(self, widths: Mapping[str, int], switches: Switches) -> float:
        """Cost at these widths. switches: one that is not named is on."""
        if any(switches.get(name, 1) == 0 for name in self.branches):
            return 0.0
        asked = {name: switches.get(name, 1) for name in self.switches}
        return float(self.cost_of({name: np.asarray(widths[name]) for name in self.groups}, asked))


def cost_terms(
    items: Iterable[Item], options: Mapping[str, Sequence[int]]
) -> tuple[tuple[Term, ...], dict[str, float]]:
    """Cost terms of an allocation, and the costs that no decision changes.

    options: the widths that each group may have.
    """
    tables = _Tables({name: np.array(widths, np.int64) for name, widths in options.items()})
    for item in items:
        tables.add(item)
    return tables.terms(), dict(tables.constant)


class _Tables:
    """Sums of cost tables by the decisions that they depend on."""

    def __init__(self, options: Mapping[str, Integers]) -> None:
        self._options = options
        self._found: dict[tuple[str, ...], dict[str, Floats]] = defaultdict(dict)
        self.constant: dict[str, float] = defaultdict(float)

    def add(self, item: Item) -> None:
        groups = tuple(sorted(item.groups))
        if len(groups) <= MOST_GROUPS:
            self._put(item, groups, lambda on: item.cost_of(self._grid(groups), on))
            return
        # To first order around two thirds of every width.
        middle = {name: np.asarray(self._options[name][-1] * 2 // 3) for name in groups}
        self._put(item, (), lambda on: item.cost_of(middle, on))
        for name in groups:

            def beyond(on: Switches, name: str = name) -> Floats:
                there = {**middle, name: self._options[name]}
                return item.cost_of(there, on) - item.cost_of(middle, on)

            self._put(item, (name,), beyond)

    def terms(self) -> tuple[Term, ...]:
        return tuple(Term(names, dict(costs)) for names, costs in self._found.items())

    def _put(self, item: Item, groups: tuple[str, ...], table: Callable[[Switches], Floats]) -> None:
        """Add `table`, [options of each group], for all settings of the item's switches."""
        switches = tuple(dict.fromkeys((*item.switches, *item.branches)))
        shape = tuple(len(self._options[name]) for name in groups)
        whole = np.zeros((*shape, *([2] * len(switches))))
        for setting in product((0, 1), repeat=len(switches)):
            on = dict(zip(switches, setting, strict=True))
            if all(on[name] for name in item.branches):
                place: tuple[Any, ...] = (..., *setting)
                whole[place] = table(on)
        if not (groups or switches):
            self.constant[item.resource] += float(whole)
            return
        known = self._found[(*groups, *switches)]
        known[item.resource] = known.get(item.resource, 0.0) + whole

    def _grid(self, groups: Sequence[str]) -> dict[str, Integers]:
        """The options of each group along an axis of its own."""
        return {
            name: self._options[name].reshape([-1 if at == axis else 1 for at in range(len(groups))])
            for axis, name in enumerate(groups)
        }

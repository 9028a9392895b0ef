"""Global ranking of units: the least important units of all groups are dropped first."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

Widths = Mapping[str, tuple[int, ...]]  # group name -> indices of the units kept, ascending
Work = Callable[[Widths], float]  # multiply-accumulates of a model with these widths
LEAST_ROUNDED_UNITS = 16  # the narrowest group whose widths are rounded to the channel multiple


@dataclass(frozen=True)
class Choice:
    """Group to choose a width for.

    scores: [units], higher is more important, comparable between groups.
    multiple: the target's channel multiple. step: of this group's widths (`width_step`).
    least: units that must stay.
    """

    name: str
    scores: NDArray[np.float32]
    multiple: int
    least: int = 1

    @property
    def step(self) -> int:
        return width_step(len(self.scores), self.multiple)


def width_step(units: int, channel_multiple: int) -> int:
    """Step of a group's width: the target's channel multiple, or 1 in a narrow group, such as heads.

    A group is narrow when it has fewer than two multiples, or fewer than LEAST_ROUNDED_UNITS.
    """
    return channel_multiple if units >= max(LEAST_ROUNDED_UNITS, 2 * channel_multiple) else 1


def narrowest_width(units: int, step: int, least: int, floor: float) -> int:
    """Fewest units that a group may keep: its least, or the floor's share, in whole steps of its width."""
    wanted = max(int(np.ceil(floor * units)), least)
    return min(units, -(-wanted // step) * step)


@dataclass(frozen=True)
class Ranking:
    """Ranking of the units of all groups together.

    floor: no group keeps less than this share of its units, so that a ranking that is wrong about one
        layer cannot cut the network in two.
    """

    choices: tuple[Choice, ...]
    work: Work
    floor: float = 0.1

    def keep(self, share: float) -> Widths:
        """Most units whose work is at most `share` of the dense model's, or the fewest legal ones."""
        whole = self._widths(0)
        limit = share * self.work(whole)
        low, high = 0, self._droppable()  # ranks: the first `n` units of the global order are dropped
        if self.work(whole) <= limit:
            return whole
        while low + 1 < high:
            middle = (low + high) // 2
            if self.work(self._widths(middle)) <= limit:
                high = middle
            else:
                low = middle
        return self._widths(high)

    def smallest(self) -> Widths:
        """Fewest units that the floor and the multiples allow."""
        return self._widths(self._droppable())

    def _droppable(self) -> int:
        return sum(len(choice.scores) for choice in self.choices)

    def _widths(self, dropped: int) -> Widths:
        gone = np.bincount(self._order[:dropped], minlength=len(self.choices))
        widths = {}
        for choice, best, lost in zip(self.choices, self._best, gone.tolist(), strict=True):
            units = len(choice.scores)
            wanted = narrowest_width(units, choice.step, max(units - lost, choice.least), self.floor)
            widths[choice.name] = tuple(np.sort(best[:wanted]).tolist())
        return widths

    @cached_property
    def _best(self) -> list[NDArray[np.intp]]:
        """Per group, its units from the most to the least important."""
        return [np.argsort(-choice.scores, kind="stable") for choice in self.choices]

    @cached_property
    def _order(self) -> NDArray[np.intp]:
        """Group of every unit, from the least to the most important; ties by position."""
        scores = np.concatenate([choice.scores for choice in self.choices])
        groups = np.repeat(np.arange(len(self.choices)), [len(choice.scores) for choice in self.choices])
        return groups[np.argsort(scores, kind="stable")]

"""Knobs of a pretrained model: the widths that its config can say, found by building it with other values.

A config says one width for all layers, under names that every family chooses for itself. So no name is
known here. Each number of the config is changed alone, the model is built without memory (on `meta`), and the
dimensions that change are what the number says. Groups whose units lie there, and in no other dimension, may
be cut by this number; where a dimension follows several numbers, these are tried together. Equal shapes are
not enough: half of the heads is no heads of half the size. So each knob is tried once, on the real weights.
"""

from __future__ import annotations

import copy
import itertools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from edgeprune.graph.coupling import Coupling, Group

Shapes = Mapping[str, tuple[int, ...]]  # of parameters and buffers, by their names in the model
Build = Callable[[Any], Shapes]  # shapes of the model of a config; raises for a config that it refuses
# Whether the model of a config answers as the graph does in which groups keep so many of their units.
Holds = Callable[[Any, Mapping[str, int]], bool]
Place = tuple[str, int]  # a parameter and one of its dimensions
Field = tuple[str, ...]  # path of an attribute through nested configs
UNSAID = 24  # tried in the place of None, where the library has a rule for a width that nobody says
MOST_TOGETHER = 3  # fields that are changed at once
MOST_SIZES = 4  # values of a field until one is accepted


@dataclass(frozen=True)
class Knob:
    """Widths that go together: fields of the config, and the groups whose widths they say.

    values: of the fields. steps: in how many equal parts all of them, and the groups, can be cut.
    """

    fields: tuple[Field, ...]
    values: tuple[int, ...]
    groups: tuple[str, ...]
    steps: int

    def at(self, parts: int) -> dict[Field, int]:
        """Values of the fields when so many of `steps` parts are kept."""
        return {
            field: value * parts // self.steps for field, value in zip(self.fields, self.values, strict=True)
        }


@dataclass(frozen=True)
class Knobs:
    """Knobs of a model, each with groups that no other knob has. What none has is kept whole.

    config: the given one, with widths said that follow from others there.
    """

    config: Any
    rows: tuple[Knob, ...]


def find_knobs(
    config: Any, build: Build, holds: Holds, coupling: Coupling, names: Mapping[str, str]
) -> Knobs:
    """Knobs of a model. names: of captured parameters in the model that `build` builds."""
    probe = _Trial(config, build, holds, coupling, names)
    rows = tuple(probe.found())
    return Knobs(probe.config, rows)


def with_values(config: Any, values: Mapping[Field, int]) -> Any:
    """A copy of a config with other values of some fields."""
    changed = copy.deepcopy(config)
    for field, value in values.items():
        _set(changed, field, value)
    return changed


class _Trial:
    """State of one search for knobs."""

    def __init__(
        self, config: Any, build: Build, holds: Holds, coupling: Coupling, names: Mapping[str, str]
    ) -> None:
        self.config, self.build, self.holds = config, build, holds
        self.coupling, self.names = coupling, names
        self.shapes = build(config)
        self.config = with_values(config, dict(self._unsaid()))

    def found(self) -> Iterator[Knob]:
        moved = {field: self._moved(field) for field in fields_of(self.config)}
        groups = {group.name: self._places(group) for group in self.coupling.groups}
        for members, fields in _components(groups, {field: its for field, its in moved.items() if its}):
            units = {self.coupling.group(name).units for name in members}
            # Numbers that move no dimension may still say how one is read: how many heads share it.
            silent = [
                field for field, its in moved.items() if not its and value_of(self.config, field) in units
            ]
            yield from self._knobs(members, [*fields, *silent])

    def _moved(self, field: Field) -> frozenset[Place]:
        """Dimensions that change with a number of the config."""
        value = value_of(self.config, field)
        for other in (2 * value, value // 2, value - 1):
            if other < 1 or other == value:
                continue
            shapes = self._shapes({field: other})
            if shapes is not None and shapes.keys() == self.shapes.keys():
                return self._differs(shapes)
        return frozenset()

    def _unsaid(self) -> Iterator[tuple[Field, int]]:
        """Fields that are None, where another number says the width, with the width that they would say."""
        for field in fields_of(self.config, of=type(None)):
            shapes = self._shapes({field: UNSAID})
            if shapes is None or shapes.keys() != self.shapes.keys():
                continue
            sizes = [(self.shapes[name][dim], shapes[name][dim]) for name, dim in self._differs(shapes)]
            values = {old * UNSAID / new for old, new in sizes}
            value = values.pop() if len(values) == 1 else 0.5
            if value.is_integer() and self._shapes({field: int(value)}) == self.shapes:
                yield field, int(value)

    def _differs(self, shapes: Shapes) -> frozenset[Place]:
        return frozenset(
            (name, dim)
            for name, shape in self.shapes.items()
            for dim, (one, other) in enumerate(zip(shape, shapes[name], strict=True))
            if one != other
        )

    def _shapes(self, values: Mapping[Field, int]) -> Shapes | None:
        """Shapes with other values; None where the library refuses them, or gives another number of
        dimensions."""
        try:
            shapes = self.build(with_values(self.config, values))
        except Exception:  # whatever a family's config or model raises for a number that it does not take
            return None
        same = all(len(shapes[name]) == len(shape) for name, shape in self.shapes.items() if name in shapes)
        return shapes if same else None

    def _places(self, group: Group) -> frozenset[Place]:
        return frozenset((self.names[axis.parameter], axis.dim) for axis in group.axes)

    def _knobs(self, members: Sequence[str], fields: Sequence[Field]) -> Iterator[Knob]:
        """Knobs among groups and fields that touch one another, those of the fewest fields first."""
        left = list(members)
        for count in range(1, min(MOST_TOGETHER, len(fields)) + 1):
            for chosen in itertools.combinations(fields, count):
                knob = self._knob(chosen, left)
                if knob is not None:
                    yield knob
                    left = [name for name in left if name not in knob.groups]

    def _knob(self, fields: Sequence[Field], left: Sequence[str]) -> Knob | None:
        """The knob of just these fields, if what they move is what some groups hold, all of them alike."""
        values = tuple(value_of(self.config, field) for field in fields)
        steps = math.gcd(*values)
        for parts in _tried(steps):
            at = {field: value * parts // steps for field, value in zip(fields, values, strict=True)}
            shapes = self._shapes(at)
            if shapes is None or shapes.keys() != self.shapes.keys():
                continue
            moved = self._differs(shapes)
            groups = [
                self.coupling.group(name) for name in left if self._places(self.coupling.group(name)) <= moved
            ]
            if not groups or any(group.units * parts % steps for group in groups):
                continue
            kept = {group.name: group.units * parts // steps for group in groups}
            if self._cut(groups, kept) != shapes or not self.holds(with_values(self.config, at), kept):
                return None
            common = math.gcd(steps, *(group.units for group in groups))
            return Knob(tuple(fields), values, tuple(kept), common)
        return None

    def _cut(self, groups: Sequence[Group], kept: Mapping[str, int]) -> Shapes:
        """Shapes when each of the groups keeps so many of its units."""
        shapes = {name: list(shape) for name, shape in self.shapes.items()}
        for group in groups:
            for axis in group.axes:
                lost = (group.units - kept[group.name]) * axis.positions.shape[1]
                shapes[self.names[axis.parameter]][axis.dim] -= lost
        return {name: tuple(shape) for name, shape in shapes.items()}


def _tried(steps: int) -> list[int]:
    """Numbers of parts to try, the nearest to a half first."""
    return sorted(range(1, steps), key=lambda parts: (abs(2 * parts - steps), parts))[:MOST_SIZES]


def _components(
    groups: Mapping[str, frozenset[Place]], fields: Mapping[Field, frozenset[Place]]
) -> Iterator[tuple[list[str], list[Field]]]:
    """Groups and fields that touch one another, directly or through others, in the order of the groups."""
    left = dict(groups)
    while left:
        name, places = next(iter(left.items()))
        reached, members, touching = set(places), [name], list[Field]()
        del left[name]
        grown = True
        while grown:
            grown = False
            for field, its in fields.items():
                if field not in touching and reached & its:
                    touching.append(field)
                    reached |= its
                    grown = True
            for other in [other for other, its in left.items() if reached & its]:
                reached |= left.pop(other)
                members.append(other)
                grown = True
        yield members, touching


def fields_of(config: Any, of: type = int, path: Field = ()) -> Iterator[Field]:
    """Numbers of a config above 1, and of the configs in it; `of` another type, all of that type."""
    for name, value in vars(config).items():
        if name.startswith("_"):
            continue
        if hasattr(value, "to_dict") and hasattr(value, "model_type"):
            yield from fields_of(value, of, (*path, name))
        elif type(value) is of and not (isinstance(value, int) and value < 2):
            yield (*path, name)


def value_of(config: Any, field: Field) -> int:
    """Value of a field."""
    for name in field:
        config = getattr(config, name)
    return int(config)


def _set(config: Any, field: Field, value: int) -> None:
    for name in field[:-1]:
        config = getattr(config, name)
    setattr(config, field[-1], value)

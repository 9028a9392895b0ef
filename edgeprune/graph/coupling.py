"""Coupling analysis: finds the groups of parameter indices that must be removed together."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from torch.fx import GraphModule

from edgeprune.errors import InputError
from edgeprune.graph.blocks import Block, Ids
from edgeprune.graph.capture import Captured
from edgeprune.graph.depth import Branch, find_branches
from edgeprune.graph.masks import Masks
from edgeprune.graph.rehearsal import misfits
from edgeprune.graph.rulebook import RULES
from edgeprune.graph.walk import ParameterUse, Rule, Walk
from edgeprune.records.brief import Brief

Role = Literal["out", "in"]
Kept = Mapping[str, Sequence[int]]  # group name -> indices of the units kept; a branch's () drops it


@dataclass(frozen=True, repr=False)
class Axis(Brief):
    """One dimension of one parameter, with the indices that a group removes from the dimension.

    positions: [units, k], the indices that are removed with each unit.
    role: "in" where an operation sums over the dimension, else "out".
    """

    parameter: str
    dim: int
    size: int
    positions: NDArray[np.int64]
    role: Role


@dataclass(frozen=True, repr=False)
class Group(Brief):
    """Units that can be removed one by one and that all remove as much of the same parameters.

    classes: [units], the number of each unit's class of atoms.
    normed: the number of units enters a statistic (layer norm, mean over channels, softmax).
    least: units that must be kept; more than one where an operation takes the best k of them.
    """

    name: str
    axes: tuple[Axis, ...]
    classes: NDArray[np.int64]
    normed: bool
    least: int = 1

    @property
    def units(self) -> int:
        return len(self.classes)


@dataclass(frozen=True)
class FrozenParameter:
    """A parameter of which nothing can be removed, with the operation that needs it whole and the reason."""

    name: str
    op: str
    node: str
    reason: str
    size: int


@dataclass(frozen=True)
class Coupling:
    """Result of the analysis of one graph; `classes[atom]` is the number of an atom's class.

    frozen: parameters of which nothing can be removed. frozen_outputs: those of which no output can be; an
        input may.
    """

    groups: tuple[Group, ...]
    branches: tuple[Branch, ...]
    frozen: tuple[FrozenParameter, ...]
    frozen_outputs: tuple[FrozenParameter, ...]
    classes: Ids
    values: Mapping[str, Any]  # node name -> blocks, or a list of them
    parameters: Mapping[str, ParameterUse]
    normed_nodes: frozenset[str]
    unknown: tuple[str, ...]  # operations of the graph that no rule knows

    def group(self, name: str) -> Group:
        return next(group for group in self.groups if group.name == name)

    def removed(self, kept: Kept) -> NDArray[np.bool_]:
        """[classes], True for a class that is removed; a group that `kept` does not name is kept whole."""
        gone = np.zeros(int(self.classes.max(initial=-1)) + 1, dtype=bool)
        by_name = {group.name: group for group in self.groups}
        branches = {branch.name for branch in self.branches}
        for name, units in kept.items():
            if name in branches:
                continue
            if name not in by_name:
                raise InputError(
                    f"There is no group {name!r}.", "`edgeprune inspect MODEL` lists the groups."
                )
            group = by_name[name]
            chosen = np.asarray(units, dtype=np.int64)
            if len(chosen) < group.least or len(np.unique(chosen)) != len(chosen):
                raise InputError(
                    f"Group {name!r} would keep {len(chosen)} units.",
                    f"Keep at least {group.least}, each once.",
                )
            if chosen.min() < 0 or chosen.max() >= group.units:
                raise InputError(
                    f"Group {name!r} has units 0 to {group.units - 1}, not {chosen.max()}.",
                    "Give indices of its units.",
                )
            gone[group.classes] = True
            gone[group.classes[chosen]] = False
        return gone

    def masks(self, module: GraphModule, removed: NDArray[np.bool_]) -> Masks:
        """Masks of the kept positions of `module`, the graph of this analysis."""
        return Masks(module, self.values, self.parameters, self.classes, removed)

    def dropped(self, kept: Kept) -> tuple[Branch, ...]:
        """Branches that are dropped: `kept` has () for their names."""
        return tuple(branch for branch in self.branches if len(kept.get(branch.name, (0,))) == 0)


def analyse(
    captured: Captured, *, inner: frozenset[str] = frozenset(), rules: Mapping[str, Rule] = RULES
) -> Coupling:
    """Groups, branches and frozen parameters of a captured model.

    inner: nodes at which a joint dimension keeps its inner part (the head dimension) instead of its
        outer part (whole heads).
    """
    walk = Walk(captured.module, inner)
    walk.run(rules)
    found = _coupling(walk)
    while broken := _misfits(walk, found):
        for name in broken:
            walk.freeze_misfit(name)
        found = _coupling(walk)
    return found


def _coupling(walk: Walk) -> Coupling:
    classes = _rectangular(walk)
    owner = _owners(walk, classes)
    normed = np.zeros(int(classes.max(initial=-1)) + 1, dtype=bool)
    for ids, _ in walk.normed:
        normed[classes[ids]] = True
    return Coupling(
        groups=_groups(walk, classes, owner, normed),
        branches=find_branches(walk.module),
        frozen=_frozen(walk, classes, owner),
        frozen_outputs=_frozen_outputs(walk, classes, owner),
        classes=classes,
        values={node.name: value for node, value in walk.values.items()},
        parameters=walk.parameters,
        normed_nodes=frozenset(node.name for _, node in walk.normed),
        unknown=tuple(sorted(walk.unknown)),
    )


def _misfits(walk: Walk, coupling: Coupling) -> list[str]:
    """Nodes that a cut would break and that can still be cut, by a cut of every group to another width."""
    random = np.random.default_rng(0)
    kept = {}
    for group in coupling.groups:
        count = int(random.integers(group.least, max(group.units, group.least + 1)))
        kept[group.name] = tuple(random.choice(group.units, size=count, replace=False).tolist())
    removed = coupling.removed(kept)
    frozen = _owners(walk, coupling.classes) >= 0
    return [
        name
        for name in misfits(coupling.masks(walk.module, removed))
        if any((~frozen[coupling.classes[block.ids]]).any() for block in walk.touched_by(name))
    ]


def _owners(walk: Walk, classes: Ids) -> NDArray[np.int64]:
    """[classes], index of the first freeze that contains a class, -1 for a class that can be removed."""
    owner = np.full(int(classes.max(initial=-1)) + 1, -1, dtype=np.int64)
    for index in reversed(range(len(walk.book.frozen))):
        owner[classes[walk.book.frozen[index].ids]] = index
    return owner


def _rectangular(walk: Walk) -> Ids:
    """Unite atoms until no joint block can become ragged, and return the classes.

    A joint block stays rectangular when the class changes along one axis only. In any other block the axis
    that leaves the most removable classes is kept, and the other axes are united.
    """
    joint: dict[tuple[bytes, tuple[int, ...]], Block] = {}
    for value in walk.values.values():
        for blocks in value if isinstance(value, list) else [value]:
            for block in blocks:
                if len(block.dims) > 1:
                    joint.setdefault((block.ids.tobytes(), block.ids.shape), block)
    joint.update({(block.ids.tobytes(), block.ids.shape): block for block in walk.inside})
    while True:
        classes = walk.book.classes()
        owner = _owners(walk, classes)
        ragged = [block for block in joint.values() if _safe_axis(classes[block.ids]) is None]
        if not ragged:
            return classes
        for block in ragged:
            values = classes[block.ids]
            free = [_free_rows(values, axis, owner) for axis in range(values.ndim)]
            walk.book.collapse(block.ids, int(np.argmax(free)))


def _safe_axis(values: Ids) -> int | None:
    for axis in range(values.ndim):
        rows = np.moveaxis(values, axis, 0).reshape(values.shape[axis], -1)
        if (rows == rows[:, :1]).all():
            return axis
    return None


def _free_rows(values: Ids, axis: int, owner: NDArray[np.int64]) -> int:
    """Number of removable classes that are left when the rows of `axis` are each united."""
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    rows = np.moveaxis(values, axis, 0).reshape(values.shape[axis], -1)
    names, flat = np.unique(rows, return_inverse=True)
    flat = flat.reshape(rows.shape)
    right = np.repeat(flat[:, 0], rows.shape[1])
    edges = coo_array((np.ones(flat.size, np.int8), (flat.ravel(), right)), shape=(len(names), len(names)))
    count, label = connected_components(edges, directed=False)
    frozen = np.zeros(count, dtype=bool)
    frozen[label[owner[names] >= 0]] = True
    return int((~frozen).sum())


def _groups(
    walk: Walk, classes: Ids, owner: NDArray[np.int64], normed: NDArray[np.bool_]
) -> tuple[Group, ...]:
    consumed = np.zeros(walk.book.count, dtype=bool)
    for ids in walk.consumed:
        consumed[ids] = True
    axes = [
        (use, dim, atoms)
        for use in walk.parameters.values()
        for dim, atoms in enumerate(use.atoms)
        if atoms is not None
    ]
    members: dict[int, list[tuple[int, NDArray[np.int64]]]] = {}  # class -> (axis number, positions)
    trainable: set[int] = set()
    for number, (use, _, atoms) in enumerate(axes):
        free = np.flatnonzero(owner[classes[atoms]] < 0)  # the rows of a vocabulary are many, and frozen
        if not len(free):
            continue
        order = free[np.argsort(classes[atoms[free]], kind="stable")]
        found = classes[atoms[order]]
        starts = np.flatnonzero(np.r_[True, np.diff(found) != 0])
        ends = [*starts[1:].tolist(), len(order)]
        for name, start, end in zip(found[starts].tolist(), starts.tolist(), ends, strict=True):
            members.setdefault(name, []).append((number, order[start:end]))
            if use.trainable:
                trainable.add(name)
    signatures: dict[tuple[tuple[int, int], ...], list[int]] = {}
    for name, parts in members.items():
        if name in trainable:
            signature = tuple((number, len(positions)) for number, positions in parts)
            signatures.setdefault(signature, []).append(name)
    groups: list[Group] = []
    for signature, units in signatures.items():
        units.sort(key=lambda unit: [int(positions[0]) for _, positions in members[unit]])
        built = []
        for place, (number, _) in enumerate(signature):
            use, dim, atoms = axes[number]
            positions = np.stack([members[unit][place][1] for unit in units])
            role: Role = "in" if consumed[atoms[0]] else "out"
            built.append(Axis(use.name, dim, use.shape[dim], positions, role))
        chosen = np.asarray(units, dtype=np.int64)
        name_ = _name(built, {group.name for group in groups})
        least = max((_least(classes[ids], chosen, count) for ids, count in walk.taken), default=1)
        groups.append(Group(name_, tuple(built), chosen, bool(normed[chosen].any()), least))
    return tuple(groups)


def _least(row: Ids, units: NDArray[np.int64], count: int) -> int:
    """Number of units of which any choice leaves `count` positions in `row`; 1 where they all go at once."""
    positions = np.sort([(row == unit).sum() for unit in units])
    if positions[-1] in (0, row.size):
        return 1
    return min(int(np.searchsorted(np.cumsum(positions), count)) + 1, len(units))


def _name(axes: Sequence[Axis], taken: set[str]) -> str:
    """Name of a group: its first \"out\" parameter without `.weight`, numbered from the second group on.

    A bias gives the name where there is nothing else.
    """
    out = [axis for axis in axes if axis.role == "out"]
    first = next((axis for axis in out if not axis.parameter.endswith("bias")), (*out, *axes)[0])
    base = first.parameter.removesuffix(".weight")
    name, number = base, 1
    while name in taken:
        number += 1
        name = f"{base}#{number}"
    return name


def _frozen(walk: Walk, classes: Ids, owner: NDArray[np.int64]) -> tuple[FrozenParameter, ...]:
    found = []
    for use in walk.parameters.values():
        if not use.trainable:
            continue
        freezes = [owner[classes[atoms]] for atoms in use.atoms if atoms is not None]
        if all((found_by >= 0).all() for found_by in freezes):
            size = int(np.prod(use.shape))
            if not freezes:
                found.append(FrozenParameter(use.name, "parameter", use.name, "has a single element", size))
                continue
            reason = walk.book.frozen[int(freezes[0][0])]
            found.append(FrozenParameter(use.name, reason.op, reason.node, reason.reason, size))
    return tuple(found)


def _frozen_outputs(walk: Walk, classes: Ids, owner: NDArray[np.int64]) -> tuple[FrozenParameter, ...]:
    consumed = np.zeros(walk.book.count, dtype=bool)
    for ids in walk.consumed:
        consumed[ids] = True
    found = []
    for use in walk.parameters.values():
        outputs = [atoms for atoms in use.atoms if atoms is not None and not consumed[atoms].any()]
        freezes = [owner[classes[atoms]] for atoms in outputs]
        if use.trainable and freezes and all((by >= 0).all() for by in freezes):
            reason = walk.book.frozen[int(freezes[0][0])]
            size = int(np.prod(use.shape))
            found.append(FrozenParameter(use.name, reason.op, reason.node, reason.reason, size))
    return tuple(found)

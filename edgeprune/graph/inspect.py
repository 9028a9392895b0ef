"""Facts about a model's groups, branches and frozen parameters, for `edgeprune inspect`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from edgeprune.graph.capture import capture, told_fixed
from edgeprune.graph.cost import Cost, count
from edgeprune.graph.coupling import FrozenParameter, Kept, analyse
from edgeprune.records.lengths import Lengths


@dataclass(frozen=True)
class GroupFacts:
    """A group's size, and what removing one of its units saves.

    unit_params, unit_macs: parameters and multiply-accumulates saved by removing one unit alone.
    """

    name: str
    units: int
    unit_params: int
    unit_macs: int
    parameters: int  # tensors that a unit is cut out of


@dataclass(frozen=True)
class BranchFacts:
    """A residual branch, with the parameters and multiply-accumulates that dropping it saves."""

    name: str
    params: int
    macs: int


@dataclass(frozen=True)
class Inspection:
    """Size of a model, and everything in it that can or cannot be pruned."""

    params: int
    frozen_params: int
    macs: int  # per sample
    groups: tuple[GroupFacts, ...]
    branches: tuple[BranchFacts, ...]
    frozen: tuple[FrozenParameter, ...]
    unknown: tuple[str, ...]  # operations without a rule
    fixed_batch: str = ""  # sentence about a model that takes one row at a time; empty for any other


def inspect(model: torch.nn.Module, example: Any, lengths: Lengths | None = None) -> Inspection:
    """Groups, branches and frozen parameters of a model. lengths: as for `capture`.

    Raises `InputError` when the model does not export.
    """
    captured = capture(model, example, 1, lengths)
    coupling = analyse(captured)
    cost = count(captured, coupling)
    params, macs = cost.params({}), cost.macs({})
    groups = []
    for group in coupling.groups:
        # Of two experts from which a router takes the best two, neither can be removed.
        without_one = {group.name: range(1, group.units)} if group.units > group.least else {}
        groups.append(
            GroupFacts(
                group.name,
                group.units,
                params - cost.params(without_one),
                macs - cost.macs(without_one),
                len({axis.parameter for axis in group.axes}),
            )
        )
    return Inspection(
        params=params,
        frozen_params=sum(each.size for each in coupling.frozen),
        macs=macs,
        groups=tuple(groups),
        branches=tuple(_branch(branch.name, cost) for branch in coupling.branches),
        frozen=coupling.frozen,
        unknown=coupling.unknown,
        fixed_batch=told_fixed(captured, example),
    )


def _branch(name: str, cost: Cost) -> BranchFacts:
    without: Kept = {name: ()}
    return BranchFacts(name, cost.params({}) - cost.params(without), cost.macs({}) - cost.macs(without))

"""Whole layers of a pretrained model, as its config counts them, and which of them the outputs miss least."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from edgeprune.graph.capture import Captured
from edgeprune.graph.coupling import Coupling
from edgeprune.graph.depth import dead_nodes
from edgeprune.graph.surgery import cut
from edgeprune.pruning.folder.knobs import Build, Field, fields_of, value_of, with_values

Tensors = Sequence[torch.Tensor]
_INDEX = re.compile(r"(?P<before>.*?\.)(?P<index>\d+)(?P<after>\..*)")


@dataclass(frozen=True)
class Stack:
    """Layers that a config counts.

    field: the number of them. prefix: of their tensors, before the index.
    branches: of each layer, the residual branches that are all of it, with which it is dropped; () of one
    that must stay.
    """

    field: Field
    prefix: str
    branches: tuple[tuple[str, ...], ...]


def find_stacks(
    config: Any, build: Build, captured: Captured, coupling: Coupling, names: Mapping[str, str]
) -> Iterator[Stack]:
    """Stacks of layers of a model, of which some are residual branches and nothing else."""
    whole = build(config)
    for field in fields_of(config):
        count = value_of(config, field)
        try:
            shorter = build(without_layers(config, field, [count - 1]))
        except Exception:  # whatever a family raises for a number that it does not take
            continue
        gone = whole.keys() - shorter.keys()
        prefix = _common(gone, count - 1)
        if not gone or prefix is None or any(shorter[name] != whole[name] for name in shorter):
            continue
        layers = [_branches(f"{prefix}{at}.", captured, coupling, names) for at in range(count)]
        if any(layers):
            yield Stack(field, prefix, tuple(layers))


def _common(gone: set[str], last: int) -> str | None:
    """What stands before the index of the last layer in all names; None where they have no such index."""
    matches = [_INDEX.fullmatch(name) for name in gone]
    found = {match["before"] for match in matches if match and int(match["index"]) == last}
    if len(found) != 1:
        return None
    prefix = found.pop()
    return prefix if all(name.startswith(f"{prefix}{last}.") for name in gone) else None


def _branches(
    layer: str, captured: Captured, coupling: Coupling, names: Mapping[str, str]
) -> tuple[str, ...]:
    """Branches with which all of a layer leaves; () where something of it would stay."""
    own = [
        branch
        for branch in coupling.branches
        if all(names[each].startswith(layer) for each in branch.parameters)
    ]
    gone = dead_nodes(captured.module.graph, own)
    read = [node for node in captured.module.graph.nodes if node.op == "get_attr"]
    stays = any(names.get(str(node.target), "").startswith(layer) for node in read if node.name not in gone)
    return () if stays else tuple(branch.name for branch in own)


def droppable(stack: Stack) -> int:
    """Number of layers that can leave: one stays."""
    return min(sum(map(bool, stack.branches)), len(stack.branches) - 1)


def without_layers(config: Any, field: Field, gone: Sequence[int]) -> Any:
    """A config with fewer layers. Its lists with an entry for each layer lose those of the layers."""
    count = value_of(config, field)
    changed = with_values(config, {field: count - len(gone)})
    owner = changed
    for name in field[:-1]:
        owner = getattr(owner, name)
    for name, value in vars(owner).items():
        if isinstance(value, list | tuple) and len(value) == count:
            setattr(owner, name, type(value)(each for at, each in enumerate(value) if at not in gone))
    return changed


def renumbered(name: str, prefix: str, gone: Sequence[int]) -> str | None:
    """Name of a tensor once layers have left; None for one that left."""
    if not name.startswith(prefix):
        return name
    index, _, after = name[len(prefix) :].partition(".")
    if not index.isdigit():
        return name
    if int(index) in gone:
        return None
    return f"{prefix}{int(index) - sum(each < int(index) for each in gone)}.{after}"


def least_missed_layers(
    captured: Captured,
    coupling: Coupling,
    stacks: Sequence[Stack],
    batches: Sequence[tuple[torch.Tensor, ...]],
    distance: Callable[[Tensors, Tensors], torch.Tensor],
    count: int,
) -> dict[Field, list[int]]:
    """Indices of `count` layers that can be dropped together, by the field that counts them.

    One after another, each the one that the outputs miss least in the model without those before it.
    (As in SLEB, Song et al. 2024, arXiv:2402.09025.) One layer of each stack stays.
    """
    gone: dict[Field, list[int]] = {stack.field: [] for stack in stacks}
    with torch.no_grad():
        whole = [captured.run(*inputs) for inputs in batches]
        for _ in range(count):
            lost: dict[tuple[Field, int], float] = {}
            for stack in stacks:
                left = [at for at in range(len(stack.branches)) if at not in gone[stack.field]]
                for at in [at for at in left if stack.branches[at]] if len(left) > 1 else ():
                    without = {**gone, stack.field: [*gone[stack.field], at]}
                    shorter = cut(captured, coupling, dropped_branches(stacks, without))
                    pairs = zip(batches, whole, strict=True)
                    lost[stack.field, at] = sum(float(distance(shorter.run(*x), y)) for x, y in pairs)
            if not lost:
                break
            field, at = min(lost, key=lambda each: lost[each])
            gone[field].append(at)
    return {field: sorted(its) for field, its in gone.items() if its}


def dropped_branches(
    stacks: Sequence[Stack], gone: Mapping[Field, Sequence[int]]
) -> dict[str, tuple[int, ...]]:
    """Branches of layers, each with no units kept."""
    return {name: () for stack in stacks for at in gone.get(stack.field, ()) for name in stack.branches[at]}

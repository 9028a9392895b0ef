"""Choice of widths that a config can say: all groups of a knob keep the same share of their units."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeprune.errors import InputError
from edgeprune.graph.cost import Cost
from edgeprune.graph.coupling import Coupling
from edgeprune.pruning.folder.knobs import Field, Knob
from edgeprune.search.ranking import Choice, Ranking

MULTIPLE = 8  # widths are multiples of it where there are enough of them
Scores = Mapping[str, NDArray[np.float32]]  # of the units of each group
Kept = Mapping[str, tuple[int, ...]]


def uniform_widths(
    rows: tuple[Knob, ...],
    coupling: Coupling,
    cost: Cost,
    scores: Scores,
    ratio: float,
    movable: int,
    dropped: Kept,
) -> tuple[dict[Field, int], dict[str, tuple[int, ...]]]:
    """Values of the config's fields, and the units that are kept, so that `ratio` of the parameters leave.

    scores: comparable between groups. movable: parameters that the ratio is of. dropped: branches, each ().
    Raises `InputError` where the knobs do not reach so far.
    """
    fixed = cost.params({}) - movable
    choices = tuple(
        Choice(str(at), _by_part(knob, coupling, scores, cost), MULTIPLE, _least(knob, coupling))
        for at, knob in enumerate(rows)
    )

    def work(widths: Mapping[str, tuple[int, ...]]) -> float:
        kept = _kept(rows, coupling, scores, {name: len(parts) for name, parts in widths.items()})
        return float(cost.params({**kept, **dropped}) - fixed)

    ranking = Ranking(choices, work)
    whole = work({choice.name: tuple(range(len(choice.scores))) for choice in choices})
    limit = (1 - ratio) * movable
    widths = ranking.keep(limit / whole)
    if work(widths) > limit:
        most = 1 - work(ranking.smallest()) / movable
        raise InputError(
            f"A ratio of {ratio} cannot be reached: {most:.2f} is the most when every width keeps a tenth.",
            "Give a smaller ratio.",
        )
    parts = _filled(rows, {name: len(each) for name, each in widths.items()}, choices, work, limit)
    values: dict[Field, int] = {}
    for at, knob in enumerate(rows):
        values |= knob.at(parts[str(at)])
    return values, {**_kept(rows, coupling, scores, parts), **dropped}


def _filled(
    rows: tuple[Knob, ...],
    parts: Mapping[str, int],
    choices: Sequence[Choice],
    work: Callable[[Mapping[str, tuple[int, ...]]], float],
    limit: float,
) -> dict[str, int]:
    """Parts with as many more as still lie within the limit: one step of a wide knob is many parameters."""
    found = dict(parts)
    for at, knob in enumerate(rows):
        name, step = str(at), choices[at].step
        while found[name] + step <= knob.steps:
            wider = {**found, name: found[name] + step}
            if work({each: tuple(range(count)) for each, count in wider.items()}) > limit:
                break
            found = wider
    return found


def _by_part(knob: Knob, coupling: Coupling, scores: Scores, cost: Cost) -> NDArray[np.float32]:
    """[steps], the worth of each part of a knob for a parameter of it, the best units of all groups first."""
    total = np.zeros(knob.steps)
    whole = {name: tuple(range(coupling.group(name).units)) for name in knob.groups}
    less = {name: units[: len(units) - len(units) // knob.steps] for name, units in whole.items()}
    held = cost.params(whole) - cost.params(less)
    for name in knob.groups:
        ordered = -np.sort(-np.asarray(scores[name], np.float64))
        total += ordered.reshape(knob.steps, -1).sum(1)
    return (total / max(held, 1)).astype(np.float32)


def _least(knob: Knob, coupling: Coupling) -> int:
    """Parts that must stay, as some group needs so many units."""
    groups = [coupling.group(name) for name in knob.groups]
    return max(-(-group.least * knob.steps // group.units) for group in groups)


def _kept(
    rows: tuple[Knob, ...], coupling: Coupling, scores: Scores, parts: Mapping[str, int]
) -> dict[str, tuple[int, ...]]:
    """Best units of every group, as many as the parts of its knob say."""
    kept: dict[str, tuple[int, ...]] = {}
    for at, knob in enumerate(rows):
        for name in knob.groups:
            units = coupling.group(name).units
            count = units * parts[str(at)] // knob.steps
            best: Any = np.argsort(-scores[name], kind="stable")[:count]
            kept[name] = tuple(np.sort(best).tolist())
    return kept

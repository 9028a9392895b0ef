"""Values of groups and branches: each is cut alone, and the outputs are compared on a subset.

No label, no export, no device: the cut model runs in torch on a few calibration rows. Their number is set by
the work that they take, so that a large model does not pay for it with minutes.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence

import numpy as np
import torch

from edgeprune.fitting.space.space import Space, widths_of
from edgeprune.graph.branch_contents import branch_contents
from edgeprune.graph.capture import Captured
from edgeprune.make import Workshop
from edgeprune.pruning.sensitivity import Sensitivity, sensitivity
from edgeprune.search.ranking import Choice

SHARES = (0.8, 0.5, 0.25)  # of a group's units: the widths that are tried
WORK = 3e11  # multiply-accumulates of all models together: seconds on one core
FEWEST_ROWS, MOST_ROWS = 8, 128
ROWS_AT_ONCE = 32
HOPELESS = 1e3  # an error that no model recovers from; outputs that are not finite have it


def sense(
    workshop: Workshop, choices: Sequence[Choice], floor: float, listen: Callable[[float], None]
) -> Sensitivity:
    """Sensitivity to every group at a few of its legal widths, and to every branch. floor: as in `Space`."""
    widths = {choice.name: _sets(choice, floor) for choice in choices}
    count = sum(len(sets) for sets in widths.values()) + len(workshop.coupling.branches)
    rows = rows_for(workshop, count)
    with torch.no_grad():
        exact = [workshop.dense.run(*inputs) for inputs in rows]

    def error(pruned: Captured) -> float:
        with torch.no_grad():
            errors = [
                float(workshop.yardstick.distance(pruned.run(*inputs), wanted)) * len(inputs[0])
                for inputs, wanted in zip(rows, exact, strict=True)
            ]
        found = sum(errors) / sum(len(inputs[0]) for inputs in rows)
        return min(found, HOPELESS) if math.isfinite(found) else HOPELESS

    return sensitivity(workshop.dense, workshop.coupling, widths, error, workshop.consumers, listen)


def weighed_space(
    workshop: Workshop, choices: Sequence[Choice], sensed: Sensitivity, integer: Iterable[str] = ()
) -> Space:
    """Search space without costs in milliseconds. integer: layers that are INT8."""
    return Space(
        workshop.coupling,
        workshop.cost,
        tuple(choices),
        sensitivity=sensed,
        branch_contents=branch_contents(workshop.dense.module, workshop.coupling),
        integer=frozenset(integer),
    )


def rows_for(workshop: Workshop, runs: int) -> list[tuple[torch.Tensor, ...]]:
    """Calibration rows spread over the data, in batches, as many as keep `runs` passes within WORK."""
    columns = [torch.cat(column) for column in zip(*workshop.calibration, strict=True)]
    affordable = int(WORK / (max(runs, 1) * max(workshop.cost.macs({}), 1)))
    count = min(len(columns[0]), max(FEWEST_ROWS, min(MOST_ROWS, affordable)))
    places = np.linspace(0, len(columns[0]) - 1, count).round().astype(np.int64)
    batches = [
        torch.from_numpy(places[start : start + ROWS_AT_ONCE]) for start in range(0, count, ROWS_AT_ONCE)
    ]
    return [tuple(column[rows] for column in columns) for rows in batches]


def _sets(choice: Choice, floor: float) -> tuple[tuple[int, ...], ...]:
    """Units that a group keeps at the legal widths nearest to SHARES, the whole group left out."""
    units = len(choice.scores)
    narrower = widths_of(choice, floor)[:-1]
    wanted = {min(narrower, key=lambda width: abs(width - share * units)) for share in SHARES if narrower}
    best = np.argsort(-choice.scores, kind="stable")
    return tuple(tuple(np.sort(best[:width]).tolist()) for width in sorted(wanted))

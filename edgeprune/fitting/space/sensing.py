"""Values of groups and branches: each is cut alone, and the outputs are compared on a subset.

No label, no export, no device: the cut model is solved for and run in torch on a few calibration rows. Their
number is set by the work that they take, so that a large model does not pay for it with minutes.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence

import numpy as np
import torch

from edgeprune.fitting.space.space import Space, widths_of
from edgeprune.graph.branch_contents import branch_contents
from edgeprune.graph.capture import Captured
from edgeprune.graph.coupling import Kept
from edgeprune.graph.length import joined
from edgeprune.graph.surgery import cut
from edgeprune.make import Workshop
from edgeprune.pruning.sensitivity import Sensitivity, sensitivity
from edgeprune.pruning.sequential import refit, rows_of
from edgeprune.search.ranking import Choice

SHARES = (0.75, 0.4)  # of a group's units: the widths that are tried
WORK = 3e11  # multiply-accumulates of all models together: seconds on one core
PASSES = 3  # for one model: both networks as its weights are solved for, and the model again
SENSED_PRODUCTS = 10**9  # rows times squared features that a layer is solved from
SENSED_ROWS = (
    1024  # of a layer with more features: a value needs no more, and the time would go to the solver
)
FEWEST_ROWS, MOST_ROWS = 8, 128  # of each half
Rows = list[tuple[torch.Tensor, ...]]
HOPELESS = 1e3  # an error that no model recovers from; outputs that are not finite have it


def sense(
    workshop: Workshop, choices: Sequence[Choice], floor: float, listen: Callable[[float], None]
) -> Sensitivity:
    """Sensitivity to every group at a few of its legal widths, and to every branch. floor: as in `Space`."""
    widths = {choice.name: _sets(choice, floor) for choice in choices}
    count = sum(len(sets) for sets in widths.values()) + len(workshop.coupling.branches)
    probe = OutputError(workshop, count)
    return sensitivity(workshop.dense, workshop.coupling, widths, probe.error, probe.rebuild, listen)


class OutputError:
    """Error of the outputs of cut models, on the same calibration rows for all. count: of models, about.

    Weights are solved from one half of the rows and judged by the other: what fits the rows that it was
    solved from says nothing.
    """

    def __init__(self, workshop: Workshop, count: int) -> None:
        self._workshop = workshop
        self._count = count
        self._rows, self._others = _halves(workshop, count)
        with torch.no_grad():
            self._exact = [workshop.dense.run(*inputs) for inputs in self._others]

    @property
    def models(self) -> int:
        """Models, at most `count`, that can be compared within WORK."""
        rows = sum(len(inputs[0]) for inputs in self._rows)
        return max(1, min(self._count, int(WORK / (PASSES * rows * max(self._workshop.cost.macs({}), 1)))))

    def rebuild(self, pruned: Captured, kept: Kept) -> object:
        """Solve for the weights of a cut model, in place."""
        workshop = self._workshop
        return refit(
            pruned, workshop.dense, workshop.coupling, kept, self._rows, SENSED_PRODUCTS, SENSED_ROWS
        )

    def error(self, pruned: Captured) -> float:
        """Distance of a model's outputs to the dense one's."""
        with torch.no_grad():
            errors = [
                float(self._workshop.yardstick.distance(pruned.run(*inputs), wanted)) * len(inputs[0])
                for inputs, wanted in zip(self._others, self._exact, strict=True)
            ]
        found = sum(errors) / sum(len(inputs[0]) for inputs in self._others)
        return min(found, HOPELESS) if math.isfinite(found) else HOPELESS

    def of(self, kept: Kept) -> float:
        """Error of the model that keeps these units, its weights solved for."""
        pruned = cut(self._workshop.dense, self._workshop.coupling, kept)
        self.rebuild(pruned, kept)
        return self.error(pruned)


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


def _halves(workshop: Workshop, count: int) -> tuple[Rows, Rows]:
    """Calibration rows to solve from and to judge by, as many as keep `count` models within WORK.

    Both are the same row where there is only one.
    """
    affordable = int(WORK / (PASSES * max(count, 1) * max(workshop.cost.macs({}), 1)))
    each = max(FEWEST_ROWS, min(MOST_ROWS, affordable))
    whole = joined(rows_of(workshop.calibration, 2 * each))
    halves = [[tuple(column[start::2] for column in batch) for batch in whole] for start in (0, 1)]
    first, *second = (rows_of(half, each) for half in halves if any(len(batch[0]) for batch in half))
    return first, second[0] if second else first


def _sets(choice: Choice, floor: float) -> tuple[tuple[int, ...], ...]:
    """Units that a group keeps at the legal widths nearest to SHARES, the whole group left out."""
    units = len(choice.scores)
    narrower = widths_of(choice, floor)[:-1]
    wanted = {min(narrower, key=lambda width: abs(width - share * units)) for share in SHARES if narrower}
    best = np.argsort(-choice.scores, kind="stable")
    return tuple(tuple(np.sort(best[:width]).tolist()) for width in sorted(wanted))

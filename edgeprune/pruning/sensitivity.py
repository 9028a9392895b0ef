"""Sensitivity of the outputs to each group and each residual branch, cut alone at a few widths.

A criterion ranks the units of one group well; between groups its scores have different scales. The error of
the outputs when one group alone is cut has one scale for all of them, branches included.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from edgeprune.graph.capture import Captured
from edgeprune.graph.coupling import Coupling, Kept
from edgeprune.graph.surgery import cut

Points = tuple[tuple[int, float], ...]  # (width, error), ascending by width


@dataclass(frozen=True)
class Sensitivity:
    """Errors of the outputs, 0 for the dense model, by the group or branch cut alone; the ledger's record."""

    groups: tuple[tuple[str, Points], ...]
    branches: tuple[tuple[str, float], ...] = ()


def sensitivity(
    dense: Captured,
    coupling: Coupling,
    widths: Mapping[str, Sequence[tuple[int, ...]]],
    error: Callable[[Captured], float],
    rebuild: Callable[[Captured, Kept], object],
    listen: Callable[[float], None] = lambda share: None,
) -> Sensitivity:
    """Cut every group alone to each of its `widths`, drop every branch alone, and ask for the error.

    widths: group -> sets of units to keep. error: of a model against the dense one. rebuild: solves for the
    weights of a cut model in place, as a candidate's are, so that damage which that mends does not count.
    """
    total = sum(len(sets) for sets in widths.values()) + len(coupling.branches)
    done = 0

    def loss(kept: Kept) -> float:
        nonlocal done
        pruned = cut(dense, coupling, kept)
        rebuild(pruned, kept)
        done += 1
        listen(done / total)
        return error(pruned)

    groups = tuple(
        (name, tuple(sorted((len(units), loss({name: units})) for units in sets)))
        for name, sets in widths.items()
    )
    return Sensitivity(groups, tuple((branch.name, loss({branch.name: ()})) for branch in coupling.branches))

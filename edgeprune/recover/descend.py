"""Descending: a smaller network begins where a larger one of the same fit ended.

What the larger one learnt costs no training again. Units that it had lost keep their original values, so
the smaller one may choose other units than those. Whether that is the better start is a question to the
held-back data: where the budgets lie far apart, the original's weights, reconstructed, may be nearer.
"""

from __future__ import annotations

from collections.abc import Callable

from edgeprune.graph.capture import Captured
from edgeprune.graph.coupling import Coupling, Kept
from edgeprune.graph.surgery import cut, uncut
from edgeprune.recover.ladder import Judge, Rung, attempt

DESCEND = "descend"
DESCENDING = ("distill", "finetune", "lora")  # ways to train from there; rewinding has a start of its own


def descended(
    dense: Captured, coupling: Coupling, kept: Kept, larger: Captured, larger_kept: Kept
) -> Captured:
    """The units `kept`, with the values of the larger network where it has them, else with the original's.

    larger: the units `larger_kept` of `dense`, trained.
    """
    return cut(uncut(dense, coupling, larger_kept, larger), coupling, kept)


def better_start(
    pruned: Captured, other: Captured, judge: Judge, settle: Callable[[Captured], object]
) -> tuple[Captured, Rung]:
    """The one with the lower held-back error: `pruned`, or `other` after `settle` where that helps it."""
    settled, _ = attempt(DESCEND, other, judge, settle)
    before, after = judge.error(pruned), judge.error(settled)
    kept = after < before
    return (settled if kept else pruned), Rung(DESCEND, before, after, kept)

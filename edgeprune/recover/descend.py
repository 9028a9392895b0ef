"""Descending: a smaller network begins where a larger one of the same fit ended.

What the larger one learnt costs no training again. Its layers are the model to cut from: consumers are
reconstructed from its own activations, and a unit that it had lost begins with no influence. Whether that is
the better start is a question to the held-back data: where the budgets lie far apart, the original's weights
may be nearer.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from edgeprune.graph.capture import Captured
from edgeprune.recover.ladder import Judge, Rung, attempt

DESCEND = "descend"
DESCENDING = ("distill", "finetune", "lora")  # ways to train from there; rewinding has a start of its own


def better_start(
    pruned: Captured, other: Captured, judge: Judge, settle: Sequence[Callable[[Captured], object]]
) -> tuple[Captured, Rung]:
    """The one with the lower held-back error: `pruned`, or `other` after each of `settle` that helps it."""
    for step in settle:
        other, _ = attempt(DESCEND, other, judge, step)
    before, after = judge.error(pruned), judge.error(other)
    kept = after < before
    return (other if kept else pruned), Rung(DESCEND, before, after, kept)

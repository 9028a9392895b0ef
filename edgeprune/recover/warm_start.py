"""Warm start: a smaller network begins with the weights of a larger one that the same fit trained.

The larger network's training is not paid for twice. Its layers are the model to cut from: consumers are
reconstructed from its own activations, and a unit that it had lost begins with no influence. Held-back data
decide whether that start is better: where the budgets lie far apart, the original's weights may be nearer.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from edgeprune.graph.capture import Captured
from edgeprune.recover.ladder import Judge, Rung, attempt

WARM_START = "descend"  # the name of this rung in records


def better_start(
    pruned: Captured, other: Captured, judge: Judge, settle: Sequence[Callable[[Captured], object]]
) -> tuple[Captured, Rung]:
    """The better start by held-back error: `pruned`, or `other` after each step of `settle` that helps."""
    for step in settle:
        other, _ = attempt(WARM_START, other, judge, step)
    before, after = judge.error(pruned), judge.error(other)
    kept = after < before
    return (other if kept else pruned), Rung(WARM_START, before, after, kept)

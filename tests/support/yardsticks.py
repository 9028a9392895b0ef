"""Yardsticks of captured models, without a task."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from edgeprune.graph.capture import Captured
from edgeprune.meaning.kinds import Said, understood
from edgeprune.meaning.yardstick import Yardstick, yardstick


def yardstick_of(
    captured: Captured, said: Said = None, batches: Sequence[tuple[torch.Tensor, ...]] = ()
) -> Yardstick:
    """Yardstick of what a model returns for its example. batches: those that the spread is taken from."""
    with torch.no_grad():
        outputs = understood(captured, captured.answer(*captured.inputs), said)
        return yardstick(outputs, [captured.run(*inputs) for inputs in batches or [captured.inputs]])

"""Fits whose measurements take a moment, for tests to which any time is the same.

    python -m tests.support.haste fit TASK ...   is `edgeprune fit TASK ...`, in haste

No 7-bit forms are built either, and no page is drawn.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest

from edgeprune.measure import Effort, prove

MOMENT = Effort(runs=8, seconds=0.02, interleaved=True)
HURRIED: dict[str, Any] = {
    "edgeprune.cli.drawing.draw_beside": lambda folder: "",
    "edgeprune.fitting.trials.sessions.DENSE_EFFORT": MOMENT,
    "edgeprune.fitting.trials.sessions.SEARCH_EFFORT": MOMENT,
    # As many runs as a proof needs; sessions this short drift, and one is as good as six.
    "edgeprune.fitting.trials.sessions.prove": partial(prove, effort=Effort(662, 0.2, interleaved=True)),
    "edgeprune.fitting.trials.sessions.STEADY": 1e3,
    "edgeprune.fitting.dense_forms.saturates": lambda isa: False,
    "edgeprune.latency.float_layers.TURN_SECONDS": 0.01,
    "edgeprune.latency.measured.ROUND_SECONDS": 0.01,
    "edgeprune.latency.measured.MOST_ROUNDS": 2,
    "edgeprune.latency.measured.SPOILT": 1e3,
    "edgeprune.measure.WARM_UP_SECONDS": 0.02,
    # A proof on a machine that is slower than a moment ago goes by its slowest third: it needs three blocks.
    "edgeprune.measure.BLOCK_SECONDS": 0.05,
}


def hurry(patch: Callable[[str, Any], None]) -> None:
    """`patch` sets a name to a value, as `pytest.MonkeyPatch.setattr` does."""
    for name, value in HURRIED.items():
        patch(name, value)


if __name__ == "__main__":
    from edgeprune.cli import main

    hurry(pytest.MonkeyPatch().setattr)
    main()

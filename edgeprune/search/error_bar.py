"""Error bars of predictions, held against a budget: what fits for certain, what may, what misses for certain.

The verdict is that of the predicted figure, `predicted` or `misses`: a search needs one. Whether the budget
lies within the error bar is told beside it.
"""

from __future__ import annotations

from collections.abc import Mapping

from edgeprune.records.machine import Budget
from edgeprune.records.trial import Line, Measurement

Ends = tuple[float, float]


def open_lines(measured: Measurement, budget: Budget) -> Mapping[Line, tuple[Ends, float]]:
    """Lines of a resolved budget whose limit lies within the error bar of a prediction, with both."""
    bar = measured.error_bar
    if bar is None:
        return {}
    ends: dict[Line, tuple[Ends, float | None]] = {
        "latency_ms": (bar.latency_ms, budget.latency_ms),
        "memory_mib": (bar.memory_mib, budget.memory_mib),
    }
    return {
        line: (figures, limit)
        for line, (figures, limit) in ends.items()
        if limit is not None and figures[0] <= limit < figures[1]
    }

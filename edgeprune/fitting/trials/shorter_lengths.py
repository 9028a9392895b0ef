"""Latencies of finished trials at the lengths that no budget limits: evidence for the answer."""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial

from edgeprune.fitting.trials.runner import Trials
from edgeprune.records.trial import LengthTimes


def length_times(trials: Trials, names: Iterable[str]) -> tuple[LengthTimes, ...]:
    """Latencies of trials at all lengths but the longest, each recorded once.

    One whose every session waited for other work is left out.
    """
    _, *shorter = trials.device_side.lengths
    lengths = [length for length in reversed(shorter) if length is not None]
    if not lengths or not trials.budget.timed:
        return ()
    found = [
        trials.once(f"{name}-at-{length}", partial(_timed, trials, name, length), LengthTimes)
        for name in dict.fromkeys(names)
        for length in lengths
    ]
    return tuple(each for each in found if each.latency is not None)


def _timed(trials: Trials, name: str, length: int) -> LengthTimes:
    trials.tell(name, f"timing it at length {length}")
    return LengthTimes(name, length, trials.device_side.at_length(name, length, lambda progress: None))

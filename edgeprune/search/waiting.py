"""Waiting for CPUs: who took how much of a session's time, and which of its runs were left alone.

The kernel counts how long a thread was ready to run and had no CPU. What other processes, the hypervisor or
a quota took can only make a model look slower than it is, so a session that waited never proves a miss. A
process with more busy threads than CPUs waits for itself as well: that is how it will run, and no
disturbance. There, others took at most what the CPUs did beyond this process.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from edgeprune.records.cpu_time import TimedBlock, Waiting

MOST_WAITED = 0.02  # share of its time, from which on a session says only what the model keeps in spite of it
RUN_WAITED = 0.02  # the same for a single run, or for the millisecond of runs that it was in


@dataclass(frozen=True)
class Taken:
    """Shares of a session's time in which its threads were ready and did not run; None where not counted.

    Shares of several threads add up, 1 at most: so much of the time a query may have been held up.
    own: for want of CPUs for all of its own threads.
    """

    others: float | None
    hypervisor: float | None
    quota: float | None
    own: float | None

    @property
    def share(self) -> float:
        """All that was taken from the process, as far as it is counted."""
        return min(1.0, sum(part or 0.0 for part in (self.others, self.hypervisor, self.quota)))

    @property
    def much(self) -> bool:
        """Whether it is too much for a session to prove a miss, or to be compared with another."""
        return self.share > MOST_WAITED

    @property
    def words(self) -> str:
        """Clause about whatever took time, "other processes took 27 % of its time"; empty if nothing did."""
        named = (
            ("other processes took", self.others),
            ("the hypervisor took", self.hypervisor),
            ("a CPU quota withheld", self.quota),
        )
        told = [f"{who} {part:.0%}" for who, part in named if part is not None and part >= MOST_WAITED / 2]
        return f"{' and '.join(told)} of its time".replace("%", " %") if told else ""


def taken(waiting: Waiting | None) -> Taken:
    """Shares of the time of a session or a block, by who took them."""
    if waiting is None or not waiting.seconds:
        return Taken(None, None, None, None)

    def share(seconds: float | None) -> float | None:
        return None if seconds is None else min(1.0, seconds / waiting.seconds)

    withheld, stolen = waiting.throttled_s, waiting.stolen_s
    if stolen is not None and waiting.busy_s and waiting.ran_s is not None:
        stolen *= min(1.0, waiting.ran_s / waiting.busy_s)  # this process's part of what the CPUs did
    if waiting.waited_s is None or waiting.ran_s is None:
        return Taken(None, share(stolen), share(withheld), None)
    waited = max(0.0, waiting.waited_s - (withheld or 0.0))  # threads that are held back are ready, too
    others = waited
    if crowded(waiting):
        busy_s = waiting.cores * waiting.seconds if waiting.busy_s is None else waiting.busy_s
        others = min(waited, max(0.0, busy_s - waiting.ran_s))
    return Taken(share(others), share(stolen), share(withheld), share(waited - others))


def crowded(waiting: Waiting) -> bool:
    """Whether a process has more busy threads than CPUs, so that they wait for each other."""
    return waiting.threads is not None and waiting.threads > waiting.cores


def undisturbed(block: TimedBlock) -> list[float]:
    """Milliseconds of a block's runs that nothing was taken from, as far as the device tells."""
    shares = taken(block.waiting)
    beside = (shares.hypervisor or 0.0) + (shares.quota or 0.0)
    if beside > MOST_WAITED:  # counted for the block alone
        return []
    if not block.waited or crowded(block.waiting):
        return [] if shares.much else list(block.ms)
    return [ms for ms, waited in zip(block.ms, block.waited, strict=True) if waited <= RUN_WAITED]


def without_waiting(block: TimedBlock) -> list[float]:
    """Milliseconds of a block's runs less what their threads waited: no run would have been quicker."""
    if not block.waited:
        return list(block.ms)
    return [ms * max(0.0, 1.0 - waited) for ms, waited in zip(block.ms, block.waited, strict=True)]


def together(each: Sequence[Waiting]) -> Waiting | None:
    """Waiting in all blocks; what one of them does not tell is not known of all. None without blocks."""
    if not each:
        return None

    def total(name: str) -> float | None:
        found = [getattr(waiting, name) for waiting in each]
        return None if None in found else sum(found)

    return Waiting(
        seconds=sum(waiting.seconds for waiting in each),
        cores=min(waiting.cores for waiting in each),
        threads=max((waiting.threads for waiting in each if waiting.threads is not None), default=None),
        ran_s=total("ran_s"),
        waited_s=total("waited_s"),
        busy_s=total("busy_s"),
        stolen_s=total("stolen_s"),
        throttled_s=total("throttled_s"),
    )

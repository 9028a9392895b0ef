"""Timed queries of a session, and what its process waited for CPUs meanwhile."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Waiting:
    """Seconds that CPUs spent on a session's process and on others while it was timed, as its system counted.

    None: not counted there, which is not zero. What it means for a measurement: `search.waiting`.
    """

    seconds: float  # timed, by the clock
    cores: int  # that the process may use, by its affinity
    threads: int | None = None  # of the process that wanted a CPU for more than a moment
    ran_s: float | None = None  # summed over the threads
    waited_s: float | None = None  # ready to run and without a CPU, summed over the threads
    busy_s: float | None = None  # of the CPUs that the process may use, summed, whoever ran there
    stolen_s: float | None = None  # of these CPUs, when the hypervisor ran something else
    throttled_s: float | None = None  # when the CPU quota of a control group held threads back


@dataclass(frozen=True)
class TimedBlock:
    """Milliseconds of single queries, one after the other, and the waiting meanwhile.

    waited: per query, the share of the time that the threads waited, summed over them, in the queries around
    it; empty where the device does not tell.
    """

    ms: tuple[float, ...]
    waiting: Waiting
    waited: tuple[float, ...] = ()

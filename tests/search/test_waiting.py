"""Who took a session's time, from the kernel's counters, and which runs nothing disturbed."""

from __future__ import annotations

from dataclasses import dataclass

import pytest

from edgeprune.records.cpu_time import TimedBlock, Waiting
from edgeprune.search.waiting import RUN_WAITED, Taken, taken, together, undisturbed, without_waiting


def spent(seconds: float = 10.0, cores: int = 4, **counted: float) -> Waiting:
    return Waiting(seconds, cores, **counted)  # type: ignore[arg-type]


@dataclass(frozen=True)
class Case:
    name: str
    waiting: Waiting | None
    taken: Taken
    words: str = ""


CASES = (
    Case("no record", None, Taken(None, None, None, None)),
    Case("a system that counts nothing", spent(), Taken(None, None, None, None)),
    Case(
        "a quiet machine",
        spent(threads=1, ran_s=10.0, waited_s=0.0, busy_s=10.0, stolen_s=0.0, throttled_s=0.0),
        Taken(0.0, 0.0, 0.0, 0.0),
    ),
    Case(
        "one thread beside another process",
        spent(threads=1, ran_s=7.3, waited_s=2.7, busy_s=20.0),
        Taken(0.27, None, None, 0.0),
        "other processes took 27 % of its time",
    ),
    Case(
        "four threads on four CPUs, two of which others have for a tenth",
        spent(threads=4, ran_s=38.0, waited_s=2.0, busy_s=40.0),
        Taken(0.2, None, None, 0.0),
        "other processes took 20 % of its time",
    ),
    Case(
        "two threads on one CPU wait for each other",
        spent(cores=1, threads=2, ran_s=10.0, waited_s=10.0, busy_s=10.0),
        Taken(0.0, None, None, 1.0),
    ),
    Case(
        "two threads and another process on one CPU",
        spent(cores=1, threads=2, ran_s=7.0, waited_s=13.0, busy_s=10.0),
        Taken(pytest.approx(0.3), None, None, 1.0),  # type: ignore[arg-type]
        "other processes took 30 % of its time",
    ),
    Case(
        "two threads on one CPU, where nobody tells what else it did",
        spent(cores=1, threads=2, ran_s=7.0, waited_s=13.0),
        Taken(pytest.approx(0.3), None, None, 1.0),  # type: ignore[arg-type]
        "other processes took 30 % of its time",
    ),
    Case(
        "eight threads on four CPUs that are idle between queries",
        spent(threads=8, ran_s=20.0, waited_s=15.0, busy_s=20.1),
        Taken(pytest.approx(0.01), None, None, 1.0),  # type: ignore[arg-type]
        "other processes took 1 % of its time",
    ),
    Case(
        "a hypervisor, half of whose time was this process's to lose",
        spent(threads=1, ran_s=8.0, waited_s=0.0, busy_s=16.0, stolen_s=4.0),
        Taken(0.0, 0.2, None, 0.0),
        "the hypervisor took 20 % of its time",
    ),
    Case(
        "a quota, which shows as waiting, too",
        spent(threads=1, ran_s=5.0, waited_s=5.0, busy_s=5.0, throttled_s=4.8),
        Taken(pytest.approx(0.02), None, 0.48, 0.0),  # type: ignore[arg-type]
        "other processes took 2 % and a CPU quota withheld 48 % of its time",
    ),
)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_who_took_the_time(case: Case) -> None:
    found = taken(case.waiting)
    assert found == case.taken
    assert found.words == case.words
    assert found.much == (found.share > 0.02)


QUIET = spent(1.0, 2, threads=1, ran_s=1.0, waited_s=0.0, busy_s=1.0)


def block(waiting: Waiting, *waited: float) -> TimedBlock:
    return TimedBlock((1.0, 2.0, 3.0), waiting, waited)


def test_runs_that_waited_are_not_undisturbed() -> None:
    some = spent(1.0, 2, threads=1, ran_s=0.5, waited_s=0.5, busy_s=1.0)
    assert undisturbed(block(some, 0.0, 0.9, RUN_WAITED)) == [1.0, 3.0]
    assert undisturbed(block(some)) == [], "where runs are not told apart the block counts as a whole"
    assert undisturbed(block(QUIET, 0.0, 0.0, 0.0)) == [1.0, 2.0, 3.0]
    assert undisturbed(block(spent())) == [1.0, 2.0, 3.0], "nothing is known against them"


def test_what_is_counted_for_the_block_alone_takes_all_of_it() -> None:
    stolen = spent(1.0, 2, threads=1, ran_s=0.9, waited_s=0.0, busy_s=0.9, stolen_s=0.1)
    assert undisturbed(block(stolen, 0.0, 0.0, 0.0)) == []


def test_threads_that_wait_for_each_other_are_undisturbed() -> None:
    own = spent(1.0, 1, threads=2, ran_s=1.0, waited_s=1.0, busy_s=1.0)
    assert undisturbed(block(own, 1.0, 1.0, 1.0)) == [1.0, 2.0, 3.0]
    others = spent(1.0, 1, threads=2, ran_s=0.5, waited_s=1.0, busy_s=1.0)
    assert undisturbed(block(others, 1.0, 1.0, 1.0)) == []


def test_a_run_less_what_its_threads_waited_is_never_below_zero() -> None:
    assert without_waiting(block(QUIET, 0.0, 0.5, 3.0)) == [1.0, 1.0, 0.0]
    assert without_waiting(block(QUIET)) == [1.0, 2.0, 3.0]


def test_what_one_block_does_not_tell_is_not_known_of_a_session() -> None:
    both = together([QUIET, spent(2.0, 2, threads=3, ran_s=1.5, waited_s=0.5)])
    assert both == Waiting(3.0, 2, 3, 2.5, 0.5)
    assert together([]) is None

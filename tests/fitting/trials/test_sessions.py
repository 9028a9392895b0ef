"""How often a search measures one model, by how disturbed the machine is."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from edgeprune.errors import DeviceBusy
from edgeprune.fitting.trials.sessions import DENSE, DENSE_SESSIONS, MOST_SESSIONS, DeviceSide
from edgeprune.records.cpu_time import Waiting
from edgeprune.records.trial import DeviceState, Latency, Measurement

USUAL_MS = 10.0
# Drift, milliseconds of the model and of the reference, and what others took of the time, where that is told.
Sessions = list[tuple[float, ...]]


class Order:
    """Of a machine with these sessions, one after the other."""

    forecast = None

    def __init__(self, sessions: Sessions) -> None:
        self.sessions = iter(sessions)


class Machine(DeviceSide):
    def _session(self, *about: Any) -> Measurement:
        order: Any = self.order
        drift, ms, reference_ms, *lost = next(order.sessions)
        return Measurement(
            latency=Latency(ms, ms, ms, ms, 90, ms, 1000, 10.0, ms),
            added_mib=1.0,
            process_mib=1.0,
            size_mib=1.0,
            artefact_sha256="",
            runtime="",
            threads=1,
            batch=1,
            drift=drift,
            conclusive=True,
            state=DeviceState((), (), (), ()),
            reference_ms=reference_ms,
            waiting=Waiting(1.0, 2, 1, 1.0 - lost[0], lost[0], 1.0) if lost else None,
            set_aside=lost[1] if lost[1:] else 0.0,
        )


def measured(name: str, sessions: Sessions) -> tuple[int, Measurement]:
    """How many sessions there were, and the one that counts."""
    order: Any = Order(sessions)
    found = Machine(order, order, Path()).measure(name, lambda progress: None, USUAL_MS)
    return len(sessions) - len(list(order.sessions)), found


@pytest.mark.parametrize(
    ("sessions", "taken", "counts"),
    [
        ([(0.01, 5.0, 10.0)], 1, 0),
        ([(0.3, 9.0, 10.0), (0.01, 5.0, 10.0)], 2, 1),
        ([(0.3, 9.0, 10.0), (0.01, 6.0, 12.0), (0.02, 5.0, 10.1)], 3, 2),
        ([(0.3, 5.0, 10.0), (0.2, 6.1, 12.0)], 2, 1),
        ([(0.3, 5.0, 10.0), (0.1, 5.6, 10.0), (0.2, 6.1, 12.0)], 3, 2),
        ([(0.3, 5.0 + step, 10.0) for step in range(MOST_SESSIONS - 1)] + [(0.2, 20.0, 10.0)], 6, 5),
        ([(0.0, 8.0, 10.0, 0.3), (0.0, 8.0, 10.0, 0.3), (0.01, 5.0, 10.0, 0.01)], 3, 2),
        ([(0.01, 5.0, 10.0, 0.3, 0.4)], 1, 0),
    ],
    ids=[
        "steady",
        "one burst",
        "steady, and slower than usual",
        "two agree at different speeds",
        "the third agrees with the first",
        "none agree",
        "two that waited agree, and say nothing",
        "what waited is set aside",
    ],
)
def test_a_disturbed_session_is_repeated_until_one_is_steady_or_two_agree_about_the_dense_model(
    sessions: Sessions, taken: int, counts: int
) -> None:
    drift, ms, reference_ms, *_ = sessions[counts]
    found = measured("trial-01", [*sessions, (0.0, 1.0, 10.0)])
    assert (found[0], found[1].drift, found[1].reference_ms) == (taken, drift, reference_ms)
    assert found[1].latency.p50_ms == ms


@pytest.mark.parametrize(
    ("sessions", "ms"),
    [
        ([(0.01, 10.0, 11.0), (0.01, 12.0, 11.0), (0.01, 11.0, 11.0)], 11.0),
        ([(0.3, 10.0, 11.0), (0.3, 10.1, 11.0), (0.3, 10.2, 11.0)], 10.1),
        ([(0.3, 10.0, 1.0), (0.01, 15.0, 1.0), (0.3, 10.1, 1.0), (0.3, 9.9, 1.0)], 10.0),
        ([(0.3, 10.0 + step, 1.0) for step in range(MOST_SESSIONS)], 13.0),
        ([*[(0.0, 14.0, 14.0, 0.3)] * 3, *[(0.0, 10.0, 10.0, 0.0)] * 3], 10.0),
    ],
    ids=["steady", "alike", "the odd one", "neither", "three that waited"],
)
def test_budgets_are_made_of_three_sessions_of_the_dense_model_that_are_steady_or_agree(
    sessions: Sessions, ms: float
) -> None:
    taken, found = measured(DENSE, [*sessions, (0.0, 1.0, 1.0)])
    assert taken == len(sessions) >= DENSE_SESSIONS
    assert found.latency.p50_ms == found.reference_ms == ms, "its own runs, not those beside it"


@pytest.mark.parametrize("name", [DENSE, "trial-01"])
def test_sessions_that_all_waited_measure_nothing(name: str) -> None:
    with pytest.raises(DeviceBusy, match=rf"{name} cannot .* other processes took 27 % .* {MOST_SESSIONS} s"):
        measured(name, [(0.0, 5.0, 10.0, 0.27)] * MOST_SESSIONS)


@pytest.mark.parametrize("lost", [0.0, 0.27], ids=["steady at last", "never steady"])
def test_a_session_that_waited_never_counts_beside_one_that_did_not(lost: float) -> None:
    """The quiet one drifted; on a machine that is never steady it is all there is."""
    sessions = [(0.0, 9.0, 10.0, 0.27)] * (MOST_SESSIONS - 2) + [
        (0.3, 5.0, 10.0, 0.0),
        (0.0, 5.5, 10.0, lost),
    ]
    assert measured("trial-01", sessions)[1].latency.p50_ms == (5.0 if lost else 5.5)

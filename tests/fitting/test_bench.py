"""How often a search measures one model, by how disturbed the machine is."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from edgeprune.fitting.bench import MOST_SESSIONS, PATIENT, STEADY, Bench, Usual


class Machine(Bench):
    """One on which a session after the other drifts by so much, always as quick on the whole."""

    def _session(self, *about: Any) -> Any:
        return SimpleNamespace(drift=next(self.order.drifts), reference_ms=1.0)


def measured(drifts: list[float], usual: Usual) -> tuple[float, int]:
    """The drift of the session that counts, and how many there were."""
    order: Any = SimpleNamespace(forecast=None, drifts=iter(drifts))
    best: Any = Machine(order, order, Path()).measure("trial-01", lambda progress: None, usual)
    return best.drift, len(drifts) - len(list(order.drifts))


@pytest.mark.parametrize(
    ("drifts", "usual", "best", "sessions"),
    [
        ([0.01], 0.0, 0.01, 1),
        ([0.30, 0.01], 0.0, 0.01, 2),
        ([0.30, 0.20, 0.40, 0.25, 0.30, 0.50], 0.0, 0.20, MOST_SESSIONS),
        ([0.30, 0.20, 0.40], 0.21, 0.20, PATIENT),
        ([0.30, 0.28, 0.40, 0.20], 0.21, 0.20, PATIENT + 1),
        ([0.10, 0.09, STEADY], 0.5, STEADY, PATIENT),
    ],
    ids=[
        "steady",
        "one burst",
        "never, for the first time",
        "as usual",
        "worse than usual",
        "steady at last",
    ],
)
def test_a_disturbed_session_is_repeated_until_one_is_steady_or_from_the_third_as_usual(
    drifts: list[float], usual: float, best: float, sessions: int
) -> None:
    assert measured(drifts, Usual(1.0, usual)) == (best, sessions)


def test_what_is_usual_is_the_median_of_the_measurements_that_counted() -> None:
    found: Any = [SimpleNamespace(drift=drift, reference_ms=ms) for drift, ms in ((0.1, 1.0), (0.0, 1.2))]
    assert Usual.of(found, None) == Usual(None, pytest.approx(0.05))
    assert Usual.of(found, 1.0) == Usual(1.0, pytest.approx(0.15)), "slower than usual is disturbed, too"
    assert Usual.of([], None) == Usual()

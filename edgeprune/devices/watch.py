"""Watch over a device's state while a session runs on it."""

from __future__ import annotations

import fnmatch
import time
from collections.abc import Sequence

from edgeprune.devices import Session
from edgeprune.records.trial import DeviceState

STATE_SECONDS = 1.0  # how often the device's state is read between blocks


class Watch:
    """The device's state during a session, read before, about once a second between blocks, and after."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._before = dict(session.state())
        self._during = dict(self._before)
        self._last = time.monotonic()

    def glance(self) -> None:
        if time.monotonic() - self._last < STATE_SECONDS:
            return
        for name, text in self._session.state().items():
            before = self._before.get(name, "")
            if _distance(before, text) > _distance(before, self._during.get(name, before)):
                self._during[name] = text
        self._last = time.monotonic()

    def finish(self, throttle: Sequence[str]) -> DeviceState:
        after = dict(self._session.state())
        watched = [
            name
            for name in {**self._before, **after}
            if any(name == flag or fnmatch.fnmatchcase(name, flag) for flag in throttle)
        ]
        moved = [
            name
            for name in watched
            if not self._before.get(name) == self._during.get(name) == after.get(name)
        ]
        return DeviceState(
            before=tuple(self._before.items()),
            during=tuple(self._during.items()),
            after=tuple(after.items()),
            moved=tuple(moved),
        )


def _distance(before: str, now: str) -> float:
    """The distance of two readings: the difference of numbers; 1 for other texts that differ."""
    try:
        return abs(float(now.split()[0]) - float(before.split()[0]))
    except (ValueError, IndexError):
        return float(before != now)

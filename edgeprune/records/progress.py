"""Progress events of a long-running verb."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class Event:
    """Progress of a run at one moment.

    stage: the trial or check it belongs to ("dense", "trial-02"); doing: what happens now.
    share: how much of it is done, 0 to 1, None when unknown; seconds_left: of the whole run, likewise.
    lasting: `doing` is a sentence to be read later too, not what happens just now.
    ended: the stage is over, and `doing` tells what came of it, for a log of the run.
    """

    stage: str
    doing: str
    share: float | None = None
    seconds_left: float | None = None
    lasting: bool = False
    ended: bool = False


Listen = Callable[[Event], None]


class Remarks:
    """Listener that hands events on and keeps the sentences to be read later, each once."""

    def __init__(self, listen: Listen) -> None:
        self._listen = listen
        self._said: dict[str, None] = {}

    def __call__(self, event: Event) -> None:
        if event.lasting:
            self._said[event.doing] = None
        self._listen(event)

    @property
    def said(self) -> tuple[str, ...]:
        """Sentences so far, in order."""
        return tuple(self._said)

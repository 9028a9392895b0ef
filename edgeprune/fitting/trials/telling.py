"""Progress of a run as its listener hears it, with an estimate of the time left."""

from __future__ import annotations

import logging
from collections.abc import Callable

from edgeprune.measure import PROOF, Progress
from edgeprune.records.progress import Event, Listen

USUAL_TRIALS = 7  # dense, dense INT8, a few pruned, and one that is trained

_log = logging.getLogger(__name__)


class Telling:
    """Events of one run, for all of its budgets."""

    def __init__(self, listen: Listen) -> None:
        self._listen = listen
        self._seconds: list[float] = []
        self._ended: set[tuple[str, str]] = set()

    def took(self, seconds: float) -> None:
        """Count the seconds of a trial, for the estimate."""
        self._seconds.append(seconds)

    def tell(self, name: str, doing: str, share: float | None = None) -> None:
        """Tell what is being done for a trial or a step, and which share of it is done."""
        if share is None:
            _log.debug("%s: %r", name, doing)
        self._listen(Event(name, doing, share, self._seconds_left()))

    def note(self, name: str, sentence: str) -> None:
        """Tell a sentence that is worth reading later, too."""
        _log.info("%s: %r", name, sentence)
        self._listen(Event(name, sentence, lasting=True))

    def ended(self, name: str, line: str) -> None:
        """Tell what came of a trial or of its proof, each once."""
        if (name, line) not in self._ended:
            self._ended.add((name, line))
            self._listen(Event(name, line, 1.0, self._seconds_left(), ended=True))

    def measuring(self, name: str, word: str = "measuring") -> Callable[[Progress], None]:
        """Listener of a session with a trial."""

        def tell(progress: Progress) -> None:
            self.tell(name, f"{word}, median {progress.p50_ms:.2f} ms", progress.share)

        return tell

    def _seconds_left(self) -> float | None:
        """Estimate from the trials so far: the usual number of them, a training and a proof."""
        if not self._seconds:
            return None
        one = sum(self._seconds) / len(self._seconds)
        return max(1, USUAL_TRIALS - len(self._seconds)) * one + 2 * PROOF.seconds

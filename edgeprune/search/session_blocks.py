"""Blocks of a session: runs of an artefact and of its reference, in turn, and those of them that count."""

from __future__ import annotations

from dataclasses import dataclass

from edgeprune.records.cpu_time import TimedBlock, Waiting
from edgeprune.search.judge import at_usual_speed
from edgeprune.search.waiting import taken, together, undisturbed, without_waiting


@dataclass(frozen=True)
class BlockTimes:
    """Milliseconds per run, block by block in time."""

    artefact: list[list[float]]
    reference: list[list[float]]

    @property
    def runs(self) -> int:
        return sum(map(len, self.artefact))

    @property
    def seconds(self) -> float:
        """Time that the artefact's runs took."""
        return sum(map(sum, self.artefact)) / 1e3


class SessionBlocks:
    """Blocks of a session, in turn, the artefact's first.

    interleaved: with a reference. every: all runs; free: those that nothing disturbed; at_best: the
    artefact's runs less what they waited.
    """

    def __init__(self, interleaved: bool) -> None:
        self.interleaved = interleaved
        self.every, self.free = BlockTimes([], []), BlockTimes([], [])
        self.at_best: list[list[float]] = []
        self._waiting: list[Waiting] = []
        self._beside: list[Waiting] = []

    @property
    def waiting(self) -> Waiting | None:
        """The artefact's."""
        return together(self._waiting)

    @property
    def waited(self) -> bool:
        """Whether the artefact or its reference waited much."""
        return taken(self.waiting).much or taken(together(self._beside)).much

    def add(self, block: TimedBlock) -> None:
        self.every.artefact.append(list(block.ms))
        self.free.artefact.append(undisturbed(block))
        self.at_best.append(without_waiting(block))
        self._waiting.append(block.waiting)

    def add_reference(self, block: TimedBlock) -> None:
        self.every.reference.append(list(block.ms))
        self.free.reference.append(undisturbed(block))
        self._beside.append(block.waiting)

    def counted(self, percentile: int, usual_ms: float | None) -> BlockTimes:
        """Runs that a search counts: that nothing disturbed, and below the median beside a reference of its
        usual speed. A higher percentile is about slow spells, too, and a proof will see them."""
        free = self.free
        if usual_ms is not None and percentile < 50:
            return BlockTimes(*at_usual_speed(free.artefact, free.reference, percentile, usual_ms))
        return BlockTimes(*([block for block in side if block] for side in (free.artefact, free.reference)))

"""The zoo: the architectures that edgeprune must prune from the graph alone."""

from __future__ import annotations

from benchmarks.zoo import language, series, vision
from benchmarks.zoo.entry import Entry

ENTRIES: tuple[Entry, ...] = (*vision.ENTRIES, *language.ENTRIES, *series.ENTRIES)

__all__ = ["ENTRIES", "Entry"]

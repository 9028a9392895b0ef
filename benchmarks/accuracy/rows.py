"""Rows of the accuracy benchmark, one line of JSON each, and the goals that they are held against."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from edgeprune.records.codec import dumps, from_json, loads, to_json

OURS = "edgeprune"
PEERS = ("Torch-Pruning L2", "Torch-Pruning Taylor", "Torch-Pruning Hessian")


@dataclass(frozen=True)
class Row:
    """One method in one case. Metrics are of the evaluation data, as the task returns them.

    share: of the dense INT8 model's latency (or of the parameters), which is the budget; None without one.
    dense, before, after: in float, of the dense model, of the pruned one before and after its training.
    int8: in INT8, in the runtime. ratio: latency over the dense INT8 model's, in turn.
    used: of the latency budget. seconds: of everything, training included. builds: measured on the way.
    out_of_reach: latency of the method's smallest model over the budget, where that is too slow.
    speed_up, size_ratio: over the dense float model, by latency in turn and by the files' sizes.
    """

    case: str
    method: str
    share: float | None
    images: int
    epochs: int
    minutes: float | None
    seconds: float
    dense: float | None = None
    before: float | None = None
    after: float | None = None
    int8: float | None = None
    ratio: float | None = None
    used: float | None = None
    builds: int = 0
    out_of_reach: float | None = None
    speed_up: float | None = None
    size_ratio: float | None = None
    peak_gib: float | None = None
    note: str = ""
    version: str = ""

    @property
    def key(self) -> tuple[object, ...]:
        return (self.case, self.method, self.share, self.images, self.epochs, self.minutes)

    @property
    def last(self) -> float | None:
        """The metric of what is served: in INT8 where that was built."""
        return next((found for found in (self.int8, self.after, self.before) if found is not None), None)

    @property
    def lost(self) -> float | None:
        """Points of the metric, of what is served."""
        return None if self.last is None or self.dense is None else 100 * (self.dense - self.last)


@dataclass(frozen=True)
class Goal:
    """What our row of a case must reach.

    lost: points of the metric at most. reach: the metric in percent at least. margin: points by which every
    peer that gets to the latency is beaten. used: share of the budget at least. speed_up, smaller: over the
    dense float model. kept: share of its metric. minutes, gib: of time and of memory at most.
    """

    lost: float | None = None
    reach: float | None = None
    margin: float | None = None
    used: float | None = None
    speed_up: float | None = None
    smaller: float | None = None
    kept: float | None = None
    minutes: float | None = None
    gib: float | None = None

    def parts(self, row: Row, peers: Iterable[Row]) -> list[tuple[str, bool | None]]:
        """Each demand in words and whether the row meets it; None where the figure is not there."""
        found: list[tuple[str, bool | None]] = []
        found += _part(self.lost, "lost at most {:g}", row.lost, most=True)
        found += _part(self.reach, "at least {:g} %", _percent(row.last), most=False)
        found += _part(self.used, "at least {:.0%} of the budget used", row.used, most=False)
        found += _part(self.speed_up, "{:g}x as fast", row.speed_up, most=False)
        smaller = None if row.size_ratio is None else 1 / row.size_ratio
        found += _part(self.smaller, "{:g}x smaller", smaller, most=False)
        kept = None if row.last is None or row.dense is None else row.last / row.dense
        found += _part(self.kept, "{:.0%} of the metric kept", kept, most=False)
        found += _part(self.minutes, "at most {:g} minutes", row.seconds / 60, most=True)
        found += _part(self.gib, "at most {:g} GiB", row.peak_gib, most=True)
        if self.margin is not None:
            tried = [peer for peer in peers if peer.last is not None or peer.out_of_reach is not None]
            words = f"{self.margin:g} above every peer" if self.margin else "above every peer"
            rivals = [peer for peer in tried if peer.out_of_reach is None]
            known = bool(tried) and row.last is not None
            ahead = known and all(_ahead(row, peer, self.margin) for peer in rivals)
            found.append((f"{words} that gets there", ahead if known else None))
        return found


def _part(
    limit: float | None, words: str, value: float | None, *, most: bool
) -> list[tuple[str, bool | None]]:
    if limit is None:
        return []
    met = None if value is None else (value <= limit if most else value >= limit)
    return [(words.format(limit), met)]


def _ahead(row: Row, peer: Row, margin: float) -> bool:
    if row.last is None or peer.last is None:
        raise ValueError("rows without a metric are not compared")
    gain = 100 * (row.last - peer.last)
    return gain >= margin if margin else gain > 0


def _percent(value: float | None) -> float | None:
    return None if value is None else 100 * value


def read(path: Path) -> list[Row]:
    """Rows of a file, the last of each key, in the order in which their keys came."""
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    rows = [from_json(Row, loads(line.encode(), str(path))) for line in lines if line]
    return list({row.key: row for row in rows}.values())


def add(path: Path, row: Row) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a", encoding="utf-8") as file:
        file.write(dumps(to_json(row)) + "\n")


def peers_of(row: Row, rows: Sequence[Row]) -> list[Row]:
    """Rows of the peers that had what `row` had."""
    return [other for other in rows if other.method in PEERS and _alike(other) == _alike(row)]


def _alike(row: Row) -> tuple[object, ...]:
    return (row.case, row.share, row.images, row.epochs, row.minutes)

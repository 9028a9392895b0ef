"""Measurements and proofs of an artefact on a device: sessions, blocks, a reference, repetition.

A session follows MLPerf's SingleStream: a fresh process, synchronous queries one at a time, real inputs.
A proof also runs a reference artefact in a second process, block by block in turn (A B A B ... A). The
reference does the same work all the time, so when it gets slower or faster the machine changed. The artefact
does, too: what it feels and the reference does not (another working set, its own heat) counts as much. Such a
session still proves a fit when even its slowest third is within the budget, because a disturbance can
only make a model look slower than it is; it never proves a miss. The same goes for a session whose process
waited for CPUs that other processes had, which the device's kernel counts (`search.waiting`), and for one in
which the reference was slower than it is known to be. docs/decisions/003 has the figures.

A search wants the model's own latency: runs that waited are set aside, and the session is longer for it.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace

import numpy as np

from edgeprune.devices import Device, Feeds, Load, Session
from edgeprune.devices.artefact import artefact_sha256, artefact_size_mib
from edgeprune.devices.watch import Watch
from edgeprune.errors import DeviceError, InputError
from edgeprune.records.trial import Latency, Measurement, allowed_ms
from edgeprune.search.judge import (
    PROOF_SESSIONS,
    USUAL_SPEED,
    SessionBound,
    early_stopping_floor,
    early_stopping_rank,
    session_bound,
    speed_ms,
    summarise,
)
from edgeprune.search.session_blocks import BlockTimes, SessionBlocks
from edgeprune.search.waiting import taken, undisturbed

WARM_UP_SECONDS = 0.2
BLOCK_SECONDS = 0.4  # of the artefact; the reference gets half as much, it only has to show drift
SHORT_SECONDS = 0.2  # of a block that is to lie between two changes of the machine's speed
PATIENCE = 3  # times its effort that a session takes to find enough runs that nothing disturbed
PACE_BLOCKS = 10  # of SHORT_SECONDS, in which the median of a tiny model is found

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Effort:
    """The least length of a session: `runs` timed queries and `seconds` of them.

    interleaved: with a reference in turn, as a proof needs.
    """

    runs: int
    seconds: float
    interleaved: bool = False


SEARCH = Effort(runs=64, seconds=0.8)
PROOF = Effort(runs=662, seconds=10.0, interleaved=True)


@dataclass(frozen=True)
class Progress:
    """Runs and seconds of a session so far, told to `listen` after each block of the artefact."""

    runs: int
    seconds: float
    effort: Effort
    p50_ms: float

    @property
    def share(self) -> float:
        """Between 0 and 1."""
        return min(1.0, self.runs / self.effort.runs, self.seconds / self.effort.seconds)


Listen = Callable[[Progress], None]


@dataclass(frozen=True)
class Proof:
    """The last session of a proof, and all in order: inconclusive ones are repeated, never averaged."""

    measurement: Measurement
    tried: tuple[Measurement, ...]


def measure(
    device: Device,
    load: Load,
    feeds: Sequence[Feeds],
    *,
    percentile: int,
    effort: Effort = SEARCH,
    latency_ms: float | None = None,
    speedup: float | None = None,
    reference: Load | None = None,
    usual_ms: float | None = None,
    searching: bool = False,
    sensors: Sequence[str] = (),
    throttle: Sequence[str] = (),
    listen: Listen | None = None,
) -> Measurement:
    """One session of an artefact in a fresh process on the device.

    feeds: inputs by name, all of one batch size; they take turns from block to block.
    percentile, latency_ms, speedup: of the budget, for the bound and for what the slowest third of a session
        that drifted must keep to be conclusive. A speed-up is held against the reference, the dense model.
    reference: runs in turn with the artefact, by default (in an interleaved effort) the same artefact.
    usual_ms: of the reference: a session in which it is slower proves no miss.
    searching: disturbed runs do not count where the others are half of the effort, or have a bound.
    sensors, throttle: read before, during and after; a `throttle` reading that moved marks the session.
    Raises `InputError` when there are no feeds, `DeviceError` when the device fails.
    """
    batch = _batch(feeds)
    size_mib, sha256 = artefact_size_mib(load.artefact), artefact_sha256(load.artefact)
    dense = reference is not None and not searching
    reference = reference or (load if effort.interleaved else None)
    with ExitStack() as stack:
        artefact, other = _warm(stack, device, load, reference, feeds[0], (*sensors, *throttle))
        turn = _Turn(artefact, other, feeds, effort, percentile, usual_ms, searching)
        blocks, timed = turn.timed(watch := Watch(artefact), listen)
        state = watch.finish(throttle)
        memory = artefact.memory()
    reference_ms, exact_ms, low_ms = _beside(timed.reference, percentile, dense)
    low_ms = _at_most(low_ms, latency_ms, speedup) if blocks.waited else low_ms
    limit_ms = allowed_ms(latency_ms, speedup, low_ms, reference_ms, usual_ms)
    pace = reference_ms / usual_ms if reference_ms and usual_ms else 1.0
    latency, shown = _bounded(timed, blocks, percentile, limit_ms, pace, speedup is not None)
    found = Measurement(
        *(latency, memory.added_mib, size_mib, sha256),
        process_mib=memory.process_mib,
        runtime=artefact.runtime_version,
        threads=load.threads,
        batch=batch,
        drift=None if shown is None else shown.drift,
        conclusive=(shown is None or shown.conclusive) and not state.moved,
        state=state,
        reference_ms=reference_ms,
        usual_ms=usual_ms,
        dense_percentile_ms=exact_ms,
        dense_low_ms=low_ms,
        waiting=blocks.waiting,
        set_aside=1 - timed.runs / blocks.every.runs,
    )
    _log_session(device.name, load, found)
    return found


def _warm(
    stack: ExitStack,
    device: Device,
    load: Load,
    reference: Load | None,
    feed: Feeds,
    sensors: Sequence[str],
) -> tuple[Session, Session | None]:
    """Sessions of an artefact and its reference, warmed up; `stack` ends them."""
    artefact = stack.enter_context(device.start(load, sensors=sensors))
    other = None if reference is None else stack.enter_context(device.start(reference))
    for session in (other, artefact):
        if session is not None:
            session.warm_up(feed, WARM_UP_SECONDS)
    return artefact, other


def _beside(
    reference: Sequence[Sequence[float]], percentile: int, dense: bool
) -> tuple[float | None, float | None, float | None]:
    """Speed of a reference that ran in turn; of a dense model its percentile and lower bound, too."""
    if not reference:
        return None, None, None
    runs = np.concatenate(reference)
    speed = speed_ms(runs, percentile)
    if not dense:
        return speed, None, None
    exact_ms = float(np.percentile(runs, percentile, method="inverted_cdf"))
    return speed, exact_ms, early_stopping_floor(runs, percentile)


def _at_most(low_ms: float | None, latency_ms: float | None, speedup: float | None) -> float | None:
    """Lower bound of a dense model that waited: as quick as usual, for its waiting speeds nothing up."""
    if low_ms is None or latency_ms is None or speedup is None:
        return low_ms
    return min(low_ms, latency_ms * speedup)


def _bounded(
    timed: BlockTimes,
    blocks: SessionBlocks,
    percentile: int,
    latency_ms: float | None,
    pace: float,
    relative: bool,
) -> tuple[Latency, SessionBound | None]:
    """Latency of the runs that count; its bound by the rule of a proof where there was a reference.

    pace: of the machine, the reference's milliseconds in times of its usual ones. relative: whether the
    budget moves with it. At best, runs do not wait, and the machine is as quick as usual.
    """
    latency = summarise([ms for block in timed.artefact for ms in block], percentile, timed.seconds)
    if not blocks.interleaved:
        return latency, None
    shown = session_bound(
        timed.artefact,
        timed.reference,
        percentile,
        latency_ms,
        disturbed=pace > USUAL_SPEED or taken(blocks.waiting).much,
        at_best=[[ms / (1.0 if relative else max(1.0, pace)) for ms in block] for block in blocks.at_best],
    )
    return replace(latency, bound_ms=shown.bound_ms), shown


def prove(
    device: Device,
    load: Load,
    feeds: Sequence[Feeds],
    *,
    percentile: int,
    effort: Effort = PROOF,
    latency_ms: float | None = None,
    speedup: float | None = None,
    reference: Load | None = None,
    usual_ms: float | None = None,
    sensors: Sequence[str] = (),
    throttle: Sequence[str] = (),
    listen: Listen | None = None,
    tries: int = PROOF_SESSIONS,
) -> Proof:
    """A proof: sessions until one is conclusive, at most `tries`; arguments as for `measure`."""
    tried: list[Measurement] = []
    while len(tried) < max(1, tries) and not (tried and tried[-1].conclusive):
        tried.append(
            measure(
                device,
                load,
                feeds,
                percentile=percentile,
                effort=effort,
                latency_ms=latency_ms,
                speedup=speedup,
                reference=reference,
                usual_ms=usual_ms,
                sensors=sensors,
                throttle=throttle,
                listen=listen,
            )
        )
    return Proof(tried[-1], tuple(tried))


def _log_session(device: str, load: Load, found: Measurement) -> None:
    latency = found.latency
    _log.info(
        "%r on %r: p50 %.4g, p90 %.4g, p99 %.4g ms, bound of p%d %s ms, %d runs in %.1f s; "
        "%.1f MiB of memory, %.3f MiB of files; drift %s, reference %s ms, %s, %s%s",
        *("/".join(load.artefact.parts[-2:]), device),
        *(latency.p50_ms, latency.p90_ms, latency.p99_ms),
        *(latency.percentile, _figure(latency.bound_ms), latency.runs, latency.seconds),
        *(found.memory_mib, found.size_mib, _figure(found.drift), _figure(found.reference_ms)),
        taken(found.waiting).words or "nothing took its time",
        "conclusive" if found.conclusive else "inconclusive",
        f", moved: {', '.join(map(repr, found.state.moved))}" if found.state.moved else "",
    )


def _figure(value: float | None) -> str:
    return "unknown" if value is None else f"{value:.4g}"


def pace_ms(device: Device, load: Load, feeds: Feeds) -> float | None:
    """Median milliseconds of a model's queries that nothing disturbed; None when all of them waited."""
    found: list[float] = []
    with device.start(load) as session:
        session.warm_up(feeds, WARM_UP_SECONDS)
        for _ in range(PACE_BLOCKS):
            found += undisturbed(session.time(feeds, runs=1, seconds=SHORT_SECONDS))
    return float(np.median(found)) if found else None


@dataclass(frozen=True)
class _Turn:
    """Artefact and reference in turn, A B A B ... A, until the effort is spent on runs that count."""

    artefact: Session
    reference: Session | None
    feeds: Sequence[Feeds]
    effort: Effort
    percentile: int
    usual_ms: float | None
    searching: bool

    def timed(self, watch: Watch, listen: Listen | None) -> tuple[SessionBlocks, BlockTimes]:
        """All blocks, and the times that count."""
        blocks, effort = SessionBlocks(self.reference is not None), self.effort
        patience = PATIENCE if self.searching else 1
        longest = SHORT_SECONDS if self.searching else BLOCK_SECONDS
        counted = every = blocks.every
        while not _spends(counted, effort) and not _spends(every, effort, patience):
            feed = self.feeds[len(every.artefact) % len(self.feeds)]
            if self.reference is not None and every.artefact:
                blocks.add_reference(self.reference.time(feed, runs=1, seconds=longest / 2))
            block = self.artefact.time(feed, runs=1, seconds=min(longest, effort.seconds))
            if not block.ms:
                raise DeviceError(
                    "The device answered a timing request without a single run.", "Check its agent's version."
                )
            blocks.add(block)
            if self.searching:
                counted = blocks.counted(self.percentile, self.usual_ms)
            watch.glance()
            if listen is not None:
                listen(Progress(counted.runs, counted.seconds, effort, float(np.median(block.ms))))
        return blocks, counted if _spends(counted, effort, 0.5) else self._at_least(blocks)

    def _at_least(self, blocks: SessionBlocks) -> BlockTimes:
        """Runs of a session that found too few: those that did not wait where they have a bound, or all."""
        free = blocks.counted(self.percentile, None)
        few = early_stopping_rank(free.runs, self.percentile) is None or not free.reference
        return blocks.every if few or not self.searching else free


def _spends(blocks: BlockTimes, effort: Effort, times: float = 1) -> bool:
    return blocks.runs >= times * effort.runs and blocks.seconds >= times * effort.seconds


def _batch(feeds: Sequence[Feeds]) -> int:
    if not feeds:
        raise InputError("There are no inputs to time the model with.", "Give at least one example input.")
    first = next(iter(feeds[0].values()))
    return int(first.shape[0]) if first.ndim else 1

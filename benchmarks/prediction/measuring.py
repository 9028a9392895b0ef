"""Measuring a table and the candidates that it is judged by; kept on disk, where that is wished."""

from __future__ import annotations

import gc
import re
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from math import inf
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.prediction.subject import MULTIPLE, Subject
from edgeprune.devices import Load, agent
from edgeprune.devices.local import LocalDevice
from edgeprune.files import write
from edgeprune.latency.curves import LatencyTable
from edgeprune.latency.measured import (
    PROFILE_RUNS,
    Prediction,
    designs,
    measure_table,
    predicting,
    prediction,
)
from edgeprune.latency.operators import Node, Nodes
from edgeprune.records.codec import dumps, from_json, loads, to_json

ROUNDS = 4  # in which the machine was quiet
MOST_ROUNDS = 16
BLOCK_SECONDS = 0.06
QUIET = 1.02  # times the quickest block


@dataclass(frozen=True)
class Candidate:
    """profile: milliseconds by node, with a profile."""

    widths: tuple[tuple[str, int], ...]
    ms: float
    profile: tuple[tuple[str, float], ...]


@dataclass(frozen=True)
class Measured:
    """A table, and what it is judged by: all that a prediction needs, without the model.

    seconds: that the table took, exports included. dense_ms: beside the candidates, not beside the table.
    """

    nodes: tuple[Node, ...]
    table: LatencyTable
    seconds: float
    dense_ms: float
    candidates: tuple[Candidate, ...]

    @cached_property
    def prediction(self) -> Prediction:
        return predicting(self.nodes, self.table)

    def guess(self, candidate: Candidate) -> float:
        """Milliseconds, at the machine's speed beside the candidates: so a fit compares, too."""
        return self.dense_ms / self.table.reference_ms * self.prediction.ms(dict(candidate.widths))


def kept(folder: Path | None, name: str, measure: Callable[[], Measured]) -> Measured:
    """From the folder, or measured and put there."""
    if folder is None:
        return measure()
    path = folder / f"{re.sub('[^a-z0-9]+', '-', name.lower())}.json"
    if not path.is_file():
        folder.mkdir(parents=True, exist_ok=True)
        write(path, dumps(to_json(measure())).encode())
    return from_json(Measured, loads(path.read_bytes(), str(path)))


def measured(subject: Subject, runtime: str, precision: str, count: int) -> Measured:
    emit, device, wanted = (
        subject.emitter(runtime, precision),
        LocalDevice(),
        designs(subject.coupling, MULTIPLE),
    )
    load = Load(runtime, subject.artefact(wanted[0], "dense", emit), 1)
    started = time.monotonic()
    table = measure_table(device, load, subject.resizable, emit, subject.feed, wanted)
    seconds = time.monotonic() - started + subject.learning_seconds
    drawn = [subject.drawn(seed) for seed in range(1, count + 1)]
    files = [subject.artefact(widths, str(at), emit) for at, widths in enumerate([wanted[0], *drawn])]
    nodes = Nodes(subject.resizable)
    profiles = []
    for file in files[1:]:
        with device.start(replace(load, artefact=file, profile=True)) as session:
            profiles.append(nodes.shares(session.operators(subject.feed, runs=PROFILE_RUNS)))
    dense_ms, *ms = in_turn(runtime, files, subject.feed)
    return Measured(
        nodes=tuple(prediction(subject.resizable, table).nodes.values()),
        table=table,
        seconds=seconds,
        dense_ms=dense_ms,
        candidates=tuple(
            Candidate(_pairs(widths), own, _pairs(profile))
            for widths, own, profile in zip(drawn, ms, profiles, strict=True)
        ),
    )


def _pairs(found: Mapping[str, Any]) -> tuple[tuple[str, Any], ...]:
    return tuple(found.items())


def in_turn(runtime: str, files: list[Path], feed: Mapping[str, Any]) -> list[float]:
    """Milliseconds of each file at the machine's best speed; the first takes turns with each other one."""
    module = agent.load_session(runtime)
    gc.freeze()  # every block collects garbage first, and torch leaves a heap to look through
    dense = module.Runner(str(files[0]), 1)
    _block(dense, feed)
    relative, best = [], inf
    for file in files[1:]:
        runner = module.Runner(str(file), 1)
        _block(runner, feed)
        rounds: list[tuple[float, float]] = []
        while len(rounds) < MOST_ROUNDS and _quiet(rounds) < ROUNDS:
            rounds.append((_block(dense, feed), _block(runner, feed)))
        reference = min(ms for ms, _ in rounds)
        relative.append(min(ms for _, ms in rounds) / reference)
        best = min(best, reference)
    return [best, *(best * each for each in relative)]


def _quiet(rounds: Sequence[tuple[float, float]]) -> int:
    """Rounds that are near the fastest of both models."""
    quickest = [min(column) for column in zip(*rounds, strict=True)]
    return sum(all(ms <= QUIET * best for ms, best in zip(each, quickest, strict=True)) for each in rounds)


def _block(runner: Any, feed: Mapping[str, Any]) -> float:
    return median(agent.timed(runner, feed, 3, BLOCK_SECONDS, agent.Record()))

"""Answers of a device: the one place where what it sent becomes values that the rest of edgeprune trusts.

A device may be broken, or lie. Whatever it sent, each reader gives a value of the type, range and length that
it says, or raises a `DeviceError` that names the device, the request and the field. Texts are tame
(`foreign.tame`). What remains possible is a plausible lie: a verdict is about what the device answered.
"""

from __future__ import annotations

import math
import reprlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeprune.devices import Machine, Memory, Operator
from edgeprune.devices.frames import MAX_ARRAYS
from edgeprune.errors import DeviceError
from edgeprune.foreign import tame
from edgeprune.records.bundle import Port
from edgeprune.records.cpu_time import TimedBlock, Waiting
from edgeprune.runtimes import TABLE

MOST_CORES = 1 << 16
MOST_MIB = float(1 << 30)  # a PiB
MOST_COUNTED = 1 << 40
MOST_OPERATORS = 1 << 16
MOST_READINGS = 1 << 14
MOST_NAMED, MOST_WORDS, MOST_READING, MOST_REASON = 300, 100, 4096, 2000  # characters
QUERIES_PER_S = 1e7  # nothing answers quicker, so no more times are due
LEAST_TIMED = 0.1  # of the seconds asked for, that the queries must have taken
CLOCK_FACTOR, CLOCK_MS = 1.1, 500.0  # how far the clocks of host and device may differ
VALUE_BYTES = 16  # of the largest number

_HINT = "Do not trust its figures: check the device, its agent's folder (`workdir`) and its runtime."


@dataclass(frozen=True)
class Field:
    """Value of an answer and its path, e.g. `operators[3].ms`; it is read by the method of its type."""

    device: str
    request: str
    path: str
    value: object

    def wrong(self, expected: str) -> DeviceError:
        shown = tame(reprlib.repr(self.value), 60)
        return DeviceError(
            f"Device {self.device} answered {self.request!r} with {self.path} = {shown}, "
            f"expected {expected}.",
            _HINT,
        )

    def text(self, most: int) -> str:
        """A text for people, tamed and cut."""
        if not isinstance(self.value, str):
            raise self.wrong("a text")
        return tame(self.value, most)

    def name(self, most: int = MOST_NAMED) -> str:
        """A name that something is found by: exact, so one that cannot be printed is refused."""
        if not isinstance(self.value, str) or not self.value.isprintable() or len(self.value) > most:
            raise self.wrong(f"a name of at most {most} printable characters")
        return self.value

    def count(self, least: int, most: int) -> int:
        if type(self.value) is not int or not least <= self.value <= most:
            raise self.wrong(f"a whole number, {least} to {most}")
        return self.value

    def number(self, least: float, most: float) -> float:
        value = self.value
        if type(value) not in (int, float) or not least <= value <= most:  # type: ignore[operator]
            raise self.wrong(f"a number, {least:g} to {most:g}")
        return float(value)  # type: ignore[arg-type]

    def items(self, most: int) -> list[Field]:
        if not isinstance(self.value, list) or len(self.value) > most:
            raise self.wrong(f"a list of at most {most}")
        return [self._below(f"{self.path}[{at}]", item) for at, item in enumerate(self.value)]

    def entries(self, most: int) -> dict[str, Field]:
        if not isinstance(self.value, dict) or len(self.value) > most:
            raise self.wrong(f"an object of at most {most}")
        return {key: self._below(f"{self.path}.{tame(key, 60)}", item) for key, item in self.value.items()}

    def entry(self, key: str) -> Field:
        if not isinstance(self.value, dict) or key not in self.value:
            raise self._below(f"{self.path}.{key}", None).wrong("a value")
        return self._below(f"{self.path}.{key}", self.value[key])

    def shape(self) -> tuple[int, ...]:
        return tuple(size.count(0, MOST_COUNTED) for size in self.items(64))

    def _below(self, path: str, value: object) -> Field:
        return Field(self.device, self.request, path.removeprefix("answer."), value)


@dataclass(frozen=True)
class Reply:
    """A decoded answer; seconds: that the host waited for it."""

    device: str
    request: str
    header: Mapping[str, object]
    arrays: Mapping[str, NDArray[Any]]
    seconds: float

    def __getitem__(self, key: str) -> Field:
        return Field(self.device, self.request, "answer", dict(self.header)).entry(key)

    def __contains__(self, key: str) -> bool:
        return key in self.header

    def array(self, name: str, kinds: str, shape: tuple[int | None, ...]) -> NDArray[Any]:
        """An array of a dtype of these kinds and this shape; None is any size."""
        found = self.arrays.get(name)
        told = None if found is None else f"{found.dtype.name} {list(found.shape)}"
        fits = found is not None and found.dtype.kind in kinds and len(found.shape) == len(shape)
        if (
            found is None
            or not fits
            or any(w not in (None, s) for w, s in zip(shape, found.shape, strict=True))
        ):
            due = f"an array of {list(shape)}, of a dtype of the kinds {kinds!r}"
            raise Field(self.device, self.request, f"array {name!r}", told).wrong(due)
        return found


@dataclass(frozen=True)
class Loaded:
    """Runtime's version and names of the ports of a session, in the model's order."""

    version: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]


def read_machine(answer: Reply) -> Machine:
    """The machine as its agent describes it."""
    runtimes = answer["runtimes"].entries(64)
    for name, field in runtimes.items():
        if name not in TABLE:
            raise field.wrong(f"one of the runtimes {', '.join(TABLE)}")
    return Machine(
        architecture=answer["architecture"].text(MOST_WORDS),
        processor=answer["processor"].text(MOST_NAMED),
        cores=answer["cores"].count(1, MOST_CORES),
        memory_mib=answer["memory_mib"].number(0, MOST_MIB),
        isa=tuple(flag.text(MOST_WORDS) for flag in answer["isa"].items(256)),
        system=answer["system"].text(MOST_NAMED),
        python=answer["python"].text(MOST_WORDS),
        runtimes=tuple(sorted((name, field.text(MOST_WORDS)) for name, field in runtimes.items())),
    )


def read_loaded(answer: Reply) -> Loaded:
    """The ports of a loaded artefact; no name is there twice, none is anything but one plain line."""

    def names(key: str) -> tuple[str, ...]:
        found: list[str] = []
        for port in answer[key].items(MAX_ARRAYS):
            first, *_ = port.items(3) or [port]
            name = first.name()
            if not name or name in found or tame(name) != name:
                raise first.wrong("a name of its own")
            found.append(name)
        if not found:
            raise answer[key].wrong("at least one port")
        return tuple(found)

    return Loaded(answer["version"].text(MOST_WORDS), names("inputs"), names("outputs"))


def output_bytes(due: tuple[Port, ...]) -> int | None:
    """The most bytes that the outputs of a query can have; None where it is not known what is due."""
    return VALUE_BYTES * sum(math.prod(port.shape) for port in due) if due else None


def read_outputs(answer: Reply, names: tuple[str, ...], due: tuple[Port, ...]) -> list[NDArray[Any]]:
    """The outputs of a query, in the model's order, as the ports say where these are known."""
    if len(answer.arrays) != len(names):
        raise Field(answer.device, answer.request, "arrays", len(answer.arrays)).wrong(
            f"{len(names)} outputs"
        )
    ports = {port.name: port for port in due}
    found = []
    for at, name in enumerate(names):
        array = answer.arrays.get(str(at))
        port = ports.get(name)
        if port is not None:
            kinds = "f" if port.dtype.startswith("float") else "biu"
            array = answer.array(str(at), kinds, port.shape)
        elif array is None or array.dtype.kind not in "biuf":
            array = answer.array(str(at), "biuf", ())
        found.append(array)
    return found


def read_warm_up(answer: Reply) -> int:
    """The number of runs of a warm-up."""
    return answer["runs"].count(1, MOST_COUNTED)


def time_bytes(runs: int, seconds: float) -> int:
    """The most bytes that the times of a request can have."""
    return 16 * int(2 * runs + seconds * QUERIES_PER_S + (1 << 16))


def read_block(answer: Reply, runs: int, seconds: float) -> TimedBlock:
    """Single queries, one after the other within the time that the host waited, and what was waited for."""
    ms, waiting = _times(answer, runs, seconds), _waiting(answer["waiting"], answer.seconds)
    shares = answer.array("waited", "f", (len(ms) if waiting.waited_s is not None else 0,)).astype(np.float64)
    most = MOST_CORES  # so many threads, all of them waiting
    for at in np.flatnonzero(~((shares >= 0) & (shares <= most)))[:1]:
        told = Field(answer.device, answer.request, f"waited[{at}]", float(shares[at]))
        raise told.wrong(f"a share, 0 to {most}")
    return TimedBlock(tuple(ms), waiting, tuple(shares.tolist()))


def _waiting(told: Field, waited_s: float) -> Waiting:
    """Counts of a block. waited_s: that the host waited for it; no counter of one CPU grew by more."""
    longest = waited_s * CLOCK_FACTOR + CLOCK_MS / 1e3

    def seconds(name: str) -> float | None:
        field = told.entry(name)
        return None if field.value is None else field.number(0, MOST_CORES * longest)

    return Waiting(
        seconds=told.entry("seconds").number(0, longest),
        cores=told.entry("cores").count(1, MOST_CORES),
        threads=None if told.entry("threads").value is None else told.entry("threads").count(0, MOST_COUNTED),
        ran_s=seconds("ran_s"),
        waited_s=seconds("waited_s"),
        busy_s=seconds("busy_s"),
        stolen_s=seconds("stolen_s"),
        throttled_s=seconds("throttled_s"),
    )


def _times(answer: Reply, runs: int, seconds: float) -> list[float]:
    """Milliseconds of single queries, one after the other within the time that the host waited."""
    times = answer.array("ms", "f", (None,)).astype(np.float64)

    def wrong(path: str, value: float) -> Field:
        return Field(answer.device, answer.request, path, value)

    if len(times) < max(1, runs):
        raise wrong("the number of times", len(times)).wrong(f"at least {max(1, runs)}")
    for at in np.flatnonzero(~(np.isfinite(times) & (times > 0)))[:1]:
        raise wrong(f"ms[{at}]", float(times[at])).wrong("finite milliseconds above 0")
    least, most = LEAST_TIMED * seconds * 1e3, answer.seconds * 1e3 * CLOCK_FACTOR + CLOCK_MS
    with np.errstate(over="ignore"):
        total = float(times.sum())
    if not least <= total <= most:
        raise wrong("the sum of ms", total).wrong(
            f"{least:.4g} to {most:.4g} ms, as long as the request took"
        )
    return [float(ms) for ms in times]


def read_operators(answer: Reply) -> tuple[Operator, ...]:
    """The operators of a profile; names are exact, because nodes are found by them."""
    return tuple(
        Operator(
            name=told.entry("name").name(MOST_REASON),
            kind=told.entry("kind").name(MOST_REASON),
            ms=told.entry("ms").number(0, answer.seconds * 1e3 * CLOCK_FACTOR + CLOCK_MS),
            inputs=tuple(shape.shape() for shape in told.entry("inputs").items(MAX_ARRAYS)),
            outputs=tuple(shape.shape() for shape in told.entry("outputs").items(MAX_ARRAYS)),
            sources=tuple(source.name(MOST_REASON) for source in told.entry("sources").items(MAX_ARRAYS)),
        )
        for told in answer["operators"].items(MOST_OPERATORS)
    )


def read_memory(answer: Reply) -> Memory:
    """Peak memory, and the part of it that the model added."""
    process_mib = answer["mib"].number(0, MOST_MIB)
    return Memory(process_mib, answer["added_mib"].number(0, process_mib))


def read_state(answer: Reply) -> Mapping[str, str]:
    """Readings of the device's state by name."""
    readings = answer["state"].entries(MOST_READINGS)
    return {tame(name, MOST_NAMED): field.text(MOST_READING) for name, field in readings.items()}


def read_failure(answer: Reply) -> tuple[str, str, tuple[str, ...]] | None:
    """Kind, reason and layers of an answer that tells a failure."""
    if "error" not in answer:
        return None
    kind = answer["error"].text(MOST_WORDS)
    layers = answer["layers"].items(MOST_OPERATORS) if kind == "lost int8" else []
    return kind, answer["what"].text(MOST_REASON), tuple(layer.name(MOST_REASON) for layer in layers)

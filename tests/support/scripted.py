"""A device in this process whose latencies and memory a test writes down. No process, no clock, no sleep."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeprune.devices import Feeds, Load, Machine, Memory, Operator, Session
from edgeprune.devices.agent import load_module
from edgeprune.errors import DeviceError
from edgeprune.records.cpu_time import TimedBlock, Waiting

MACHINE = Machine(
    architecture="x86_64",
    processor="Scripted",
    cores=2,
    memory_mib=2048.0,
    isa=("avx2",),
    system="test",
    python="3.11.0",
    runtimes=(("onnxruntime", "scripted"), ("openvino", "scripted")),
)


def timed_block(ms: tuple[float, ...], waited: float | None = None, **counted: Any) -> TimedBlock:
    """A block of one thread, all of whose runs waited for the same share of their time; None: not counted."""
    seconds = sum(ms) / 1e3
    if waited is None:
        return TimedBlock(ms, Waiting(seconds, 2, **counted))
    books = {"threads": 1, "ran_s": (1 - waited) * seconds, "waited_s": waited * seconds, "busy_s": seconds}
    return TimedBlock(ms, Waiting(seconds, 2, **{**books, **counted}), (waited,) * len(ms))


class ScriptedDevice:
    """A `devices.Device`; predictions are made by the runtime in this process, the rest is scripted.

    latency_ms: of one query of an artefact.
    memory_mib: peak of an artefact's session; runtime_mib: of it, what the runtime takes itself.
    noise: sigma of a log-normal factor on every query, seeded.
    speed: factor on all latencies by block; blocks are counted over the device's whole life, from 0.
    state: the k-th reading of the device's state, counted per session from 0.
    operators: of one query of an artefact; without it the device has no profile and says so.
    waited: share of its time that a session waited for other processes, by block counted as for `speed`; all
        of its runs did, alike. None is a device that does not count it.
    before: called ahead of every request with its name ("start", "warm_up", "time", "predict", "memory",
        "state", "operators") and the artefact; it may raise, as a failing device would.

    `log` lists every request as (name, artefact's file name, number of the session from 0).
    """

    name = "scripted"

    def __init__(
        self,
        latency_ms: Callable[[Path], float] = lambda artefact: 1.0,
        memory_mib: Callable[[Path], float] = lambda artefact: 10.0,
        *,
        runtime_mib: float = 0.0,
        noise: float = 0.0,
        seed: int = 0,
        speed: Callable[[int], float] = lambda block: 1.0,
        waited: Callable[[int], float] | None = None,
        state: Callable[[int], Mapping[str, str]] = lambda reading: {"loadavg": "0.00 0.00 0.00"},
        operators: Callable[[Path], tuple[Operator, ...]] | None = None,
        before: Callable[[str, Path], None] | None = None,
        machine: Machine = MACHINE,
    ) -> None:
        self.latency_ms, self.memory_mib, self.runtime_mib = latency_ms, memory_mib, runtime_mib
        self.noise, self.seed, self.speed, self.state, self.before = noise, seed, speed, state, before
        self.operators, self.waited = operators, waited
        self.log: list[tuple[str, str, int]] = []
        self.artefacts: list[Path] = []  # of each session
        self.sensors: list[tuple[str, ...]] = []  # what each session was asked to read
        self.open = 0  # sessions that have not been left
        self._machine = machine
        self.blocks = 0

    def machine(self) -> Machine:
        return self._machine

    def start(self, load: Load, *, sensors: Sequence[str] = ()) -> Session:
        session = ScriptedSession(self, load, len(self.sensors))
        self.sensors.append(tuple(sensors))
        self.artefacts.append(load.artefact)
        self.request("start", load.artefact, session.number)
        self.open += 1
        return session

    def request(self, name: str, artefact: Path, number: int) -> None:
        self.log.append((name, artefact.name, number))
        if self.before is not None:
            self.before(name, artefact)


class ScriptedSession:
    """A `devices.Session` of a ScriptedDevice."""

    def __init__(self, device: ScriptedDevice, load: Load, number: int) -> None:
        self.runtime_version = f"{load.runtime} scripted"
        self.number = number
        self._device, self._load, self._readings = device, load, 0
        self._loaded: Any = None

    @property
    def input_names(self) -> tuple[str, ...]:
        return tuple(name for name, _, _ in self._runner.inputs)

    @property
    def output_names(self) -> tuple[str, ...]:
        return tuple(name for name, _, _ in self._runner.outputs)

    def predict(self, feeds: Feeds) -> list[NDArray[Any]]:
        self._request("predict")
        outputs: list[NDArray[Any]] = self._runner.run(dict(feeds))
        return outputs

    def warm_up(self, feeds: Feeds, min_seconds: float) -> int:
        self._request("warm_up")
        return max(1, math.ceil(min_seconds * 1e3 / self._device.latency_ms(self._load.artefact)))

    def time(self, feeds: Feeds, *, runs: int, seconds: float) -> TimedBlock:
        self._request("time")
        device = self._device
        one = device.latency_ms(self._load.artefact) * device.speed(device.blocks)
        count = max(runs, math.ceil(seconds * 1e3 / one))
        factors = np.random.default_rng((device.seed, device.blocks)).lognormal(0.0, device.noise, count)
        ms = tuple(float(each) for each in one * factors)
        lost = None if device.waited is None else device.waited(device.blocks)
        device.blocks += 1
        return timed_block(ms, lost)

    def operators(self, feeds: Feeds, *, runs: int) -> tuple[Operator, ...]:
        self._request("operators")
        if self._device.operators is None:
            raise DeviceError("Device scripted failed to operators: no profile.", "Script one.")
        return self._device.operators(self._load.artefact)

    def memory(self) -> Memory:
        self._request("memory")
        process_mib = self._device.memory_mib(self._load.artefact)
        return Memory(process_mib, process_mib - self._device.runtime_mib)

    def state(self) -> Mapping[str, str]:
        self._request("state")
        self._readings += 1
        return self._device.state(self._readings - 1)

    def __enter__(self) -> ScriptedSession:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._device.open -= 1

    def _request(self, name: str) -> None:
        self._device.request(name, self._load.artefact, self.number)

    @property
    def _runner(self) -> Any:
        if self._loaded is None:
            file = "ov.py" if self._load.artefact.suffix == ".xml" else "ort.py"
            # Exact where the runtime can be: no answer depends on whether this processor saturates.
            exact = file == "ort.py" or self._load.exact
            self._loaded = load_module(file).Runner(str(self._load.artefact), 1, exact=exact)
        return self._loaded

"""Devices that run artefacts: the protocols of a device and its sessions, and the table of transports.

A device starts *sessions*: each is a fresh process on the device that runs `agent.py` (standard
library, numpy and the runtime; nothing of edgeprune) with one artefact loaded, and answers requests
one at a time. The host drives: it decides how many timed runs come in a block and which session runs
next, so that a candidate and a reference can be interleaved (A/B/A) on the same machine.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType, TracebackType
from typing import Any, Protocol

from numpy.typing import NDArray

from edgeprune.devices.lab import LabDevice, find_device
from edgeprune.records.bundle import Port
from edgeprune.records.cpu_time import TimedBlock
from edgeprune.runtimes import exact_runtime

Feeds = Mapping[str, NDArray[Any]]  # input name -> array


@dataclass(frozen=True)
class Machine:
    """A device's processor, memory, system and runtimes, as the agent found them there."""

    architecture: str  # `uname -m`
    processor: str
    cores: int  # that this process may use: affinity and cgroup quota respected
    memory_mib: float  # the smaller of physical memory and the cgroup limit
    isa: tuple[str, ...]
    system: str
    python: str
    runtimes: tuple[tuple[str, str], ...]  # (name in runtimes.TABLE, version) of those that import

    @property
    def words(self) -> str:
        """Processor, architecture, cores and memory in words."""
        return f"{self.processor}, {self.architecture}, {self.cores} cores, {self.memory_mib:.0f} MiB"


def described(machine: Machine) -> str:
    """Words about a machine by which it is known again: another memory limit makes it no other."""
    return f"{machine.processor}, {machine.architecture}, {machine.cores} cores"


@dataclass(frozen=True)
class Load:
    """An artefact and how a session runs it: runtime, threads, batch, the runtime's device."""

    runtime: str  # a key of runtimes.TABLE
    artefact: Path
    threads: int
    exact: bool = False  # exact INT8 arithmetic, to check what another machine will compute (ORT only)
    device: str = "CPU"  # the runtime's device string
    # For a runtime that builds an engine on the device (TensorRT); the others take any batch.
    batch: int = 1  # rows of a query
    memory_mib: float | None = None  # that building may take
    # Of that many rows, where they are known: an answer that is anything else is refused.
    outputs: tuple[Port, ...] = ()
    profile: bool = False  # let the runtime time every operator, for `Session.operators`


@dataclass(frozen=True)
class Operator:
    """An operator as the runtime fused it, with its time per query in milliseconds."""

    name: str  # the runtime's own, made from the artefact's
    kind: str  # what runs: the runtime's name of the operator, and of its kernel where it tells
    ms: float
    inputs: tuple[tuple[int, ...], ...]  # shapes, the weights' too where the runtime tells
    outputs: tuple[tuple[int, ...], ...]
    sources: tuple[str, ...]  # nodes of the artefact that it was made of, where the runtime tells


def exact_load(artefact: Path, threads: int = 1) -> Load:
    """A load in exact integer arithmetic, which computes on any host what a device without saturation will.

    artefact: an ONNX file, or a file of another format beside the ONNX file that it was made of: only ONNX
    Runtime can be asked for exact integer arithmetic.
    """
    return Load(exact_runtime().name, artefact.with_suffix(".onnx"), threads, exact=True)


@dataclass(frozen=True)
class Memory:
    """Peak memory of a session in MiB.

    process_mib: highest resident set of its process, the runtime included, as the system counts it (VmHWM);
    with a GPU, what its driver says was taken is added. added_mib: of it, what lies above the same process
    with the runtime imported and nothing loaded.
    """

    process_mib: float
    added_mib: float


class Session(Protocol):
    """An artefact loaded in a process of its own on the device; leaving the context ends the process."""

    runtime_version: str  # e.g. "onnxruntime 1.32.0"
    input_names: tuple[str, ...]
    output_names: tuple[str, ...]

    def predict(self, feeds: Feeds) -> list[NDArray[Any]]:
        """The outputs of one query, in the model's order."""

    def warm_up(self, feeds: Feeds, min_seconds: float) -> int:
        """Run for at least `min_seconds` and until the rolling median moves < 1 %; the number of runs."""

    def time(self, feeds: Feeds, *, runs: int, seconds: float) -> TimedBlock:
        """Synchronous single queries, until both `runs` and `seconds` are reached."""

    def operators(self, feeds: Feeds, *, runs: int) -> tuple[Operator, ...]:
        """The operators, in order, of a session that was loaded with `profile`; may be asked once."""

    def memory(self) -> Memory:
        """Peak memory so far."""

    def state(self) -> Mapping[str, str]:
        """Clocks, governor, temperatures, throttle flags and load, as text, by name."""

    def __enter__(self) -> Session: ...
    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...


class Device(Protocol):
    """A machine that artefacts can run on. Raises `DeviceError` when it cannot be reached or fails."""

    name: str

    def machine(self) -> Machine:
        """The description of the device, by the agent with nothing loaded."""

    def start(self, load: Load, *, sensors: Sequence[str] = ()) -> Session:
        """A fresh process on the device with the artefact loaded."""


def _local(spec: LabDevice) -> Device:
    from edgeprune.devices.local import LocalDevice

    return LocalDevice(spec.python) if spec.python is not None else LocalDevice()


def _ssh(spec: LabDevice) -> Device:
    from edgeprune.devices.ssh import SshDevice

    return SshDevice(spec)


TABLE: Mapping[str, Callable[[LabDevice], Device]] = MappingProxyType({"local": _local, "ssh": _ssh})


def open_device(name_or_address: str, *, lab: Path | None = None) -> Device:
    """The device with that name in the lab file, or at that address: "local", "ssh://user@host:port".

    Nothing is contacted yet. Raises `InputError` when there is no such device.
    """
    spec = find_device(name_or_address, lab)
    return TABLE[spec.scheme](spec)


__all__ = [
    "TABLE",
    "Device",
    "Feeds",
    "LabDevice",
    "Load",
    "Machine",
    "Operator",
    "Session",
    "described",
    "exact_load",
    "open_device",
]

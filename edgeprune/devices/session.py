"""The host's end of a session: frames over the stdin and stdout of an agent's process, with time-outs.

Local processes and ssh share this file: both hand over a started process and a file with its stderr.
"""

from __future__ import annotations

import logging
import os
import selectors
import subprocess
import time
from collections.abc import Mapping
from types import TracebackType
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from edgeprune.devices import Feeds, Load, Machine, Operator
from edgeprune.devices.frames import NotAFrame, decode, encode
from edgeprune.errors import DeviceError, DeviceLost, LostInt8
from edgeprune.runtimes import find

STDERR_LINES = 12  # of the agent's last words that an error repeats
REQUEST_TIMEOUT_S = 300.0  # of one request, or of the copy of one file
BUILD_SECONDS = 3600.0  # what the first load of an engine may take beyond a request's own time
LOST = 255  # ssh's own exit code; the agent's pass through it
QUIT_SECONDS = 5.0  # what an agent gets to leave before it is killed

_log = logging.getLogger(__name__)


class Channel:
    """A started agent that is asked one request at a time.

    timeout_s: how long one request may take beyond the seconds it asks for itself.
    owner: kept alive with the channel, such as the device whose connection it uses.
    """

    def __init__(
        self,
        name: str,
        process: subprocess.Popen[bytes],
        log: IO[bytes],
        timeout_s: float,
        owner: object = None,
    ) -> None:
        if process.stdin is None or process.stdout is None:
            raise ValueError("the agent's stdin and stdout must be pipes")
        self.name, self._process, self._log, self._timeout_s = name, process, log, timeout_s
        self._owner = owner
        self._stdin, self._stdout = process.stdin.fileno(), process.stdout.fileno()
        os.set_blocking(self._stdin, False)
        os.set_blocking(self._stdout, False)

    def ask(
        self, do: str, arrays: Feeds | None = None, *, extra_s: float = 0.0, **header: Any
    ) -> tuple[dict[str, Any], dict[str, NDArray[Any]]]:
        """Send one request, read its answer. Raises `DeviceError`; the agent may be gone after it."""
        deadline = time.monotonic() + self._timeout_s + extra_s
        try:
            self._write(encode({"do": do, **header}, arrays or {}), deadline)
            frame = decode(lambda size: self._read(size, deadline))
        except (EOFError, BrokenPipeError, ConnectionResetError):
            frame = None
        except NotAFrame as error:
            raise DeviceError(
                f"Device {self.name} answered {error.seen!r} where a frame of the agent was due.",
                "Something prints on its standard output, such as a login banner in .bashrc: silence it.",
            ) from error
        except TimeoutError as error:
            _log.warning("%r: no answer to %r in time, so its agent is killed", self.name, do)
            self.kill()
            raise DeviceError(
                f"Device {self.name} did not answer {do!r} within {self._timeout_s + extra_s:.0f} s.",
                "Check the device's load and memory, or allow it more time.",
            ) from error
        if frame is None:
            raise self._death(do)
        reply, results = frame
        if "error" in reply:
            raise _reported(self.name, do, reply)
        return reply, results

    def close(self) -> None:
        """End the agent: its stdin closes, and it leaves; otherwise it is killed."""
        for stream in (self._process.stdin, self._process.stdout):
            if stream is not None:
                stream.close()
        try:
            self._process.wait(QUIT_SECONDS)
        except subprocess.TimeoutExpired:
            self.kill()
        self._log.close()

    def kill(self) -> None:
        self._process.kill()
        self._process.wait()

    def _write(self, buffers: list[Any], deadline: float) -> None:
        for buffer in buffers:
            rest = memoryview(buffer)
            while rest:
                self._wait(self._stdin, selectors.EVENT_WRITE, deadline)
                rest = rest[os.write(self._stdin, rest[: 1 << 20]) :]

    def _read(self, size: int, deadline: float) -> bytes:
        data = bytearray()
        while len(data) < size:
            self._wait(self._stdout, selectors.EVENT_READ, deadline)
            block = os.read(self._stdout, min(size - len(data), 1 << 20))
            if not block:
                break
            data += block
        return bytes(data)

    def _wait(self, fd: int, event: int, deadline: float) -> None:
        with selectors.DefaultSelector() as selector:
            selector.register(fd, event)
            if not selector.select(max(0.0, deadline - time.monotonic())):
                raise TimeoutError

    def _death(self, do: str) -> DeviceError:
        try:
            code = self._process.wait(QUIT_SECONDS)
        except subprocess.TimeoutExpired:
            self.kill()
            code = -9
        self._log.seek(0)
        words = self._log.read().decode("utf-8", "replace").strip().splitlines()[-STDERR_LINES:]
        _log.warning("%r: its agent died during %r with %s, after %r", self.name, do, _code(code), words)
        if code == LOST:
            said = f": {' '.join(words)}" if words else "."
            return DeviceLost(
                f"The connection to device {self.name} was lost during {do!r}{said}", _hint(code)
            )
        said = "\n    ".join(["", *words]) if words else " (it said nothing)"
        return DeviceError(
            f"The agent on device {self.name} died during {do!r} with {_code(code)}:{said}", _hint(code)
        )


def _code(code: int) -> str:
    return f"signal {-code}" if code < 0 else f"exit code {code}"


def _hint(code: int) -> str:
    if code in (-9, 137):
        return "It was killed, most likely for want of memory: free some, or try a smaller model or batch."
    if code in (-4, -6, -7, -11, 132, 134, 135, 139):
        return "The runtime crashed: check that its build suits this processor, or try another version."
    if code in (126, 127):
        return "There is no such Python on the device: name one that has numpy and the runtime (`python`)."
    if code in (124, LOST):
        return "The connection or its time limit ended: check the network and the device, then try again."
    return "Read the lines above; `edgeprune doctor` says which runtimes work here."


def _reported(name: str, do: str, reply: Mapping[str, Any]) -> DeviceError:
    what = reply["what"]
    if reply["error"] == "missing":
        return DeviceError(
            f"Device {name} cannot import what it needs: {what}",
            "Install the runtime for the device's Python, or name a Python that has it.",
        )
    if reply["error"] == "lost int8":
        return LostInt8(
            tuple(reply["layers"]),
            f"Device {name} cannot serve this as INT8: {what}",
            "Fit on this device (--device): layers that its engine runs in float are then left out of INT8.",
        )
    return DeviceError(
        f"Device {name} failed to {do.replace('_', ' ')}: {what}",
        "Check the artefact, its inputs and the runtime's version on the device.",
    )


class AgentSession:
    """A `devices.Session` on an agent; the protocol says what each request means."""

    def __init__(self, channel: Channel, load: Load, artefact: str, sensors: tuple[str, ...]) -> None:
        self._channel = channel
        reply, _ = channel.ask(
            "load",
            extra_s=BUILD_SECONDS if find(load.runtime).builds_engine else 0.0,
            runtime=load.runtime,
            artefact=artefact,
            threads=load.threads,
            exact=load.exact,
            device=load.device,
            profile=load.profile,
            sensors=list(sensors),
            batch=load.batch,
            memory_mib=load.memory_mib,
        )
        self.runtime_version: str = reply["version"]
        self.input_names: tuple[str, ...] = tuple(port[0] for port in reply["inputs"])
        self.output_names: tuple[str, ...] = tuple(port[0] for port in reply["outputs"])
        _log.debug(
            "%r: session of %r in %r, threads %d, inputs %r, outputs %r",
            *(
                channel.name,
                artefact,
                self.runtime_version,
                load.threads,
                self.input_names,
                self.output_names,
            ),
        )

    def predict(self, feeds: Feeds) -> list[NDArray[Any]]:
        _, outputs = self._channel.ask("predict", feeds)
        return [outputs[str(at)] for at in range(len(outputs))]

    def warm_up(self, feeds: Feeds, min_seconds: float) -> int:
        reply, _ = self._channel.ask("warm_up", feeds, extra_s=min_seconds, min_seconds=min_seconds)
        return int(reply["runs"])

    def time(self, feeds: Feeds, *, runs: int, seconds: float) -> list[float]:
        _, arrays = self._channel.ask("time", feeds, extra_s=seconds, runs=runs, seconds=seconds)
        return [float(ms) for ms in np.asarray(arrays["ms"])]

    def operators(self, feeds: Feeds, *, runs: int) -> tuple[Operator, ...]:
        reply, _ = self._channel.ask("operators", feeds, runs=runs)
        return tuple(
            Operator(
                name=told["name"],
                kind=told["kind"],
                ms=float(told["ms"]),
                inputs=tuple(tuple(shape) for shape in told["inputs"]),
                outputs=tuple(tuple(shape) for shape in told["outputs"]),
                sources=tuple(told["sources"]),
            )
            for told in reply["operators"]
        )

    def memory_mib(self) -> float:
        return float(self._channel.ask("memory")[0]["mib"])

    def state(self) -> Mapping[str, str]:
        return dict(self._channel.ask("state")[0]["state"])

    def __enter__(self) -> AgentSession:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._channel.close()
        _log.debug("%r: session ended", self._channel.name)


def ask_machine(channel: Channel) -> Machine:
    """The machine as an agent with nothing loaded describes it."""
    facts, _ = channel.ask("machine")
    machine = Machine(
        architecture=facts["architecture"],
        processor=facts["processor"],
        cores=facts["cores"],
        memory_mib=facts["memory_mib"],
        isa=tuple(facts["isa"]),
        system=facts["system"],
        python=facts["python"],
        runtimes=tuple(sorted(facts["runtimes"].items())),
    )
    _log.debug("%r: %r", channel.name, machine)
    return machine

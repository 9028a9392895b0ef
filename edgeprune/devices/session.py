"""The host's end of a session: frames over the stdin and stdout of an agent's process, with time-outs.

Local processes and ssh share this file: both hand over a started process. What an answer says is read in
`answers`, nowhere else.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from functools import cache
from types import TracebackType
from typing import Any

from numpy.typing import NDArray

from edgeprune.devices import Feeds, Load, Machine, Memory, Operator, answers, probe
from edgeprune.devices.answers import Reply
from edgeprune.devices.frames import NotAFrame, decode, encode
from edgeprune.devices.pipes import QUIT_SECONDS, Flood, Piped
from edgeprune.errors import DeviceError, DeviceLost, LostInt8
from edgeprune.foreign import tame
from edgeprune.records.cpu_time import TimedBlock
from edgeprune.runtimes import find

REQUEST_TIMEOUT_S = 300.0  # of one request, or of the copy of one file
BUILD_SECONDS = 3600.0  # what the first load of an engine may take beyond a request's own time
LOST = 255  # ssh's own exit code; the agent's pass through it

_log = logging.getLogger(__name__)


class Channel:
    """A started agent that is asked one request at a time.

    timeout_s: how long one request may take beyond the seconds it asks for itself.
    owner: kept alive with the channel, such as the device whose connection it uses.
    """

    def __init__(self, name: str, piped: Piped, timeout_s: float, owner: object = None) -> None:
        self.name, self._piped, self._timeout_s = name, piped, timeout_s
        self._process, self._owner = piped.process, owner

    def ask(
        self,
        do: str,
        arrays: Feeds | None = None,
        *,
        extra_s: float = 0.0,
        most_bytes: int = 0,
        **header: Any,
    ) -> Reply:
        """Send one request, read its answer. Raises `DeviceError`; the agent may be gone after it.

        most_bytes: of the arrays in the answer.
        """
        begun = time.monotonic()
        deadline = begun + self._timeout_s + extra_s
        try:
            stale = self._piped.unread()
            if stale:
                raise Flood(f"{tame(repr(stale), 80)} that nobody asked for")
            self._piped.write(encode({"do": do, **header}, arrays or {}), deadline)
            frame = decode(lambda size: self._piped.read(size, deadline), most_bytes)
        except (EOFError, BrokenPipeError, ConnectionResetError):
            frame = None
        except NotAFrame as error:
            self.kill()
            raise _malformed(self.name, do, error) from error
        except Flood as error:
            self.kill()
            raise DeviceError(
                f"Device {self.name} printed {error}, so {do!r} was given up.",
                "Its agent or its runtime is broken, or is not ours: check what lies in `workdir` there.",
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
        answer = Reply(self.name, do, *frame, time.monotonic() - begun)
        failure = answers.read_failure(answer)
        if failure is not None:
            raise _reported(self.name, do, *failure)
        return answer

    def close(self) -> None:
        """End the agent: its stdin closes, and it leaves; otherwise it is killed."""
        self._piped.end()

    def kill(self) -> None:
        self._piped.kill()

    def _death(self, do: str) -> DeviceError:
        code = self._piped.wait(QUIT_SECONDS)
        words = self._piped.last_words()
        if code is None:
            self.kill()
            return DeviceError(
                f"The agent on device {self.name} closed its output during {do!r} and did not leave.",
                "It was killed. Check what the device runs as its Python.",
            )
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


def _malformed(name: str, do: str, error: NotAFrame) -> DeviceError:
    if error.seen:
        return DeviceError(
            f"Device {name} answered {tame(repr(error.seen))} where a frame of the agent was due.",
            "Something prints on its standard output, such as a login banner in .bashrc: silence it.",
        )
    return DeviceError(
        f"Device {name} answered {do!r} with a frame that cannot be read: {tame(str(error))}.",
        "Its agent or its Python is broken, or is not ours: check what lies in `workdir` there.",
    )


@cache
def _most_bytes() -> int:
    """What an answer may have where nobody knows what is due: half of this machine's memory."""
    return int(probe.memory_mib() * 2**19) or 1 << 30


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


def _reported(name: str, do: str, kind: str, what: str, layers: tuple[str, ...]) -> DeviceError:
    if kind == "missing":
        return DeviceError(
            f"Device {name} cannot import what it needs: {what}",
            "Install the runtime for the device's Python, or name a Python that has it.",
        )
    if kind == "lost int8":
        return LostInt8(
            layers,
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
        self._channel, self._due = channel, load.outputs
        answer = channel.ask(
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
        loaded = answers.read_loaded(answer)
        self.runtime_version, self.input_names = loaded.version, loaded.inputs
        self.output_names = loaded.outputs
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
        due = answers.output_bytes(self._due)
        answer = self._channel.ask("predict", feeds, most_bytes=_most_bytes() if due is None else due)
        return answers.read_outputs(answer, self.output_names, self._due)

    def warm_up(self, feeds: Feeds, min_seconds: float) -> int:
        return answers.read_warm_up(
            self._channel.ask("warm_up", feeds, extra_s=min_seconds, min_seconds=min_seconds)
        )

    def time(self, feeds: Feeds, *, runs: int, seconds: float) -> TimedBlock:
        most = min(_most_bytes(), answers.time_bytes(runs, seconds))
        answer = self._channel.ask(
            "time", feeds, extra_s=seconds, most_bytes=most, runs=runs, seconds=seconds
        )
        return answers.read_block(answer, runs, seconds)

    def operators(self, feeds: Feeds, *, runs: int) -> tuple[Operator, ...]:
        return answers.read_operators(self._channel.ask("operators", feeds, runs=runs))

    def memory(self) -> Memory:
        return answers.read_memory(self._channel.ask("memory"))

    def state(self) -> Mapping[str, str]:
        return answers.read_state(self._channel.ask("state"))

    def __enter__(self) -> AgentSession:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._channel.close()
        _log.debug("%r: session ended", self._channel.name)


def ask_machine(channel: Channel) -> Machine:
    """The machine as an agent with nothing loaded describes it."""
    machine = answers.read_machine(channel.ask("machine"))
    _log.debug("%r: %r", channel.name, machine)
    return machine

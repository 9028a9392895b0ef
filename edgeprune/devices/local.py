"""The host itself as a device, on which every session is a fresh Python process that runs the agent."""

from __future__ import annotations

import os
import resource
import sys
from collections.abc import Sequence
from contextlib import closing, suppress
from pathlib import Path

from edgeprune.devices import Load, Machine, probe
from edgeprune.devices import agent as agent_file
from edgeprune.devices.artefact import artefact_files
from edgeprune.devices.pipes import Piped
from edgeprune.devices.session import REQUEST_TIMEOUT_S, AgentSession, Channel, ask_machine
from edgeprune.errors import DeviceError
from edgeprune.runtimes import find


class LocalDevice:
    """Device that runs artefacts on the host itself.

    python: the interpreter that runs the agent; it needs numpy and the runtime, nothing else.
    timeout_s: how long one request may take.
    memory_mib: that an agent may take of its own; by default all of this machine's. Runtimes that build
        engines on a GPU are not held to it, because their drivers map more than there is.
    """

    name = "local"

    def __init__(
        self,
        python: str | Path = sys.executable,
        *,
        timeout_s: float = REQUEST_TIMEOUT_S,
        memory_mib: float | None = None,
    ) -> None:
        # A path, not a name to look for, is meant from the folder in which the device was opened.
        self._python = os.path.abspath(python) if os.sep in str(python) else str(python)
        self._timeout_s, self._memory_mib = timeout_s, memory_mib

    def machine(self) -> Machine:
        with closing(self._channel()) as channel:
            return ask_machine(channel)

    def start(self, load: Load, *, sensors: Sequence[str] = ()) -> AgentSession:
        artefact = artefact_files(load.artefact)[0].resolve()
        channel = self._channel(limited=not find(load.runtime).builds_engine)
        try:
            return AgentSession(channel, load, str(artefact), tuple(sensors))
        except BaseException:
            channel.close()
            raise

    def _channel(self, limited: bool = True) -> Channel:
        try:
            piped = Piped([self._python, str(Path(agent_file.__file__)), "--serve"])
        except OSError as error:
            raise DeviceError(
                f"Cannot start {self._python}: {error.strerror}.", "Name a Python interpreter that exists."
            ) from error
        if limited:
            self._limit(piped.process.pid)
        return Channel(self.name, piped, self._timeout_s)

    def _limit(self, process: int) -> None:
        """Hold an agent to a memory, before it is asked for anything.

        RLIMIT_DATA counts what can be written and is its own. Address space that a runtime reserves and
        never touches is not counted, as RLIMIT_AS would; memory that a GPU's driver maps may be.
        """
        memory_mib = probe.memory_mib() if self._memory_mib is None else self._memory_mib
        if memory_mib > 0:
            with suppress(ProcessLookupError):  # it is gone already; the first request says so
                resource.prlimit(process, resource.RLIMIT_DATA, (int(memory_mib * 2**20),) * 2)

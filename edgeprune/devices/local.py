"""The host itself as a device, on which every session is a fresh Python process that runs the agent."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path

from edgeprune.devices import Load, Machine
from edgeprune.devices import agent as agent_file
from edgeprune.devices.artefact import artefact_files
from edgeprune.devices.session import REQUEST_TIMEOUT_S, AgentSession, Channel, ask_machine
from edgeprune.errors import DeviceError


class LocalDevice:
    """Device that runs artefacts on the host itself.

    python: the interpreter that runs the agent; it needs numpy and the runtime, nothing else.
    timeout_s: how long one request may take.
    """

    name = "local"

    def __init__(self, python: str | Path = sys.executable, *, timeout_s: float = REQUEST_TIMEOUT_S) -> None:
        self._python, self._timeout_s = str(python), timeout_s

    def machine(self) -> Machine:
        with closing(self._channel()) as channel:
            return ask_machine(channel)

    def start(self, load: Load, *, sensors: Sequence[str] = ()) -> AgentSession:
        artefact = artefact_files(load.artefact)[0].resolve()
        channel = self._channel()
        try:
            return AgentSession(channel, load, str(artefact), tuple(sensors))
        except BaseException:
            channel.close()
            raise

    def _channel(self) -> Channel:
        log = tempfile.TemporaryFile()  # noqa: SIM115 - the channel closes it
        try:
            process = subprocess.Popen(
                [self._python, str(Path(agent_file.__file__)), "--serve"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                start_new_session=True,  # Ctrl-C is the host's: the agent leaves when its input ends
            )
        except OSError as error:
            log.close()
            raise DeviceError(
                f"Cannot start {self._python}: {error.strerror}.", "Name a Python interpreter that exists."
            ) from error
        return Channel(self.name, process, log, self._timeout_s)

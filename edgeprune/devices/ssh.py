"""A device over SSH, through the user's own OpenSSH client with its configuration, keys and jump hosts.

The agent and the artefact are copied once, into folders named by their content; the agent then talks the
same frames as on this machine, over ssh's standard input and output. Nothing is left running there: the
agent leaves when its input ends, and `timeout` ends it should even that not arrive.
"""

from __future__ import annotations

import hashlib
import logging
import posixpath
import shlex
import shutil
import subprocess
import tarfile
import tempfile
import time
import weakref
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import IO

from edgeprune.devices import Load, Machine
from edgeprune.devices import agent as agent_file
from edgeprune.devices.address import parse_ssh
from edgeprune.devices.artefact import artefact_files, artefact_sha256
from edgeprune.devices.lab import LabDevice
from edgeprune.devices.pipes import QUIT_SECONDS, Flood, Piped
from edgeprune.devices.session import LOST, REQUEST_TIMEOUT_S, AgentSession, Channel, ask_machine
from edgeprune.devices.workdir import IN_USE, MISSING, RECEIVE, SERVE, TAKE_LOCK, UNSAFE
from edgeprune.errors import DeviceError, DeviceLost, MissingExtraError
from edgeprune.files import sha256

MOST_OUTPUT = 1 << 16  # bytes that a script prints: the names of the files that are missing
LOCKED = b"held\n"  # what TAKE_LOCK prints when it has the lock

_log = logging.getLogger(__name__)


class SshDevice:
    """A device that `ssh` reaches without asking for a password.

    `close()` ends the shared connection and frees an exclusive device, as does dropping the object.
    Raises `DeviceError` in ssh's words when the machine cannot be reached.
    """

    def __init__(self, spec: LabDevice, *, timeout_s: float = REQUEST_TIMEOUT_S) -> None:
        if shutil.which("ssh") is None:
            raise MissingExtraError(
                "There is no ssh command on this machine.", "Install the OpenSSH client (openssh-client)."
            )
        self.name = spec.name
        self._spec, self._timeout_s = spec, timeout_s
        # Without a slash at its end, after which a link would be followed.
        self._workdir = posixpath.normpath(spec.workdir)
        # One connection serves all commands. The folder's name is short: a socket's path has 108 bytes.
        sockets = tempfile.mkdtemp(prefix="edgeprune-")
        self._ssh = _ssh_command(spec, sockets)
        self._host = parse_ssh(spec.address).host
        self._sent: set[tuple[str, str]] = set()  # folder and name of what is there for certain
        self._locks: list[Piped] = []  # at most one, of an exclusive device
        end = [*self._ssh, "-O", "exit", "--", self._host]
        self.close = weakref.finalize(self, _disconnect, end, sockets, self._locks)

    def machine(self) -> Machine:
        with closing(self._channel()) as channel:
            return ask_machine(channel)

    def start(self, load: Load, *, sensors: Sequence[str] = ()) -> AgentSession:
        files = artefact_files(load.artefact)
        channel = self._channel()
        try:
            folder = f"artefacts/{artefact_sha256(load.artefact)}"
            self._send(folder, files)
            # The agent runs in its own folder, from which the artefact's is found without knowing the home.
            return AgentSession(channel, load, f"../../{folder}/{files[0].name}", tuple(sensors))
        except BaseException:
            channel.close()
            raise

    def _channel(self) -> Channel:
        self._take_lock()
        files = _agent_files()
        digest = hashlib.sha256("".join(sha256(file) for file in files).encode()).hexdigest()
        folder = f"agents/{digest[:16]}"
        self._send(folder, files)
        python = self._spec.python or "python3"
        piped = Piped(self._remote(SERVE, self._workdir, folder, python))
        return Channel(self.name, piped, self._timeout_s, owner=self)

    def _send(self, folder: str, files: Sequence[Path]) -> None:
        """Copy the files that the folder below the working folder lacks; each is looked for once."""
        if all((folder, file.name) in self._sent for file in files):
            return
        sums = {file: sha256(file) for file in files}
        missing = self._run(MISSING, self._workdir, folder, *_pairs(sums)).split("\n")
        wanted = {file: digest for file, digest in sums.items() if file.name in missing}
        if wanted:
            with tempfile.TemporaryFile() as archive:
                with tarfile.open(fileobj=archive, mode="w") as tar:
                    for file in wanted:
                        tar.add(file.resolve(), arcname=file.name)
                archive.seek(0)
                self._run(RECEIVE, self._workdir, folder, *_pairs(wanted), send=archive)
        names = [file.name for file in wanted]
        _log.debug("%r: %r: copied %r, %d were there", self.name, folder, names, len(sums) - len(wanted))
        self._sent.update((folder, file.name) for file in files)

    def _take_lock(self) -> None:
        """Hold an exclusive device for as long as this object lives; the lock falls with the connection."""
        if not self._spec.exclusive or self._locks:
            return
        lock = Piped(self._remote(TAKE_LOCK, self._workdir, ""))
        try:
            with self._in_time():
                held = lock.read(len(LOCKED), time.monotonic() + self._timeout_s)
            if held != LOCKED:
                code = lock.wait(QUIT_SECONDS)
                if code == IN_USE:
                    raise DeviceError(
                        f"Device {self.name} is exclusive, and another edgeprune is using it.",
                        "Try again when it has finished.",
                    )
                raise self._failed(code, lock)
        except BaseException:
            lock.end()
            raise
        self._locks.append(lock)

    def _run(self, script: str, *arguments: str, send: IO[bytes] | None = None) -> str:
        """The output of a script that is run on the device. Raises `DeviceError`."""
        piped = Piped(self._remote(script, *arguments), subprocess.DEVNULL if send is None else send)
        deadline = time.monotonic() + self._timeout_s
        try:
            with self._in_time():
                output = piped.read(MOST_OUTPUT, deadline)
                if len(output) == MOST_OUTPUT:
                    raise Flood(f"more than {MOST_OUTPUT >> 10} KiB on its standard output")
                code = piped.wait(max(QUIT_SECONDS, deadline - time.monotonic()))
            if code != 0:
                raise self._failed(code, piped)
        except BaseException:
            piped.kill()
            raise
        finally:
            piped.end()
        return output.decode("utf-8", "replace")

    @contextmanager
    def _in_time(self) -> Iterator[None]:
        """Say of a command that took too long, or printed without end, that it did."""
        try:
            yield
        except TimeoutError as error:
            raise DeviceLost(
                f"Device {self.name} did not answer within {self._timeout_s:.0f} s.",
                "Check the network and the device's load.",
            ) from error
        except Flood as error:
            raise DeviceError(
                f"Device {self.name} printed {error} when a command was run.",
                "Something prints there at each login, such as .bashrc: silence it.",
            ) from error

    def _remote(self, script: str, *arguments: str) -> list[str]:
        """The ssh command that runs a script in a plain `sh`, whatever the user's login shell is."""
        words = ["sh", "-c", script, "sh", *arguments]
        return [*self._ssh, "--", self._host, " ".join(shlex.quote(word) for word in words)]

    def _failed(self, code: int | None, piped: Piped) -> DeviceError:
        words = " ".join(piped.last_words()) or ("it does not end" if code is None else f"exit code {code}")
        if code == LOST:
            return DeviceLost(
                f"Device {self.name} cannot be reached at {self._spec.address}: {words}",
                "`ssh` must get there without a password or a question: try it once by hand.",
            )
        if code in UNSAFE:
            return DeviceError(
                f"The working folder {self._spec.workdir} on device {self.name} {UNSAFE[code]}.",
                "Let `workdir` in the lab file name one that is yours alone, or that edgeprune can make, "
                "such as .cache/edgeprune or /tmp/edgeprune-NAME; if it is yours already: chmod go-w.",
            )
        return DeviceError(
            f"A command failed on device {self.name}: {words}",
            f"Check free space and permissions of {self._spec.workdir} there.",
        )


def _ssh_command(spec: LabDevice, sockets: str) -> list[str]:
    address = parse_ssh(spec.address)
    options = {
        "BatchMode": "yes",
        "ConnectTimeout": "15",
        "ServerAliveInterval": "15",
        "ServerAliveCountMax": "4",
        "ControlMaster": "auto",
        "ControlPath": f"{sockets}/%C",
        "ControlPersist": "60",
    }
    command = ["ssh", "-T"]
    command += ["-F", str(spec.ssh_config)] if spec.ssh_config is not None else []
    command += [word for name, value in options.items() for word in ("-o", f"{name}={value}")]
    command += ["-l", address.user] if address.user is not None else []
    command += ["-p", str(address.port)] if address.port is not None else []
    return command + (["-J", spec.jump] if spec.jump is not None else [])


def _agent_files() -> tuple[Path, ...]:
    own = Path(agent_file.__file__)
    names = dict.fromkeys(file for files in agent_file.SESSIONS.values() for file in files)
    beside = (own.with_name(file) for file in ("frames.py", "probe.py"))
    return own, *beside, *(Path(agent_file.sibling(file)) for file in names)


def _pairs(sums: Mapping[Path, str]) -> list[str]:
    return [text for file, digest in sums.items() for text in (file.name, digest)]


def _disconnect(end: list[str], sockets: str, locks: Sequence[Piped]) -> None:
    """Free an exclusive device and end the shared connection, at the latest when this program ends."""
    for lock in locks:
        lock.end()  # closes its standard input, which is all it waits for
    ending = Piped(end, subprocess.DEVNULL)
    if ending.wait(QUIT_SECONDS) is None:
        ending.kill()
    ending.end()
    shutil.rmtree(sockets, ignore_errors=True)

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
import weakref
from collections.abc import Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import IO

from edgeprune.devices import Load, Machine
from edgeprune.devices import agent as agent_file
from edgeprune.devices.address import parse_ssh
from edgeprune.devices.artefact import artefact_files, artefact_sha256
from edgeprune.devices.lab import LabDevice
from edgeprune.devices.session import LOST, REQUEST_TIMEOUT_S, AgentSession, Channel, ask_machine
from edgeprune.devices.workdir import IN_USE, MISSING, RECEIVE, SERVE, TAKE_LOCK, UNSAFE
from edgeprune.errors import DeviceError, DeviceLost, MissingExtraError
from edgeprune.files import sha256

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
        self._locks: list[subprocess.Popen[bytes]] = []  # at most one, of an exclusive device
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
        log = tempfile.TemporaryFile()  # noqa: SIM115 - the channel closes it
        process = subprocess.Popen(
            self._remote(SERVE, self._workdir, folder, python),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log,
            start_new_session=True,
        )
        return Channel(self.name, process, log, self._timeout_s, owner=self)

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
        with tempfile.TemporaryFile() as log:
            process = subprocess.Popen(
                self._remote(TAKE_LOCK, self._workdir, ""),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                start_new_session=True,
            )
            if process.stdout is None or process.stdin is None:
                raise ValueError("the lock's pipes are missing")
            if process.stdout.readline() != b"held\n":
                process.communicate()
                if process.returncode == IN_USE:
                    raise DeviceError(
                        f"Device {self.name} is exclusive, and another edgeprune is using it.",
                        "Try again when it has finished.",
                    )
                raise self._failed(process.returncode, log)
        self._locks.append(process)

    def _run(self, script: str, *arguments: str, send: IO[bytes] | None = None) -> str:
        """The output of a script that is run on the device. Raises `DeviceError`."""
        # A file takes ssh's messages: a shared connection keeps a pipe open after the command has ended.
        with tempfile.TemporaryFile() as log:
            try:
                done = subprocess.run(
                    self._remote(script, *arguments),
                    stdin=send or subprocess.DEVNULL,
                    stdout=subprocess.PIPE,
                    stderr=log,
                    timeout=self._timeout_s,
                    start_new_session=True,
                )
            except subprocess.TimeoutExpired as error:
                raise DeviceError(
                    f"Device {self.name} did not answer within {self._timeout_s:.0f} s.",
                    "Check the network and the device's load.",
                ) from error
            if done.returncode:
                raise self._failed(done.returncode, log)
            return done.stdout.decode("utf-8", "replace")

    def _remote(self, script: str, *arguments: str) -> list[str]:
        """The ssh command that runs a script in a plain `sh`, whatever the user's login shell is."""
        words = ["sh", "-c", script, "sh", *arguments]
        return [*self._ssh, "--", self._host, " ".join(shlex.quote(word) for word in words)]

    def _failed(self, code: int, log: IO[bytes]) -> DeviceError:
        log.seek(0)
        words = " ".join(log.read().decode("utf-8", "replace").split()) or f"exit code {code}"
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


def _disconnect(end: list[str], sockets: str, locks: Sequence[subprocess.Popen[bytes]]) -> None:
    """Free an exclusive device and end the shared connection, at the latest when this program ends."""
    for lock in locks:
        lock.communicate()  # closes its standard input, which is all it waits for
    subprocess.run(end, stdin=subprocess.DEVNULL, capture_output=True, check=False)
    shutil.rmtree(sockets, ignore_errors=True)

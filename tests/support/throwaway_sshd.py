"""An sshd of our own on the loopback interface: own keys, own configuration, gone with the test."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

SERVER_CONFIG = """
Port {port}
ListenAddress 127.0.0.1
HostKey {folder}/host_key
AuthorizedKeysFile {folder}/user_key.pub
PidFile {folder}/sshd.pid
UsePAM no
StrictModes no
PasswordAuthentication no
KbdInteractiveAuthentication no
"""
CLIENT_CONFIG = """
Host *
  IdentityFile {folder}/user_key
  IdentitiesOnly yes
  UserKnownHostsFile {folder}/known_hosts
  StrictHostKeyChecking yes
"""


@dataclass
class Sshd:
    program: str
    port: int
    folder: Path
    server: subprocess.Popen[bytes] | None = None

    @property
    def address(self) -> str:
        return f"ssh://127.0.0.1:{self.port}"

    @property
    def config(self) -> Path:
        """For the client."""
        return self.folder / "ssh_config"

    def start(self) -> None:
        with (self.folder / "sshd.log").open("ab") as log:
            self.server = subprocess.Popen(
                [self.program, "-D", "-e", "-f", str(self.folder / "sshd_config")], stderr=log
            )
        _wait_until_it_listens(self.port, self.server, self.folder / "sshd.log")

    def vanish(self) -> None:
        """Gone as when the plug is pulled: the server and every connection that it serves."""
        if self.server is not None:
            for process in (self.server.pid, *_below(self.server.pid)):
                os.kill(process, signal.SIGKILL)
            self.server.wait()

    def stop(self) -> None:
        if self.server is not None:
            self.server.terminate()
            self.server.wait()


def path() -> str | None:
    return shutil.which("sshd", path=f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/local/sbin")


@contextmanager
def serve(folder: Path) -> Iterator[Sshd]:
    """Start an sshd for this user, and end it with the block."""
    program = path()
    if program is None:
        raise FileNotFoundError("sshd is not installed")
    for key in ("host_key", "user_key"):
        subprocess.run(
            ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(folder / key)],
            stdin=subprocess.DEVNULL,
            check=True,
        )
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    (folder / "sshd_config").write_text(SERVER_CONFIG.format(port=port, folder=folder))
    (folder / "ssh_config").write_text(CLIENT_CONFIG.format(folder=folder))
    host_key = " ".join((folder / "host_key.pub").read_text().split()[:2])
    (folder / "known_hosts").write_text(f"[127.0.0.1]:{port} {host_key}\n")
    if os.getuid() == 0:
        Path("/run/sshd").mkdir(exist_ok=True)  # where sshd, run by root, locks its children in
    sshd = Sshd(program, port, folder)
    try:
        sshd.start()
        yield sshd
    finally:
        sshd.stop()


def _below(process: int) -> list[int]:
    """The processes that serve connections: sshd's children and theirs, not what runs in a session."""
    children = Path(f"/proc/{process}/task/{process}/children").read_text().split()
    served = [
        child
        for child in map(int, children)
        if b"sshd" in Path(f"/proc/{child}/cmdline").read_bytes().split(b"\0")[0]
    ]
    return [each for child in served for each in (child, *_below(child))]


def _wait_until_it_listens(port: int, server: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline and server.poll() is None:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
        except ConnectionRefusedError:
            continue
        return
    raise OSError(f"sshd did not start: {log.read_text()}")

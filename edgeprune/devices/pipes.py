"""A started process that is written to, read and ended within limits of seconds and bytes.

What it says on stderr is read whenever it is waited for: the process never stops on a full pipe, the last
part is kept for an error, and one that says more than `MOST_SAID` is not listened to any longer.
"""

from __future__ import annotations

import contextlib
import os
import selectors
import subprocess
import time
from collections.abc import Sequence
from typing import IO, Any

from edgeprune.foreign import last_lines

STDERR_LINES = 12  # of the last words that an error repeats
STDERR_KEPT = 16 << 10  # bytes
MOST_SAID = 64 << 20  # bytes of stderr
QUIT_SECONDS = 5.0  # what a process gets to leave before it is killed
_BLOCK = 1 << 20


class Flood(Exception):
    """A process prints more than anything of ours ever does; the text says where."""


class Piped:
    """A process in a session of its own, whose pipes are used by deadlines of `time.monotonic`.

    stdin: a file that it reads instead of a pipe.
    Raises `OSError` when it cannot be started.
    """

    def __init__(self, command: Sequence[str], stdin: IO[bytes] | int = subprocess.PIPE) -> None:
        self.process = subprocess.Popen(
            command,
            stdin=stdin,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,  # Ctrl-C is the host's: an agent leaves when its input ends
        )
        for stream in (self.process.stdin, self.process.stdout, self.process.stderr):
            if stream is not None:
                os.set_blocking(stream.fileno(), False)
        self._last, self._heard, self._listening = bytearray(), 0, True

    def write(self, buffers: Sequence[Any], deadline: float) -> None:
        """Raises `TimeoutError`, `Flood`, and `BrokenPipeError` when nobody reads."""
        stdin = _number(self.process.stdin)
        for buffer in buffers:
            rest = memoryview(buffer)
            while rest:
                self._wait(stdin, selectors.EVENT_WRITE, deadline)
                rest = rest[os.write(stdin, rest[:_BLOCK]) :]

    def read(self, size: int, deadline: float) -> bytes:
        """`size` bytes of its stdout, or fewer at the end. Raises `TimeoutError` and `Flood`."""
        stdout, data = _number(self.process.stdout), bytearray()
        while len(data) < size:
            self._wait(stdout, selectors.EVENT_READ, deadline)
            block = os.read(stdout, min(size - len(data), _BLOCK))
            if not block:
                break
            data += block
        return bytes(data)

    def unread(self) -> bytes:
        """Some of what it printed on stdout without having been asked; empty at the end, too."""
        with contextlib.suppress(BlockingIOError):
            return os.read(_number(self.process.stdout), 64)
        return b""

    def wait(self, seconds: float) -> int | None:
        """Exit code of the process; None when it has not ended in so many seconds."""
        deadline = time.monotonic() + seconds
        with contextlib.suppress(TimeoutError, Flood):
            while self._listening and self.process.poll() is None:
                self._wait(None, selectors.EVENT_READ, min(deadline, time.monotonic() + 0.02), quiet=True)
                if time.monotonic() >= deadline:
                    break
        with contextlib.suppress(subprocess.TimeoutExpired):
            return self.process.wait(max(0.0, deadline - time.monotonic()))
        return None

    def last_words(self) -> list[str]:
        """The last lines of its stderr, each of them tame."""
        with contextlib.suppress(Flood):
            while self._listening and self._listen():
                pass
        return last_lines(self._last.decode("utf-8", "replace"), STDERR_LINES)

    def end(self) -> None:
        """Close its stdin, which is what it waits for; kill it when it stays."""
        for stream in (self.process.stdin, self.process.stdout):
            if stream is not None:
                stream.close()
        if self.wait(QUIT_SECONDS) is None:
            self.kill()
        if self.process.stderr is not None:
            self._listening = False
            self.process.stderr.close()

    def kill(self) -> None:
        self.process.kill()
        with contextlib.suppress(subprocess.TimeoutExpired):  # it hangs in the kernel: nothing ends it
            self.process.wait(QUIT_SECONDS)

    def _wait(self, number: int | None, event: int, deadline: float, quiet: bool = False) -> None:
        """Return when the pipe is ready (without one: when something was said), listening meanwhile."""
        while True:
            with selectors.DefaultSelector() as selector:
                if number is not None:
                    selector.register(number, event)
                if self._listening:
                    selector.register(_number(self.process.stderr), selectors.EVENT_READ)
                ready = {key.fd for key, _ in selector.select(max(0.0, deadline - time.monotonic()))}
            if number is not None and number in ready:
                return
            if ready:
                self._listen()
            if number is None:
                return
            if time.monotonic() >= deadline and not quiet:
                raise TimeoutError

    def _listen(self) -> bool:
        """Read some of its stderr; whether there was any."""
        try:
            said = os.read(_number(self.process.stderr), 1 << 16)
        except BlockingIOError:
            return False
        self._listening = bool(said)
        self._heard += len(said)
        self._last = (self._last + said)[-STDERR_KEPT:]
        if self._heard > MOST_SAID:
            self._listening = False
            raise Flood(f"more than {MOST_SAID >> 20} MiB on its standard error")
        return bool(said)


def _number(stream: IO[bytes] | None) -> int:
    if stream is None:
        raise ValueError("the process has no such pipe")
    return stream.fileno()

"""Processes are written to, read and ended within limits."""

from __future__ import annotations

import subprocess
import sys
import time

import pytest

from edgeprune.devices import pipes
from edgeprune.devices.pipes import Flood, Piped


def python(program: str, **options: int) -> Piped:
    return Piped([sys.executable, "-IS", "-c", program], **options)


def soon() -> float:
    return time.monotonic() + 60


def test_what_is_written_comes_back_and_the_end_is_seen() -> None:
    echo = python("import sys; sys.stdout.buffer.write(sys.stdin.buffer.read(300000))")
    echo.write([b"x" * 300_000], soon())
    assert echo.read(300_000, soon()) == b"x" * 300_000
    assert echo.read(5, soon()) == b""
    assert echo.wait(60) == 0
    echo.end()


def test_a_deadline_ends_any_wait() -> None:
    stuck = python("import signal; signal.pause()")
    for use in (
        lambda: stuck.read(1, time.monotonic()),
        lambda: stuck.write([b"x" * (1 << 20)], time.monotonic()),
    ):
        with pytest.raises(TimeoutError):
            use()
    assert stuck.wait(0.0) is None
    stuck.kill()
    stuck.end()
    assert stuck.process.returncode == -9


def test_a_full_stderr_stops_nobody_and_its_end_is_kept() -> None:
    noisy = python(
        "import sys\n"
        "sys.stderr.write('noise\\n' * 100000 + 'the \\x1b[31mreason\\n'); sys.stderr.flush(); print(1)"
    )
    assert noisy.read(2, soon()) == b"1\n"
    assert noisy.wait(60) == 0
    assert noisy.last_words()[-2:] == ["noise", r"the \x1b[31mreason"]
    assert len(noisy._last) <= pipes.STDERR_KEPT
    noisy.end()


def test_a_process_that_only_complains_can_be_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pipes, "QUIT_SECONDS", 0.05)
    noisy = python("import sys\nfor line in sys.stdin: pass\nwhile True: sys.stderr.write('x' * 4096)")
    noisy.end()
    assert noisy.process.returncode is not None


def test_a_flood_on_stderr_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pipes, "MOST_SAID", 1 << 17)
    noisy = python("import sys\nwhile True: sys.stderr.write('x' * 4096)")
    with pytest.raises(Flood, match="standard error"):
        noisy.read(1, soon())
    noisy.kill()
    noisy.end()


def test_what_nobody_asked_for_is_seen() -> None:
    chatty = python("print('hello', flush=True); input()")
    assert chatty.read(1, soon()) == b"h"
    assert chatty.unread() == b"ello\n"
    assert chatty.unread() == b""
    chatty.end()


def test_a_process_may_be_without_an_input() -> None:
    alone = python("print(2)", stdin=subprocess.DEVNULL)
    assert alone.read(10, soon()) == b"2\n"
    alone.end()
    assert alone.process.returncode == 0

"""A process that has imported everything, and forks for every fit: a child can be killed at any moment.

    python -m tests.support.zygote

One JSON order a line on standard input: where the fit works, whether it resumes, at which moment of which
phase it kills itself (`die`), or in which phase the device goes away (`vanish`). This process makes the first
fit itself, and so imports everything. The answer is a line, too: how the child ended, and its account.

A moment is a point at which a kill could leave something behind: a step that is told, a request to the
device, a file that is opened to be written, one that is renamed, one of which half is written.
"""

from __future__ import annotations

import gc
import json
import os
import signal
import sys
import tempfile
import traceback
from pathlib import Path
from typing import Any

import torch

import edgeprune
from edgeprune.errors import DeviceLost
from tests.support import exports, scripted, tiny

PACKING = {"golden.npz": "golden vectors", "run.edgeprune.zip": "bundle", "result.json": "result"}


class Moments:
    """Counts the moments of each phase; `die` is the phase and the number (from 0) at which it ends."""

    def __init__(self, folder: Path, die: tuple[str, int] | None) -> None:
        self.folder, self.die = folder, die
        self.vanish: str | None = None
        self.phase = "start"
        self.counts: dict[str, int] = {}
        self.told: list[str] = []

    def at(self, half: tuple[int, int] | None = None) -> None:
        """half: a file's descriptor, and the size that a kill in the middle of writing would leave it."""
        count = self.counts.get(self.phase, 0)
        self.counts[self.phase] = count + 1
        if self.die == (self.phase, count):
            if half is not None:
                os.truncate(f"/proc/self/fd/{half[0]}", half[1])
            os.kill(os.getpid(), signal.SIGKILL)

    def request(self) -> None:
        self.at()
        if self.phase == self.vanish:
            raise DeviceLost("The connection to device scripted was lost.", "Look for it.")

    def tell(self, event: Any) -> None:
        self.told.append(event.doing)
        self.phase = f"{event.stage}: {event.doing.split(',')[0]}"
        self.at()

    def audit(self, event: str, arguments: tuple[Any, ...]) -> None:
        if event == "open" and arguments[2] & (os.O_WRONLY | os.O_RDWR):
            self._file(arguments[0])
        elif event == "os.rename":
            self._file(arguments[1])

    def _file(self, path: Any) -> None:
        if isinstance(path, str | os.PathLike) and os.fspath(path).startswith(str(self.folder)):
            self.phase = PACKING.get(Path(path).name, self.phase)
            self.at()

    def fsync(self, handle: int) -> None:
        path = os.readlink(f"/proc/self/fd/{handle}")
        if path.startswith(str(self.folder)):
            half = os.fstat(handle).st_size // 2
            self.at((handle, half) if path.endswith(".tmp") else None)  # others are whole by now
        FSYNC(handle)

    def write(self, handle: int, data: Any) -> int:
        size = os.fstat(handle).st_size  # of a ledger, to which a line is added
        written = WRITE(handle, data)
        self.at((handle, size + written // 2))
        return written


FSYNC, WRITE = os.fsync, os.write


def fit(order: dict[str, Any]) -> dict[str, Any]:
    """Everything that a fit may do, in seconds; its account."""
    folder = Path(order["folder"])
    moments = Moments(folder, tuple(order["die"]) if order["die"] else None)
    moments.vanish = order["vanish"]
    os.environ["XDG_CACHE_HOME"] = str(folder / "cache")
    tempfile.tempdir = str(folder / "tmp")
    Path(tempfile.tempdir).mkdir(parents=True, exist_ok=True)
    device = scripted.ScriptedDevice(
        tiny.summed_ms, operators=tiny.operators, before=lambda request, artefact: moments.request()
    )
    sys.addaudithook(moments.audit)
    os.fsync, os.write = moments.fsync, moments.write
    task = tiny.quick(evaluate_samples=tiny.scores)
    edgeprune.fit(
        task,
        speedup=2.0,
        max_drop=0.1,
        epochs=1,
        device=device,
        out=folder / "run",
        resume=order["resume"],
        listen=moments.tell,
    )
    return {"moments": moments.counts, "told": moments.told}


def forked(order: dict[str, Any]) -> dict[str, Any]:
    """The fit in a child, which has all that this process ever imported."""
    account = Path(order["folder"]) / "account.json"
    account.unlink(missing_ok=True)
    child = os.fork()
    if child == 0:
        try:
            told = fit(order)
            account.write_text(json.dumps(told))
        except DeviceLost as error:
            account.write_text(json.dumps({"error": error.what}))
        except BaseException:
            traceback.print_exc()
            os._exit(1)
        os._exit(0)
    _, status = os.waitpid(child, 0)
    found = json.loads(account.read_text()) if account.exists() else {}
    return {"ended": os.waitstatus_to_exitcode(status), **found}


def main() -> None:
    torch.set_num_threads(1)  # threads do not survive a fork
    exports.remember(setattr)
    tiny.task()  # trained here, once
    first = json.loads(sys.stdin.readline())
    print(json.dumps({"ended": 0, **fit(first)}), flush=True)
    gc.freeze()  # children need not look through it
    for line in sys.stdin:
        print(json.dumps(forked(json.loads(line))), flush=True)


if __name__ == "__main__":
    main()

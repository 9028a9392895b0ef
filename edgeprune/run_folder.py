"""Run folder of one run at a time, and what a run may remove from it.

The folder is held by a lock that the system drops when the process ends, however it ends. It is new or empty
when its run starts, and holds nothing but the run: a folder with other content is refused, and only names
that the run wrote are ever removed from it.
"""

from __future__ import annotations

import errno
import fcntl
import os
import stat
import weakref
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

from edgeprune.errors import EdgepruneError, InputError
from edgeprune.files import sweep, writing

LOCK = "ledger.lock"


class RunFolder:
    """Run folder that this process holds. Use `RunFolder.hold`."""

    def __init__(self, path: Path, lock: int, made: Sequence[Path]) -> None:
        """Folder with an open lock file. made: names that were absent, those of folders first."""
        self.path = path
        self._lock = lock
        self._made = list(made)  # all that this run wrote before its first step was recorded
        # A forked child (a data loader's worker) shares the lock and may outlive a killed parent: it must
        # not keep the folder from being resumed.
        os.register_at_fork(after_in_child=_closer(weakref.ref(self)))

    @classmethod
    def hold(cls, path: Path, mark: str) -> RunFolder:
        """Make the folder where it is absent, and lock it. mark: the file that only a run folder has.

        Raises `InputError` when it holds anything but a run, when another run holds it, or when it cannot be
        written.
        """
        with writing(path):
            made = [] if path.is_dir() else [path]
            path.mkdir(parents=True, exist_ok=True)
            _check_own(path, mark)
            made += [path / name for name in (LOCK, mark) if not (path / name).exists()]
            folder = cls(path, _open_lock(path / LOCK), made)
        try:
            folder._take()
        except BaseException:
            folder.close()
            raise
        return folder

    def check_lock(self) -> None:
        """Raise `EdgepruneError` when the lock lost its name, which another run could take."""
        try:
            same = os.path.samestat(os.lstat(self.path / LOCK), os.fstat(self._lock))
        except FileNotFoundError:
            same = False
        if not same:
            raise EdgepruneError(
                f"{self.path / LOCK} was removed or replaced while this run held it.",
                "Leave the run folder alone while a run goes on; add --resume to go on with this one.",
            )

    def will_write(self, files: Sequence[Path]) -> None:
        """Remember files of the first step, and their folders, for `discard`."""
        self._made += [path for file in files for path in (file.parent, file) if not path.exists()]

    def discard(self) -> None:
        """Remove all that this run wrote: input that is refused before the first step leaves nothing.

        A folder in which something else has appeared meanwhile stays.
        """
        for path in reversed(self._made):
            with suppress(OSError):
                if path.is_dir() and not path.is_symlink():
                    sweep(path)
                    path.rmdir()
                else:
                    path.unlink(missing_ok=True)

    def close(self) -> None:
        """Release the folder."""
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1

    def _take(self) -> None:
        try:
            with writing(self.path / LOCK, only={errno.ENOLCK, errno.ENOTSUP}):
                fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            holder = os.pread(self._lock, 20, 0).decode("ascii", "replace").strip()
            who = f"the run with process id {holder}" if holder else "another run"
            raise InputError(
                f"{self.path} is in use by {who}.", "Wait for it to end, or choose another --out."
            ) from error
        self.check_lock()
        with writing(self.path / LOCK):
            os.ftruncate(self._lock, 0)
            os.pwrite(self._lock, f"{os.getpid()}\n".encode("ascii"), 0)


def _check_own(folder: Path, mark: str) -> None:
    """Refuse a folder that is no run folder and not empty."""
    names = sorted(os.listdir(folder))
    if mark in names or not set(names) - {LOCK}:
        return
    raise InputError(
        f"{folder} is no run folder: it holds {names[0]!r}" + (" and more." if len(names) > 1 else "."),
        "Choose an --out that is new or empty.",
    )


def _open_lock(path: Path) -> int:
    """Descriptor of the lock file, which is a regular file and no link."""
    try:
        lock = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK, 0o666)
    except OSError as error:
        if error.errno != errno.ELOOP:
            raise
        raise InputError(f"{path} is a link.", "Remove it, or choose another --out.") from error
    if not stat.S_ISREG(os.fstat(lock).st_mode):
        os.close(lock)
        raise InputError(f"{path} is no regular file.", "Remove it, or choose another --out.")
    return lock


def _closer(folder: weakref.ref[RunFolder]) -> Callable[[], None]:
    def close() -> None:
        found = folder()
        if found is not None:
            found.close()

    return close

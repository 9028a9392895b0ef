"""Atomic writing of files, and a plain reason where one cannot be written."""

from __future__ import annotations

import errno
import fcntl
import hashlib
import os
import shutil
import tempfile
from collections.abc import Collection, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from edgeprune.errors import InputError

_HINTS = {
    errno.ENOSPC: "The disk is full: free some space, or choose a folder on another disk.",
    errno.EDQUOT: "Your disk quota is used up: free some space, or choose a folder on another disk.",
    errno.EFBIG: "A file size limit was reached: raise it (ulimit -f), or choose another file system.",
    errno.EROFS: "The file system is read-only: choose a folder that can be written.",
    errno.EACCES: "Permission is denied: choose a folder that you may write, or change its permissions.",
    errno.EPERM: "Permission is denied: choose a folder that you may write, or change its permissions.",
    errno.ENOTDIR: "A file stands where a folder is needed: choose another path.",
    errno.EEXIST: "A file stands where a folder is needed: choose another path.",
    errno.EISDIR: "A folder stands where a file is needed: choose another path.",
}
TEMPORARY = ".edgeprune-tmp"  # ends the name of a file that is not finished, which nobody else has
SCRATCH = "edgeprune-scratch-"
HELD = "held"  # in a scratch folder: locked as long as its process lives
# What no code above this room can cause: the place itself takes no more.
FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS})


@contextmanager
def writing(path: Path, only: Collection[int] | None = None) -> Iterator[None]:
    """A block in which an `OSError` while writing `path` becomes an `InputError`.

    only: the errno values that do; None is all of them.
    """
    try:
        yield
    except OSError as error:
        if only is not None and error.errno not in only:
            raise
        reason = error.strerror or str(error)
        hint = _HINTS.get(error.errno or 0, "Choose another path, or repair this one.")
        raise InputError(f"{path} could not be written: {reason}.", hint) from error


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A temporary name beside `path` to write to; it becomes `path` on leaving, or vanishes on an error.

    Raises `InputError` when the place cannot be written. `path` holds its old content or all of the new
    one, also after a power cut.
    """
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=TEMPORARY)
        os.close(handle)
        temporary = Path(name)
        try:
            # mkstemp's 0600 is for secrets; a result gets what the user's umask grants.
            temporary.chmod(0o666 & ~_umask())
            yield temporary
            sync(temporary)
            temporary.replace(path)
            sync(path.parent)
        finally:
            with suppress(FileNotFoundError):
                temporary.unlink()


def write(path: Path, content: bytes) -> None:
    """Put `content` at `path`, all of it or none. Raises `InputError` when the place cannot be written."""
    with replacing(path) as temporary:
        temporary.write_bytes(content)


def create(path: Path, content: bytes) -> None:
    """Put `content` at a path where nothing is, all of it or none.

    Raises `InputError` when something is there, or when the place cannot be written.
    """
    with writing(path):
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=TEMPORARY)
        os.close(handle)
        temporary = Path(name)
        try:
            temporary.chmod(0o666 & ~_umask())
            temporary.write_bytes(content)
            sync(temporary)
            os.link(temporary, path)  # unlike a rename, it replaces nothing
            sync(path.parent)
        except FileExistsError as error:
            raise taken(path) from error
        finally:
            temporary.unlink()


def taken(path: Path, hint: str = "Rename or remove it first.") -> InputError:
    """The error about a path where nothing may be, and something is."""
    return InputError(f"{path} is there already, and is not overwritten.", hint)


def sweep(folder: Path) -> None:
    """Remove the unfinished files of killed processes below `folder`, which edgeprune alone names so.

    Only for a process that holds the folder alone: unfinished files of others would go, too.
    """
    for left in folder.rglob(f".*{TEMPORARY}"):
        _remove(left)


@contextmanager
def scratch() -> Iterator[Path]:
    """A temporary folder, gone with the block.

    A killed process leaves its folder behind, without a lock: the next scratch folder of any process
    removes such folders first.
    """
    place = Path(tempfile.gettempdir())
    for left in place.glob(f"{SCRATCH}*"):
        _take_away(left)
    folder, lock = _held(place)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        os.close(lock)


def _held(place: Path) -> tuple[Path, int]:
    """A new folder and its lock; another one when a sweep takes the folder away before it is locked."""
    while True:
        folder = Path(tempfile.mkdtemp(prefix=SCRATCH, dir=place))
        with suppress(FileNotFoundError):
            lock = os.open(folder / HELD, os.O_RDWR | os.O_CREAT, 0o600)
            fcntl.flock(lock, fcntl.LOCK_EX)
            with suppress(FileNotFoundError):
                if os.path.samestat(os.stat(folder / HELD), os.fstat(lock)):
                    return folder, lock
            os.close(lock)


def _take_away(folder: Path) -> None:
    """Remove the scratch folder of a process that is gone; leave those in use, and other users'."""
    with suppress(OSError):
        if folder.lstat().st_uid != os.getuid() or folder.is_symlink():
            return
        with suppress(OSError):  # killed before it had a lock; not empty is the usual case
            folder.rmdir()
            return
        lock = os.open(folder / HELD, os.O_RDONLY | os.O_NOFOLLOW)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(folder, ignore_errors=True)
        finally:
            os.close(lock)


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def sync(path: Path) -> None:
    """Bring a file's content, or a folder's entries, to the disk. Raises `OSError`."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def sha256(path: Path) -> str:
    """The SHA-256 of a file, as 64 hexadecimal digits. Raises `OSError`."""
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        while block := stream.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def _umask() -> int:
    mask = os.umask(0o077)
    os.umask(mask)
    return mask

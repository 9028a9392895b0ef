"""Archive of a bundle, a zip or a folder, whose file names cannot leave it.

The zip is canonical: entries sorted, stored without compression, fixed time and permissions. So the same
files give the same bytes on any machine, nothing can swell when it is unpacked, and a reader can demand
that an archive is byte for byte what edgeprune packs: a flipped bit between the files is seen as well.
Weights hardly compress anyway.

A bundle may be changed while it is read. So a zip is opened once, and a folder's files are opened from the
folder that was listed, without following links; what is copied out is what its reader checks and uses.
"""

from __future__ import annotations

import io
import os
import re
import shutil
import stat
import struct
import tempfile
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Protocol

from edgeprune.errors import BundleError
from edgeprune.files import writing
from edgeprune.foreign import tame

# What a zip reader may raise on bytes that are no zip; translated once, in `_translated`.
_BROKEN: tuple[type[Exception], ...] = (
    zipfile.BadZipFile,
    NotImplementedError,
    RuntimeError,
    EOFError,
    ValueError,
    OverflowError,
    struct.error,
)
MOST_ENTRIES = 1000  # a bundle has ten
MOST_FOLDERS = 8  # folders inside one another; a bundle has none
MOST_DIRECTORY = 1 << 18  # bytes of a zip's directory: 46 and the name for each entry
_END = struct.Struct("<4s4H2LH")  # of an archive without a comment
_LOCATOR = struct.Struct("<4sLQL")  # before it in archives of more than 2 GiB, and before that one:
_END64 = struct.Struct("<4sQ2H2L4Q")
_BLOCK = 1 << 20
_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW
_PART = re.compile(r"[A-Za-z0-9_+-][A-Za-z0-9._+-]*")
_INTACT = "Copy it again from where it was made: it was damaged or changed on the way."

Content = Path | bytes


class Source(Protocol):
    """Opened bundle, a zip or a folder; `sizes` holds every file's name and size in bytes."""

    @property
    def sizes(self) -> Mapping[str, int]: ...
    def read(self, name: str) -> bytes:
        """Content of a file. Raises `BundleError` (1) when it is not there any more."""

    def place(self, name: str, folder: Path) -> None:
        """Copy the file to its place below `folder`, as many bytes as `sizes` says at most."""

    def check_nothing_more(self, folder: Path) -> None:
        """Raise `BundleError` (5) when the bundle has a byte beyond the files placed in `folder`."""


def pack(files: Mapping[str, Content], stream: IO[bytes]) -> None:
    """Write the canonical zip of `files`."""
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_STORED) as archive:
        for name in sorted(files):
            content = files[name]
            entry = zipfile.ZipInfo(name)  # of 1980-01-01, the zip's earliest day
            entry.create_system = 3  # Unix, wherever it is packed
            entry.external_attr = (stat.S_IFREG | 0o644) << 16
            entry.file_size = len(content) if isinstance(content, bytes) else content.stat().st_size
            reader = io.BytesIO(content) if isinstance(content, bytes) else content.open("rb")
            with reader, archive.open(entry, "w") as writer:
                shutil.copyfileobj(reader, writer, 1 << 20)


@contextmanager
def opened(path: Path) -> Iterator[Source]:
    """Open the bundle at `path`, a zip or a folder, and check its names. Raises `BundleError` (1)."""
    try:
        handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    except (OSError, ValueError) as error:  # ValueError: a path with a NUL in it
        raise _no_bundle(path) from error
    kind = stat.S_IFMT(os.fstat(handle).st_mode)
    if kind == stat.S_IFDIR:
        try:
            yield _FolderSource(path, handle)
        finally:
            os.close(handle)
        return
    with os.fdopen(handle, "rb") as stream:
        if kind != stat.S_IFREG:
            raise _no_bundle(path)
        with _translated(path, OSError):
            check_directory(stream)
            archive = zipfile.ZipFile(stream)
        with archive:
            yield _ZipSource(path, archive, stream)


def _no_bundle(path: Path) -> BundleError:
    return BundleError(1, f"There is no bundle {path}.", "Give the .edgeprune.zip that fit wrote.")


def check_directory(stream: IO[bytes]) -> None:
    """Raise BadZipFile for a directory of more entries than a bundle has, which would fill the memory."""
    size = stream.seek(0, os.SEEK_END)
    stream.seek(max(0, size - _END.size - _LOCATOR.size - _END64.size))
    tail = stream.read()
    end = tail[-_END.size :]
    if len(end) < _END.size or not end.startswith(b"PK\5\6"):
        raise zipfile.BadZipFile("it does not end with the directory of a zip")
    lengths = [_END.unpack(end)[5]]
    if tail[-_END.size - _LOCATOR.size :].startswith(b"PK\6\7") and tail.startswith(b"PK\6\6"):
        lengths.append(_END64.unpack_from(tail)[8])
    if max(lengths) > MOST_DIRECTORY:
        raise zipfile.BadZipFile(f"its directory has {max(lengths)} bytes, the limit is {MOST_DIRECTORY}")


class _ZipSource:
    def __init__(self, path: Path, archive: zipfile.ZipFile, stream: IO[bytes]) -> None:
        self._path, self._archive, self._stream = path, archive, stream
        entries = archive.infolist()
        for entry in entries:
            _check_name(path, entry.filename)
            kind = stat.S_IFMT(entry.external_attr >> 16)
            if kind not in (0, stat.S_IFREG):
                raise BundleError(
                    1, f"{path}: {entry.filename} is a link or another special file.", _malicious()
                )
            if entry.compress_type != zipfile.ZIP_STORED or entry.file_size != entry.compress_size:
                raise BundleError(1, f"{path}: {entry.filename} is compressed.", _repacked())
        _check_distinct(path, [entry.filename for entry in entries])
        self.sizes: Mapping[str, int] = {entry.filename: entry.file_size for entry in entries}
        # Entries that overlap would unpack to more than the archive holds.
        if sum(self.sizes.values()) > os.fstat(stream.fileno()).st_size:
            raise BundleError(1, f"{path}: the entries are larger than the archive.", _malicious())

    def read(self, name: str) -> bytes:
        with _translated(self._path, OSError):
            return self._archive.read(name)

    def place(self, name: str, folder: Path) -> None:
        with _translated(self._path, OSError):
            reader = self._archive.open(name)
        with reader:
            _copy(self._path, reader, folder / name, self.sizes[name])

    def check_nothing_more(self, folder: Path) -> None:
        with tempfile.TemporaryFile(dir=folder.parent) as again, writing(folder):
            pack({name: folder / name for name in self.sizes}, again)
            if not _equal(self._stream, again):
                raise BundleError(5, f"{self._path} is not byte for byte what edgeprune packs.", _repacked())


class _FolderSource:
    """Bundle in a folder that is open: its files are reached from there, never through a link."""

    def __init__(self, path: Path, handle: int) -> None:
        self._path, self._handle = path, handle
        found: dict[str, int] = {}
        with _translated(path, OSError):
            self._list("", handle, found)
        _check_distinct(path, list(found))
        self.sizes: Mapping[str, int] = dict(sorted(found.items()))

    def read(self, name: str) -> bytes:
        with _translated(self._path, OSError), self._open(name) as reader:
            return reader.read(self.sizes[name])

    def place(self, name: str, folder: Path) -> None:
        with _translated(self._path, OSError):
            reader = self._open(name)
        with reader:
            _copy(self._path, reader, folder / name, self.sizes[name])

    def check_nothing_more(self, folder: Path) -> None:
        """A folder is its files: there is no byte between them."""

    def _list(self, below: str, handle: int, found: dict[str, int]) -> None:
        for item in sorted(os.listdir(handle)):
            name = f"{below}{item}"
            _check_name(self._path, name)
            status = os.stat(item, dir_fd=handle, follow_symlinks=False)
            if len(found) >= MOST_ENTRIES or name.count("/") >= MOST_FOLDERS:
                raise BundleError(1, f"{self._path} holds more files than a bundle.", _malicious())
            if stat.S_ISDIR(status.st_mode):
                inner = os.open(item, _FOLDER, dir_fd=handle)
                try:
                    self._list(f"{name}/", inner, found)
                finally:
                    os.close(inner)
            elif not stat.S_ISREG(status.st_mode):
                raise BundleError(1, f"{self._path}: {name} is a link or another special file.", _malicious())
            else:
                found[name] = status.st_size

    def _open(self, name: str) -> IO[bytes]:
        """The file as it is now; `OSError` when it or a folder on the way has become a link."""
        *folders, last = name.split("/")
        handle = os.dup(self._handle)
        try:
            for part in folders:
                inner = os.open(part, _FOLDER, dir_fd=handle)
                os.close(handle)
                handle = inner
            file = os.open(last, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK, dir_fd=handle)
        finally:
            os.close(handle)
        if not stat.S_ISREG(os.fstat(file).st_mode):
            os.close(file)
            raise OSError(f"{name} is no regular file any more")
        return os.fdopen(file, "rb")


def _copy(path: Path, reader: IO[bytes], target: Path, size: int) -> None:
    """Copy `size` bytes to `target`, or what there is."""
    with writing(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        with target.open("wb") as writer:
            while size > 0:
                with _translated(path, OSError):
                    block = reader.read(min(_BLOCK, size))
                if not block:
                    return
                writer.write(block)
                size -= len(block)


def _equal(one: IO[bytes], other: IO[bytes]) -> bool:
    one.seek(0)
    other.seek(0)
    while (block := one.read(_BLOCK)) == other.read(_BLOCK):
        if not block:
            return True
    return False


def is_plain(name: str) -> bool:
    """Whether a name is that of a file of a bundle: letters, digits and . _ + -, with "/" between folders."""
    return all(_PART.fullmatch(part) for part in name.split("/"))


def _check_name(path: Path, name: str) -> None:
    if name.startswith(("/", "\\")) or ".." in re.split(r"[/\\]", name) or re.match(r"[A-Za-z]:", name):
        raise BundleError(1, f"{path}: the entry {tame(name)!r} leaves the bundle's folder.", _malicious())
    if not is_plain(name):
        raise BundleError(
            1,
            f"{path}: the entry {tame(name)!r} is not a plain file name (letters, digits, . _ + -).",
            _INTACT,
        )


def _check_distinct(path: Path, names: list[str]) -> None:
    seen: set[str] = set()
    for name in names:
        if name.casefold() in seen:  # some file systems know one case only
            raise BundleError(1, f"{path}: the entry {name!r} is there twice.", _malicious())
        seen.add(name.casefold())


@contextmanager
def _translated(path: Path, *also: type[Exception]) -> Iterator[None]:
    try:
        yield
    except (*_BROKEN, *also) as error:
        raise BundleError(1, f"{path} is not a readable bundle: {tame(str(error))}.", _INTACT) from error


def _malicious() -> str:
    return "edgeprune never writes such a bundle: do not use it, and ask whoever made it."


def _repacked() -> str:
    return "Use the file that fit wrote; if it was packed again, unpack it and validate the folder."

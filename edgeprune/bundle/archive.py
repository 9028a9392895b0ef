"""Archive of a bundle, a zip or a folder, whose file names cannot leave it.

The zip is canonical: entries sorted, stored without compression, fixed time and permissions. So the same
files give the same bytes on any machine, nothing can swell when it is unpacked, and a reader can demand
that an archive is byte for byte what edgeprune packs: a flipped bit between the files is seen as well.
Weights hardly compress anyway.
"""

from __future__ import annotations

import filecmp
import io
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
_PART = re.compile(r"[A-Za-z0-9_+-][A-Za-z0-9._+-]*")
_INTACT = "Copy it again from where it was made: it was damaged or changed on the way."

Content = Path | bytes


class Source(Protocol):
    """Opened bundle, a zip or a folder; `sizes` holds every file's name and size in bytes."""

    @property
    def sizes(self) -> Mapping[str, int]: ...
    def read(self, name: str) -> bytes: ...
    def place(self, name: str, folder: Path) -> None:
        """Copy the file to its place below `folder`."""

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
    if path.is_dir():
        yield _FolderSource(path)
        return
    if not path.is_file():
        raise BundleError(1, f"There is no bundle {path}.", "Give the .edgeprune.zip that fit wrote.")
    with _translated(path, OSError):
        archive = zipfile.ZipFile(path)
    with archive:
        yield _ZipSource(path, archive)


class _ZipSource:
    def __init__(self, path: Path, archive: zipfile.ZipFile) -> None:
        self._path, self._archive = path, archive
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
        if sum(self.sizes.values()) > path.stat().st_size:
            raise BundleError(1, f"{path}: the entries are larger than the archive.", _malicious())

    def read(self, name: str) -> bytes:
        with _translated(self._path, OSError):
            return self._archive.read(name)

    def place(self, name: str, folder: Path) -> None:
        target = folder / name
        with _translated(self._path, OSError):
            reader = self._archive.open(name)
        with reader, writing(target), _translated(self._path):
            target.parent.mkdir(parents=True, exist_ok=True)
            with target.open("wb") as writer:
                shutil.copyfileobj(reader, writer, 1 << 20)

    def check_nothing_more(self, folder: Path) -> None:
        with tempfile.NamedTemporaryFile(dir=folder.parent) as again, writing(Path(again.name)):
            pack({name: folder / name for name in self.sizes}, again)
            again.flush()
            if not filecmp.cmp(self._path, again.name, shallow=False):
                raise BundleError(5, f"{self._path} is not byte for byte what edgeprune packs.", _repacked())


class _FolderSource:
    def __init__(self, path: Path) -> None:
        self._path = path
        found: dict[str, int] = {}
        for item in sorted(path.rglob("*")):
            name = item.relative_to(path).as_posix()
            mode = item.lstat().st_mode
            if stat.S_ISDIR(mode):
                continue
            _check_name(path, name)
            if not stat.S_ISREG(mode):
                raise BundleError(1, f"{path}: {name} is a link or another special file.", _malicious())
            found[name] = item.stat().st_size
        _check_distinct(path, list(found))
        self.sizes: Mapping[str, int] = found

    def read(self, name: str) -> bytes:
        return (self._path / name).read_bytes()

    def place(self, name: str, folder: Path) -> None:
        target = folder / name
        with writing(target):
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(self._path / name, target)

    def check_nothing_more(self, folder: Path) -> None:
        """A folder is its files: there is no byte between them."""


def _check_name(path: Path, name: str) -> None:
    parts = name.split("/")
    if name.startswith(("/", "\\")) or ".." in re.split(r"[/\\]", name) or re.match(r"[A-Za-z]:", name):
        raise BundleError(1, f"{path}: the entry {name!r} leaves the bundle's folder.", _malicious())
    if not all(_PART.fullmatch(part) for part in parts):
        raise BundleError(
            1, f"{path}: the entry {name!r} is not a plain file name (letters, digits, . _ + -).", _INTACT
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
        raise BundleError(1, f"{path} is not a readable bundle: {error}.", _INTACT) from error


def _malicious() -> str:
    return "edgeprune never writes such a bundle: do not use it, and ask whoever made it."


def _repacked() -> str:
    return "Use the file that fit wrote; if it was packed again, unpack it and validate the folder."

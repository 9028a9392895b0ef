"""The files of an artefact: one, or several that only work together."""

from __future__ import annotations

import hashlib
from pathlib import Path

from edgeprune.errors import InputError
from edgeprune.files import sha256
from edgeprune.runtimes import TABLE


def written_files(path: Path) -> tuple[Path, ...]:
    """The files of an artefact that edgeprune writes at `path`: OpenVINO IR is NAME.xml with NAME.bin."""
    companions = next((row.companions for row in TABLE.values() if row.suffix == path.suffix), ())
    return (path, *(path.with_suffix(suffix) for suffix in companions))


def artefact_files(path: Path) -> tuple[Path, ...]:
    """The files of an artefact: the named one first, then those that it cannot be loaded without.

    Beyond those that edgeprune writes: torch's exporter puts large weights into NAME.onnx.data.
    Raises `InputError` when one of them is missing.
    """
    files = [*written_files(path)]
    if path.suffix == ".onnx":
        data = path.with_name(path.name + ".data")
        files += [data] if data.is_file() else []
    for file in files:
        if not file.is_file():
            raise InputError(
                f"The artefact's file {file} does not exist.", "Check the path, or build it again."
            )
    return tuple(files)


def artefact_size_mib(path: Path) -> float:
    """Size on disk of all files of an artefact."""
    return sum(file.stat().st_size for file in artefact_files(path)) / 2**20


def artefact_sha256(path: Path) -> str:
    """The SHA-256 of an artefact; of several files, that of their hexadecimal sums joined by newlines."""
    sums = [sha256(file) for file in artefact_files(path)]
    return sums[0] if len(sums) == 1 else hashlib.sha256("\n".join(sums).encode()).hexdigest()

"""Bundle reader: nothing in a bundle is used before all of it was checked.

    (1) The archive opens, and every entry is a plain file whose name stays in the bundle's folder: no
        absolute path, no "..", no drive letter, no link, no name twice, nothing compressed or overlapping.
    (2) The manifest is there, is valid, and has a schema that this edgeprune knows.
    (3) No file that the manifest lists is missing.
    (4) No file is there that the manifest does not list.
    (5) Every file has the size and the SHA-256 of the manifest, and an archive holds not one byte more.
    (6) The signature, when there is one or one is demanded, is over this very manifest; when signers are
        named, it is by one of them.

Each refusal is a `BundleError` with its own sentence and the number above; `validate` goes on at (7).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from edgeprune.bundle.archive import Source, opened
from edgeprune.bundle.signature import verify
from edgeprune.errors import BundleError, InputError
from edgeprune.files import scratch, sha256
from edgeprune.records.bundle import BUNDLE_SCHEMA, GOLDEN, MANIFEST, SIGNATURE, Check, Manifest
from edgeprune.records.codec import check_schema, from_json, loads

MANIFEST_LIMIT = 16 << 20  # bytes; a manifest lists files and one measurement

_DAMAGED = "Copy it again from where it was made: it was damaged or changed on the way."


@dataclass(frozen=True)
class Verified:
    """Bundle that passed (1) to (6), its files copied to `folder` until the context is left."""

    folder: Path
    manifest: Manifest
    checks: tuple[Check, ...]


@contextmanager
def open_bundle(path: Path, *, signers: Path | None = None) -> Iterator[Verified]:
    """Verify a bundle (a zip, or the folder it was unpacked to) and copy its files out.

    signers: an `allowed_signers` file; with it, a bundle that none of them signed is refused.
    Raises `BundleError` with the number of the check that refused it.
    """
    with scratch() as parent:
        folder = parent / "bundle"
        folder.mkdir()
        with opened(path) as source:  # (1)
            manifest, raw = _manifest(path, source)  # (2)
            _check_missing(path, source, manifest)  # (3)
            _check_unexpected(path, source, manifest)  # (4)
            _check_content(path, source, manifest, folder)  # (5)
            signer = _check_signature(path, source, raw, folder, signers)  # (6)
        listed = len(manifest.files)
        checks = (
            Check(1, "the archive opens and its names stay inside", "passed", f"{len(source.sizes)} entries"),
            Check(2, "the manifest is valid", "passed", f"schema {manifest.schema}"),
            Check(3, "no file is missing", "passed", f"{listed} files"),
            Check(4, "no file is unexpected", "passed", f"{listed} files"),
            Check(5, "sizes and SHA-256", "passed", f"{sum(f.size for f in manifest.files)} bytes"),
            Check(
                6, "the signature", "passed" if signer else "skipped", signer or "the bundle is not signed"
            ),
        )
        yield Verified(folder, manifest, checks)


def _manifest(path: Path, source: Source) -> tuple[Manifest, bytes]:
    size = source.sizes.get(MANIFEST)
    if size is None:
        raise BundleError(
            2, f"{path} has no {MANIFEST}, so it is not a bundle.", "Give what fit or bundle wrote."
        )
    if size > MANIFEST_LIMIT:
        raise BundleError(2, f"{path}: {MANIFEST} has {size} bytes, the limit is {MANIFEST_LIMIT}.", _DAMAGED)
    raw = source.read(MANIFEST)
    try:
        document = loads(raw, MANIFEST)
        check_schema(document, BUNDLE_SCHEMA, MANIFEST)
        manifest = from_json(Manifest, document, f"{MANIFEST}: ")
    except InputError as error:
        raise BundleError(2, f"{path}: {error.what}", error.hint) from error
    for name in (manifest.artefact, GOLDEN):
        if name not in {file.path for file in manifest.files}:
            raise BundleError(2, f"{path}: {MANIFEST} does not list {name}.", _DAMAGED)
    if manifest.batch < 1 or manifest.threads < 1 or not 0 <= manifest.tolerance < 1:
        raise BundleError(
            2,
            f"{path}: batch {manifest.batch}, threads {manifest.threads} and tolerance {manifest.tolerance} "
            "cannot be.",
            _DAMAGED,
        )
    return manifest, raw


def _check_missing(path: Path, source: Source, manifest: Manifest) -> None:
    missing = sorted({file.path for file in manifest.files} - set(source.sizes))
    if missing:
        raise BundleError(3, f"{path}: missing: {', '.join(missing)}.", _DAMAGED)


def _check_unexpected(path: Path, source: Source, manifest: Manifest) -> None:
    listed = {file.path for file in manifest.files} | {MANIFEST, SIGNATURE}
    unexpected = sorted(set(source.sizes) - listed)
    if unexpected:
        raise BundleError(
            4,
            f"{path}: the manifest does not list {', '.join(unexpected)}.",
            "Remove what was added (__pycache__ comes from running without -B), or copy the bundle again.",
        )


def _check_content(path: Path, source: Source, manifest: Manifest, folder: Path) -> None:
    for file in manifest.files:
        # Before it is unpacked: no file may take more room than the manifest says.
        if source.sizes[file.path] != file.size:
            raise BundleError(
                5,
                f"{path}: {file.path} has {source.sizes[file.path]} bytes, the manifest says {file.size}.",
                _DAMAGED,
            )
        source.place(file.path, folder)
        found = sha256(folder / file.path)
        if found != file.sha256:
            raise BundleError(
                5, f"{path}: {file.path} has SHA-256 {found}, the manifest says {file.sha256}.", _DAMAGED
            )
    for name in (MANIFEST, SIGNATURE):
        if name in source.sizes:
            source.place(name, folder)
    source.check_nothing_more(folder)


def _check_signature(
    path: Path, source: Source, manifest: bytes, folder: Path, signers: Path | None
) -> str | None:
    if SIGNATURE in source.sizes:
        return verify(manifest, folder / SIGNATURE, signers)
    if signers is not None:
        raise BundleError(
            6, f"{path} is not signed, and a signature is demanded.", "Sign it: edgeprune bundle --sign KEY"
        )
    return None

"""Bundle reader, which checks all of a bundle before any of it is used.

    (1) The archive opens, and every entry is a plain file whose name stays in the bundle's folder: no
        absolute path, no "..", no drive letter, no link, no name twice, nothing compressed or overlapping.
    (2) The manifest is there, is valid, has a schema that this edgeprune knows, and no value is out of range.
    (3) No file that the manifest lists is missing.
    (4) No file is there that the manifest does not list.
    (5) Every file has the size and the SHA-256 of the manifest, and an archive holds not one byte more. The
        golden vectors are of the model's ports, and claim and evidence are about these files: that is read
        last, behind (6), so that little of a stranger's is parsed where a signature is demanded.
    (6) The signature, when there is one or one is demanded, is over this very manifest; when signers are
        named, it is by one of them. Then it is checked before the manifest is parsed, and nothing that a
        bundle holds is shown before.

Each refusal is a `BundleError` with its own sentence and the number above; `validate` goes on at (7).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from edgeprune.bundle.archive import Source, opened
from edgeprune.bundle.golden import Golden, check_ports, read_golden
from edgeprune.bundle.manifest import check_limits
from edgeprune.bundle.signature import verify
from edgeprune.devices.artefact import artefact_sha256
from edgeprune.errors import BundleError, InputError
from edgeprune.files import scratch, sha256
from edgeprune.foreign import tame, tame_record
from edgeprune.records.bundle import BUNDLE_SCHEMA, EVIDENCE, GOLDEN, MANIFEST, SIGNATURE, Check, Manifest
from edgeprune.records.codec import check_schema, from_json, loads
from edgeprune.records.trial import FitResult

MANIFEST_LIMIT = 16 << 20  # bytes; a manifest lists files and one measurement
EVIDENCE_LIMIT = 256 << 20  # bytes; the evidence lists all trials, with the units that each of them kept

MOST_TEXT = 4096  # characters of a text in a manifest; a longer one is cut
SIGNATURE_LIMIT = 1 << 16  # bytes; ssh-keygen's have some hundred
MOST_SHOWN = 5  # names of files in a sentence

_DAMAGED = "Copy it again from where it was made: it was damaged or changed on the way."

_FORGED = "It was packed by another program, or changed by hand: get it again from whoever made it."


@dataclass(frozen=True)
class Verified:
    """Bundle that passed (1) to (6), its files copied to `folder` until the context is left."""

    folder: Path
    manifest: Manifest
    checks: tuple[Check, ...]
    golden: Golden


@contextmanager
def open_bundle(path: Path, *, signers: Path | None = None) -> Iterator[Verified]:
    """Verify a bundle (a zip, or the folder it was unpacked to) and copy its files out.

    signers: an `allowed_signers` file; with it, a bundle that none of them signed is refused.
    Raises `BundleError` with the number of the check that refused it.
    """
    with scratch() as parent:
        folder = parent / "bundle"
        folder.mkdir()
        signer: str | None = None
        with _silent(path, signers) as vouched, opened(path) as source:  # (1)
            raw = _raw_manifest(path, source)
            if signers is not None:
                signer = _check_signature(path, source, raw, folder, signers)  # (6), where it is demanded
                vouched.append(signer)
            manifest = _manifest(path, raw)  # (2)
            _check_missing(path, source, manifest)  # (3)
            _check_unexpected(path, source, manifest)  # (4)
            _check_content(path, source, manifest, raw, folder)  # (5)
            if signers is None:
                signer = _check_signature(path, source, raw, folder, None)  # (6)
        golden = _checked_golden(path, manifest, folder)  # (5)
        _check_evidence(path, manifest, folder)  # (5)
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
        yield Verified(folder, manifest, checks, golden)


@contextmanager
def _silent(path: Path, signers: Path | None) -> Iterator[list[str | None]]:
    """Where a signature is demanded, refusals quote nothing of the bundle until a signer is in the list."""
    vouched: list[str | None] = []
    try:
        yield vouched
    except BundleError as error:
        if signers is None or vouched or error.check == 6:
            raise
        raise BundleError(
            error.check,
            f"{path}: check ({error.check}) refused it before its signature could be checked, so nothing of "
            "it is shown.",
            "Ask whoever signed it; validate without --signers says what was found.",
        ) from None


def _raw_manifest(path: Path, source: Source) -> bytes:
    size = source.sizes.get(MANIFEST)
    if size is None:
        raise BundleError(
            2, f"{path} has no {MANIFEST}, so it is not a bundle.", "Give what fit or bundle wrote."
        )
    if size > MANIFEST_LIMIT:
        raise BundleError(2, f"{path}: {MANIFEST} has {size} bytes, the limit is {MANIFEST_LIMIT}.", _DAMAGED)
    return source.read(MANIFEST)


def _manifest(path: Path, raw: bytes) -> Manifest:
    try:
        document = loads(raw, MANIFEST)
        check_schema(document, BUNDLE_SCHEMA, MANIFEST)
        manifest = from_json(Manifest, document, f"{MANIFEST}: ")
        check_limits(manifest)
    except InputError as error:
        raise BundleError(2, f"{path}: {tame(error.what)}", error.hint) from error
    return tame_record(manifest, MOST_TEXT)


def _check_missing(path: Path, source: Source, manifest: Manifest) -> None:
    missing = sorted({file.path for file in manifest.files} - set(source.sizes))
    if missing:
        raise BundleError(3, f"{path}: missing: {_some(missing)}.", _DAMAGED)


def _check_unexpected(path: Path, source: Source, manifest: Manifest) -> None:
    listed = {file.path for file in manifest.files} | {MANIFEST, SIGNATURE}
    unexpected = sorted(set(source.sizes) - listed)
    if unexpected:
        raise BundleError(
            4,
            f"{path}: the manifest does not list {_some(unexpected)}.",
            "Remove what was added (__pycache__ comes from running without -B), or copy the bundle again.",
        )


def _some(names: list[str]) -> str:
    shown = ", ".join(tame(name, 100) for name in names[:MOST_SHOWN])
    return f"{shown} and {len(names) - MOST_SHOWN} more" if len(names) > MOST_SHOWN else shown


def _check_content(path: Path, source: Source, manifest: Manifest, raw: bytes, folder: Path) -> None:
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
    (folder / MANIFEST).write_bytes(raw)  # as it was checked, whatever lies in the bundle by now
    if SIGNATURE in source.sizes:
        source.place(SIGNATURE, folder)
    source.check_nothing_more(folder)


def _check_signature(
    path: Path, source: Source, manifest: bytes, folder: Path, signers: Path | None
) -> str | None:
    if SIGNATURE in source.sizes:
        if source.sizes[SIGNATURE] > SIGNATURE_LIMIT:
            raise BundleError(6, f"{path}: {SIGNATURE} has more than {SIGNATURE_LIMIT} bytes.", _DAMAGED)
        source.place(SIGNATURE, folder)
        return verify(manifest, folder / SIGNATURE, signers)
    if signers is not None:
        raise BundleError(
            6, f"{path} is not signed, and a signature is demanded.", "Sign it: edgeprune bundle --sign KEY"
        )
    return None


def _checked_golden(path: Path, manifest: Manifest, folder: Path) -> Golden:
    try:
        golden = read_golden(folder / GOLDEN)
        check_ports(golden, manifest.inputs, manifest.outputs, manifest.batch, manifest.lengths)
    except InputError as error:
        raise BundleError(5, f"{path}: {tame(error.what.replace(f'{folder}/', ''))}", _FORGED) from error
    return golden


def _check_evidence(path: Path, manifest: Manifest, folder: Path) -> None:
    """Compare claim, artefact and evidence with one another."""
    measured = artefact_sha256(folder / manifest.artefact)
    claim = manifest.claim
    if claim.measurement.artefact_sha256 != measured:
        raise BundleError(
            5,
            f"{path}: the claim is of another artefact: {manifest.artefact} has SHA-256 {measured}.",
            _FORGED,
        )
    if (folder / EVIDENCE).stat().st_size > EVIDENCE_LIMIT:
        raise BundleError(5, f"{path}: {EVIDENCE} has more than {EVIDENCE_LIMIT} bytes.", _FORGED)
    try:
        evidence = from_json(FitResult, loads((folder / EVIDENCE).read_bytes(), EVIDENCE), f"{EVIDENCE}: ")
    except InputError as error:
        raise BundleError(5, f"{path}: {tame(error.what)}", error.hint) from error
    evidence = tame_record(evidence, MOST_TEXT)  # as the manifest is
    differing = next((what for what, same in _agreements(manifest, evidence) if not same), None)
    if differing is not None:
        raise BundleError(5, f"{path}: {EVIDENCE} is about another {differing} than {MANIFEST}.", _FORGED)


def _agreements(manifest: Manifest, evidence: FitResult) -> Iterator[tuple[str, bool]]:
    """What manifest and evidence both tell, and whether they tell the same."""
    claim, target = manifest.claim, evidence.target
    yield "runtime", manifest.runtime == evidence.runtime
    yield "device", (manifest.target, manifest.device) == (target.name, target.device)
    yield "profile", manifest.profile == evidence.profile.name
    yield "budget", manifest.budget == evidence.budget
    told = (claim.metric_name, claim.lower_is_better)
    yield "metric", told == (evidence.metric, evidence.lower_is_better)
    yield "pace", manifest.pace == evidence.pace
    yield "baseline", claim.baseline_metric == evidence.baseline.metric
    reports = [
        report
        for report in (evidence.chosen, *evidence.frontier, *evidence.trials)
        if report.name == manifest.candidate
    ]
    yield "candidate", bool(reports)
    yield (
        "claim",
        any(
            (report.metric, report.measurement, report.verdict.kind, report.candidate.precision)
            == (claim.metric, claim.measurement, claim.verdict, manifest.precision)
            for report in reports
        ),
    )

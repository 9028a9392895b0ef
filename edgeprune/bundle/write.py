"""Packing a bundle from what fit left in its run folder."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import replace
from datetime import datetime, timezone
from pathlib import Path

from edgeprune import __version__
from edgeprune.bundle.archive import Content, pack
from edgeprune.bundle.golden import Golden, packed, ports, read_golden, read_reference, serve
from edgeprune.bundle.signature import sign as sign_manifest
from edgeprune.devices import Load, exact_load
from edgeprune.devices import agent as agent_file
from edgeprune.devices.artefact import artefact_files, artefact_sha256
from edgeprune.devices.local import LocalDevice
from edgeprune.errors import InputError
from edgeprune.files import replacing, sha256
from edgeprune.quantize.dialects import TABLE as DIALECTS
from edgeprune.records.bundle import (
    EVIDENCE,
    GOLDEN,
    MANIFEST,
    README,
    REFERENCE,
    RUNNER,
    SCHEMA,
    SIGNATURE,
    SUFFIX,
    Claim,
    Manifest,
    PackedFile,
)
from edgeprune.records.codec import to_json
from edgeprune.records.machine import Precision, Profile, Target
from edgeprune.records.trial import FitResult, Report
from edgeprune.runtimes import find

# Largest |served - golden| over largest |golden|, per precision. Float32 agrees between machines to 1e-7
# and between versions of a runtime to about 1e-5. INT8 agrees bit for bit where the arithmetic is right; a
# rounding that falls the other way moves an output by a step of 1/255, and two may meet. A processor that
# saturates in its 8-bit kernels is off by 3.7 % and more: it must be refused.
TOLERANCE: Mapping[Precision, float] = {
    "float32": 1e-3,
    "int8": 0.02,
    # Runtimes round activations to 8 bits on their way into these products, too.
    "int8-weights": 0.02,
    "int4-weights": 0.02,
}
# Float16 has 11 bits: each kernel rounds in its own order, and the errors of many layers add up.
TOLERANCE_HALF = 0.02


def bundle_path(folder: Path, tier: int | None = None) -> Path:
    """Where the bundle of a run folder goes unless somebody says otherwise."""
    name = folder.resolve().name
    return folder / (name + (f"-tier{tier}" if tier is not None else "") + SUFFIX)


def write_bundle(
    result: FitResult,
    folder: Path,
    destination: Path,
    *,
    chosen: Report | None = None,
    sign: Path | None = None,
) -> Path:
    """Pack one candidate of a fit into `destination`; the same run folder gives the same bytes.

    folder: the run folder; `Report.artefact` and golden.npz lie below it.
    chosen: `result.chosen` when None. Another one is served its golden inputs here, on this machine; in exact
        arithmetic when it was only predicted, because then this machine is not the device.
    sign: an SSH private key.
    Raises `InputError` when the candidate misses its budget, when its files are missing or not those that
    were measured, and when the destination cannot be written.
    """
    report = chosen or result.chosen
    target, profile = result.target, result.profile
    artefact = folder / report.artefact
    _check_ships(report, artefact)
    golden = read_golden(folder / GOLDEN)
    measured = report.measurement
    load = Load(
        *(result.runtime, artefact, measured.threads),
        device=target.device,
        batch=measured.batch,
        memory_mib=result.budget.memory_mib,
    )
    content: Content = folder / GOLDEN
    if report.name != result.chosen.name:
        golden = _served_here(golden, exact_load(artefact) if measured.predicted else load, measured.batch)
    if (artefact.parent / REFERENCE).is_file():
        golden = replace(golden, reference=read_reference(artefact.parent / REFERENCE))
    if golden.reference or report.name != result.chosen.name:
        content = packed(golden.inputs, golden.outputs, golden.reference)
    if golden.rows % measured.batch:
        raise InputError(
            f"{folder / GOLDEN} has {golden.rows} rows, which do not fill batches of {measured.batch}.",
            "Run fit again: it writes whole batches.",
        )
    tolerance = _tolerance(report.candidate.precision, target)
    files = _runner_files(load, tolerance)
    files[GOLDEN] = content
    files |= {file.name: file for file in artefact_files(artefact)}
    # The evidence is about the run, not about where it lay or what was packed from it before.
    evidence = replace(result, bundle=None, out=folder.resolve().name)
    files[EVIDENCE] = _document(evidence)
    text = _document(_manifest(result, report, target, profile, folder, golden, files))
    files[MANIFEST] = text
    if sign is not None:
        files[SIGNATURE] = sign_manifest(text, sign)
    with replacing(destination) as temporary, temporary.open("wb") as stream:
        pack(files, stream)
    return destination


def _check_ships(report: Report, artefact: Path) -> None:
    if report.verdict.kind == "misses":
        broken = ", ".join(
            f"{breach.line} is {breach.value:.4g} where {breach.limit:.4g} is allowed"
            for breach in report.verdict.breaches
        )
        raise InputError(
            f"{report.name} misses its budget: {broken}.", "Choose another tier, or fit with a wider budget."
        )
    if artefact_sha256(artefact) != report.measurement.artefact_sha256:
        raise InputError(
            f"{artefact} is not the file that was measured: its SHA-256 differs.", "Run fit again."
        )


def _served_here(golden: Golden, load: Load, batch: int) -> Golden:
    with LocalDevice().start(load) as session:
        return replace(golden, outputs=serve(session, golden, batch))


def _tolerance(precision: Precision, target: Target) -> float:
    half = target.dialect in DIALECTS and DIALECTS[target.dialect].half
    return max(TOLERANCE[precision], TOLERANCE_HALF if half else 0.0)


def _runner_files(load: Load, tolerance: float) -> dict[str, Content]:
    """What a device needs to run and compare the artefact without edgeprune."""
    row = find(load.runtime)
    readme = (
        f"Needs Python 3.8 or newer with numpy and {load.runtime}. In this folder, run:\n"
        f"    python3 -B {RUNNER} --artefact {load.artefact.name} --runtime {load.runtime} --golden {GOLDEN}"
        f" --threads {load.threads} --device {load.device} --tolerance {tolerance}\n"
        'It answers the golden inputs and prints one line of JSON: "ok" is true where this machine computes '
        "what the bundle promises.\n"
    )
    return {
        RUNNER: Path(agent_file.__file__),
        **{name: row.path.with_name(name) for name in (row.file, *row.beside)},
        README: readme.encode("ascii"),
    }


def _manifest(
    result: FitResult,
    report: Report,
    target: Target,
    profile: Profile,
    folder: Path,
    golden: Golden,
    files: Mapping[str, Content],
) -> Manifest:
    artefact = folder / report.artefact
    created = datetime.fromtimestamp(int(artefact.stat().st_mtime), timezone.utc)
    return Manifest(
        schema=SCHEMA,
        edgeprune=__version__,
        created=created.isoformat(),
        model=folder.resolve().name,
        candidate=report.name,
        precision=report.candidate.precision,
        runtime=result.runtime,
        device=target.device,
        threads=report.measurement.threads,
        batch=report.measurement.batch,
        target=target.name,
        profile=profile.name,
        sensors=target.sensors,
        throttle=target.throttle,
        budget=result.budget,
        artefact=artefact.name,
        inputs=ports(golden.inputs, report.measurement.batch),
        outputs=ports(golden.outputs, report.measurement.batch),
        tolerance=_tolerance(report.candidate.precision, target),
        claim=Claim(
            metric_name=result.metric,
            metric=report.metric,
            baseline_metric=result.baseline.metric,
            verdict=report.verdict.kind,
            measurement=report.measurement,
            arithmetic="exact" if report.measurement.predicted else "device",
        ),
        files=tuple(_packed_file(name, files[name]) for name in sorted(files)),
    )


def _packed_file(name: str, content: Content) -> PackedFile:
    if isinstance(content, bytes):
        return PackedFile(name, len(content), hashlib.sha256(content).hexdigest())
    return PackedFile(name, content.stat().st_size, sha256(content))


def _document(record: object) -> bytes:
    return (json.dumps(to_json(record), indent=1, allow_nan=False) + "\n").encode("ascii")

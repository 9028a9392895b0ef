"""Bundle writer: packs a candidate of a fit from the run folder."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import datetime, timezone
from pathlib import Path

from edgeprune import __version__
from edgeprune.bundle.archive import Content, is_plain, pack
from edgeprune.bundle.card import model_card
from edgeprune.bundle.golden import Golden, packed, ports, read_golden, read_reference, serve
from edgeprune.bundle.materials import bill_of_materials
from edgeprune.bundle.pace import pace_onnx
from edgeprune.bundle.signature import sign as sign_manifest
from edgeprune.bundle.stated import stated
from edgeprune.devices import Load, exact_load
from edgeprune.devices import agent as agent_file
from edgeprune.devices.artefact import artefact_files, artefact_sha256
from edgeprune.devices.local import LocalDevice
from edgeprune.errors import InputError
from edgeprune.files import replacing, sha256
from edgeprune.foreign import tame
from edgeprune.quantize.dialects import dialect_for
from edgeprune.records.bundle import (
    BUNDLE_SCHEMA,
    CARD,
    CARRIED,
    EVIDENCE,
    EXAMPLE,
    GOLDEN,
    MANIFEST,
    MATERIALS,
    PACE,
    README,
    REFERENCE,
    RUNNER,
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
    """Default path of the bundle of a run folder."""
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

    folder: the run folder; `Report.artefact` lies below it, with golden.npz beside a chosen one.
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
    proven = (folder / result.chosen.artefact).parent / GOLDEN
    golden = read_golden(proven)
    measured = report.measurement
    load = Load(
        *(result.runtime, artefact, measured.threads),
        device=target.device,
        batch=measured.batch,
        memory_mib=result.budget.memory_mib,
    )
    content: Content = proven
    if report.name != result.chosen.name:
        golden = _served_here(golden, exact_load(artefact) if measured.predicted else load, measured.batch)
    if (artefact.parent / REFERENCE).is_file():
        golden = replace(golden, reference=read_reference(artefact.parent / REFERENCE))
    if golden.reference or report.name != result.chosen.name:
        content = packed(golden.inputs, golden.outputs, golden.reference, golden.lengths)
    if golden.rows % measured.batch:
        raise InputError(
            f"{proven} has {golden.rows} rows, which do not fill batches of {measured.batch}.",
            "Run fit again: it writes whole batches.",
        )
    tolerance = _tolerance(result, report.candidate.precision)
    build = _build_commands(load, golden)
    files = _runner_files(load, tolerance, build, carried_files(folder))
    files[GOLDEN] = content
    files |= {file.name: file for file in artefact_files(artefact)}
    if result.pace is not None:
        files[PACE] = pace_onnx()
    files |= _stating(result, report, folder, load, golden)
    # The evidence is about the run, not about where it lay, who ran it or what was packed from it before.
    evidence = replace(result, bundle=None, out=folder.resolve().name, occasion=None)
    files[EVIDENCE] = _document(evidence)
    text = _document(_manifest(result, report, target, profile, folder, golden, files, build))
    files[MANIFEST] = text
    if sign is not None:
        files[SIGNATURE] = sign_manifest(text, sign)
    with replacing(destination) as temporary, temporary.open("wb") as stream:
        pack(files, stream)
    return destination


def carried_files(folder: Path) -> dict[str, Content]:
    """Files of a run folder that its bundle carries, by their names in the bundle. Raises `InputError`."""
    place = folder / CARRIED
    found: dict[str, Content] = {}
    for path in sorted(place.rglob("*")):
        name = path.relative_to(place).as_posix()
        if path.is_symlink() or not is_plain(name):
            raise InputError(f"{path} is no plain file with a plain name.", "Run fit again.")
        if path.is_file():
            found[name] = path
    return found


def _check_ships(report: Report, artefact: Path) -> None:
    if report.verdict.kind == "misses":
        broken = ", ".join(
            f"{breach.line} is {breach.value:.4g} where {breach.limit:.4g} is allowed"
            for breach in report.verdict.breaches
        )
        raise InputError(
            f"{report.name} misses its budget: {broken}.",
            "Choose another --tier, or fit with a wider budget.",
        )
    if artefact_sha256(artefact) != report.measurement.artefact_sha256:
        raise InputError(
            f"{artefact} is not the file that was measured: its SHA-256 differs.", "Run fit again."
        )


def _served_here(golden: Golden, load: Load, batch: int) -> Golden:
    with LocalDevice().start(load) as session:
        return replace(golden, outputs=serve(session, golden, batch))


def _tolerance(result: FitResult, precision: Precision) -> float:
    dialect = dialect_for(result.target.dialect, result.profile.architecture, result.runtime)
    return max(TOLERANCE[precision], TOLERANCE_HALF if dialect.half else 0.0)


def _build_commands(load: Load, golden: Golden) -> tuple[str, ...]:
    """Commands that build the engine on the device: the bundle's own script, and TensorRT's program."""
    row = find(load.runtime)
    if not row.builds_engine:
        return ()
    name, plan, cache = load.artefact.name, load.artefact.with_suffix(".plan").name, "timing.cache"
    script = (
        f"python3 -B trt_build.py --artefact {name} --out {plan} --batch {load.batch} --timing-cache {cache}"
    )
    shapes = ",".join(
        f"{port.name}:{'x'.join(map(str, port.shape))}" for port in ports(golden.inputs, load.batch)
    )
    other = f"{row.engine_program} --onnx={name} --saveEngine={plan} --shapes={shapes}"
    if row.engine_program == "trtexec":
        other += f" --stronglyTyped --timingCacheFile={cache} --profilingVerbosity=detailed"
    if load.memory_mib is not None:
        script += f" --workspace-mib {max(1, int(load.memory_mib))}"
        other += f" --memPoolSize=workspace:{max(1, int(load.memory_mib))}"
    return script, other


def _runner_files(
    load: Load, tolerance: float, build: Sequence[str], carried: Mapping[str, Content]
) -> dict[str, Content]:
    """Files with which a device runs and compares the artefact without edgeprune, beside those `carried`."""
    row = find(load.runtime)
    options = f"--threads {load.threads} --device {load.device} --tolerance {tolerance}"
    if row.builds_engine:
        options += f" --batch {load.batch}"
        options += f" --memory-mib {load.memory_mib:g}" if load.memory_mib is not None else ""
    readme = (
        f"Needs Python 3.8 or newer with numpy and {load.runtime}. In this folder, run:\n"
        f"    python3 -B {RUNNER} --artefact {load.artefact.name} --runtime {load.runtime} --golden {GOLDEN}"
        f" {options}\n"
        'It answers the golden inputs and prints one line of JSON: "ok" is true where this machine computes '
        "what the bundle promises.\n"
        "The runner sends nothing anywhere. In a program of your own, set ORT_DISABLE_TELEMETRY=1 before "
        "onnxruntime is imported: its Linux wheels from 1.29 on look up a telemetry host otherwise.\n"
    )
    if EXAMPLE in carried:
        readme += f"{EXAMPLE} serves one query of your own; its first line says how, and what it imports.\n"
    if build:
        readme += (
            "An engine belongs to one GPU and one version of TensorRT. The runner builds it at its first "
            "start (minutes), keeps it and the kernel timings in ~/.cache/edgeprune/engines, and refuses it "
            "when a layer that is INT8 in the file is not INT8 in the engine. To build one by hand, in "
            "Python (checked) or with trtexec (not checked):\n" + "".join(f"    {line}\n" for line in build)
        )
    return {
        **carried,
        RUNNER: Path(agent_file.__file__),
        **{name: row.path.with_name(name) for name in (row.file, *row.beside)},
        README: readme.encode("ascii"),
    }


def _stating(
    result: FitResult, report: Report, folder: Path, load: Load, golden: Golden
) -> dict[str, Content]:
    """Files that state what was measured: the model card, and the bill of materials."""
    name = folder.resolve().name
    both = ports(golden.inputs, load.batch, golden.lengths), ports(golden.outputs, load.batch)
    figures = tuple(stated(result, report))
    card = model_card(result, report, load, *both, figures, name)
    bill = bill_of_materials(report, load.artefact, *both, figures, name, _written(load.artefact))
    return {CARD: card.encode(), **({} if bill is None else {MATERIALS: bill})}


def _written(artefact: Path) -> datetime:
    """When an artefact was written: what a bundle says of time, so that it is the same each time."""
    return datetime.fromtimestamp(int(artefact.stat().st_mtime), timezone.utc)


def _manifest(
    result: FitResult,
    report: Report,
    target: Target,
    profile: Profile,
    folder: Path,
    golden: Golden,
    files: Mapping[str, Content],
    build: Sequence[str],
) -> Manifest:
    artefact = folder / report.artefact
    return Manifest(
        schema=BUNDLE_SCHEMA,
        edgeprune=__version__,
        created=_written(artefact).isoformat(),
        model=tame(folder.resolve().name),
        candidate=report.name,
        precision=report.candidate.precision,
        runtime=result.runtime,
        device=target.device,
        threads=report.measurement.threads,
        batch=report.measurement.batch,
        target=tame(target.name),
        profile=tame(profile.name),
        sensors=target.sensors,
        throttle=target.throttle,
        budget=result.budget,
        artefact=artefact.name,
        inputs=ports(golden.inputs, report.measurement.batch, golden.lengths),
        outputs=ports(golden.outputs, report.measurement.batch),
        tolerance=_tolerance(result, report.candidate.precision),
        claim=Claim(
            metric_name=result.metric,
            metric=report.metric,
            baseline_metric=result.baseline.metric,
            verdict=report.verdict.kind,
            measurement=report.measurement,
            lower_is_better=result.lower_is_better,
            arithmetic="exact" if report.measurement.predicted else "device",
        ),
        files=tuple(_packed_file(name, files[name]) for name in sorted(files)),
        build=tuple(build),
        pace=result.pace,
        fixed_batch=result.fixed_batch,
        lengths=result.lengths,
    )


def _packed_file(name: str, content: Content) -> PackedFile:
    if isinstance(content, bytes):
        return PackedFile(name, len(content), hashlib.sha256(content).hexdigest())
    return PackedFile(name, content.stat().st_size, sha256(content))


def _document(record: object) -> bytes:
    return (json.dumps(to_json(record), indent=1, allow_nan=False) + "\n").encode("ascii")

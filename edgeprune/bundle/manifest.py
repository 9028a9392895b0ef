"""Limits of the values of a manifest, beyond what their types allow.

Everything that is raised is an `InputError` whose sentence begins with the path of the value.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

from edgeprune.bundle.archive import is_plain
from edgeprune.bundle.names import wrong_names
from edgeprune.errors import InputError
from edgeprune.limits import MOST_BATCH, MOST_THREADS
from edgeprune.records.bundle import EVIDENCE, GOLDEN, MANIFEST, PACE, SIGNATURE, Manifest, Port
from edgeprune.records.domain import budget_problems, hash_problems, measurement_problems, positive, whole
from edgeprune.records.lengths import LEAST_LENGTH, MOST_LENGTH

DTYPES = frozenset(
    {
        *("bool", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64"),
        *("float16", "float32", "float64"),
    }
)
MOST_DIMENSIONS = 32  # numpy's own limit is 64, of earlier versions 32
MOST_VALUES = 1 << 40  # of one array
_HINT = "Restore the file as edgeprune wrote it, or pack the run again: edgeprune bundle RUN"


def check_limits(manifest: Manifest) -> None:
    """Refuse the first value of a manifest that cannot be. Raises `InputError`."""
    for problem in _problems(manifest):
        raise InputError(f"{MANIFEST}: {problem}.", _HINT)


def _problems(manifest: Manifest) -> Iterator[str]:
    yield from wrong_names(manifest)
    yield from whole("threads", manifest.threads, 1, MOST_THREADS)
    yield from whole("batch", manifest.batch, 1, MOST_BATCH)
    if not 0 <= manifest.tolerance < 1:
        yield f"tolerance is {manifest.tolerance}, expected 0 or more and less than 1"
    if manifest.pace is not None:
        yield from positive("pace.ms", manifest.pace.ms)
    yield from _files(manifest)
    yield from budget_problems("budget", manifest.budget)
    yield from _ports("inputs", manifest.inputs, manifest.batch)
    yield from _lengths(manifest)
    yield from _ports("outputs", manifest.outputs, manifest.batch)
    yield from measurement_problems("claim.measurement", manifest.claim.measurement)
    for name, here in (("threads", manifest.threads), ("batch", manifest.batch)):
        claimed = getattr(manifest.claim.measurement, name)
        if claimed != here:
            yield f"claim.measurement.{name} is {claimed}, and {name} is {here}"


def _files(manifest: Manifest) -> Iterator[str]:
    seen: set[str] = set()
    for at, file in enumerate(manifest.files):
        if not is_plain(file.path):
            yield f"files[{at}].path is {file.path!r}, which is not a plain file name"
        if file.path in (MANIFEST, SIGNATURE):
            yield f"files[{at}].path is {file.path}, which no manifest lists"
        if file.path in seen:
            yield f"files[{at}].path is {file.path}, which is listed twice"
        seen.add(file.path)
        if file.size < 0:
            yield f"files[{at}].size is {file.size}, expected 0 or more"
        yield from hash_problems(f"files[{at}].sha256", file.sha256)
    for name in (manifest.artefact, GOLDEN, EVIDENCE, *([PACE] if manifest.pace is not None else [])):
        if name not in seen:
            yield f"files does not list {name!r}"


def _lengths(manifest: Manifest) -> Iterator[str]:
    """Problems of the lengths of sequences, and of the dimensions that have them."""
    lengths = manifest.lengths
    if lengths and (len(lengths) < 2 or list(lengths) != sorted(set(lengths))):
        yield f"lengths is {list(lengths)}, expected two or more that ascend"
    for length in lengths:
        yield from whole("lengths", length, LEAST_LENGTH, MOST_LENGTH)
    ports = [(f"inputs[{at}]", port) for at, port in enumerate(manifest.inputs)]
    if bool(lengths) != any(port.length_dims for _, port in ports):
        yield f"lengths is {list(lengths)}, and the inputs' length_dims do not say of which dimensions"
    for where, port in ports:
        for dim in port.length_dims:
            if not 0 < dim < len(port.shape) or port.shape[dim] != max(lengths, default=0):
                yield f"{where}.length_dims has {dim}, no dimension of the longest length"
    if any(port.length_dims for port in manifest.outputs):
        yield "an output has length_dims"


def _ports(where: str, ports: tuple[Port, ...], batch: int) -> Iterator[str]:
    if not ports:
        yield f"{where} is empty"
    if len({port.name for port in ports}) < len(ports):
        yield f"{where} names a port twice"
    for at, port in enumerate(ports):
        if port.dtype not in DTYPES:
            yield f"{where}[{at}].dtype is {port.dtype!r}, expected {', '.join(sorted(DTYPES))}"
        if not 1 <= len(port.shape) <= MOST_DIMENSIONS or min(port.shape) < 1:
            yield f"{where}[{at}].shape is not 1 to {MOST_DIMENSIONS} dimensions of 1 or more"
        elif port.shape[0] != batch:
            yield f"{where}[{at}].shape begins with {port.shape[0]}, and batch is {batch}"
        elif math.prod(port.shape) > MOST_VALUES:
            yield f"{where}[{at}].shape is of more than {MOST_VALUES} values"

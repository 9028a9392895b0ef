"""Manifest of a bundle, and the result of validating a bundle on a device."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from edgeprune.records.brief import Brief
from edgeprune.records.machine import Budget, Precision
from edgeprune.records.trial import Measurement, Pace, Verdict, VerdictKind

BUNDLE_SCHEMA = 1  # of manifest.json; docs/decisions/010-schemas.md says when it moves
SUFFIX = ".edgeprune.zip"
MANIFEST = "manifest.json"
SIGNATURE = "manifest.json.sig"
GOLDEN = "golden.npz"
PACE = "pace.onnx"  # the tiny model whose time at the claim is the manifest's `pace`
REFERENCE = "reference.npz"  # beside a trial's artefact: what torch computes of its integers
EVIDENCE = "evidence.json"
CARRIED = "carried"  # folder of a run: files that its bundle carries in front of the artefact
EXAMPLE = "example.py"  # of these files, the one that serves a query
RUNNER = "run.py"
README = "README.txt"
CARD = "README.md"  # the model card
MATERIALS = "bom.json"  # CycloneDX ML-BOM, where the library was there when it was packed
# Prefixes of the arrays in golden.npz: "in.pixels" is the model's input `pixels`.
GOLDEN_IN = "in."
GOLDEN_OUT = "out."
GOLDEN_REFERENCE = "ref."
# Where lengths vary: length of each row in front of padding, and "length.ids", the dimensions that have it.
GOLDEN_LENGTH = "length"


@dataclass(frozen=True)
class Port:
    """Input or output of the served model."""

    name: str
    dtype: str  # numpy's name
    shape: tuple[int, ...]  # dimension 0 is the batch; of an input whose length varies, the longest
    length_dims: tuple[int, ...] = ()  # dimensions that have the length


@dataclass(frozen=True)
class PackedFile:
    """File of a bundle, as its manifest lists it."""

    path: str  # below the bundle, with "/" between folders
    size: int  # bytes
    sha256: str


@dataclass(frozen=True)
class Claim:
    """Metric, measurement and verdict at packing time: the statement that `validate` checks."""

    metric_name: str
    metric: float
    baseline_metric: float  # of the dense float model: the budget's `max_drop` counts from here
    verdict: VerdictKind
    measurement: Measurement
    # Where metric and golden outputs were computed: "device", as served there; "exact", on the host in ONNX
    # Runtime with exact integer arithmetic, because no device was attached.
    arithmetic: Literal["device", "exact"]
    lower_is_better: bool = False  # of the metric


@dataclass(frozen=True, repr=False)
class Manifest(Brief):
    """Content of manifest.json: all that a device needs to serve the artefact and to check the claim."""

    schema: int
    edgeprune: str  # version that packed it
    created: str  # when the artefact was written, UTC: so the same run always gives the same bytes
    model: str
    candidate: str  # name of the Report in evidence.json
    precision: Precision
    runtime: str  # a key of runtimes.TABLE
    device: str  # the runtime's device string
    threads: int
    batch: int
    target: str
    profile: str
    sensors: tuple[str, ...]
    throttle: tuple[str, ...]
    budget: Budget  # resolved: `latency_ms` in milliseconds
    artefact: str  # the file that the runtime loads
    inputs: tuple[Port, ...]
    outputs: tuple[Port, ...]
    tolerance: float  # largest |served - golden| of an output, as a share of its largest |golden|
    claim: Claim
    files: tuple[PackedFile, ...]  # all but manifest.json and its signature
    # Commands, each of which builds the engine on the device; the runner does it too.
    build: tuple[str, ...] = ()
    pace: Pace | None = (
        None  # of the claim's device; None in bundles of before, of predictions and for TensorRT
    )
    fixed_batch: bool = False  # the artefact takes `batch` rows, and no other number of them
    lengths: tuple[int, ...] = ()  # of sequences, that the artefact is proven at; the claim is of the longest


Outcome = Literal["passed", "failed", "inconclusive", "skipped"]


@dataclass(frozen=True)
class Check:
    """Outcome of one numbered check, as `bundle.read` and `validate` number them."""

    number: int
    title: str
    outcome: Outcome
    detail: str
    hint: str = ""


@dataclass(frozen=True, repr=False)
class Validation(Brief):
    """Result of validating one bundle on one device; `verdict` is None when nothing was measured."""

    device: str
    model: str
    checks: tuple[Check, ...]
    verdict: Verdict | None
    measurement: Measurement | None
    metric_name: str
    metric: float  # carried from the manifest's claim: the golden outputs prove the same arithmetic
    budget: Budget
    machine: str  # architecture, processor and cores, in words; empty when the device did not answer
    lower_is_better: bool = False  # of the metric
    reachable: bool = True  # False when there was no way to the device: nothing is known of it
    began: str = ""  # date and time in UTC, ISO 8601
    seconds: float = 0.0  # that the checks on the device took

    @property
    def word(self) -> str:
        """Verdict in a word: fits, misses, inconclusive, failed or unreachable."""
        if not self.reachable:
            return "unreachable"
        return "failed" if self.verdict is None else self.verdict.kind

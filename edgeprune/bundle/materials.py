"""Bill of materials of a bundle, `bom.json`: a CycloneDX ML-BOM (ECMA-424, specification 1.6).

Components, hashes and their references are the library's work. It has no class for a component's model card,
which is added as the specification has it.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any
from uuid import NAMESPACE_URL, uuid5

from edgeprune import __version__
from edgeprune.bundle.stated import Stated
from edgeprune.devices.artefact import artefact_files
from edgeprune.files import sha256
from edgeprune.foreign import tame
from edgeprune.records.bundle import Port
from edgeprune.records.trial import Report

_log = logging.getLogger(__name__)


def bill_of_materials(
    report: Report,
    artefact: Path,
    inputs: Sequence[Port],
    outputs: Sequence[Port],
    figures: Iterable[Stated],
    name: str,
    created: datetime,
) -> bytes | None:
    """JSON of the bill, the same for the same artefact; None without the library, which is logged.

    name: of the model. created: when the artefact was written.
    """
    try:
        bom = _bom(report, artefact, name, created)
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] not in ("cyclonedx", "packageurl"):
            raise
        _log.warning("no bill of materials in the bundle: cyclonedx-python-lib is not installed")
        return None
    bom["metadata"]["component"]["modelCard"] = _card(report, inputs, outputs, figures)
    return (json.dumps(bom, indent=1) + "\n").encode("ascii")


def _bom(report: Report, artefact: Path, name: str, created: datetime) -> dict[str, Any]:
    """The bill without the model's figures."""
    from cyclonedx.model import HashAlgorithm, HashType, Property
    from cyclonedx.model.bom import Bom, BomMetaData
    from cyclonedx.model.component import Component, ComponentType
    from cyclonedx.output.json import JsonV1Dot6
    from packageurl import PackageURL

    def hashed(path: Path) -> HashType:
        return HashType(alg=HashAlgorithm.SHA_256, content=sha256(path))

    model = Component(
        name=tame(name),
        type=ComponentType.MACHINE_LEARNING_MODEL,
        version=report.name,
        bom_ref="model",
        hashes=[hashed(artefact)],
        properties=[
            Property(name="edgeprune:precision", value=report.candidate.precision),
            Property(name="edgeprune:parameters", value=str(report.params)),
            Property(name="edgeprune:multiply_accumulates", value=str(report.macs)),
        ],
    )
    files = [
        Component(name=path.name, type=ComponentType.FILE, bom_ref=f"file:{path.name}", hashes=[hashed(path)])
        for path in artefact_files(artefact)
    ]
    package, _, version = report.measurement.runtime.partition(" ")
    runtime = Component(
        name=package,
        version=version or None,
        type=ComponentType.LIBRARY,
        bom_ref="runtime",
        purl=PackageURL("pypi", name=package, version=version or None),
    )
    metadata = BomMetaData(component=model, timestamp=created)
    tool = Component(
        name="edgeprune", version=__version__, type=ComponentType.APPLICATION, bom_ref="edgeprune"
    )
    metadata.tools.components.add(tool)
    serial = uuid5(NAMESPACE_URL, f"edgeprune:{report.measurement.artefact_sha256}")
    bom = Bom(components=[*files, runtime], metadata=metadata, serial_number=serial)
    bom.register_dependency(model, [*files, runtime])
    document: dict[str, Any] = json.loads(JsonV1Dot6(bom).output_as_string())
    return document


def _card(
    report: Report, inputs: Sequence[Port], outputs: Sequence[Port], figures: Iterable[Stated]
) -> Mapping[str, Any]:
    """The model card of the specification."""
    measured = report.measurement
    how = "predicted for" if measured.predicted else "measured with"
    served = f"{how} {measured.runtime}, threads {measured.threads}, batch {measured.batch}"
    return {
        "modelParameters": {
            "inputs": [{"format": _format(port)} for port in inputs],
            "outputs": [{"format": _format(port)} for port in outputs],
        },
        "quantitativeAnalysis": {
            "performanceMetrics": [_figure(figure, served) for figure in figures],
        },
        "considerations": {
            "technicalLimitations": [
                "Latency and memory are those of one machine, runtime and number of threads, and of one "
                "query at a time."
            ]
        },
    }


def _format(port: Port) -> str:
    return f"{port.name}: {port.dtype} {'x'.join(map(str, port.shape))}"


def _figure(figure: Stated, served: str) -> Mapping[str, Any]:
    told: dict[str, Any] = {"type": figure.title, "value": f"{figure.value:.6g}", "slice": served}
    ends = {"lowerBound": figure.low, "upperBound": figure.high}
    interval = {name: f"{end:.6g}" for name, end in ends.items() if end is not None}
    return told | ({"confidenceInterval": interval} if interval else {})

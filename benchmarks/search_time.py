"""`python -m benchmarks.search_time`: how long a search takes for a ResNet-18 at 224x224, phase by phase.

Random weights, 128 random images to calibrate on, no recovery training, nothing to evaluate, an empty cache
of latency tables: what is timed is the search, from the model to the proven bundle. Budgets are those of
`benchmarks.contract`, as speed-ups over the dense float model, with the threads that its profile finds.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from unittest.mock import patch

import torch

import edgeprune
from benchmarks.contract.case import TARGETS, ordered
from benchmarks.int8.models import MODELS
from edgeprune.devices.local import LocalDevice
from edgeprune.records.progress import Event
from edgeprune.records.trial import FitResult

MODEL = "ResNet-18, 224x224"
IMAGES, BATCH = 128, 16
SPEEDUPS = (2.5, 4.0)
PHASES = ("dense", "INT8", "sensitivity", "table", "candidates", "proofs, bundle")


@dataclass
class Clock:
    """Seconds by phase, as a fit tells what it does."""

    seconds: dict[str, float] = field(default_factory=lambda: dict.fromkeys(PHASES, 0.0))

    def __post_init__(self) -> None:
        self._phase, self._since = PHASES[0], time.monotonic()

    def listen(self, event: Event) -> None:
        now = time.monotonic()
        self.seconds[self._phase] += now - self._since
        self._phase, self._since = _phase(event, self._phase), now


def _phase(event: Event, before: str) -> str:
    if event.doing.startswith("proving"):
        return "proofs, bundle"
    if event.stage.startswith("dense-"):
        return "INT8"
    if event.stage.startswith(("draft-", "trial-", "final-")):
        return "candidates"
    if event.stage == "table":  # the forms of the dense model are timed under the same name
        return "INT8" if before in ("dense", "INT8") else "table"
    return event.stage if event.stage in PHASES else "proofs, bundle"


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.search_time", description=__doc__)
    parser.add_argument("--runtimes", nargs="*", default=list(TARGETS), choices=list(TARGETS))
    parser.add_argument("--speedups", nargs="*", type=float, default=list(SPEEDUPS))
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    _row(
        ("runtime", "speed-up", "threads", *(f"{phase}, s" for phase in PHASES), "all, s", "builds", "answer")
    )
    _row(["---"] * (len(PHASES) + 6))
    for runtime in options.runtimes:
        for speedup in options.speedups:
            with tempfile.TemporaryDirectory(prefix="edgeprune-") as folder:
                clock, found = searched(runtime, speedup, Path(folder))
            _row(cells(runtime, speedup, clock, found))


def searched(runtime: str, speedup: float, folder: Path) -> tuple[Clock, FitResult]:
    torch.manual_seed(0)
    model, _ = MODELS[MODEL]()
    images = torch.randn(IMAGES, 3, 224, 224)
    task = edgeprune.Task(
        model=model,
        example=images[:1],
        calibration=list(images.split(BATCH)),
        evaluate=lambda predict: float(predict(images[:1].numpy()).ndim == 2),
        outputs="classes",
    )
    lines = {**ordered(LocalDevice(), runtime), "max_drop": 1.0, "recover": "reconstruct"}
    clock = Clock()
    with patch.dict(os.environ, {"XDG_CACHE_HOME": str(folder)}):
        found = edgeprune.fit(task, **lines, speedup=speedup, out=folder / "run", listen=clock.listen)
    clock.listen(Event("", ""))
    return clock, found


def cells(runtime: str, speedup: float, clock: Clock, found: FitResult) -> list[str]:
    latency, budget_ms = found.chosen.measurement.latency, found.budget.latency_ms
    use = (
        "" if latency.bound_ms is None or budget_ms is None else f", {latency.bound_ms / budget_ms:.1%} used"
    )
    return [
        *(runtime, f"{speedup:g}", str(found.profile.threads)),
        *(f"{seconds:.0f}" for seconds in clock.seconds.values()),
        f"{found.seconds:.0f}",
        str(sum(bool(report.candidate.kept) for report in found.trials)),
        f"{found.verdict.kind}: {found.chosen.name}{use}",
    ]


def _row(cells: Sequence[str]) -> None:
    print(f"| {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()

"""A trial held against a budget: its verdict, and how much of each line it uses."""

from __future__ import annotations

from dataclasses import dataclass, replace

from edgeprune.make import Workshop
from edgeprune.measure import PROOF
from edgeprune.records.machine import Budget
from edgeprune.records.trial import Candidate, Drop, Measurement, Report, Verdict, compared_ms
from edgeprune.search.bracketing import expected_proof_ms
from edgeprune.search.judge import judge


@dataclass(frozen=True)
class Tested:
    """What one trial found; the ledger's record. A `Report` is this, held against the budget."""

    candidate: Candidate
    metric: float
    measurement: Measurement
    layers_int8: tuple[str, ...]
    layers_float: tuple[str, ...]
    recovered: tuple[tuple[str, float, float, bool], ...]
    seconds: float


def report(
    name: str,
    tested: Tested,
    workshop: Workshop,
    budget: Budget,
    baseline_metric: float,
    *,
    proven: bool,
    repeated: Drop | None,
) -> Report:
    """proven: is the measurement a proof session? repeated: the drop, where evaluations are random."""
    kept = dict(tested.candidate.kept)
    measurement = tested.measurement
    if not proven:  # drift disqualifies a proof; a search still learns from the number
        measurement = replace(measurement, conclusive=True)
    verdict = judge(measurement, tested.metric, baseline_metric, budget, repeated)
    if verdict.kind == "fits" and not proven:
        verdict = Verdict("inconclusive")  # a search measurement is too short to promise anything
    return Report(
        name=name,
        candidate=tested.candidate,
        metric=tested.metric,
        measurement=tested.measurement,
        params=workshop.cost.params(kept),
        macs=workshop.cost.macs(kept),
        kept=workshop.widths(kept),
        layers_int8=len(tested.layers_int8),
        layers_float=len(tested.layers_float),
        recovered=tested.recovered,
        artefact=f"{name}/{workshop.builder.artefact}",
        verdict=verdict,
    )


def uses(measured: Measurement, usual_ms: float | None, budget: Budget, *, proven: bool) -> dict[str, float]:
    """The share of each budget line that was used, of the lines that the budget has: above 1 it breaks.

    A proof counts as measured. A search compares at equal machine speed: the dense model ran in turn with
    every trial, and what it took then, against what it takes usually (`usual_ms`), says how fast the machine
    was. On a shared machine that ratio is steadier than milliseconds by far.
    """
    latency_ms = compared_ms(measured.latency)
    if not proven:
        speed = usual_ms / measured.reference_ms if usual_ms and measured.reference_ms else 1.0
        latency_ms = speed * expected_proof_ms(measured.latency, PROOF.runs, PROOF.seconds)
    lines = {
        "latency_ms": (latency_ms, budget.latency_ms),
        "memory_mib": (measured.memory_mib, budget.memory_mib),
        "size_mib": (measured.size_mib, budget.size_mib),
    }
    return {line: value / limit for line, (value, limit) in lines.items() if limit is not None}

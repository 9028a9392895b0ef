"""Verdict on a trial: its measurement held against a budget, and the share of each line that it uses."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

from edgeprune.graph import onnxfile
from edgeprune.graph.recurrent import recurrent_modules
from edgeprune.make import Workshop
from edgeprune.measure import PROOF
from edgeprune.records.machine import Budget
from edgeprune.records.trial import Candidate, Drop, Measurement, Report, Training, Verdict, limited_lines
from edgeprune.search.bracketing import expected_proof_ms
from edgeprune.search.judge import judge

# The dense float model; that model in another precision; a candidate of the search; a trained trial.
Kind = Literal["dense", "variant", "candidate", "trained"]


@dataclass(frozen=True)
class TrialRecord:
    """The ledger's record of one trial; a `Report` is this record, held against the budget."""

    candidate: Candidate
    metric: float
    measurement: Measurement
    layers_int8: tuple[str, ...]
    layers_float: tuple[str, ...]
    recovered: tuple[tuple[str, float, float, bool], ...]
    seconds: float
    kind: Kind = "variant"  # ledgers of before had none: the runner knows it
    training: tuple[Training, ...] = ()
    # Of a trained trial, as they were asked for; without either in ledgers of before.
    epochs: int | None = None
    minutes: float | None = None
    accumulate: int = 1
    trainer: str = ""  # identity of the task's own training loop, of a trial that it trained


def report(
    name: str,
    tested: TrialRecord,
    workshop: Workshop,
    budget: Budget,
    baseline_metric: float,
    *,
    proven: bool,
    repeated: Drop | None,
) -> Report:
    """Report of a trial.

    proven: whether the measurement is a proof session. repeated: the drop, where evaluations are random.
    """
    kept = dict(tested.candidate.kept)
    measurement = tested.measurement
    if not proven:  # drift disqualifies a proof; a search still learns from the number
        measurement = replace(measurement, conclusive=True)
    verdict = judge(measurement, tested.metric, baseline_metric, budget, repeated, workshop.task.direction)
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
        training=tested.training,
        layers_recurrent=_recurrent(workshop, tested.layers_float),
    )


def _recurrent(workshop: Workshop, layers: tuple[str, ...]) -> int:
    """How many of the layers are of an LSTM, a GRU or an RNN."""
    modules = recurrent_modules(workshop.dense.module.graph)
    return sum(onnxfile.module_of_recurrent(name) in modules for name in layers)


def uses(measured: Measurement, usual_ms: float | None, budget: Budget, *, proven: bool) -> dict[str, float]:
    """Used share of each budget line that binds: above 1 the line breaks.

    A proof counts as measured. A search compares at equal machine speed: the dense model ran in turn with
    every trial, and its time then, against its usual time (`usual_ms`), says how fast the machine was. On a
    shared machine that ratio is steadier than milliseconds by far.
    """
    lines = limited_lines(measured, budget)
    if not proven and "latency_ms" in lines:
        speed = usual_ms / measured.reference_ms if usual_ms and measured.reference_ms else 1.0
        latency_ms = speed * expected_proof_ms(measured.latency, PROOF.runs, PROOF.seconds)
        lines["latency_ms"] = (latency_ms, lines["latency_ms"][1])
    return {line: value / limit for line, (value, limit) in lines.items()}

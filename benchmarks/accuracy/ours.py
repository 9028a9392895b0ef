"""Rows of edgeprune itself: a fit with its defaults, and simple choices of units with the same recovery."""

from __future__ import annotations

import sys
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

import edgeprune
from benchmarks.accuracy.rows import OURS, Row
from benchmarks.accuracy.subject import Subject
from benchmarks.contract.baselines import allocators, equally_fast
from edgeprune.fitting.trials.networks import PT2
from edgeprune.graph.capture import module_of
from edgeprune.graph.coupling import Kept
from edgeprune.make import Workshop, as_candidate_kept
from edgeprune.options import FitOptions
from edgeprune.records.progress import Event
from edgeprune.records.trial import Candidate, FitResult, Report, compared_ms, speed_up
from edgeprune.recover.recipe import TrainingOptions
from edgeprune.recover.ways import before_training

SIMPLE = Candidate((), "int8", "minmax")  # the form of simple choices of units
LEAST_DROP = 0.01  # the default: with less, INT8 itself is trained for before anything is cut
INNER = "conv1"  # the last part of the names of the groups inside a residual block
CRITERIA = {"L2": "l2", "Taylor": "taylor"}  # beside the default, ours under a peer's criterion


def fitted(subject: Subject, row: Row) -> Row:
    """A fit to a share of the dense INT8 model's latency, and to the case's largest loss.

    Where it misses, the best of its trials that are within the latency.
    """
    budget_ms = subject.start.budget_ms(_share(row))
    lost = subject.case.goal(row.share, row.minutes).lost or 0.0
    workshop, result = _fit(subject, row, latency_ms=budget_ms, max_drop=max(LEAST_DROP, lost / 100))
    chosen = _within_latency(result)
    artefact = subject.load(Path(result.out) / chosen.artefact)
    return replace(
        _of_result(subject, row, workshop, result, chosen),
        ratio=subject.reference(workshop, 1.0).ratio(artefact),
        used=compared_ms(chosen.measurement.latency) / budget_ms,
    )


def served(subject: Subject, row: Row) -> Row:
    """A fit to an eighth of the dense float model's file and a quarter of its latency."""
    workshop, result = _fit(subject, row, speedup=4.0, size_mib=subject.float_mib / 8, max_drop="1%")
    dense, chosen = result.baseline.measurement, result.chosen.measurement
    return replace(
        _of_result(subject, row, workshop, result, result.chosen),
        speed_up=speed_up(dense, chosen),
        size_ratio=chosen.size_mib / dense.size_mib,
    )


def simple(subject: Subject, row: Row) -> Row:
    """Uniform or global L2 at the budget's latency, with our reconstruction, training and INT8."""
    share = _share(row)
    workshop = subject.workshop(criterion="l2")
    allocator = allocators(workshop, subject.order().target.channel_multiple)[row.method]
    reference = subject.reference(workshop, share)
    found = equally_fast(workshop, allocator, SIMPLE, reference, share)
    row = replace(row, builds=found.builds)
    if not found.reached:
        return replace(row, out_of_reach=found.ratio)
    with tempfile.TemporaryDirectory(prefix="edgeprune-") as folder:
        row, artefact = _recovered(subject, workshop, found.made, None, Path(folder), row)
        used = reference.ratio(subject.load(artefact))
    return replace(row, ratio=used * share, used=used)


def distilled(subject: Subject, row: Row) -> Row:
    """A share of the parameters by our default criterion, trained by distillation alone."""
    criterion = FitOptions().criterion
    pruned = edgeprune.prune(
        subject.network, subject.task.example, 1 - _share(row), criterion, subject.calibration
    )
    workshop = subject.workshop()
    with tempfile.TemporaryDirectory(prefix="edgeprune-") as folder:
        row, _ = _recovered(subject, workshop, pruned.kept, "distill", Path(folder), row)
    return replace(row, note=f"{pruned.params / pruned.dense_params:.1%} of the parameters")


def inner(subject: Subject, row: Row) -> Row:
    """Half of the channels inside every residual block, reconstructed and not trained."""
    criterion = FitOptions().criterion if row.method == OURS else CRITERIA[row.method]
    workshop = subject.workshop(criterion=criterion)
    kept = {}
    for group in workshop.coupling.groups:
        if group.name.endswith(f".{INNER}"):
            best = workshop.scores[group.name].argsort()[-(group.units // 2) :]
            kept[group.name] = tuple(sorted(best.tolist()))
    network, _ = workshop.prune(kept, "reconstruct")
    return replace(row, before=subject.metric(workshop.predictor(network)))


def _share(row: Row) -> float:
    if row.share is None:
        raise ValueError(f"{row.case} is asked for without a budget")
    return row.share


def _fit(subject: Subject, row: Row, **limits: Any) -> tuple[Workshop, FitResult]:
    """A fit in a folder of its own, where an interrupted one goes on, and a workshop like its own."""
    words = (row.case, row.share, row.images, row.epochs, row.minutes, row.version)
    out = subject.work / "fits" / "-".join(str(word) for word in words if word is not None)
    options = subject.options(**limits, out=out, resume=True, listen=_tell)
    return subject.workshop(), edgeprune.fit(subject.task, **options)


def _within_latency(result: FitResult) -> Report:
    """What fits, or of a miss the best trial that breaks no latency; else what comes closest."""
    reports = [] if result.verdict.kind == "fits" else result.trials
    within = [r for r in reports if all(breach.line != "latency_ms" for breach in r.verdict.breaches)]
    return max(within, key=lambda report: report.metric, default=result.chosen)


def _of_result(subject: Subject, row: Row, workshop: Workshop, result: FitResult, chosen: Report) -> Row:
    """The row with the metrics of a fit's trial: cut and reconstructed, trained, and served."""
    found = []
    if chosen.candidate.kept:
        way = before_training(chosen.candidate.recover)
        found.append(workshop.prune(dict(chosen.candidate.kept), way)[0])
    if (trained := Path(result.out) / chosen.name / PT2).exists():
        found.append(workshop.dense.with_module(module_of(torch.export.load(trained))))
    metrics = [subject.metric(workshop.predictor(network)) for network in found]
    before, after = (*metrics, None, None)[:2]
    return replace(
        row,
        before=before,
        after=after,
        int8=chosen.metric if chosen.candidate.precision == "int8" else None,
        builds=sum(bool(report.candidate.kept) for report in result.trials),
        note="" if result.verdict.kind == "fits" else f"verdict: {result.verdict.kind}",
    )


def _recovered(
    subject: Subject, workshop: Workshop, kept: Kept, recover: str | None, folder: Path, row: Row
) -> tuple[Row, Path]:
    """The row with its metrics, and the INT8 artefact, of units that are kept."""
    way = workshop.highest_rung(recover)
    network, _ = workshop.prune(kept, before_training(way))
    before = subject.metric(workshop.predictor(network))
    network, _ = workshop.train(network, kept, way, TrainingOptions(subject.epochs, subject.minutes), None)
    after = subject.metric(workshop.predictor(network))
    candidate = replace(SIMPLE, kept=as_candidate_kept(kept), recover=way)
    built = workshop.builder.build(candidate, network, folder, (subject.task.example,))
    return replace(row, before=before, after=after, int8=subject.served(built.artefact)), built.artefact


def _tell(event: Event) -> None:
    if event.lasting:
        print(f"{event.stage}: {event.doing}", file=sys.stderr, flush=True)

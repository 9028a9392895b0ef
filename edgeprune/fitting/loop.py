"""The main loop of `edgeprune fit`: DESIGN's recipe, top to bottom.

1. Measure the dense model, float and INT8. If one already fits, the answer is "do not prune".
2. Score every unit once.
3. Choose the units to keep for the budget by a latency table, or without one for a share of the work.
4. Cut, reconstruct, emit, measure; correct the choice by what was measured, until it lands.
5. Recover, emit again, and prove it: latency bound, memory, size and metric, on the device.
6. Pack what was proven.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from edgeprune.bundle.write import write_bundle
from edgeprune.devices import Device
from edgeprune.fitting.engines import lost_in
from edgeprune.fitting.landing import MOST_BUILDS, confirmed, land_by_table, made
from edgeprune.fitting.order import Order, place, resolved
from edgeprune.fitting.precision import dense_int8, light_forms, trained_for_int8
from edgeprune.fitting.space import Space
from edgeprune.fitting.trials import Trials
from edgeprune.graph.outputs import check_finite, check_sized
from edgeprune.ledger import Ledger
from edgeprune.make import Workshop
from edgeprune.quantize.dialects import dialect_for
from edgeprune.records.bundle import SUFFIX
from edgeprune.records.machine import Budget
from edgeprune.records.progress import Listen
from edgeprune.records.task import Task
from edgeprune.records.trial import Candidate, FitResult, Report
from edgeprune.results import save_result
from edgeprune.search.frontier import frontier
from edgeprune.search.landing import Probe, best, next_share
from edgeprune.tasks import call_evaluate, check_task

SETTLED = ("fits", "predicted")  # what a proof may say for the search to end; without a device it predicts
LEAST = 1e-9  # a share of the work that nothing is within: asks for the smallest candidate
FLOAT = Candidate((), "float32")


def fit(
    task: Task,
    *,
    target: str | Path = "local",
    profile: str | Path | None = None,
    latency_ms: float | None = None,
    speedup: float | None = None,
    memory_mib: float | None = None,
    size_mib: float | None = None,
    max_drop: float | None = None,
    device: Device | str | None = None,
    runtime: str | None = None,
    criterion: str = "l2",
    recover: str | None = None,
    epochs: int = 3,
    seed: int = 0,
    out: str | Path = "runs/fit",
    resume: bool = False,
    listen: Listen = lambda event: None,
) -> FitResult:
    """Find the least compressed version of a model that provably fits a device's budget.

    target, profile: names on the shelf or paths. Budget lines (ms, MiB, the metric's own unit) override
    the profile's. recover: how; None takes fine-tuning where the task has labels, else distillation.
    out: run folder; `resume` goes on with the run that is there.
    Raises `InputError` for anything wrong with the input, `DeviceError` when the device fails. A budget
    that nothing meets is a result: `verdict.kind == "misses"`, `chosen` the closest candidate.
    """
    started = time.monotonic()
    order = place(
        target=target,
        profile=profile,
        budget={
            "latency_ms": latency_ms,
            "speedup": speedup,
            "memory_mib": memory_mib,
            "size_mib": size_mib,
            "max_drop": max_drop,
        },
        device=device,
        runtime=runtime,
        criterion=criterion,
        recover=recover,
        epochs=epochs,
        seed=seed,
    )
    check_task(task)
    dialect = dialect_for(order.target.dialect, order.profile.architecture)
    workshop = Workshop(
        *(task, dialect),
        runtime=order.runtime,
        criterion=criterion,
        seed=seed,
        lost_in=lost_in(order),
        keep_onnx=order.forecast is not None,
    )
    rung = workshop.highest_rung(recover)
    check_sized(workshop.dense)
    check_finite(workshop.dense, workshop.calibration)
    call_evaluate(task, workshop.predict)  # an evaluation that fails is refused before anything is written
    with Ledger.open(Path(out), order.facts(workshop), resume) as ledger:
        trials = Trials(order, workshop, ledger, listen)
        dense = trials.run("dense", FLOAT)
        budget = resolved(order.budget, dense.measurement.latency)
        found = _search(order, workshop, trials, budget, rung)
        reports = [trials.report(name, budget, dense.metric) for name in trials.tested]
        chosen = next((r for r in reports if r.name == found), None) or _unproven(reports, trials)
        chosen = trials.with_drop(chosen)
        reports = [chosen if report.name == chosen.name else report for report in reports]
        result = FitResult(
            verdict=chosen.verdict,
            budget=budget,
            metric=task.metric,
            baseline=reports[0],
            chosen=chosen,
            frontier=frontier(reports),
            trials=tuple(reports),
            seconds=time.monotonic() - started,
            bundle=None,
            profile=order.profile,
            target=order.target,
            runtime=order.runtime,
            out=str(out),
        )
        return _pack(trials, result)


def _search(order: Order, workshop: Workshop, trials: Trials, budget: Budget, rung: str) -> str | None:
    """Run trials, least compression first, until one is proven; its name, None when nothing is.

    A proof that stays inconclusive settles nothing: a smaller candidate may fit with enough to spare.
    """
    floor = trials.tested["dense"].metric - budget.max_drop

    def settled(name: str) -> bool:
        """Whether a trial that looks as if it fits is proven to."""
        tested = trials.tested[name]
        if not (trials.use(name, budget) <= 1 and tested.metric >= floor):
            return False
        return trials.prove(name, budget) in SETTLED

    if settled("dense"):
        return "dense"
    start = dense_int8(order, workshop, trials, floor, rung)
    if start != "dense" and settled(start):
        return start
    for light in light_forms(order, workshop, trials, budget, floor, start):
        if settled(light):
            return light
    if not workshop.coupling.groups:
        return None
    choices = workshop.ranking(order.target.channel_multiple).choices
    probes = [Probe(1.0, trials.use(start, budget), start)]
    recipe = replace(
        trials.tested[start].candidate, recover="none" if rung == "none" else "reconstruct", qat=False
    )
    space = trials.space(recipe, choices, trials.tested[start].layers_int8)

    def land() -> Probe | None:
        if space.prediction is not None:
            return land_by_table(workshop, space, trials, budget, recipe, probes)
        return _land(workshop, space, trials, budget, recipe, probes)

    while (landed := land()) is not None:
        if not confirmed(trials, budget, probes, landed):
            continue
        final = landed.name.replace("trial", "final")
        trials.run(final, replace(trials.tested[landed.name].candidate, recover=rung), train=True)
        final = trained_for_int8(order, trials, floor, final, rung)
        if trials.prove(final, budget) in SETTLED:
            return final
        proven = trials.use(final, budget)
        if proven <= 1:  # the metric broke or a throttle flag moved: cutting more mends neither
            return None
        probes[:] = [replace(probe, use=proven) if probe.name == landed.name else probe for probe in probes]
    return None


def _land(
    workshop: Workshop,
    space: Space,
    trials: Trials,
    budget: Budget,
    recipe: Candidate,
    probes: list[Probe],
) -> Probe | None:
    """Build and measure until a candidate uses nearly all of the budget; the least compressed that fits.

    recipe: the candidate without its widths. probes: extended in place.
    """
    dense_macs = workshop.cost.macs({})
    smallest = workshop.cost.macs(space.by_work(LEAST).kept) / dense_macs
    goal = trials.zone()
    built = {probe.name: probe for probe in reversed(probes)}  # the first of a name is the one measured
    while len(built) <= MOST_BUILDS and (wished := next_share(probes, smallest, goal)) is not None:
        plan = space.by_work(wished)
        share = workshop.cost.macs(plan.kept) / dense_macs
        same = next((probe for probe in built.values() if abs(share - probe.share) < 1e-9), None)
        if same is not None:
            # Widths move in steps. What the wish rounds down to is known; a wider step may lie above it.
            if any(probe.share == wished for probe in probes):
                break
            probes.append(replace(same, share=wished))
            continue
        name = f"trial-{len(built):02}"
        trials.run(name, made(recipe, plan, space))
        built[name] = Probe(share, trials.use(name, budget), name)
        probes.append(built[name])
    fitting = best(probes, goal)
    return fitting if fitting is not None and fitting.name.startswith("trial") else None


def _unproven(reports: Sequence[Report], trials: Trials) -> Report:
    """When nothing is proven: the last candidate whose proof stayed open, else the closest miss."""
    still_open = [r for r in reports if r.verdict.kind == "inconclusive" and r.name in trials.proven]
    return still_open[-1] if still_open else closest(reports)


def closest(reports: Sequence[Report]) -> Report:
    """The candidate whose worst broken line is broken by the smallest share."""

    def worst(report: Report) -> float:
        return max(
            (b.excess / abs(b.limit) if b.limit else b.excess for b in report.verdict.breaches), default=0
        )

    broken = [report for report in reports if report.verdict.kind == "misses"]
    return min(broken or reports, key=worst)


def _pack(trials: Trials, result: FitResult) -> FitResult:
    """Golden vectors and bundle for what may ship, then result.json."""
    if result.verdict.kind != "misses":
        trials.bench.write_golden(result.chosen.name)
        path = trials.folder / f"{trials.folder.resolve().name}{SUFFIX}"
        write_bundle(result, trials.folder, path)
        result = replace(result, bundle=str(path))
    save_result(result, trials.folder)
    return result

"""The main loop of `edgeprune fit`: DESIGN's recipe, top to bottom.

1. Measure the dense model, float and INT8. If one already fits, the answer is "do not prune".
2. Score every unit once.
3. Choose the units to keep for the budget by a latency table, or without one for a share of the work.
4. Draft and measure it; correct the choice by what was measured, until it lands. Cut, reconstruct, emit,
   measure what does.
5. Recover, emit again, and prove it: latency bound, memory, size and metric, on the device.
6. Pack what was proven.

Several budgets are answered by one search, from the largest to the smallest: 3 to 5 for each of them, with
all that was measured, scored and trained before.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from edgeprune.devices import Device
from edgeprune.fitting.answer import answer, conclude, pack
from edgeprune.fitting.budgets import resolved, room
from edgeprune.fitting.dense_forms import dense_int8, light_forms, trained_for_int8
from edgeprune.fitting.landing import Landing, _land, _open, confirmed, known
from edgeprune.fitting.order import Order, facts, place
from edgeprune.fitting.trials.lost_layers import lost_in
from edgeprune.fitting.trials.runner import Trials
from edgeprune.graph.outputs import check_finite, check_sized
from edgeprune.ledger import Ledger
from edgeprune.make import Workshop
from edgeprune.quantize.dialects import dialect_for
from edgeprune.records.machine import Budget
from edgeprune.records.progress import Event, Listen
from edgeprune.records.task import Task
from edgeprune.records.trial import Candidate, FitResult, compared_ms
from edgeprune.recover.descend import DESCENDING
from edgeprune.recover.ladder import TRAINING
from edgeprune.results import save_result
from edgeprune.search.bracketing import Probe
from edgeprune.tasks import call_evaluate, check_task

SETTLED = ("fits", "predicted")  # what a proof may say for the search to end; without a device it predicts
FLOAT = Candidate((), "float32")
AT_A_STEP = "by the latency table, nothing that keeps more is within it"


def fit(
    task: Task,
    *,
    target: str | Path = "local",
    profile: str | Path | Sequence[str | Path] | None = None,
    latency_ms: float | Sequence[float] | None = None,
    speedup: float | Sequence[float] | None = None,
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
    the profile's. Several profiles, or several latencies or speed-ups, are several budgets: the result then
    has `tiers`, the largest budget first, and for classifiers a `cascade`.
    recover: how; None takes fine-tuning where the task has labels, else distillation.
    out: run folder; `resume` goes on with the run that is there.
    Raises `InputError` for anything wrong with the input, `DeviceError` when the device fails. A budget
    that nothing meets is a result: `verdict.kind == "misses"`, `chosen` the closest candidate.
    """
    started = time.monotonic()
    orders, notes = place(
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
    workshop = workshop_for(task, orders[0])
    rung = workshop.highest_rung(recover)
    check_sized(workshop.dense)
    check_finite(workshop.dense, workshop.calibration)
    call_evaluate(task, workshop.predict)  # an evaluation that fails is refused before anything is written
    for note in notes:
        listen(Event("budgets", note, lasting=True))
    with Ledger.open(Path(out), facts(orders, workshop), resume) as ledger:
        trials = Trials(orders[0], workshop, ledger, listen)
        trials.run("dense", FLOAT)
        answers = []
        for order in largest_first(orders, trials):
            trials = trials.turned(order)
            budget = resolved(order.budget, trials.tested["dense"].measurement.latency)
            found = _search(order, workshop, trials, budget, rung)
            answers.append(answer(trials, budget, found))
        result = pack(trials, conclude(workshop, answers, time.monotonic() - started))
        save_result(result, trials.folder)
        return result


def workshop_for(task: Task, order: Order) -> Workshop:
    """Where all candidates of a fit are made; it is the same for all of its orders."""
    return Workshop(
        *(task, dialect_for(order.target.dialect, order.profile.architecture)),
        runtime=order.runtime,
        criterion=order.criterion,
        seed=order.seed,
        lost_in=lost_in(order),
        keep_onnx=order.forecast is not None,
    )


def largest_first(orders: Sequence[Order], trials: Trials) -> list[Order]:
    """The loosest first, as the dense model tells on each one's machine: least compression first."""

    def left(order: Order) -> tuple[float, float, float]:
        dense = trials.turned(order).tested["dense"].measurement.latency
        return room(resolved(order.budget, dense), compared_ms(dense))

    return sorted(orders, key=left, reverse=True)


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
    recipe = replace(
        trials.tested[start].candidate, recover="none" if rung == "none" else "reconstruct", qat=False
    )
    probes = [Probe(1.0, trials.use(start, budget), start), *known(workshop, trials, budget, recipe)]
    space = trials.survey.space(recipe, choices, trials.tested[start].layers_int8)

    def by_table() -> Landing | None:
        """Where to land is asked anew each time: every session tells more of this device."""
        return Landing(workshop, space, trials, budget, recipe) if space.prediction is not None else None

    def land() -> Probe | None:
        if (landing := by_table()) is not None:
            return landing.land(probes)
        return _land(workshop, space, trials, budget, recipe, probes)

    while (landed := land() or _open(trials, budget, probes)) is not None:
        if not confirmed(trials, budget, probes, landed):
            continue
        final = _recovered(order, trials, floor, landed.name, rung)
        settles, proven = trials.prove(final, budget) in SETTLED, trials.use(final, budget)
        if settles:
            if (landing := by_table()) is not None and landing.at_a_step(landed.name, proven, probes):
                trials.note(final, f"{final} uses {proven:.1%} of its budget: {AT_A_STEP}")
            return final
        if proven <= 1:  # the metric broke or a throttle flag moved: cutting more mends neither
            return None
        probes[:] = [replace(probe, use=proven) if probe.name == landed.name else probe for probe in probes]
    return None


def _recovered(order: Order, trials: Trials, floor: float, name: str, rung: str) -> str:
    """The trial that `rung` makes of a proven one; the same where it trains nothing."""
    if rung not in TRAINING or not order.epochs:
        return name
    final = name.replace("trial", "final")
    began = trials.taught if rung in DESCENDING else None
    trials.run(final, replace(trials.tested[name].candidate, recover=rung, after=began), train=True)
    return trained_for_int8(order, trials, floor, final, rung)

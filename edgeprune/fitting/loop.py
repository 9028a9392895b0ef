"""The main loop of `edgeprune fit`: the recipe, top to bottom.

1. Measure the dense model, float and INT8. If one fits, the answer is "do not prune".
2. Score every unit once, and time operators at several widths: the latency table.
3. Choose the units to keep for the budget by the table, or without one by their share of the work.
4. Draft and measure that candidate; correct the choice by the measurement until one lands on the budget.
   Cut, reconstruct, export and measure the one that lands.
5. Recover and calibrate, export again, and prove it: latency bound, memory, size and metric, on the device.
6. Pack the proven candidate.

Several budgets are answered by one search, from the loosest to the tightest: 3 to 5 for each of them, with
everything that was measured, scored and trained before.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime, timezone
from itertools import chain, takewhile
from pathlib import Path

from edgeprune.errors import DeviceBusy
from edgeprune.fitting.answer import Answer, answer, conclude, overlooked, pack
from edgeprune.fitting.budgets import looseness
from edgeprune.fitting.dense_forms import dense_int8, light_variants, trained_for_int8
from edgeprune.fitting.landing import Landing, confirmed, earlier_probes, space_of
from edgeprune.fitting.order import Order, check_evaluation, drop_notes, resolve_orders, resume_key, told_rows
from edgeprune.fitting.several_lengths import check_lengths, told_lengths
from edgeprune.fitting.space.timing import FLOAT
from edgeprune.fitting.trials.lost_layers import lost_in
from edgeprune.fitting.trials.runner import SETTLED, Trials
from edgeprune.fitting.trials.sessions import DENSE
from edgeprune.fitting.trials.whole_queries import told_parts
from edgeprune.graph.outputs import check_finite, check_sized
from edgeprune.ledger import Ledger
from edgeprune.make import Workshop
from edgeprune.options import FitOptions, takes
from edgeprune.quantize.dialects import dialect_for
from edgeprune.records.progress import Event, Remarks
from edgeprune.records.task import Task
from edgeprune.records.trial import FitResult, compared_ms
from edgeprune.recover.ways import before_training, find_way
from edgeprune.results import save_result
from edgeprune.search.bracketing import Probe
from edgeprune.tasks import check_task, scored
from edgeprune.tasks.blame import exits_refused
from edgeprune.tasks.calibration import CHANGED

AT_A_STEP = "by what units cost, nothing that keeps more is within it"


@takes(FitOptions)
@exits_refused()
def fit(task: Task, options: FitOptions) -> FitResult:
    """Find the least compressed version of a model that provably fits a device's budget.

    The keywords are the fields of `edgeprune.options.FitOptions`. Several profiles, latencies or speed-ups
    are several budgets: the result then has `tiers`, the loosest budget first, and for classifiers a
    `cascade`.
    Raises `InputError` for anything wrong with the input, `DeviceError` when the device fails or is too busy
    for the dense model to be measured. A budget that nothing meets is a result: `verdict.kind == "misses"`,
    `chosen` the closest candidate; so is one that a busy device left open, "inconclusive", and resumed it
    goes on.
    """
    began = datetime.now(timezone.utc)
    remarks = Remarks(options.listen)
    options = replace(options, listen=remarks)
    orders, notes = resolve_orders(options)
    task, unusual = check_task(task)
    workshop = workshop_for(task, orders[0])
    check_lengths(orders[0], workshop)
    notes += [*told_rows(task, orders[0], workshop.dense), *told_lengths(workshop)]
    notes += told_parts(task, orders[0], workshop)
    rung = workshop.highest_rung(options.recover)
    check_sized(workshop.dense)
    check_finite(workshop.dense, workshop.calibration)
    workshop.rehearse(rung, options.training)
    # Refused, where it fails, before anything is written.
    score, doubts = scored(task, workshop.predict, options.seed)
    notes += [*drop_notes(orders, task, score), *doubts]
    unusual = (*unusual, *workshop.understood.remarks)
    for stage, note in (*(("budgets", note) for note in notes), *(("data", note) for note in unusual)):
        remarks(Event(stage, note, lasting=True))
    key = resume_key(orders, workshop, score, moves=CHANGED in unusual)
    with Ledger.open(Path(options.out), key, options.resume) as ledger:
        check_evaluation(ledger, score, task, workshop, remarks)
        trials = Trials(orders[0], workshop, ledger)
        trials.run(DENSE, FLOAT, kind="dense")
        answers = []
        for order in loosest_first(orders, trials):
            trials = trials.for_budget(order)
            answers.append(_answered(trials, rung))
        result = pack(trials, conclude(answers, began, remarks.said))
        save_result(result, trials.folder, ledger)
        return result


def workshop_for(task: Task, order: Order) -> Workshop:
    """The workshop of a fit: it makes the candidates of all its orders."""
    return Workshop(
        task,
        dialect_for(order.target.dialect, order.profile.architecture, order.runtime),
        runtime=order.runtime,
        criterion=order.options.criterion,
        seed=order.options.seed,
        rows=order.profile.batch,
        lost_in=lost_in(order),
        keep_onnx=order.forecast is not None,
        tell=lambda sentence: order.options.listen(Event("data", sentence, lasting=True)),
    )


def loosest_first(orders: Sequence[Order], trials: Trials) -> list[Order]:
    """Orders by how loose their budgets are for the dense model on each one's machine."""

    def key(order: Order) -> tuple[float, float, float]:
        runner = trials.for_budget(order)
        return looseness(runner.budget, compared_ms(runner.dense.measurement.latency))

    return sorted(orders, key=key, reverse=True)


def _answered(trials: Trials, rung: str) -> Answer:
    try:
        return answer(trials, _search(trials, rung) or overlooked(trials))
    except DeviceBusy as busy:
        return answer(trials, None, busy.what)


def _search(trials: Trials, rung: str) -> str | None:
    """Name of the first trial, least compression first, that is proven to fit; None when there is none.

    Raises `DeviceBusy` when the device was too disturbed to tell: nothing is cut for that.
    """
    if _fits(trials, DENSE):
        return DENSE
    start = dense_int8(trials, rung)
    whole = chain([start], light_variants(trials, start))
    fitting = next((name for name in whole if name != DENSE and _fits(trials, name)), None)
    if fitting is not None:
        return _less_compressed(trials, fitting)
    if not trials.workshop.coupling.groups:
        return None
    return _pruned(trials, start, rung)


def _less_compressed(trials: Trials, found: str) -> str:
    """Name of the trial to answer with: one before `found` that may fit all the same, and is proven to.

    It was measured when the machine was slower than it has been since.
    """
    for name in takewhile(lambda name: name != found, tuple(trials.tested)):
        if name not in trials.proven and trials.may_fit(name) and trials.prove(name) in SETTLED:
            return name
    return found


def _fits(trials: Trials, name: str) -> bool:
    """Whether a trial that looks as if it fits is proven to."""
    return trials.use(name) <= 1 and trials.allows(trials.tested[name].metric) and trials.settles(name)


def _pruned(trials: Trials, start: str, rung: str) -> str | None:
    """Name of the first trained candidate that is proven to fit; None when there is none.

    start: the trial of the whole model whose precision candidates take.
    """
    recipe = replace(trials.tested[start].candidate, recover=before_training(rung), qat=False)
    probes = [Probe(1.0, trials.use(start), start), *earlier_probes(trials, recipe)]
    space = space_of(trials, recipe, trials.tested[start].layers_int8, probes)
    while (landed := Landing(trials, space, recipe).land(probes)) is not None:
        if not confirmed(trials, probes, landed):
            continue
        final = _recovered(trials, landed.name, rung)
        settles, use = trials.settles(final), trials.use(final)
        if settles:
            if Landing(trials, space, recipe).at_a_step(landed.name, use, probes):
                trials.note(final, f"{final} uses {use:.1%} of its budget: {AT_A_STEP}")
            return final
        if use <= 1:  # the metric broke or a throttle flag moved: cutting more mends neither
            return None
        probes[:] = [replace(probe, use=use) if probe.name == landed.name else probe for probe in probes]
    return None


def _recovered(trials: Trials, name: str, rung: str) -> str:
    """The trained trial of a proven candidate; the candidate itself where the rung trains nothing."""
    if not find_way(rung).trains or not trials.order.options.training.trains:
        return name
    candidate = trials.tested[name].candidate
    warm_start = trials.taught if find_way(rung).warm_start else None
    final = trials.train(name, replace(candidate, recover=rung, warm_start=warm_start))
    return trained_for_int8(trials, final, rung)

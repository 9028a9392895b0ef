"""One case: fit a task to a latency budget, validate the bundle, and compare with the baselines."""

from __future__ import annotations

import time
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

import edgeprune
from benchmarks.contract.baselines import Ours, allocators, equally_fast, exact_ms, reference_ms
from edgeprune.devices import Feeds, Load
from edgeprune.devices.local import LocalDevice
from edgeprune.devices.predict import predictor
from edgeprune.errors import NothingToQuantise
from edgeprune.files import write
from edgeprune.fitting.loop import AT_A_STEP, FLOAT, workshop_for
from edgeprune.fitting.order import Order, resolve_orders, resume_key
from edgeprune.fitting.trials.runner import Trials
from edgeprune.fitting.trials.sessions import DENSE
from edgeprune.ledger import Ledger
from edgeprune.make import Workshop
from edgeprune.measure import Effort, measure
from edgeprune.options import FitOptions
from edgeprune.records.codec import dumps, from_json, loads, to_json
from edgeprune.records.progress import Event
from edgeprune.records.trial import Candidate, Drop, FitResult
from edgeprune.search.paired import paired_drop
from edgeprune.tasks import call_evaluate_samples
from edgeprune.validating import validate

TARGETS = {"onnxruntime": "x86", "openvino": "intel"}
PROFILE = Path(__file__).with_name("undisturbed.toml")
EPOCHS = 2
MAX_DROP = 0.9  # so that latency is what binds
VALIDATIONS = 3
SESSIONS = 3
SAMPLES = 32  # inputs that are timed
SEARCH = Effort(runs=662, seconds=4.0, interleaved=True)


@dataclass(frozen=True)
class Validated:
    """What `validate` says of the bundle. use: the proof's bound over the budget."""

    verdict: str
    use: float | None


@dataclass(frozen=True)
class Compared:
    """A baseline. ratio: its latency over ours, in turn. drop: what it lost against ours."""

    metric: float
    ratio: float
    drop: Drop | None


@dataclass(frozen=True)
class Case:
    """share: of the faster of the dense float and INT8 models, which is the budget.

    float_ms, int8_ms: latencies of these at the budget's percentile, in turn.
    builds: of pruned candidates, trained ones too.
    step: whether the fit said that nothing that keeps more is within the budget.
    """

    task: str
    runtime: str
    share: float
    float_ms: float
    int8_ms: float | None
    budget_ms: float
    verdict: str
    chosen: str
    use: float | None
    builds: tuple[str, ...]
    table: bool
    search_seconds: float
    training_seconds: float
    dense_metric: float
    metric: float
    validations: tuple[Validated, ...]
    baselines: tuple[tuple[str, Compared], ...]
    step: bool = False


@dataclass
class Clock:
    """Seconds of a fit by what it was doing: "training", or "search" for all else."""

    seconds: dict[str, float] = field(default_factory=dict)
    told: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._doing, self._since = "search", time.monotonic()

    def listen(self, event: Event) -> None:
        kind = "training" if event.doing.startswith("recovering") else "search"
        now = time.monotonic()
        self.seconds[self._doing] = self.seconds.get(self._doing, 0.0) + now - self._since
        self._doing, self._since = kind, now
        if not self.told or self.told[-1] != event.doing:
            self.told.append(event.doing)

    def stop(self) -> None:
        self.listen(Event("", ""))


def ordered(device: LocalDevice, runtime: str, **more: Any) -> dict[str, Any]:
    """The arguments of a fit that all cases share."""
    return {
        "target": TARGETS[runtime],
        "profile": PROFILE,
        "device": device,
        "runtime": runtime,
        "max_drop": MAX_DROP,
        "epochs": EPOCHS,
        "seed": 0,
        **more,
    }


def run(
    name: str,
    task: edgeprune.Task,
    runtime: str,
    share: float,
    device: LocalDevice,
    work: Path,
    max_drop: float = MAX_DROP,
    compare: bool = True,
) -> Case:
    """work: holds the runs, which are resumed; the bundle and the evidence stay there. compare: with the
    baselines.
    """
    started = Start.of(name, task, runtime, device, work)
    budget_ms = started.budget_ms(share)
    out = work / "runs" / f"{name}-{runtime}-{share:g}"
    clock = Clock()
    asked = ordered(device, runtime, latency_ms=budget_ms, max_drop=max_drop)
    result = edgeprune.fit(task, **asked, out=out, resume=True, listen=clock.listen)
    clock.stop()
    bound = result.chosen.measurement.latency.bound_ms
    return Case(
        task=name,
        runtime=runtime,
        share=share,
        float_ms=started.float_ms,
        int8_ms=started.int8_ms,
        budget_ms=budget_ms,
        verdict=result.verdict.kind,
        chosen=result.chosen.name,
        use=None if bound is None else bound / budget_ms,
        builds=tuple(report.name for report in result.trials if report.candidate.kept),
        table=not any(sentence.startswith("no latency table") for sentence in clock.told),
        search_seconds=clock.seconds.get("search", 0.0),
        training_seconds=clock.seconds.get("training", 0.0),
        dense_metric=result.baseline.metric,
        metric=result.chosen.metric,
        validations=validations(result, device),
        step=any(AT_A_STEP in sentence for sentence in clock.told),
        baselines=_baselines(result, task, device, clock) if compare else (),
    )


@dataclass(frozen=True)
class Start:
    """The dense model: latency in float and, in turn with it, in INT8 (calibrated by its extremes; None where
    nothing is INT8), and the peak memory and size of the faster one. Of three sessions the quickest.
    """

    float_ms: float
    int8_ms: float | None
    memory_mib: float
    size_mib: float

    def budget_ms(self, share: float) -> float:
        """`share` of the faster of both."""
        return share * min(self.float_ms, self.int8_ms or self.float_ms)

    @classmethod
    def of(cls, name: str, task: edgeprune.Task, runtime: str, device: LocalDevice, work: Path) -> Start:
        """Measured, or as it was for an earlier budget of the same task."""
        path = work / "runs" / f"{name}-{runtime}.json"
        if not path.exists():
            found = cls._measured(task, runtime, device, work / "runs" / f"{name}-{runtime}")
            write(path, dumps(to_json(found)).encode())
        return from_json(cls, loads(path.read_bytes(), str(path)))

    @classmethod
    def _measured(cls, task: edgeprune.Task, runtime: str, device: LocalDevice, folder: Path) -> Start:
        order = _order(device, runtime)
        workshop = workshop_for(task, order)
        feeds = timed_inputs(workshop)
        probe = tuple(torch.from_numpy(array) for array in feeds[0].values())
        served = []
        for form in (Candidate((), "float32"), Candidate((), "int8", "minmax")):
            try:
                built = workshop.builder.build(form, workshop.dense, folder / form.precision, probe)
            except NothingToQuantise:
                break
            served.append(Load(runtime, built.artefact, order.profile.threads))
        ask = partial(measure, device, feeds=feeds, percentile=order.budget.percentile, effort=SEARCH)
        last, *_ = sorted((ask(served[-1], reference=served[0]) for _ in range(SESSIONS)), key=reference_ms)
        plain = ask(served[0]) if served[1:] else last
        float_ms, last_ms = reference_ms(last), exact_ms(last)
        fastest = last if last_ms <= float_ms else plain
        return cls(
            float_ms=float_ms,
            int8_ms=last_ms if served[1:] else None,
            memory_mib=fastest.memory_mib,
            size_mib=fastest.size_mib,
        )


def validations(result: FitResult, device: LocalDevice) -> tuple[Validated, ...]:
    """The bundle's own proof repeated, nothing but the bundle known."""
    if result.bundle is None:
        return ()
    found = []
    for _ in range(VALIDATIONS):
        checked = validate(Path(result.bundle), device)
        measured, limit = checked.measurement, result.budget.latency_ms
        bound = None if measured is None else measured.latency.bound_ms
        use = bound / limit if bound is not None and limit is not None else None
        found.append(Validated(checked.verdict.kind if checked.verdict else "refused", use))
    return tuple(found)


def _baselines(
    result: FitResult, task: edgeprune.Task, device: LocalDevice, clock: Clock
) -> tuple[tuple[str, Compared], ...]:
    """Both baselines at the latency of what was chosen; none when that is not pruned."""
    chosen = result.chosen.candidate
    if result.bundle is None or not chosen.kept:
        return ()
    budget_ms = result.budget.latency_ms
    order = _order(device, result.runtime, latency_ms=budget_ms, listen=clock.listen)
    workshop = workshop_for(task, order)
    form = replace(chosen, kept=(), recover="none", qat=False)
    load = Load(result.runtime, Path(result.out) / result.chosen.artefact, result.profile.threads)
    ours = Ours(device, load, timed_inputs(workshop), order.budget.percentile)
    found = []
    with Ledger.open(Path(result.out), resume_key([order], workshop), resume=True) as ledger:
        trials = Trials(order, workshop, ledger)
        trials.run(DENSE, FLOAT, kind="dense")
        share = result.chosen.macs / workshop.cost.macs({})
        magnitude = workshop_for(task, _order(device, result.runtime, latency_ms=budget_ms, criterion="l2"))
        for name, allocator in allocators(magnitude, result.target.channel_multiple).items():
            equal = equally_fast(workshop, allocator, form, ours, share)
            kept = tuple(sorted((group, tuple(units)) for group, units in equal.made.items()))
            title = name.replace(" ", "-")
            tested = trials.run(title, replace(chosen, kept=kept), kind="trained")
            theirs = replace(load, artefact=Path(result.out) / title / load.artefact.name)
            drop = _drop(task, device, load, theirs)
            found.append((name, Compared(tested.metric, ours.ratio(theirs), drop)))
    return tuple(found)


def _drop(task: edgeprune.Task, device: LocalDevice, ours: Load, theirs: Load) -> Drop | None:
    if task.evaluate_samples is None:
        return None
    marks = []
    for load in (ours, theirs):
        with device.start(load) as session:
            marks.append(call_evaluate_samples(task, predictor(session)))
    return paired_drop(marks[0], marks[1])


def _order(device: LocalDevice, runtime: str, **more: Any) -> Order:
    """The order that `edgeprune.fit` makes of the same arguments, so that its ledger can be gone on with."""
    (order,), _ = resolve_orders(FitOptions(**ordered(device, runtime, **more)))
    return order


def timed_inputs(workshop: Workshop) -> list[Feeds]:
    rows = {
        name: torch.cat([batch[place] for batch in workshop.calibration])[:SAMPLES].numpy()
        for place, name in enumerate(workshop.dense.input_names)
    }
    return [{name: array[at : at + 1] for name, array in rows.items()} for at in range(SAMPLES)]

"""Trials of a fit: candidates that are built, measured and evaluated on the device, each recorded once."""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property
from statistics import median

import numpy as np
from numpy.typing import NDArray

from edgeprune.errors import DeviceBusy
from edgeprune.fitting.budgets import resolved
from edgeprune.fitting.order import EPOCHS, Order
from edgeprune.fitting.trials.comparison import Compared, compare
from edgeprune.fitting.trials.drafts import Drafts
from edgeprune.fitting.trials.networks import Networks
from edgeprune.fitting.trials.sessions import DENSE, DeviceSide
from edgeprune.fitting.trials.subset import Screened, Subset
from edgeprune.fitting.trials.telling import Telling
from edgeprune.fitting.trials.trial_line import trial_line
from edgeprune.fitting.trials.verdict import Kind, TrialRecord, report, uses
from edgeprune.fitting.trials.whole_queries import parts_code, with_model_share
from edgeprune.graph.capture import Captured
from edgeprune.ledger import Ledger
from edgeprune.make import Built, Workshop, recovered, trainings
from edgeprune.pruning.identity import digest
from edgeprune.records.direction import Direction
from edgeprune.records.machine import Budget
from edgeprune.records.trial import Candidate, Measurement, Report, VerdictKind
from edgeprune.records.whole_query import WholeQueries
from edgeprune.recover.ways import find_way
from edgeprune.search.bracketing import Zone, zone
from edgeprune.search.judge import slower, unsettled
from edgeprune.search.waiting import taken
from edgeprune.tasks import call_evaluate

SETTLED = ("fits", "predicted")  # what a proof may say for the search to end; without a device it predicts

_log = logging.getLogger(__name__)


class Trials:
    """Runner of trials, by name, in the run folder: for one order and its resolved budget.

    Several budgets share everything that was tried, as the search found it (`for_budget`). Proofs are of one
    budget, so each makes its own.
    """

    def __init__(
        self, order: Order, workshop: Workshop, ledger: Ledger, larger: Trials | None = None
    ) -> None:
        """Runner before its first trial. larger: the runner of the budget before this one."""
        self.order = order
        self.workshop = workshop
        self.once = ledger.once
        self.folder = ledger.folder
        self.device_side = DeviceSide(order, workshop, ledger.folder)
        self.drafts = Drafts(self.device_side, ledger)
        self.subset = Subset(workshop, lambda: self.budget.max_drop, order.profile.batch)
        self.tested: dict[str, TrialRecord] = {}  # measured by a proof where there is one
        self.proven: set[str] = set()  # names whose measurement is a proof session, whatever it showed
        self.screened: dict[str, Screened] = {}
        self.compared: dict[str, Compared] = {}
        self.taught: str | None = None  # the trial of a larger budget whose trained weights are a warm start
        self._ledger = ledger
        self._telling: Telling = Telling(order.options.listen) if larger is None else larger._telling
        self.tell, self.note = self._telling.tell, self._telling.note
        self._networks = Networks(workshop, ledger.folder, order.options.training, self.tell)
        self._searched: dict[str, TrialRecord] = {}  # as the search found them
        self._larger = larger
        self._turn: int = 0 if larger is None else larger._turn + 1
        if larger is not None:
            self.taught = larger._last_taught
            self.adopt(larger)
        self._last_taught: str | None = self.taught

    def for_budget(self, order: Order) -> Trials:
        """The runner of another budget, with all trials so far."""
        return Trials(order, self.workshop, self._ledger, larger=self)

    @cached_property
    def budget(self) -> Budget:
        """The order's budget, relative lines resolved by the dense model."""
        dense = self._searched[DENSE]
        latency = dense.measurement.latency
        found = resolved(self.order.budget, latency, dense.metric)
        return found if found.whole_ms is None else with_model_share(found, self.whole(DENSE), latency)

    @property
    def dense(self) -> TrialRecord:
        """The dense float model's trial."""
        return self.tested[DENSE]

    @property
    def direction(self) -> Direction:
        """Direction of the metric."""
        return self.workshop.task.direction

    def allows(self, metric: float) -> bool:
        """Whether the budget allows a metric."""
        limit = self.direction.limit(self.dense.metric, self.budget.max_drop)
        return self.direction.holds(metric, limit)

    def adopt(self, other: Trials) -> None:
        """Take over the trials of another budget's search that this runner does not have."""
        self.screened = {**other.screened, **self.screened}
        self.compared = {**other.compared, **self.compared}
        self.drafts.known = {**other.drafts.known, **self.drafts.known}
        for name, tested in other._searched.items():
            if name not in self.tested:
                self.tested[name] = self._searched[name] = self._here(name, tested, other)

    @property
    def resumed_whole(self) -> bool:
        """Whether all steps so far were found in the ledger."""
        return not self._ledger.grown

    def of_budget(self, step: str) -> str:
        """Name of a step that every budget makes for itself, in the ledger."""
        return step if self._turn <= 1 else f"{step}-{self._turn}"

    @property
    def candidates(self) -> dict[str, TrialRecord]:
        """Trials that a search built, trained ones not counted."""
        return {name: tested for name, tested in self.tested.items() if tested.kind == "candidate"}

    @property
    def builds(self) -> int:
        """Number of candidates that were built for this budget."""
        return len(self.candidates.keys() - (self._larger.tested if self._larger is not None else {}))

    def build(self, candidate: Candidate) -> str:
        """Run the next candidate of the search; its name, unique in the run."""
        name = f"trial-{len(self.candidates) + 1:02}"
        self.run(name, candidate, kind="candidate")
        return name

    def screen(self, name: str, candidate: Candidate) -> Screened:
        """Build an INT8 variant of the dense model and compare it on a subset; `run` goes on with it."""
        screened = self._ledger.once(
            f"{name}-screen",
            lambda: self._screen(name, candidate),
            Screened,
            files=self.device_side.files(name),
        )
        self.screened[name] = screened
        return screened

    def run(
        self, name: str, candidate: Candidate, *, kind: Kind = "variant", start: str | None = None
    ) -> TrialRecord:
        """Build, measure and evaluate a candidate.

        kind: "trained" climbs the recovery rungs that need training.
        start: the trained trial whose weights this one begins with; only what the candidate adds follows.
        """
        train = kind == "trained"
        files = [*self.device_side.files(name), *([self._networks.path(name)] if train else [])]
        started = time.monotonic()
        tested = self._ledger.once(
            *(name, lambda: self._test(name, candidate, kind, start), TrialRecord),
            files=files,
            lasts=lambda found: self._recovers(found, candidate, train),
        )
        if train:
            self._networks.forget_checkpoint(name)
        tested = replace(tested, kind=kind, measurement=self._as_begun(tested.measurement))
        tested = self._here(name, tested, self._larger)
        self.tested[name] = self._searched[name] = tested
        _log.info(
            "%s: %s, %d layers in INT8, %d in float; %r %.4g, p50 %.4g ms",
            *(name, candidate.precision, len(tested.layers_int8), len(tested.layers_float)),
            *(self.workshop.task.metric, tested.metric, tested.measurement.latency.p50_ms),
        )
        if train and not candidate.qat:
            self._last_taught = name
        if self._larger is None or name not in self._larger.tested:
            self._telling.took(time.monotonic() - started)
            self._tell_end(name, tested.seconds)
        return tested

    def train(self, name: str, candidate: Candidate) -> str:
        """Train a candidate of the search; the name of the trained trial, with its number."""
        final = f"final-{1 + list(self.candidates).index(name):02}"
        self.run(final, candidate, kind="trained")
        return final

    def draft(self, candidate: Candidate) -> str | None:
        """Measure a candidate by its shapes alone; the draft's name, or None when it cannot be drafted."""
        name = self.drafts.make(candidate, self._telling.measuring, _median(self._references))
        if name in self.drafts.measured:
            return name
        self.tell(name, f"a candidate is built at once: {self.drafts.known[name].reason}")
        return None

    def float_metric(self, name: str) -> float:
        """The metric of a trained trial's weights in float, on this machine."""

        def evaluate() -> float:
            self.tell(name, f"evaluating {self.workshop.task.metric} in float")
            return call_evaluate(self.workshop.task, self.workshop.predictor(self._networks.saved(name)))

        return self._ledger.once(f"{name}-float", evaluate, float)

    def distance(self, name: str) -> float:
        """Distance of a trial's outputs, on the device, to the dense model's."""
        return self._ledger.once(
            f"{name}-distance", lambda: self.device_side.ask(name, self.subset.distance), float
        )

    def whole(self, name: str) -> WholeQueries:
        """Whole queries of a trial: of its proof where that timed them."""
        proof = self.tested[name].measurement.whole
        if proof is not None:
            return proof
        self.tell(name, "timing whole queries")
        return self._ledger.once(
            f"{name}-whole",
            lambda: self.device_side.whole(name),
            WholeQueries,
            lasts=lambda found: found.code == parts_code(self.workshop.task),
        )

    def prove(self, name: str, *, again: bool = False) -> VerdictKind:
        """Replace the measurement of a finished trial by a proof session; the verdict that it gives.

        again: by another one, later than the first.
        """
        key = self.of_budget(f"{name}-proof") + "-again" * again
        proof = self._ledger.once(key, lambda: self._prove(name), Measurement, lasts=self._proof_lasts)
        self.tested[name] = replace(self.tested[name], measurement=self._as_begun(proof))
        self.proven.add(name)
        verdict = self.report(name).verdict
        if {breach.line for breach in verdict.breaches} <= {"metric"} and self._compare(name):
            verdict = self.report(name).verdict
        broken = ", ".join(f"{each.line} {each.value:.4g} of {each.limit:.4g}" for each in verdict.breaches)
        _log.info("%s: proven to be %r %s", name, verdict.kind, broken)
        self._tell_end(name, proof.latency.seconds)
        return verdict.kind

    def settles(self, name: str) -> bool:
        """Whether a trial is proven to fit, or is predicted to without a device.

        Raises `DeviceBusy` when its proof stays open and nothing smaller is called for.
        """
        kind, why = self.prove(name), self.unsettled(name)
        if kind == "inconclusive" and why and self.comfortable(name):
            raise DeviceBusy(f"{name} looked as if it fits, and was not proven: {why}.")
        return kind in SETTLED

    def unsettled(self, name: str) -> str:
        """Clause about why the last session of a trial decides nothing; empty where it does."""
        return unsettled(self.tested[name].measurement)

    def broken(self, name: str) -> set[str]:
        """Budget lines that a trial breaks."""
        return {breach.line for breach in self.report(name).verdict.breaches}

    def comfortable(self, name: str) -> bool:
        """Whether nothing smaller is called for when the proof of a trial stays open.

        That is where the search saw it keep the budget with the margin that this machine needs, or without
        when something disturbed the proof but the machine's own unsteadiness.
        """
        found, proof = self._searched[name].measurement, self.tested[name].measurement
        kept = max(uses(found, self._usual_ms, self.budget, proven=False).values(), default=0.0)
        return kept <= (1.0 if disturbed_proof(proof) else self.zone().high)

    def report(self, name: str) -> Report:
        """A trial held against the budget."""
        compared = self.compared.get(name)
        return report(
            name,
            self.tested[name],
            self.workshop,
            self.budget,
            self.dense.metric,
            proven=name in self.proven,
            repeated=None if compared is None else compared.repeated,
        )

    def with_drop(self, report: Report) -> Report:
        """Report with the confidence interval of the metric's drop, where samples are scored one by one."""
        compared = self._compare(report.name)
        return report if compared is None else replace(report, drop=compared.drop)

    def use(self, name: str) -> float:
        """Largest share of a budget line that a trial or draft used: above 1 the line breaks."""
        return max(self.uses(name).values(), default=0.0)

    def uses(self, name: str) -> dict[str, float]:
        """Shares of all budget lines that bind, line by line, that a trial or draft used.

        As its proof found them, where that is conclusive, else as the search did.
        """
        return uses(self._measured(name), self._usual_ms, self.budget, proven=self._proven(name))

    def fixed(self, name: str) -> dict[str, float]:
        """Shares of budget lines that no width changes: of memory, what the runtime takes itself."""
        measured, limit = self._measured(name), self.budget.memory_mib
        return {} if limit is None else {"memory_mib": (measured.memory_mib - measured.added_mib) / limit}

    def seen_within(self, name: str) -> bool:
        """Whether the session of a trial kept all lines at the speed that the machine had then."""
        found = uses(self.tested[name].measurement, None, self.budget, proven=True)
        return max(found.values(), default=0.0) <= 1

    def may_fit(self, name: str) -> bool:
        """Whether a trial keeps all lines at the quickest that the machine has been in any session."""
        quickest = min(self._references, default=None)
        found = uses(self._searched[name].measurement, quickest, self.budget, proven=False)
        return max(found.values(), default=0.0) <= 1 and self.allows(self.tested[name].metric)

    def zone(self) -> Zone:
        """Zone of the budget to land in; of latency, by how far this device's sessions scatter."""
        return zone(self._references if self.budget.timed else ())

    def _tell_end(self, name: str, seconds: float) -> None:
        """Tell what came of a trial, or of its proof where it has one."""
        dense_macs = self.workshop.cost.macs(dict(self.dense.candidate.kept))
        told = self.report(name)
        line = trial_line(
            told, dense_macs, self.budget, self.workshop.task.metric, name in self.proven, seconds
        )
        self._telling.ended(name, line)

    @property
    def _references(self) -> list[float]:
        """Milliseconds of the dense model, session by session; the first ones resolved the budgets."""
        searched = {name: tested.measurement for name, tested in self._searched.items()}
        proofs = {name: self.tested[name].measurement for name in self.proven}
        usable = {name: proof for name, proof in proofs.items() if not disturbed_proof(proof)}
        sessions = (*{**searched, **usable}.values(), *self.drafts.measured.values())
        return [ms for each in sessions if (ms := each.reference_ms) is not None]

    @property
    def _usual_ms(self) -> float | None:
        """Usual milliseconds of the dense model on this machine.

        A speed-up was resolved by the first session, so a candidate is compared with that, whether the
        machine was quicker or slower then than since.
        """
        found = self._references
        return found[0] if found and self.order.budget.speedup is not None else _median(found)

    # ------------------------------------------------------------------------------------------------

    def _measured(self, name: str) -> Measurement:
        draft = self.drafts.measured.get(name)
        if draft is not None:
            return self._as_begun(draft)
        return (self.tested if self._proven(name) else self._searched)[name].measurement

    def _proven(self, name: str) -> bool:
        """Whether the measurement of a trial is a proof that decides."""
        return name in self.proven and self.tested[name].measurement.conclusive

    def _as_begun(self, measured: Measurement) -> Measurement:
        """Measurement in the run's own terms: one that an earlier version began limits what a model adds."""
        begun = self._searched.get(DENSE)
        earlier = begun is not None and begun.measurement.process_mib is None
        return replace(measured, process_mib=None) if earlier else measured

    def _here(self, name: str, tested: TrialRecord, other: Trials | None) -> TrialRecord:
        """A trial of another budget's runner; predicted anew where this budget is for another machine."""
        profile = self.order.profile
        if self.order.forecast is None or other is None or name not in other.tested:
            return tested
        if profile == other.order.profile:
            return replace(tested, measurement=other._searched[name].measurement)
        measurement = self._ledger.once(
            f"{name}-on-{profile.name}",
            lambda: self.device_side.measure(name, self._telling.measuring(name)),
            Measurement,
            files=self.device_side.files(name),
        )
        return replace(tested, measurement=measurement)

    def _recovers(self, found: TrialRecord, candidate: Candidate, train: bool) -> bool:
        """Whether a recorded trial was recovered as this run asks for."""
        then = (found.candidate.recover, found.candidate.qat, found.trainer)
        now = (candidate.recover, candidate.qat, self._trainer(candidate))
        if then != now or not train:
            return then == now
        epochs: object = found.epochs
        if epochs is None and found.minutes is None:  # of before: the run's own
            epochs = self._ledger.noted(EPOCHS).value
        return self._length == (epochs, found.minutes, found.accumulate)

    @property
    def _length(self) -> tuple[int | None, float | None, int]:
        """Length of a training, as it is asked for: epochs or minutes, and the batches of a step."""
        options = self.order.options
        return (options.epochs if options.minutes is None else None, options.minutes, options.accumulate)

    def _trainer(self, candidate: Candidate) -> str:
        """Identity of the user's training loop, where that trains a candidate."""
        return digest(self.workshop.task.trainer) if find_way(candidate.recover).own_loop else ""

    def _test(self, name: str, candidate: Candidate, kind: Kind, start: str | None) -> TrialRecord:
        started = time.monotonic()
        network, rungs = self._networks.made(name, candidate, kind, start, self.tested)
        built = self._built(name, candidate, network)
        candidate = _settled(candidate, built)
        if kind == "trained":
            self._networks.save(name, network)
        measurement = self.device_side.measure(name, self._telling.measuring(name), _median(self._references))
        self.tell(name, f"evaluating {self.workshop.task.metric}")
        metric = self.device_side.metric(name)
        epochs, minutes, accumulate = self._length if kind == "trained" else (None, None, 1)
        return TrialRecord(
            candidate=candidate,
            metric=metric,
            measurement=measurement,
            layers_int8=built.layers_int8,
            layers_float=built.layers_float,
            recovered=(*(self.tested[start].recovered if start else ()), *recovered(rungs)),
            seconds=time.monotonic() - started,
            kind=kind,
            epochs=epochs,
            minutes=minutes,
            accumulate=accumulate,
            training=(*(self.tested[start].training if start else ()), *trainings(rungs)),
            trainer=self._trainer(candidate),
        )

    def _screen(self, name: str, candidate: Candidate) -> Screened:
        built = self._built(name, candidate, self.workshop.dense)
        self.tell(name, "comparing on a subset")
        error = self.device_side.ask(name, self.subset.error)
        return Screened(_settled(candidate, built), error, built.layers_int8, built.layers_float)

    def _built(self, name: str, candidate: Candidate, pruned: Captured) -> Built:
        """The artefact, taken from the screening when there was one."""
        screened = self.screened.get(name)
        if screened is not None:
            known = screened.candidate.engine_layers
            layers = (screened.layers_int8, screened.layers_float)
            return Built(self.device_side.artefact(name), *layers, engine_layers=known)
        self.tell(name, "building")
        return self.device_side.build(name, candidate, pruned)

    def _proof_lasts(self, found: Measurement) -> bool:
        """Whether a recorded proof decides, with the parts beside the model that the task has now."""
        same = found.whole is None or found.whole.code == parts_code(self.workshop.task)
        return found.conclusive and same

    def _compare(self, name: str) -> Compared | None:
        """Comparison with the dense model, sample by sample; None where samples are not scored."""
        if self.workshop.task.evaluate_samples is None or name == DENSE:
            return None

        def scores(each: str) -> NDArray[np.float64]:
            self.tell(name, "comparing sample by sample")
            return self.device_side.scores(each)

        known = {each: self.tested[each].metric for each in (DENSE, name)}
        allowed = self.budget.max_drop
        self.compared[name] = self._ledger.once(
            f"{name}-compared", lambda: compare(scores, known, allowed, self.direction), Compared
        )
        return self.compared[name]

    def _prove(self, name: str) -> Measurement:
        listen = self._telling.measuring(name, "proving")
        known = self.tested[name].measurement
        return self.device_side.prove(name, self.budget, listen, known, self._usual_ms)


def disturbed_proof(proof: Measurement) -> bool:
    """Whether something known disturbed a proof: it waited, was throttled, or the machine was slower."""
    slow = slower(proof.reference_ms, proof.usual_ms)
    return taken(proof.waiting).much or bool(proof.state.moved) or slow


def _median(found: Sequence[float]) -> float | None:
    return median(found) if found else None


def _settled(candidate: Candidate, built: Built) -> Candidate:
    """Candidate whose float layers are those of the artefact, its engine's own ones included."""
    return replace(candidate, engine_layers=tuple(sorted({*candidate.engine_layers, *built.engine_layers})))

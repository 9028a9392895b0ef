"""One trial: build a candidate, measure it on the device, evaluate it there; each recorded once."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import TypeVar

import numpy as np
import torch
from numpy.typing import NDArray

from edgeprune.bundle.golden import write_reference
from edgeprune.devices.artefact import written_files
from edgeprune.fitting.order import Order
from edgeprune.fitting.space.survey import Survey
from edgeprune.fitting.trials.comparison import Compared, compare
from edgeprune.fitting.trials.drafts import Drafts
from edgeprune.fitting.trials.networks import Weights
from edgeprune.fitting.trials.sessions import Bench
from edgeprune.fitting.trials.subset import Screened, Subset
from edgeprune.fitting.trials.verdict import Tested, report, uses
from edgeprune.graph.capture import Captured
from edgeprune.ledger import Ledger
from edgeprune.make import Built, Workshop, recovered
from edgeprune.measure import PROOF, Progress
from edgeprune.records.bundle import REFERENCE
from edgeprune.records.machine import Budget
from edgeprune.records.progress import Event, Listen
from edgeprune.records.trial import Candidate, Measurement, Report, VerdictKind
from edgeprune.recover.ladder import Rung
from edgeprune.search.bracketing import Zone, zone
from edgeprune.tasks import call_evaluate

USUAL_TRIALS = 7  # dense, dense INT8, a few pruned, and one that is trained
TRIAL = "trial-"  # how candidates that the search builds are called; what is trained of one is called final-

T = TypeVar("T")


class Trials:
    """Runs candidates by name in the run folder, through the ledger, and holds them against one budget.

    What several budgets share goes from one to the next (`turned`): all that was tried, as the search found
    it. Proofs are of one budget, so each makes its own.
    """

    def __init__(
        self, order: Order, workshop: Workshop, ledger: Ledger, listen: Listen, larger: Trials | None = None
    ) -> None:
        self._order = order
        self._workshop = workshop
        self._ledger = ledger
        self._listen = listen
        self.folder = ledger.folder
        self.bench = Bench(order, workshop, ledger.folder)
        self.survey = Survey(self.bench, ledger, self._tell)
        self.drafts = Drafts(self.bench, ledger)
        self._weights = Weights(workshop, ledger.folder, order.epochs, self._tell)
        self.tested: dict[str, Tested] = {}  # measured by a proof where there is one
        self.proven: set[str] = set()  # names whose measurement is a proof session, whatever it showed
        self.screened: dict[str, Screened] = {}
        self.compared: dict[str, Compared] = {}
        self.subset = Subset(workshop, order.budget.max_drop, order.profile.batch)
        self.taught: str | None = None  # for a larger budget, the last one: trained weights to begin with
        self._searched: dict[str, Tested] = {}  # as the search found them
        self._seconds: list[float] = []
        self._larger = larger
        self._turn: int = 0 if larger is None else larger._turn + 1
        if larger is not None:
            self.taught = larger._last_taught
            self._seconds = larger._seconds
            self.adopt(larger)
        self._last_taught: str | None = self.taught

    def turned(self, order: Order) -> Trials:
        """The same trials before the next budget."""
        return Trials(order, self._workshop, self._ledger, self._listen, larger=self)

    def adopt(self, other: Trials) -> None:
        """Take over what another budget's search found, where this one has nothing."""
        self.screened = {**other.screened, **self.screened}
        self.compared = {**other.compared, **self.compared}
        self.drafts.known = {**other.drafts.known, **self.drafts.known}
        for name, tested in other._searched.items():
            if name not in self.tested:
                self.tested[name] = self._searched[name] = self._here(name, tested, other)

    @property
    def builds(self) -> int:
        """How many candidates were built for this budget, trained ones not counted."""
        known = self._larger.tested if self._larger is not None else {}
        return sum(name.startswith(TRIAL) and name not in known for name in self.tested)

    def next_name(self) -> str:
        """Of the next candidate that is built: unique in the run."""
        return f"{TRIAL}{1 + sum(name.startswith(TRIAL) for name in self.tested):02}"

    def screen(self, name: str, candidate: Candidate) -> Screened:
        """Build a form of the dense model and compare it on a subset; `run` takes it up where it stops."""
        screened = self._ledger.once(
            f"{name}-screen",
            lambda: self._screen(name, candidate),
            Screened,
            files=self._files(name),
        )
        self.screened[name] = screened
        return screened

    def run(
        self, name: str, candidate: Candidate, *, train: bool = False, start: str | None = None
    ) -> Tested:
        """Build, measure and evaluate a candidate; `train` climbs the rungs that need training.

        start: the trial that was trained so far and left its weights; only what the candidate adds follows.
        """
        files = [*self._files(name), *([self._weights.path(name)] if train else [])]
        started = time.monotonic()
        tested = self._ledger.once(
            name, lambda: self._test(name, candidate, train, start), Tested, files=files
        )
        tested = self._here(name, tested, self._larger)
        self.tested[name] = self._searched[name] = tested
        if train and not candidate.qat:
            self._last_taught = name
        if self._larger is None or name not in self._larger.tested:
            self._seconds.append(time.monotonic() - started)
        return tested

    def draft(self, candidate: Candidate) -> str | None:
        """Measure a candidate by its shapes alone; the draft's name, None when it has none, which is told."""
        name = self.drafts.make(candidate, self._measuring, _median(self._references))
        if name in self.drafts.measured:
            return name
        self._tell(name, f"a candidate is built at once: {self.drafts.known[name].reason}")
        return None

    def float_metric(self, name: str) -> float:
        """The metric of a trained trial's weights in float, on this machine."""

        def evaluate() -> float:
            self._tell(name, f"evaluating {self._workshop.task.metric} in float")
            return call_evaluate(self._workshop.task, self._workshop.predictor(self._weights.saved(name)))

        return self._ledger.once(f"{name}-float", evaluate, float)

    def prove(self, name: str, budget: Budget) -> VerdictKind:
        """Replace the measurement of a finished trial by a proof; what it proves."""
        key = f"{name}-proof" if self._turn <= 1 else f"{name}-proof-{self._turn}"
        proof = self._ledger.once(key, lambda: self._prove(name, budget), Measurement)
        self.tested[name] = replace(self.tested[name], measurement=proof)
        self.proven.add(name)
        verdict = self.report(name, budget, self.tested["dense"].metric).verdict
        if not {breach.line for breach in verdict.breaches} <= {"metric"} or not self._compare(name):
            return verdict.kind
        return self.report(name, budget, self.tested["dense"].metric).verdict.kind

    def report(self, name: str, budget: Budget, baseline_metric: float) -> Report:
        """A trial held against the budget."""
        proven, compared = name in self.proven, self.compared.get(name)
        repeated = None if compared is None else compared.repeated
        return report(
            name, self.tested[name], self._workshop, budget, baseline_metric, proven=proven, repeated=repeated
        )

    def with_drop(self, report: Report) -> Report:
        """How sure it is what a candidate lost, where samples are scored one by one."""
        compared = self._compare(report.name)
        return report if compared is None else replace(report, drop=compared.drop)

    def use(self, name: str, budget: Budget) -> float:
        """The largest share of a budget line that a trial used: above 1 it does not fit."""
        return max(self.uses(name, budget).values(), default=0.0)

    def uses(self, name: str, budget: Budget) -> dict[str, float]:
        """`use` line by line, of the lines that the budget has; of a draft, too."""
        measured = self.drafts.measured.get(name) or self.tested[name].measurement
        return uses(measured, self._usual_ms, budget, proven=name in self.proven)

    def seen_within(self, name: str, budget: Budget) -> bool:
        """Whether the session of a trial kept all lines, as quick as the machine was then."""
        found = uses(self.tested[name].measurement, None, budget, proven=True)
        return max(found.values(), default=0.0) <= 1

    def zone(self) -> Zone:
        """Where to land on this device, as the sessions so far tell."""
        return zone(self._references)

    @property
    def _references(self) -> list[float]:
        """Milliseconds of the dense model, session by session; first those that budgets were made of."""
        trials = (tested.measurement for tested in self.tested.values())
        sessions = (*trials, *self.drafts.measured.values())
        return [ms for each in sessions if (ms := each.reference_ms) is not None]

    @property
    def _usual_ms(self) -> float | None:
        """The dense model on this machine: what it usually takes.

        A speed-up was resolved by what it took first: where that was longer, a candidate is as much quicker.
        Where it was less, a proof of milliseconds will find the machine as it has been since.
        """
        found = self._references
        if not found or self._order.budget.speedup is None:
            return _median(found)
        return max(found[0], median(found))

    def note(self, name: str, sentence: str) -> None:
        """Tell what is worth reading later, too."""
        self._listen(Event(name, sentence, lasting=True))

    def together(self, key: str, work: Callable[[], T], cls: type[T]) -> T:
        """A step of the run that is about several trials."""
        self._tell(key, "asking all tiers about the same samples")
        return self._ledger.once(key, work, cls)

    # ------------------------------------------------------------------------------------------------

    def _here(self, name: str, tested: Tested, other: Trials | None) -> Tested:
        """A trial of another budget as it is on this one's machine, if that is another: predicted anew."""
        profile = self._order.profile
        if self._order.forecast is None or other is None or name not in other.tested:
            return tested
        if profile == other._order.profile:
            return replace(tested, measurement=other._searched[name].measurement)
        measurement = self._ledger.once(
            f"{name}-on-{profile.name}",
            lambda: self.bench.measure(name, self._measuring(name)),
            Measurement,
            files=self._files(name),
        )
        return replace(tested, measurement=measurement)

    def _test(self, name: str, candidate: Candidate, train: bool, start: str | None) -> Tested:
        started = time.monotonic()
        before: tuple[tuple[str, float, float, bool], ...] = ()
        rungs: tuple[Rung, ...] = ()
        if start is not None:
            network, before = self._weights.saved(start), self.tested[start].recovered
        elif train:
            larger = self.tested[candidate.after].candidate.kept if candidate.after else ()
            network, rungs = self._weights.trained(name, candidate, dict(larger))
        else:
            network, rungs = self._weights.pruned(name, candidate)
        if train:
            network, more = self._weights.aware(name, candidate, network)
            rungs = (*rungs, *more)
        built = self._built(name, candidate, network)
        candidate = _settled(candidate, built)
        if train:
            self._weights.save(name, network)
        measurement = self.bench.measure(name, self._measuring(name), _median(self._references))
        self._tell(name, f"evaluating {self._workshop.task.metric}")
        metric = self.bench.metric(name)
        return Tested(
            candidate=candidate,
            metric=metric,
            measurement=measurement,
            layers_int8=built.layers_int8,
            layers_float=built.layers_float,
            recovered=(*before, *recovered(rungs)),
            seconds=time.monotonic() - started,
        )

    def _screen(self, name: str, candidate: Candidate) -> Screened:
        built = self._built(name, candidate, self._workshop.dense)
        self._tell(name, "comparing on a subset")
        error = self.bench.ask(name, self.subset.error)
        return Screened(_settled(candidate, built), error, built.layers_int8, built.layers_float)

    def _built(self, name: str, candidate: Candidate, pruned: Captured) -> Built:
        """The artefact: of the screening when there was one, else made now."""
        screened = self.screened.get(name)
        if screened is not None:
            known = screened.candidate.engine_layers
            layers = (screened.layers_int8, screened.layers_float)
            return Built(self.bench.artefact(name), *layers, engine_layers=known)
        self._tell(name, "building")
        folder = self.folder / name
        rows = tuple(torch.from_numpy(array) for array in self.bench.rows(self.bench.golden_rows()).values())
        built = self._workshop.builder.build(candidate, pruned, folder, rows, self._order.profile.batch)
        write_reference(folder / REFERENCE, built.reference)
        return built

    def _compare(self, name: str) -> Compared | None:
        """With the dense model, sample by sample; None where that cannot be."""
        if self._workshop.task.evaluate_samples is None or name == "dense":
            return None

        def scores(each: str) -> NDArray[np.float64]:
            self._tell(name, "comparing sample by sample")
            return self.bench.scores(each)

        known = {each: self.tested[each].metric for each in ("dense", name)}
        allowed = self._order.budget.max_drop
        self.compared[name] = self._ledger.once(
            f"{name}-compared", lambda: compare(scores, known, allowed), Compared
        )
        return self.compared[name]

    def _prove(self, name: str, budget: Budget) -> Measurement:
        listen = self._measuring(name, "proving")
        return self.bench.prove(name, budget, listen, self.tested[name].measurement)

    def _files(self, name: str) -> tuple[Path, ...]:
        """What a finished trial must still have."""
        files = (*written_files(self.bench.artefact(name)), self.folder / name / REFERENCE)
        if self._order.forecast is None:
            return files
        return tuple(dict.fromkeys((*files, self.bench.artefact(name).with_suffix(".onnx"))))

    def _measuring(self, name: str, word: str = "measuring") -> Callable[[Progress], None]:
        def tell(progress: Progress) -> None:
            self._tell(name, f"{word}, median {progress.p50_ms:.2f} ms", progress.share)

        return tell

    def _tell(self, name: str, doing: str, share: float | None = None) -> None:
        self._listen(Event(name, doing, share, self._seconds_left()))

    def _seconds_left(self) -> float | None:
        """A guess from what trials took so far: the usual number of them, a training and a proof."""
        if not self._seconds:
            return None
        one = sum(self._seconds) / len(self._seconds)
        return max(1, USUAL_TRIALS - len(self._seconds)) * one + 2 * PROOF.seconds


def _median(found: Sequence[float]) -> float | None:
    return median(found) if found else None


def _settled(candidate: Candidate, built: Built) -> Candidate:
    """The recipe that gives the artefact at once: with the layers in float that its engine wants there."""
    return replace(candidate, engine_layers=tuple(sorted({*candidate.engine_layers, *built.engine_layers})))

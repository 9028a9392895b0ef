"""One trial: build a candidate, measure it on the device, evaluate it there; each recorded once."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median

import numpy as np
import torch
from numpy.typing import NDArray

from edgeprune.bundle.golden import write_reference
from edgeprune.devices.artefact import written_files
from edgeprune.files import replacing
from edgeprune.fitting.bench import Bench
from edgeprune.fitting.comparing import Compared, compare
from edgeprune.fitting.mixing import Mixture
from edgeprune.fitting.order import Order, compared_ms
from edgeprune.fitting.screening import Screened, Subset
from edgeprune.fitting.sensing import sense, weighed_space
from edgeprune.fitting.space import FLOOR, Space
from edgeprune.fitting.timing import Timing
from edgeprune.graph.capture import Captured, module_of
from edgeprune.ledger import Ledger
from edgeprune.make import Built, Workshop, recovered
from edgeprune.measure import PROOF, Progress
from edgeprune.pruning.sensitivity import Sensitivity
from edgeprune.records.bundle import REFERENCE
from edgeprune.records.machine import Budget
from edgeprune.records.progress import Event, Listen
from edgeprune.records.trial import Candidate, Measurement, Report, Verdict, VerdictKind
from edgeprune.recover.ladder import Rung
from edgeprune.search.judge import judge
from edgeprune.search.landing import Zone, in_a_proof, zone
from edgeprune.search.ranking import Choice
from edgeprune.search.table import Table
from edgeprune.tasks import call_evaluate

USUAL_TRIALS = 7  # dense, dense INT8, a few pruned, and one that is trained
PT2 = "model.pt2"


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


class Trials:
    """Runs candidates by name in the run folder, through the ledger."""

    def __init__(self, order: Order, workshop: Workshop, ledger: Ledger, listen: Listen) -> None:
        self._order = order
        self._workshop = workshop
        self._ledger = ledger
        self._listen = listen
        self.folder = ledger.folder
        self.bench = Bench(order, workshop, ledger.folder)
        self.tested: dict[str, Tested] = {}
        self.proven: set[str] = set()  # names whose measurement is a proof session, whatever it showed
        self.screened: dict[str, Screened] = {}
        self.compared: dict[str, Compared] = {}
        self.subset = Subset(workshop, order.budget.max_drop, order.profile.batch)
        self._seconds: list[float] = []

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
        files = [*self._files(name), *([self.folder / name / PT2] if train else [])]
        started = time.monotonic()
        tested = self._ledger.once(
            name, lambda: self._test(name, candidate, train, start), Tested, files=files
        )
        self.tested[name] = tested
        self._seconds.append(time.monotonic() - started)
        return tested

    def float_metric(self, name: str) -> float:
        """The metric of a trained trial's weights in float, on this machine."""

        def evaluate() -> float:
            self._tell(name, f"evaluating {self._workshop.task.metric} in float")
            return call_evaluate(self._workshop.task, self._workshop.predictor(self._saved(name)))

        return self._ledger.once(f"{name}-float", evaluate, float)

    def prove(self, name: str, budget: Budget) -> VerdictKind:
        """Replace the measurement of a finished trial by a proof; what it proves."""
        proof = self._ledger.once(f"{name}-proof", lambda: self._prove(name, budget), Measurement)
        self.tested[name] = replace(self.tested[name], measurement=proof)
        self.proven.add(name)
        verdict = self.report(name, budget, self.tested["dense"].metric).verdict
        if not {breach.line for breach in verdict.breaches} <= {"metric"} or not self._compare(name):
            return verdict.kind
        return self.report(name, budget, self.tested["dense"].metric).verdict.kind

    def report(self, name: str, budget: Budget, baseline_metric: float) -> Report:
        """A trial held against the budget."""
        tested = self.tested[name]
        kept = dict(tested.candidate.kept)
        measurement = tested.measurement
        if name not in self.proven:  # drift disqualifies a proof; a search still learns from the number
            measurement = replace(measurement, conclusive=True)
        compared = self.compared.get(name)
        repeated = None if compared is None else compared.repeated
        verdict = judge(measurement, tested.metric, baseline_metric, budget, repeated)
        if verdict.kind == "fits" and name not in self.proven:
            verdict = Verdict("inconclusive")  # a search measurement is too short to promise anything
        return Report(
            name=name,
            candidate=tested.candidate,
            metric=tested.metric,
            measurement=tested.measurement,
            params=self._workshop.cost.params(kept),
            macs=self._workshop.cost.macs(kept),
            kept=self._workshop.widths(kept),
            layers_int8=len(tested.layers_int8),
            layers_float=len(tested.layers_float),
            recovered=tested.recovered,
            artefact=f"{name}/{self._workshop.builder.artefact}",
            verdict=verdict,
        )

    def with_drop(self, report: Report) -> Report:
        """How sure it is what a candidate lost, where samples are scored one by one."""
        compared = self._compare(report.name)
        return report if compared is None else replace(report, drop=compared.drop)

    def use(self, name: str, budget: Budget) -> float:
        """The largest share of a budget line that a trial used: above 1 it does not fit."""
        return max(self.uses(name, budget).values(), default=0.0)

    def uses(self, name: str, budget: Budget) -> dict[str, float]:
        """`use` line by line, of the lines that the budget has.

        A proof counts as measured. A search compares at equal machine speed: the dense model ran in turn
        with every trial, and its median then, against its usual one in this run, says how fast the machine
        was. On a shared machine that ratio is steadier than milliseconds by far.
        """
        measured = self.tested[name].measurement
        latency_ms = compared_ms(measured.latency)
        if name not in self.proven:
            speed = median(self._references) / measured.reference_ms if measured.reference_ms else 1.0
            latency_ms = speed * in_a_proof(measured.latency, PROOF.runs, PROOF.seconds)
        lines = {
            "latency_ms": (latency_ms, budget.latency_ms),
            "memory_mib": (measured.memory_mib, budget.memory_mib),
            "size_mib": (measured.size_mib, budget.size_mib),
        }
        return {line: value / limit for line, (value, limit) in lines.items() if limit is not None}

    def zone(self) -> Zone:
        """Where to land on this device, as the sessions so far tell."""
        return zone(self._references)

    @property
    def _references(self) -> list[float]:
        """Medians of the dense model, session by session."""
        return [ms for each in self.tested.values() if (ms := each.measurement.reference_ms) is not None]

    def mixture(self, recipe: Candidate) -> Mixture:
        """Which layers the device is no quicker at in INT8, and how products are written for it."""
        return self._ledger.once("mixture", lambda: self._timing().mixture(recipe), Mixture)

    def space(self, recipe: Candidate, choices: tuple[Choice, ...], layers: Sequence[str]) -> Space:
        """What a model may become; with a latency table measured now, where there can be one.

        recipe: the precision that candidates start from. layers: those that are INT8 in it.
        """
        workshop = self._workshop
        sensed = self._ledger.once(
            "sensitivity",
            lambda: sense(
                workshop,
                choices,
                FLOOR,
                lambda share: self._tell("sensitivity", "cutting groups alone", share),
            ),
            Sensitivity,
        )
        base = weighed_space(workshop, choices, sensed, layers)
        return self._timing().space(
            base, recipe, layers, lambda name, measure: self._ledger.once(name, measure, Table)
        )

    def _timing(self) -> Timing:
        return Timing(
            self._order,
            self._workshop,
            self.bench.load("dense"),
            self.bench.feeds(self.bench.rows(self._order.profile.batch))[0],
            lambda doing, share: self._tell("table", doing, share),
        )

    # ------------------------------------------------------------------------------------------------

    def _test(self, name: str, candidate: Candidate, train: bool, start: str | None) -> Tested:
        started = time.monotonic()
        before: tuple[tuple[str, float, float, bool], ...] = ()
        if start is None:
            pruned, rungs = self._made(name, candidate, train)
        else:
            pruned, rungs, before = self._saved(start), (), self.tested[start].recovered
        if train and candidate.qat:
            pruned, aware = self._workshop.train_aware(
                candidate, pruned, self._order.epochs, self._recovering(name)
            )
            rungs = (*rungs, *aware)
        built = self._built(name, candidate, pruned)
        candidate = _settled(candidate, built)
        if train:
            self._save(pruned, self.folder / name / PT2)
        measurement = self.bench.measure(name, self._measuring(name))
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

    def _made(self, name: str, candidate: Candidate, train: bool) -> tuple[Captured, tuple[Rung, ...]]:
        if not candidate.kept:
            return self._workshop.dense, ()
        self._tell(name, "cutting and reconstructing")
        kept = dict(candidate.kept)
        pruned, rungs = self._workshop.prune(kept, candidate.recover)
        if not train:
            return pruned, rungs
        pruned, trained = self._workshop.train(
            pruned,
            kept,
            candidate.recover,
            self._order.epochs,
            self._recovering(name),
        )
        return pruned, (*rungs, *trained)

    def _saved(self, name: str) -> Captured:
        """The weights that a trained trial left, so that a resumed run goes on from the very same."""
        program = torch.export.load(self.folder / name / PT2)
        return self._workshop.dense.with_module(module_of(program))

    def _recovering(self, name: str) -> Callable[[str, int, int], None]:
        return lambda rung, step, total: self._tell(name, f"recovering ({rung})", step / total)

    def _save(self, pruned: Captured, path: Path) -> None:
        with replacing(path) as temporary, temporary.open("wb") as stream:
            torch.export.save(pruned.program(), stream)

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


def _settled(candidate: Candidate, built: Built) -> Candidate:
    """The recipe that gives the artefact at once: with the layers in float that its engine wants there."""
    return replace(candidate, engine_layers=tuple(sorted({*candidate.engine_layers, *built.engine_layers})))

"""Where trials are measured: their artefacts, sessions and inputs on the order's device."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray

from edgeprune.bundle.golden import write_golden
from edgeprune.detect import cores
from edgeprune.devices import Feeds, Load, exact_load
from edgeprune.fitting.order import Order, served
from edgeprune.make import Workshop
from edgeprune.measure import Effort, Progress, measure, predictor, prove
from edgeprune.records.bundle import GOLDEN
from edgeprune.records.machine import Budget
from edgeprune.records.task import Predict
from edgeprune.records.trial import Latency, Measurement
from edgeprune.tasks import call_evaluate, call_evaluate_samples

# Between MLPerf's 64 runs for a p90 and a proof: enough to land within a few percent.
SEARCH = Effort(runs=128, seconds=2.0, interleaved=True)
DENSE_SEARCH = Effort(runs=64, seconds=1.0, interleaved=True)  # of the dense model, each
# Load during a search measurement would send the search the wrong way: measure again, and from the third
# session on be content with what is usual on a machine that is never steady.
STEADY = 0.05
PATIENT = 3
MOST_SESSIONS = 6
DENSE_SESSIONS = 3  # steady ones, of which the median sets budgets
GOLDEN_ROWS = 16
DENSE = "dense"

T = TypeVar("T")


@dataclass(frozen=True)
class Usual:
    """What measurements on this machine show, as those so far tell.

    ms: what the reference takes. disturbed: by how much (`disturbed`) the best sessions are.
    """

    ms: float | None = None
    disturbed: float = 0.0

    @classmethod
    def of(cls, measured: Sequence[Measurement], ms: float | None) -> Usual:
        """ms: the reference's usual ones; None when nothing tells yet."""
        return cls(ms, median(disturbed(each, ms) for each in measured) if measured else 0.0)


@dataclass(frozen=True)
class Bench:
    """The device side of a run: trials are known by name, their artefacts lie in the run folder."""

    order: Order
    workshop: Workshop
    folder: Path

    def artefact(self, name: str) -> Path:
        return self.folder / name / self.workshop.builder.artefact

    def load(self, name: str) -> Load:
        if self.order.forecast is not None:
            return exact_load(self.artefact(name), cores() or 1)
        return served(self.order, self.artefact(name))

    def ask(self, name: str, question: Callable[[Predict], T]) -> T:
        """The answer about an artefact as the device serves it, in a session of its own."""
        with self.order.device.start(self.load(name)) as session:
            return question(predictor(session))

    def metric(self, name: str) -> float:
        return self.ask(name, lambda predict: call_evaluate(self.workshop.task, predict))

    def scores(self, name: str) -> NDArray[np.float64]:
        """Sample by sample, where the task scores them one by one."""
        return self.ask(name, lambda predict: call_evaluate_samples(self.workshop.task, predict))

    def measure(self, name: str, listen: Callable[[Progress], None], usual: Usual = Usual()) -> Measurement:
        """A search measurement; of several sessions the least disturbed.

        A session in which the reference is slower than it usually is counts as disturbed, too. Of the dense
        model, by which budgets are set and all others are compared, the median of three steady sessions.
        """
        if self.order.forecast is not None:
            feeds = self.feeds(self.rows(self.order.profile.batch))[0]
            return self.order.forecast.measurement(
                self.artefact(name), self.order.device, feeds, self.order.budget.percentile
            )
        if name == DENSE:
            return self._dense(listen)
        sessions = [self._session(name, listen, SEARCH)]
        while len(sessions) < MOST_SESSIONS:
            allowed = STEADY if len(sessions) < PATIENT else max(STEADY, usual.disturbed)
            if any(disturbed(session, usual.ms) <= allowed for session in sessions):
                break
            sessions.append(self._session(name, listen, SEARCH))
        return min(sessions, key=lambda session: disturbed(session, usual.ms))

    def _dense(self, listen: Callable[[Progress], None]) -> Measurement:
        """Of the dense model, its own reference: budgets are made of these runs, not of the other ones."""
        sessions: list[Measurement] = []
        steady: list[Measurement] = []
        while len(sessions) < MOST_SESSIONS and len(steady) < DENSE_SESSIONS:
            sessions.append(self._session(DENSE, listen, DENSE_SEARCH))
            steady = [session for session in sessions if disturbed(session) <= STEADY]
        found = sorted(steady or sessions, key=lambda each: at_speed(each.latency))
        middle = found[len(found) // 2]
        return replace(middle, reference_ms=at_speed(middle.latency))

    def _session(self, name: str, listen: Callable[[Progress], None], effort: Effort) -> Measurement:
        return measure(
            self.order.device,
            self.load(name),
            self.feeds(self.rows(8 * self.order.profile.batch)),
            percentile=self.order.budget.percentile,
            effort=effort,
            reference=self.load(DENSE),
            sensors=self.order.target.sensors,
            throttle=self.order.target.throttle,
            listen=listen,
        )

    def prove(
        self, name: str, budget: Budget, listen: Callable[[Progress], None], known: Measurement
    ) -> Measurement:
        """A proof session. known: the search measurement, which a forecast has nothing to add to."""
        if self.order.forecast is not None:
            return known  # there is no device to prove it on
        return prove(
            self.order.device,
            self.load(name),
            self.feeds(self.rows(8 * self.order.profile.batch)),
            percentile=budget.percentile,
            latency_ms=budget.latency_ms,
            reference=self.load(DENSE) if name != DENSE else None,
            sensors=self.order.target.sensors,
            throttle=self.order.target.throttle,
            listen=listen,
        ).measurement

    def write_golden(self, name: str) -> Path:
        """Real inputs, and what the artefact serves for them on the device, one batch at a time."""
        inputs = self.rows(self.golden_rows())
        with self.order.device.start(self.load(name)) as session:
            answers = [session.predict(feed) for feed in self.feeds(inputs)]
            outputs = {
                output: np.concatenate([answer[place] for answer in answers])
                for place, output in enumerate(session.output_names)
            }
        return write_golden(self.folder / name / GOLDEN, inputs, outputs)

    def golden_rows(self) -> int:
        rows = max(GOLDEN_ROWS, self.order.profile.batch)
        return rows - rows % self.order.profile.batch

    def rows(self, count: int) -> dict[str, NDArray[Any]]:
        """`count` calibration samples by input name, repeated when there are fewer."""
        found = {}
        for place, name in enumerate(self.workshop.dense.input_names):
            rows = torch.cat([batch[place] for batch in self.workshop.calibration])
            times = -(-count // len(rows))
            found[name] = torch.cat([rows] * times)[:count].numpy(force=True)
        return found

    def feeds(self, inputs: Mapping[str, NDArray[Any]]) -> list[Feeds]:
        batch = self.order.profile.batch
        count = len(next(iter(inputs.values())))
        return [
            {name: array[start : start + batch] for name, array in inputs.items()}
            for start in range(0, count, batch)
        ]


def at_speed(latency: Latency) -> float:
    """Milliseconds that say how quick the machine was, as `search.judge.speed_ms` of the runs."""
    exact_ms = latency.percentile_ms
    return latency.p50_ms if exact_ms is None else min(latency.p50_ms, exact_ms)


def disturbed(session: Measurement, usual_ms: float | None = None) -> float:
    """By how much of its speed the machine was slower in a session than it was in it, or is usually."""
    slower = session.reference_ms / usual_ms - 1 if session.reference_ms and usual_ms else 0.0
    return max(session.drift or 0.0, slower)

"""Sessions in which trials are measured, proven and evaluated on the order's device."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median_high
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray

from edgeprune.bundle.golden import RowLengths, write_golden, write_reference
from edgeprune.bundle.pace import pace_feeds, pace_onnx
from edgeprune.detect import cores
from edgeprune.devices import Feeds, Load, described, exact_load
from edgeprune.devices.artefact import written_files
from edgeprune.devices.predict import predictor
from edgeprune.errors import DeviceBusy
from edgeprune.files import scratch
from edgeprune.fitting.order import Order, served
from edgeprune.fitting.trials.whole_queries import SHOWN, proof_effort, query_parts, time_whole
from edgeprune.graph.capture import Captured
from edgeprune.make import Built, Workshop
from edgeprune.measure import PROOF, Effort, Progress, measure, pace_ms, prove
from edgeprune.records.bundle import GOLDEN, PACE, REFERENCE
from edgeprune.records.machine import Budget
from edgeprune.records.task import Predict
from edgeprune.records.trial import Candidate, Latency, Measurement, Pace, percentile_ms
from edgeprune.records.whole_query import WholeQueries
from edgeprune.runtimes import find
from edgeprune.search.bracketing import expected_proof_ms
from edgeprune.search.judge import slower, speed_ms
from edgeprune.search.waiting import taken
from edgeprune.tasks import call_evaluate, call_evaluate_samples

# Between MLPerf's 64 runs for a p90 and a proof: enough to land within a few percent.
SEARCH_EFFORT = Effort(runs=128, seconds=2.0, interleaved=True)
DENSE_EFFORT = Effort(runs=64, seconds=1.0, interleaved=True)  # of the dense model, each
# What disturbs a search measurement would send the search the wrong way: measure again, until a session is
# steady or, on a machine that never is, several say the same. Sessions that waited say nothing.
STEADY = 0.05
AGREED = 0.03
MOST_SESSIONS = 6
DENSE_SESSIONS = 3  # of the dense model, the median of which sets budgets
PROOF_ROUNDS = 3  # of a proof that stays open; before another, the machine is watched until it is quiet
QUIET_BLOCKS, MOST_QUIET_BLOCKS = 10, 150  # in a row, and in all, of QUIET_SECONDS each
QUIET_SECONDS = 0.2
GOLDEN_ROWS = 16
DENSE = "dense"

T = TypeVar("T")


@dataclass(frozen=True)
class DeviceSide:
    """Device side of a run: artefacts of trials, by name in the run folder, and sessions with them."""

    order: Order
    workshop: Workshop
    folder: Path

    @property
    def lengths(self) -> tuple[int | None, ...]:
        """Lengths of sequences, the longest first; None alone where there is one."""
        stated = self.workshop.lengths
        return (None,) if stated is None else stated.values[::-1]

    def artefact(self, name: str) -> Path:
        return self.folder / name / self.workshop.builder.artefact

    def build(self, name: str, candidate: Candidate, network: Captured) -> Built:
        """Write the artefact of a candidate, and the outputs that its golden inputs give in torch."""
        folder = self.folder / name
        rows, *more = (
            tuple(torch.from_numpy(array) for array in self.rows(self.golden_rows(), length).values())
            for length in self.lengths
        )
        batch = self.order.profile.batch
        built = self.workshop.builder.build(candidate, network, folder, rows, batch, more)
        write_reference(folder / REFERENCE, built.reference)
        return built

    def files(self, name: str) -> tuple[Path, ...]:
        """Files that a finished trial must still have."""
        artefact = self.artefact(name)
        files = (*written_files(artefact), self.folder / name / REFERENCE)
        if self.order.forecast is None:
            return files
        return tuple(dict.fromkeys((*files, artefact.with_suffix(".onnx"))))

    def load(self, name: str) -> Load:
        if self.order.forecast is not None:
            return exact_load(self.artefact(name), cores() or 1)
        return served(self.order, self.artefact(name))

    def ask(self, name: str, question: Callable[[Predict], T]) -> T:
        """Answer to a question about an artefact as the device serves it, in a session of its own."""
        with self.order.device.start(self.load(name)) as session:
            one_row = bool(self.workshop.dense.fixed_batch)
            return question(predictor(session, one_row=one_row))

    def metric(self, name: str) -> float:
        return self.ask(name, lambda predict: call_evaluate(self.workshop.task, predict))

    def scores(self, name: str) -> NDArray[np.float64]:
        """Scores sample by sample, where the task has `evaluate_samples`."""
        return self.ask(name, lambda predict: call_evaluate_samples(self.workshop.task, predict))

    def measure(
        self, name: str, listen: Callable[[Progress], None], usual_ms: float | None = None
    ) -> Measurement:
        """A search measurement: the first steady session, or the less disturbed of two that agree.

        Sessions that waited do not count. Raises `DeviceBusy` when all of them did.

        usual_ms: what the dense model, which runs in turn, usually takes. A session in which it is slower
        counts as disturbed, too. Below the median, runs beside which it is slower count only where there are
        few others; a higher percentile is about slow spells, too, and a proof will see them.
        """
        if self.order.forecast is not None:
            feeds = self.feeds(self.rows(self.order.profile.batch))[0]
            return self.order.forecast.measurement(
                self.artefact(name), self.order.device, feeds, self.order.budget.percentile
            )
        if name == DENSE:
            return self._dense(listen)

        def by_disturbance(session: Measurement) -> float:
            return disturbed(session, usual_ms)

        sessions: list[Measurement] = []
        counted: Sequence[Measurement] = ()
        while len(sessions) < MOST_SESSIONS and not counted:
            sessions.append(self._session(name, listen, SEARCH_EFFORT, usual_ms))
            free = [session for session in sessions if not waited(session)]
            steady = [session for session in free if by_disturbance(session) <= STEADY]
            counted = steady or agreeing(free, _relative, 2)
        return min(counted or _free(name, sessions), key=by_disturbance)

    def _dense(self, listen: Callable[[Progress], None]) -> Measurement:
        """The median of three sessions that are steady or agree: budgets are set by it, all else compared.

        Of their percentiles, for one that chance or other work made high would widen a budget of a speed-up.

        The dense model is its own reference; what counts is these runs, not the other ones.
        """
        sessions: list[Measurement] = []
        counted: Sequence[Measurement] = ()
        while len(sessions) < MOST_SESSIONS and len(counted) < DENSE_SESSIONS:
            sessions.append(self._session(DENSE, listen, DENSE_EFFORT))
            free = [session for session in sessions if not waited(session)]
            steady = [session for session in free if disturbed(session) <= STEADY]
            counted = agreeing(free, lambda each: percentile_ms(each.latency), DENSE_SESSIONS) or steady
        found = sorted(counted or _free(DENSE, sessions), key=lambda each: percentile_ms(each.latency))
        middle = found[len(found) // 2]
        return replace(middle, reference_ms=median_high(at_speed(each.latency) for each in found))

    def _session(
        self,
        name: str,
        listen: Callable[[Progress], None],
        effort: Effort,
        usual_ms: float | None = None,
        length: int | None = None,
    ) -> Measurement:
        return measure(
            self.order.device,
            self.load(name),
            self.feeds(self.rows(8 * self.order.profile.batch, length)),
            percentile=self.order.budget.percentile,
            effort=effort,
            reference=self.load(DENSE),
            usual_ms=usual_ms,
            searching=True,
            sensors=self.order.target.sensors,
            throttle=self.order.target.throttle,
            listen=listen,
        )

    def at_length(self, name: str, length: int, listen: Callable[[Progress], None]) -> Latency | None:
        """Latency at one of the lengths, the dense model in turn; None where every session waited."""
        for _ in range(MOST_SESSIONS):
            session = self._session(name, listen, SEARCH_EFFORT, length=length)
            if not waited(session):
                return session.latency
        return None

    def prove(
        self,
        name: str,
        budget: Budget,
        listen: Callable[[Progress], None],
        known: Measurement,
        usual_ms: float | None = None,
    ) -> Measurement:
        """A proof session; while it stays open, later ones, each when the machine has become quiet.

        known: the search measurement, which a forecast has nothing to add to. usual_ms: as for `measure`.
        """
        if self.order.forecast is not None:
            return known  # there is no device to prove it on
        found = self._whole_proof(name, budget, listen, usual_ms)
        for _ in range(PROOF_ROUNDS - 1):
            if found.conclusive or not self._becomes_quiet(usual_ms):
                break
            found = self._whole_proof(name, budget, listen, usual_ms)
        return found

    def whole(self, name: str, effort: Effort = SHOWN, whole_ms: float | None = None) -> WholeQueries:
        """Whole queries of a trial, see `time_whole`, in a session of their own."""
        with self.order.device.start(self.load(name)) as session:
            return time_whole(
                *(name, session, query_parts(self.workshop)),
                percentile=self.order.budget.percentile,
                effort=effort,
                whole_ms=whole_ms,
            )

    def _becomes_quiet(self, usual_ms: float | None) -> bool:
        """Whether the dense model runs undisturbed, at its usual speed, for a while, within some time."""
        percentile, quiet = self.order.budget.percentile, 0
        feed = self.feeds(self.rows(self.order.profile.batch))[0]
        with self.order.device.start(self.load(DENSE)) as session:
            for _ in range(MOST_QUIET_BLOCKS):
                block = session.time(feed, runs=1, seconds=QUIET_SECONDS)
                slow = slower(speed_ms(block.ms, percentile), usual_ms)
                quiet = 0 if slow or taken(block.waiting).much else quiet + 1
                if quiet == QUIET_BLOCKS:
                    return True
        return False

    def _whole_proof(
        self, name: str, budget: Budget, listen: Callable[[Progress], None], usual_ms: float | None
    ) -> Measurement:
        """Proof of the model, and of whole queries where the budget is about them."""
        if budget.whole_ms is None:
            return self._proof(name, budget, listen, usual_ms)
        # Alone, the model need not be quicker than whole queries; the session of these tells the rest.
        model = self._proof(name, replace(budget, latency_ms=budget.whole_ms), listen, usual_ms)
        found = self.whole(name, proof_effort(budget.percentile), budget.whole_ms)
        return replace(model, whole=found, conclusive=model.conclusive and found.conclusive)

    def _proof(
        self, name: str, budget: Budget, listen: Callable[[Progress], None], usual_ms: float | None
    ) -> Measurement:
        return prove(
            self.order.device,
            self.load(name),
            self.feeds(self.rows(8 * self.order.profile.batch)),
            percentile=budget.percentile,
            latency_ms=budget.latency_ms,
            speedup=budget.speedup,
            reference=self.load(DENSE) if name != DENSE else None,
            usual_ms=usual_ms,
            sensors=self.order.target.sensors,
            throttle=self.order.target.throttle,
            listen=listen,
        ).measurement

    def pace(self) -> Pace | None:
        """Pace of the device; None without one, for a runtime that builds engines, and when it is busy."""
        if self.order.forecast is not None or find(self.order.runtime).builds_engine:
            return None
        with scratch() as folder:
            place = folder / PACE
            place.write_bytes(pace_onnx())
            ms = pace_ms(self.order.device, served(self.order, place), pace_feeds())
        return None if ms is None else Pace(ms, described(self.order.device.machine()))

    def write_golden(self, name: str) -> Path:
        """Real inputs of each length, and what the artefact serves for them on the device, by batches."""
        parts = [self.rows(self.golden_rows(), length) for length in self.lengths]
        with self.order.device.start(self.load(name)) as session:
            answers = [session.predict(feed) for inputs in parts for feed in self.feeds(inputs)]
            outputs = {
                output: np.concatenate([answer[place] for answer in answers])
                for place, output in enumerate(session.output_names)
            }
        place, stated = self.folder / name / GOLDEN, self.workshop.lengths
        if stated is None:
            return write_golden(place, parts[0], outputs)
        along = zip(self.workshop.dense.input_names, stated.dims, strict=True)
        dims = {input_: those for input_, those in along if those}
        inputs, lengths = RowLengths.padded(parts, stated.values[::-1], dims)
        return write_golden(place, inputs, outputs, lengths=lengths)

    def golden_rows(self) -> int:
        rows = max(GOLDEN_ROWS, self.order.profile.batch)
        return rows - rows % self.order.profile.batch

    def rows(self, count: int, length: int | None = None) -> dict[str, NDArray[Any]]:
        """`count` calibration samples by input name, repeated when there are fewer.

        length: of sequences, the longest by default.
        """
        found, batches = {}, self._batches(length)[:count]
        for place, name in enumerate(self.workshop.dense.input_names):
            rows = torch.cat([batch[place][:count] for batch in batches])
            times = -(-count // len(rows))
            found[name] = torch.cat([rows] * times)[:count].numpy(force=True)
        return found

    def _batches(self, length: int | None) -> Sequence[tuple[torch.Tensor, ...]]:
        """Calibration batches of a length, by default the longest; the example where there is none."""
        calibration, lengths = self.workshop.calibration, self.workshop.lengths
        if lengths is None:
            return calibration
        wanted = lengths.longest if length is None else length
        found = [batch for batch in calibration if lengths.of([x.shape for x in batch]) == wanted]
        return found or [lengths.first(self.workshop.dense.inputs, wanted)]

    def feeds(self, inputs: Mapping[str, NDArray[Any]]) -> list[Feeds]:
        batch = self.order.profile.batch
        count = len(next(iter(inputs.values())))
        return [
            {name: array[start : start + batch] for name, array in inputs.items()}
            for start in range(0, count, batch)
        ]


def at_speed(latency: Latency) -> float:
    """Milliseconds that tell the machine's speed, as `search.judge.speed_ms` of the runs."""
    exact_ms = latency.percentile_ms
    return latency.p50_ms if exact_ms is None else min(latency.p50_ms, exact_ms)


def waited(session: Measurement) -> bool:
    """Whether a session waited so much that nothing of it counts; where runs are set aside, the rest does."""
    return not session.set_aside and taken(session.waiting).much


def _free(name: str, sessions: Sequence[Measurement]) -> Sequence[Measurement]:
    """Sessions that did not wait. Raises `DeviceBusy` when there is none."""
    free = [session for session in sessions if not waited(session)]
    if not free:
        raise DeviceBusy(
            f"{name} cannot be measured: {taken(sessions[-1].waiting).words}, in the last of {len(sessions)} "
            "sessions."
        )
    return free


def agreeing(
    sessions: Sequence[Measurement], told: Callable[[Measurement], float], count: int
) -> Sequence[Measurement]:
    """The `count` sessions whose figures agree best; none when these differ by more than AGREED."""
    ordered = sorted(sessions, key=told)
    sets = [ordered[at : at + count] for at in range(len(ordered) - count + 1)]
    best = min(sets, key=lambda found: told(found[-1]) / told(found[0]), default=[])
    return best if best and told(best[-1]) <= (1 + AGREED) * told(best[0]) else ()


def _relative(session: Measurement) -> float:
    """Bound in times of the dense model, which ran in turn: the figure that a search compares."""
    return expected_proof_ms(session.latency, PROOF.runs, PROOF.seconds) / (session.reference_ms or 1.0)


def disturbed(session: Measurement, usual_ms: float | None = None) -> float:
    """Share of its speed that the machine lost in a session, against that session or its usual speed."""
    slower = session.reference_ms / usual_ms - 1 if session.reference_ms and usual_ms else 0.0
    return max(session.drift or 0.0, slower)

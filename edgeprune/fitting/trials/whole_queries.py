"""Whole queries of a trial: the task's parts before and after the model, timed in turn with the artefact.

The parts are Python of the user's and run in this process, so they are timed where the device is this machine
and nowhere else: figures of two machines are never added up.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import count

import numpy as np
from numpy.typing import NDArray

from edgeprune.devices import Session
from edgeprune.devices.predict import predictor
from edgeprune.errors import InputError
from edgeprune.fitting.order import Order, timed_here
from edgeprune.make import Workshop
from edgeprune.measure import PROOF, WARM_UP_SECONDS, Effort
from edgeprune.pruning.identity import digest
from edgeprune.records.cpu_time import Waiting
from edgeprune.records.machine import Budget
from edgeprune.records.task import Task
from edgeprune.records.trial import Latency
from edgeprune.records.whole_query import PartTimes, WholeQueries
from edgeprune.search.judge import (
    CONFIDENCE,
    PROOF_SESSIONS,
    early_stopping_bound,
    early_stopping_rank,
    session_bound,
)
from edgeprune.search.waiting import taken, together
from edgeprune.tasks.query_parts import QueryParts

SHOWN = Effort(runs=192, seconds=2.0)  # of whole queries that no budget is about


def told_parts(task: Task, order: Order, workshop: Workshop) -> tuple[str, ...]:
    """Sentence about parts beside the model that are not timed; they are run once where they are.

    Raises `InputError` for parts that fail, and for a budget of whole queries of a task without any.
    """
    if task.queries is None:
        if order.options.whole:
            raise InputError(
                "--whole limits what comes before and after the model, too, and the task has neither.",
                "Give Task.before or Task.after, with a few raw queries as Task.queries.",
            )
        return ()
    if not timed_here(order):
        where = "is predicted" if order.forecast is not None else f"runs on {order.device.name}"
        return (f"Task.before and Task.after run on this machine and were not timed: the model {where}.",)
    query_parts(workshop).check(workshop.predict, order.profile.batch, workshop.lengths)
    return ()


def query_parts(workshop: Workshop) -> QueryParts:
    """The task's parts beside the model."""
    return QueryParts(workshop.task, workshop.dense.input_names)


def parts_code(task: Task) -> str:
    """Identity of the parts and of the queries that they are timed with."""
    return digest((task.before, task.after, *(digest(query) for query in task.queries or ())))


def proof_effort(percentile: int) -> Effort:
    """Effort of a proof of whole queries, each third of which is long enough for a bound."""
    confidence = 1 - (1 - CONFIDENCE) / PROOF_SESSIONS
    least = next(runs for runs in count(1) if early_stopping_rank(runs, percentile, confidence) is not None)
    return Effort(max(PROOF.runs, 3 * least), PROOF.seconds)


def time_whole(
    name: str,
    session: Session,
    parts: QueryParts,
    *,
    percentile: int,
    effort: Effort,
    whole_ms: float | None = None,
) -> WholeQueries:
    """Whole queries of a trial: before, the model and after, each query's one after the other.

    whole_ms: of the budget. The bound is that of a proof's session (docs/decisions/016): of all sums while
    they keep their speed, else of the slowest third, which proves a fit or nothing.
    Raises `InputError` with the line where the user's parts fail.
    """
    predict = predictor(session)
    for number in range(len(parts.queries)):
        feed, _ = parts.ahead(number)
        if not number:
            session.warm_up(feed, WARM_UP_SECONDS)
        parts.behind(predict(feed))
    rows: list[tuple[float, float, float]] = []
    waited: list[Waiting] = []
    spent_ms = 0.0
    while len(rows) < effort.runs or spent_ms < effort.seconds * 1e3:
        feed, before_ms = parts.ahead(len(rows) % len(parts.queries))
        block = session.time(feed, runs=1, seconds=0.0)
        after_ms = parts.behind(predict(feed))
        rows.append((before_ms, block.ms[-1], after_ms))
        waited.append(block.waiting)
        spent_ms += sum(rows[-1])
    return _summarised(name, np.array(rows), waited, parts.task, percentile, whole_ms)


def _summarised(
    name: str,
    rows: NDArray[np.float64],
    waited: Sequence[Waiting],
    task: Task,
    percentile: int,
    whole_ms: float | None,
) -> WholeQueries:
    """Record of timed queries. rows: [queries, 3], ms before the model, of it and after it."""
    before, model, after = (_part(column) for column in rows.T)
    sums, beside = rows.sum(axis=1), rows[:, 0] + rows[:, 2]
    disturbed = taken(together(waited)).much
    found = session_bound([[ms] for ms in sums], (), percentile, whole_ms, disturbed=disturbed)
    bound_ms = early_stopping_bound(beside, percentile)
    return WholeQueries(
        name=name,
        before=None if task.before is None else before,
        model=model,
        after=None if task.after is None else after,
        whole=_part(sums),
        percentile=percentile,
        bound_ms=found.bound_ms,
        beside_ms=float(beside.max()) if bound_ms is None else bound_ms,
        runs=len(rows),
        conclusive=found.conclusive,
        code=parts_code(task),
    )


def _part(ms: NDArray[np.float64]) -> PartTimes:
    p50, p90 = np.percentile(ms, (50, 90), method="inverted_cdf")
    return PartTimes(float(p50), float(p90))


def with_model_share(budget: Budget, dense: WholeQueries, latency: Latency) -> Budget:
    """Budget of a search: of a budget of whole queries, what those of the dense model leave to the model.

    That is less by the bound of both parts, and by what the model took longer between them than in its own
    session (`latency`). A search only aims with it: a proof holds whole queries against the budget.
    Raises `InputError` where nothing is left.
    """
    if budget.whole_ms is None:
        return budget
    left_ms = budget.whole_ms - dense.beside_ms - max(0.0, dense.model.p50_ms - latency.p50_ms)
    if left_ms <= 0:
        raise InputError(
            f"What comes before and after the model takes up to {dense.beside_ms:.4g} ms "
            f"(p{dense.percentile}), and the budget of whole queries is {budget.whole_ms:.4g} ms: nothing is "
            "left to the model.",
            "Make Task.before and Task.after quicker, or give more with --latency-ms.",
        )
    return replace(budget, latency_ms=left_ms)

"""Error of an INT8 variant on a subset of the data, by which variants are compared before a full evaluation.

With `Task.evaluate_subset` the error is what the metric loses on that subset. A plain `Task.evaluate` cannot
be asked for less than everything, so there it is the distance to the float outputs on calibration rows.
(Calibration saw those rows, but ranges are two numbers for each tensor and do not learn them.)
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch

from edgeprune.graph.length import joined
from edgeprune.make import Workshop
from edgeprune.records.task import Predict
from edgeprune.records.trial import Candidate
from edgeprune.recover.ladder import NOT_FINITE
from edgeprune.tasks import call_evaluate

ROWS = 128  # of calibration data, the last ones: bias correction reads the first
HARMLESS = 1e-3  # a distance, in nats or as a share of the outputs' spread, that moves no metric to speak of


@dataclass(frozen=True)
class Screened:
    """The ledger's record of an INT8 variant that was built and compared on the subset."""

    candidate: Candidate
    error: float
    layers_int8: tuple[str, ...]
    layers_float: tuple[str, ...]


class Subset:
    """Subset of rows that variants are compared on, and the float model's answers there."""

    def __init__(self, workshop: Workshop, max_drop: Callable[[], float], batch: int) -> None:
        """Subset for a budget. max_drop: of it, once it is resolved."""
        self._workshop = workshop
        self._max_drop = max_drop
        self._batch = batch  # rows that a session is given at a time

    @property
    def slack(self) -> float:
        """Largest error that does no harm."""
        return HARMLESS if self._workshop.task.evaluate_subset is None else self._max_drop() / 2

    def error(self, predict: Predict) -> float:
        """Error of `predict`, an artefact in its runtime, against the float model; lower is better."""
        if self._workshop.task.evaluate_subset is not None:
            task = self._workshop.task
            return task.direction.drop(self._exact_metric, call_evaluate(task, predict, subset=True))
        return self.distance(predict)

    def distance(self, predict: Predict) -> float:
        """Distance of an artefact's outputs to the float model's on calibration rows."""
        answers = [predict(*(tensor.numpy(force=True) for tensor in inputs)) for inputs in self._inputs]
        parts = [answer if isinstance(answer, tuple) else (answer,) for answer in answers]
        given = [torch.cat([torch.tensor(part) for part in column]) for column in zip(*parts, strict=True)]
        found = float(self._workshop.yardstick.distance(given, self._wanted))
        return found if math.isfinite(found) else NOT_FINITE

    @cached_property
    def _exact_metric(self) -> float:
        return call_evaluate(self._workshop.task, self._workshop.predict, subset=True)

    @cached_property
    def _inputs(self) -> Sequence[tuple[torch.Tensor, ...]]:
        """Full batches of the last rows, of each length its share: an artefact may be built for one size."""
        groups, found = joined(self._workshop.calibration), []
        every = sum(len(group[0]) for group in groups)
        for group in groups:
            last = max(1, ROWS * len(group[0]) // every)
            rows = tuple(tensor[-last:] for tensor in group)
            size = min(self._batch, len(rows[0]))
            whole = len(rows[0]) - len(rows[0]) % size
            found += [
                tuple(tensor[start : start + size] for tensor in rows) for start in range(0, whole, size)
            ]
        return found

    @cached_property
    def _wanted(self) -> tuple[torch.Tensor, ...]:
        with torch.no_grad():
            parts = [self._workshop.dense.run(*inputs) for inputs in self._inputs]
        return tuple(torch.cat(column) for column in zip(*parts, strict=True))

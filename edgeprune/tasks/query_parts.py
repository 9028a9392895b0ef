"""Parts of a whole query that are the user's Python: what comes before the model, and what comes after it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from time import perf_counter
from typing import Any

from numpy.typing import NDArray

from edgeprune.errors import InputError
from edgeprune.records.lengths import Lengths
from edgeprune.records.task import Predict, Task
from edgeprune.tasks.guest import guest
from edgeprune.tasks.items import flat_inputs, like_example

Feed = Mapping[str, NDArray[Any]]
_BEFORE = "Correct it: it gets one of Task.queries, and returns the model's inputs as arrays."
_AFTER = "Correct it: it gets what predict returns, an array or a tuple of them."


@dataclass(frozen=True)
class QueryParts:
    """Parts beside the model, timed as guests of this process.

    names: of the model's inputs, in the example's order.
    """

    task: Task
    names: Sequence[str]

    @property
    def queries(self) -> Sequence[Any]:
        """The raw queries."""
        return self.task.queries or ()

    def ahead(self, number: int) -> tuple[Feed, float]:
        """Inputs that the part before the model makes of query `number`, and the milliseconds it took."""
        inputs, ms = self._made(number)
        tensors = flat_inputs(self.task.example, inputs, self._given(number))
        return self._named(tensors), ms

    def behind(self, outputs: Any) -> float:
        """Milliseconds of the part after the model, which gets `outputs` as `predict` returns them."""
        if self.task.after is None:
            return 0.0
        with guest("after", _AFTER):
            began = perf_counter()
            self.task.after(outputs)
            return (perf_counter() - began) * 1e3

    def check(self, predict: Predict, rows: int, lengths: Lengths | None = None) -> None:
        """Run both parts on every query once.

        predict: of the dense model. rows: of a query that is timed. lengths: of sequences, where they vary.
        Raises `InputError` with the line that raised, and for inputs that are unlike the example.
        """
        for number in range(len(self.queries)):
            inputs, _ = self._made(number)
            tensors = like_example(self.task.example, inputs, self._given(number), lengths)
            if len(tensors[0]) != rows:
                raise InputError(
                    f"{self._given(number)} has {len(tensors[0])} rows, and queries of {rows} are timed.",
                    "Make each of Task.queries one query, and say with --batch how many rows it has.",
                )
            self.behind(predict(self._named(tensors)))

    def _made(self, number: int) -> tuple[Any, float]:
        query = self.queries[number]
        if self.task.before is None:
            return query, 0.0
        with guest("before", _BEFORE):
            began = perf_counter()
            inputs = self.task.before(query)
            return inputs, (perf_counter() - began) * 1e3

    def _named(self, tensors: Sequence[Any]) -> Feed:
        return dict(zip(self.names, (tensor.numpy(force=True) for tensor in tensors), strict=True))

    def _given(self, number: int) -> str:
        """Name of what a model would get, for a sentence about it."""
        whose = f"Task.queries[{number}]"
        return whose if self.task.before is None else f"What before returns for {whose}"

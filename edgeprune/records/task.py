"""Task of a fit: the user's model, data and evaluation."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias

from edgeprune.errors import InputError
from edgeprune.records.brief import Brief
from edgeprune.records.direction import Direction
from edgeprune.records.lengths import LengthDims
from edgeprune.records.meaning import check_words

if TYPE_CHECKING:
    import torch

Predict = Callable[..., Any]  # numpy arrays in (one per model input), numpy out
# (module to train in place, the original, re-iterable (inputs, target) batches, progress) -> None
Trainer = Callable[["torch.nn.Module", "torch.nn.Module", Any, Callable[..., None]], object]


class Numbered(Protocol):
    """Data that is read by number, as a map-style Dataset of torch."""

    def __len__(self) -> int: ...
    def __getitem__(self, number: int, /) -> Any: ...


# Read in passes, each from the beginning; a generator function is called for each.
Data: TypeAlias = Iterable[Any] | Numbered | Callable[[], Iterator[Any]]

# Fields of a task that are called, and what to give when one of them is anything else.
_CALLABLE: Mapping[str, str] = {
    "model": "Give the nn.Module itself.",
    "evaluate": "Give a function (predict) -> float.",
    "evaluate_subset": "Give a function (predict) -> float, or leave it out.",
    "evaluate_samples": "Give a function (predict) -> one score per sample, or leave it out.",
    "loss": "Give a function (output, target) -> scalar tensor, or leave it out.",
    "trainer": "Give a function (module, teacher, data, progress) -> None, or leave it out.",
    "before": "Give a function (query) -> the model's inputs, or leave it out.",
    "after": "Give a function (outputs) -> the answer, or leave it out.",
}
_OPTIONAL = ("evaluate_subset", "evaluate_samples", "loss", "trainer", "before", "after")
MOST_QUERIES = 64  # they take turns, and each third of a session is to have them all


@dataclass(frozen=True, repr=False)
class Task(Brief):
    """Trained model with its calibration data, training data and evaluation.

    model: `nn.Module` with trained weights.
    example: a tensor, tuple or dict of tensors; dimension 0 of each is the batch.
    lengths: optional, of sequences: the lengths that the model is served at, such as (32, 128). The artefact
        then takes any length from the shortest to the longest; the example has the longest, and every batch
        of data one of them (pad it to the next). The budget's latency is that of the longest.
    length_dims: with lengths, the dimension that has the length: 1 for dimension 1 of every input, or a dict
        by input, {"input_ids": 1, "attention_mask": 1}; of a tuple by place, {0: 1}.
    calibration: inputs shaped like `example` (any batch size), unlabelled: a list, a DataLoader, a Dataset of
        batches, a generator function, or whatever else can be read from the beginning again. As much as
        `edgeprune.tasks.calibration` allows is read, twice: a second pass with another number of samples is
        refused, one with other samples is told.
    train: optional, likewise, of (inputs, target), for recovery training; each epoch is a pass. A target is a
        tensor or a tree (tuple, list, dict) of them, the batch first in each; with None, recovery trains on
        the original's outputs alone.
    loss: optional (output, target) -> scalar tensor; `output` is what `model(x)` returns. Without it the loss
        follows from what the outputs are: cross-entropy for class numbers, squared error for values.
    evaluate: (predict) -> float, the metric; `predict` takes and returns numpy arrays. What a call changes of
        the process (working folder, torch's and numpy's settings) is put back; random numbers not.
    metric: what `evaluate` returns, for the reports.
    earlier: optional weights of the same model from early in training, a state_dict from which recovery by
        rewinding starts. (A copy of it: `state_dict()` itself follows the model as it trains.)
    evaluate_subset: optional, `evaluate` on a few hundred of its samples: INT8 variants are compared by it,
        so that few are evaluated in full. Without it they are compared by their distance to the original.
    outputs: optional, what the outputs are, by which candidates are compared with the original: "classes",
        "labels", "values", "probabilities", "embeddings" or "none"; one word for all, a tuple by position or
        a dict by output name. "classes:1" names the axis of the classes. What the loss or the targets make
        certain need not be said (docs/tasks.md).
    evaluate_samples: optional, (predict) -> [samples], scores whose mean is `evaluate`: the confidence
        interval of the chosen candidate's drop comes from comparing both models sample by sample. Where the
        mean is not `evaluate`, the evaluation is random, and the metric's limit is held by repeating it.
    lower_is_better: of an error, a perplexity and their like: the metric as `evaluate`, `evaluate_subset` and
        `evaluate_samples` return it, and as it is shown. A drop is then a rise.
    trainer: optional (module, teacher, data, progress) -> None, the user's own training loop for recovery. It
        trains `module` in place, an ordinary nn.Module that is called as `model` is; `teacher` is a copy of
        the original; `data` has a length and yields (inputs, target), each pass anew, without the samples
        that are held back to judge it; `progress(share)` or `progress(step, steps)` tells how far it is.
    before: optional (query) -> inputs, what a program does in front of the model: from one raw query (bytes,
        a text, an array) to arrays laid out as the example, the batch first. after: optional (outputs) ->
        answer, what it does behind the model; `outputs` is what `predict` returns. Both are timed with the
        model, in this process, where the device is this machine (docs/whole_queries.md).
    queries: raw queries to time them with, a sequence of 1 to 64; without `before` they are inputs.
    """

    model: torch.nn.Module
    example: torch.Tensor | tuple[torch.Tensor, ...] | dict[str, torch.Tensor]
    calibration: Data
    evaluate: Callable[[Predict], float]
    train: Data | None = None
    loss: Callable[[Any, Any], torch.Tensor] | None = None
    metric: str = "metric"
    earlier: Mapping[str, torch.Tensor] | None = None
    evaluate_subset: Callable[[Predict], float] | None = None
    evaluate_samples: Callable[[Predict], Any] | None = None
    outputs: str | Sequence[str] | Mapping[str, str] | None = None
    lower_is_better: bool = False
    trainer: Trainer | None = None
    lengths: Sequence[int] | None = None
    length_dims: LengthDims | None = None
    before: Callable[[Any], Any] | None = None
    after: Callable[[Any], Any] | None = None
    queries: Sequence[Any] | None = None

    @property
    def direction(self) -> Direction:
        """Direction in which the metric is better."""
        return Direction(self.lower_is_better)

    def __post_init__(self) -> None:
        for field, hint in _CALLABLE.items():
            value = getattr(self, field)
            if not callable(value) and not (value is None and field in _OPTIONAL):
                raise InputError(f"Task.{field} is {type(value).__name__}, which cannot be called.", hint)
        check_words(self.outputs)
        if not isinstance(self.lower_is_better, bool):
            raise InputError(
                f"Task.lower_is_better is {self.lower_is_better!r:.60}.",
                "Give True where less of the metric is better, else leave it out.",
            )
        if self.earlier is not None and not isinstance(self.earlier, Mapping):
            raise InputError(
                f"Task.earlier is {type(self.earlier).__name__}, not a mapping of weights by name.",
                "Give what model.state_dict() returned early in the training.",
            )
        if self.calibration is None:
            raise InputError(
                "Task.calibration is None.",
                "Give a list of inputs, unlabelled: a few hundred samples make good INT8 ranges, and without "
                "any there are none.",
            )
        for field, data in (("calibration", self.calibration), ("train", self.train)):
            if data is not None:
                _check_readable(f"Task.{field}", data)
        _check_queries(self.queries, [name for name in ("before", "after") if getattr(self, name)])


def _check_queries(queries: Any, parts: Sequence[str]) -> None:
    """Refuse queries that nothing is timed with, and parts beside the model that nothing times."""
    if queries is None and not parts:
        return
    told = " and ".join(f"Task.{part}" for part in parts)
    if queries is None:
        raise InputError(f"The task has {told}, and no queries.", "Give a few raw queries as Task.queries.")
    if not parts:
        raise InputError(
            "The task has queries, and neither before nor after.",
            "Give what comes before the model as Task.before, or what comes after it as Task.after.",
        )
    if not isinstance(queries, Sequence) or isinstance(queries, str | bytes | bytearray | memoryview):
        raise InputError(
            f"Task.queries is {type(queries).__name__}, not a list of raw queries.",
            "Put them into a list, also a single one.",
        )
    if not 1 <= len(queries) <= MOST_QUERIES:
        raise InputError(
            f"Task.queries has {len(queries)} queries.",
            f"Give 1 to {MOST_QUERIES} that differ as those of the program do: they are timed in turn.",
        )


def _check_readable(field: str, data: Any) -> None:
    """Refuse data that cannot be read several times, each from the beginning, as far as its kind tells."""
    kind = type(data).__name__
    if inspect.isgeneratorfunction(data):
        return
    if inspect.isroutine(data):
        raise InputError(
            f"{field} is a function, and no generator function.",
            "Give what it returns, or a function that yields the batches.",
        )
    # An iterator whose __iter__ is written in Python may begin anew; passes tell.
    if isinstance(data, Iterator) and not inspect.isfunction(type(data).__iter__):
        raise InputError(
            f"{field} is {kind}, which cannot be iterated more than once.",
            "Give a list, a DataLoader, or the generator function itself, uncalled: edgeprune reads the data "
            "several times.",
        )
    if not isinstance(data, Iterable) and not (hasattr(data, "__getitem__") and hasattr(data, "__len__")):
        raise InputError(
            f"{field} is {kind}, which has neither __iter__ nor both __getitem__ and __len__.",
            "Give a list or a DataLoader of batches.",
        )

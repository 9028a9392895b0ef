"""Calibration data: as much as INT8 and least squares need is read, one batch at a time, and kept."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch

from edgeprune.errors import InputError
from edgeprune.records.lengths import Lengths
from edgeprune.tasks.guest import fresh_pass, walk
from edgeprune.tasks.items import left_out, like_example, named_inputs

Batch = tuple[torch.Tensor, ...]  # inputs in the example's order

# Ranges hardly move beyond a few hundred samples, and every one of them runs through every candidate.
MOST_CALIBRATION_SAMPLES = 1024
MOST_CALIBRATION_MIB = 512  # they stay in memory, beside the models: 890 images of 3 x 224 x 224
READ_AGAIN = "Give a list or a DataLoader, or an object whose __iter__ starts from the beginning each time."
CHANGED = (
    "The task's calibration data changed when it was read a second time. This run keeps what it read first; "
    "a resumed one keeps what was measured, and goes on with what it reads then. Give a list, or a loader "
    "that does not shuffle or augment, for the same answer each time."
)


class Calibration:
    """One pass over calibration data, which ends at MOST_CALIBRATION_SAMPLES or MOST_CALIBRATION_MIB.

    Of data that is read by number, such as a list, the batches are spread over all of it; of any other data,
    they are the first ones. Iterating raises `InputError` for a batch unlike the example.
    """

    def __init__(self, example: Any, data: Any, pass_name: str = "", lengths: Lengths | None = None) -> None:
        """pass_name: as for `walk`. lengths: as for `like_example`."""
        self._example, self._data, self._pass_name, self._lengths = example, data, pass_name, lengths
        sample = sum(math.prod(like.shape[1:]) * like.element_size() for _, like in named_inputs(example))
        affordable = MOST_CALIBRATION_MIB * 2**20 // max(1, sample)
        self._most = max(1, min(MOST_CALIBRATION_SAMPLES, affordable))
        self._limit = (
            f"{MOST_CALIBRATION_SAMPLES} samples"
            if affordable >= MOST_CALIBRATION_SAMPLES
            else f"{MOST_CALIBRATION_MIB} MiB"
        )
        self._samples = 0
        self._which = ""  # of more batches than are read
        self._left_out: tuple[str, ...] = ()

    def __iter__(self) -> Iterator[Batch]:
        for number, item in walk(self._numbered(), "calibration", self._pass_name):
            batch = like_example(self._example, item, self._where(number), self._lengths)
            self._left_out = self._left_out or left_out(self._example, item)
            room = self._most - self._samples
            if room:
                self._samples += min(len(batch[0]), room)
                yield tuple(tensor[:room] for tensor in batch)
            if len(batch[0]) > room:
                self._which = self._which or "the first ones"
                return

    def remarks(self) -> tuple[str, ...]:
        """Sentences about what the pass has left unread, and out."""
        found = []
        if self._which:
            found.append(
                f"The task's calibration data is more than {self._limit}, the most that is read: "
                f"{self._samples} samples are used, {self._which}."
            )
        if self._left_out:
            names = ", ".join(map(repr, self._left_out))
            found.append(f"The calibration data has {names}, which the example has not: it is left out.")
        return tuple(found)

    def _numbered(self) -> Iterator[tuple[int, Any]]:
        """Batches with their numbers in the data, from 1."""
        data = [self._data] if _is_one_batch(self._example, self._data) else self._data
        by_number = isinstance(data, Sequence) or not hasattr(data, "__iter__")
        if not by_number or not hasattr(data, "__len__") or not len(data):
            yield from enumerate(fresh_pass(data), 1)
            return
        rows = len(like_example(self._example, data[0], self._where(1), self._lengths)[0])
        kept = len(data)
        if kept * rows > self._most:
            kept = min(kept, -(-self._most // rows))
            if kept < len(data):
                self._which = f"spread over its {len(data)} batches"
        for place in range(kept):
            number = place * len(data) // kept
            yield number + 1, data[number]

    def _where(self, number: int) -> str:
        return f"Calibration batch {number}" + (f", read{self._pass_name}" if self._pass_name else "")


def hold(example: Any, data: Any, lengths: Lengths | None = None) -> tuple[list[Batch], tuple[str, ...]]:
    """Fixed copy of as much calibration data as is used, and sentences about what is unusual in it.

    lengths: as for `like_example`; one that no batch has is told.
    Raises `InputError` when there is none, when a batch is unlike the example, and when a second pass has
    another number of samples.
    """
    reading = Calibration(example, data, lengths=lengths)
    # Copies: a loader may fill the same tensor again for each batch.
    held = [tuple(tensor.clone() for tensor in batch) for batch in reading]
    if not held:
        raise InputError(
            "The task's calibration data is empty.",
            "Give at least one batch; a few hundred samples make good INT8 ranges.",
        )
    remarks = (*reading.remarks(), *_unseen(held, lengths))
    return held, remarks if _same_again(example, data, held, lengths) else (*remarks, CHANGED)


def _unseen(held: Sequence[Batch], lengths: Lengths | None) -> Iterator[str]:
    """Sentence about the lengths that no batch has."""
    if lengths is None:
        return
    found = {lengths.of([tensor.shape for tensor in batch]) for batch in held}
    unseen = [str(length) for length in lengths.values if length not in found]
    if unseen:
        yield (
            f"The task's calibration data has no sequences of length {', '.join(unseen)}: INT8 ranges and "
            "weights are those of the other lengths."
        )


def _same_again(example: Any, data: Any, held: Sequence[Batch], lengths: Lengths | None) -> bool:
    """Whether a second pass over the calibration data gives the same batches.

    Raises `InputError` when it fails, or has another number of samples.
    """
    again = " a second time"
    same, rows, at = True, 0, 0
    for batch in Calibration(example, data, again, lengths):
        same = same and at < len(held) and all(map(torch.equal, batch, held[at]))
        rows += len(batch[0])
        at += 1
    first = sum(len(batch[0]) for batch in held)
    if rows != first:
        raise InputError(
            f"The task's calibration data has {first} samples, and {rows} when it is read{again}.", READ_AGAIN
        )
    return same and at == len(held)


def _is_one_batch(example: Any, data: Any) -> bool:
    """Whether the data is one batch itself, where a list of batches is asked for."""
    if isinstance(example, torch.Tensor) and isinstance(data, torch.Tensor | np.ndarray):
        return data.ndim == example.ndim
    return isinstance(example, Mapping) and isinstance(data, Mapping)

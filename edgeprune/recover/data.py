"""Training data with a part held back, on which a recovery step is judged."""

from __future__ import annotations

import logging
import zlib
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

import torch
from torch.utils import _pytree as pytree

from edgeprune.recover.objective import Pair

Source = Callable[[], Iterable[Pair]]  # a fresh pass over the data
HELD_BACK = 8  # about one sample in so many is held back
MOST_HELD_BACK = 1024  # samples; more would make the check slower than the step that it judges
MOST_HELD_BACK_MIB = (
    512  # with the outputs for them: they stay in memory, a language model's scores are large
)

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Split:
    """Training batches, and the batches that were held back from them.

    A sample is held back by a checksum of its inputs, so the split is the same in every pass however the
    data is shuffled. (Inputs that are augmented at random have a new checksum in each pass: an image can
    then be in both parts, in different versions.)
    """

    source: Source
    held_back: tuple[Pair, ...]
    batch: int  # samples in a training batch, as in the source
    steps: int  # batches in one pass
    residue: int = 0  # of the checksums of the samples held back, modulo HELD_BACK

    def epoch(self, number: int) -> Iterator[Pair]:
        """Training pass `number`: full batches without the samples held back.

        Every batch has the same size, since a convolution library prepares its kernels anew for each; where
        lengths vary, each has batches of its own.
        """
        kept = (_rows(*pair, self.residue, held=False) for pair in self.source())
        given = 0
        for pair in islice(_rebatched(kept, self.batch, partial=self.steps == 1), self.steps):
            given += 1
            yield pair
        if given < self.steps:
            _log.warning("training pass %d has %d batches, the first one had %d", number, given, self.steps)


def split(source: Source, sample_bytes: int = 1) -> Split:
    """Split of the data: at least one sample is held back wherever two samples differ.

    One pass, unless there are so few samples that a residue gets none of them or all.
    sample_bytes: of a sample's inputs and outputs, which stay in memory for the samples held back.
    """
    most = min(MOST_HELD_BACK, max(1, MOST_HELD_BACK_MIB * 2**20 // sample_bytes))
    found = [_split(source, 0, most)]
    while not (found[-1].steps and found[-1].held_back) and len(found) < HELD_BACK:
        found.append(_split(source, len(found), most))
    return next((one for one in found if one.steps and one.held_back), found[0])


def _split(source: Source, residue: int, most: int) -> Split:
    held: list[Pair] = []
    batch = held_rows = 0
    rows: dict[Any, int] = defaultdict(int)
    for inputs, target in source():
        part = _rows(inputs, target, residue, held=True)
        batch = batch or len(inputs[0])
        rows[_kind(inputs)] += len(inputs[0]) - len(part[0][0])
        if len(part[0][0]) and held_rows < most:
            held.append(part)
            held_rows += len(part[0][0])
    steps = max(1, sum(each // batch for each in rows.values())) if any(rows.values()) else 0
    return Split(source, tuple(_rebatched(held, batch, partial=True)), batch, steps, residue)


def _rebatched(pairs: Iterable[Pair], size: int, *, partial: bool) -> Iterator[Pair]:
    """The same samples in batches of `size`; with `partial`, a smaller last batch too, of each length."""
    waiting: dict[Any, list[Pair]] = defaultdict(list)
    for pair in pairs:
        alike = waiting[kind := _kind(pair[0])]
        alike.append(pair)
        while sum(len(inputs[0]) for inputs, _ in alike) >= size:
            joined = _joined(alike)
            yield _sliced(joined, slice(0, size))
            alike = waiting[kind] = [_sliced(joined, slice(size, None))]
    for alike in waiting.values():
        if partial and alike and sum(len(inputs[0]) for inputs, _ in alike):
            yield _joined(alike)


def _kind(inputs: Sequence[torch.Tensor]) -> tuple[torch.Size, ...]:
    """Shapes of a batch's inputs without the rows: equal for batches of one length."""
    return tuple(tensor.shape[1:] for tensor in inputs)


def _joined(pairs: Sequence[Pair]) -> Pair:
    inputs = tuple(torch.cat(column) for column in zip(*(pair[0] for pair in pairs), strict=True))
    first, *others = (target for _, target in pairs)
    return inputs, pytree.tree_map(_joined_target, first, *others)


def _joined_target(*parts: torch.Tensor | None) -> torch.Tensor | None:
    return None if parts[0] is None else torch.cat([part for part in parts if part is not None])


def _sliced(pair: Pair, rows: slice) -> Pair:
    inputs, target = pair
    return tuple(tensor[rows] for tensor in inputs), _target_rows(target, rows)


def _target_rows(target: Any, rows: slice | torch.Tensor) -> Any:
    return pytree.tree_map_only(torch.Tensor, lambda tensor: tensor[rows], target)


def _checksums(inputs: Sequence[torch.Tensor]) -> list[int]:
    """Checksum of each row, over all inputs."""
    sums = [0] * len(inputs[0])
    if not sums:
        return sums
    for tensor in inputs:
        # As bytes, since numpy has no bfloat16.
        flat = tensor.detach().reshape(len(sums), -1).contiguous().view(torch.uint8)
        sums = [zlib.crc32(row, before) for row, before in zip(flat.numpy(force=True), sums, strict=True)]
    return sums


def _rows(inputs: tuple[torch.Tensor, ...], target: Any, residue: int, *, held: bool) -> Pair:
    chosen = [r for r, checksum in enumerate(_checksums(inputs)) if (checksum % HELD_BACK == residue) == held]
    index = torch.tensor(chosen, dtype=torch.long)
    return tuple(tensor[index] for tensor in inputs), _target_rows(target, index)

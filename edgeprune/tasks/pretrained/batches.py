"""Batches of labelled rows that are encoded when they are read, and parts of rows by the seed."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from edgeprune.tasks.pretrained.encoding import Encoder, Inputs, TextEncoder

BATCH = 32
EVALUATED = 5  # one row of so many is for evaluation, where the data has no parts
FEWEST_EVALUATED = 500  # or half of the rows, where that is less
MOST_EVALUATED = 10_000
Rows = NDArray[np.int64]


@dataclass(frozen=True)
class EncodedRows:
    """Rows in an order, with a target each. cells: a column for each role but the label.

    targets: [rows, ...], or a function (cells) -> targets where they depend on the encoding.
    tokens: length of each row, where texts have several: a batch is of one. by_length: the batches of a
    length follow one another; else they come as their first rows do.
    """

    encode: Encoder
    cells: Mapping[str, Sequence[Any]]
    targets: NDArray[Any] | Callable[[Rows], NDArray[Any]]
    order: Rows
    tokens: Rows | None = None
    by_length: bool = False

    def __len__(self) -> int:
        """Batches."""
        return len(self._batches)

    def inputs(self, number: int) -> Inputs:
        """Inputs of a batch. Raises `IndexError` behind the last one."""
        return self._encoded(self._rows(number))

    def longest(self) -> Inputs:
        """Inputs of one row at the longest length."""
        if self.tokens is None:
            return self._encoded(self.order[:1])
        row = self.order[[int(self.tokens[self.order].argmax())]]
        return self._encoded(row, self.encode.tokens if isinstance(self.encode, TextEncoder) else None)

    def chosen(self, rows: Rows) -> dict[str, list[Any]]:
        """Cells of some rows."""
        return {role: [column[at] for at in rows] for role, column in self.cells.items()}

    def target(self, number: int) -> NDArray[Any]:
        """Targets of a batch."""
        rows = self._rows(number)
        return self.targets(rows) if callable(self.targets) else self.targets[rows]

    def first(self, rows: int) -> EncodedRows:
        """The first rows alone."""
        return replace(self, order=self.order[:rows])

    def _encoded(self, rows: Rows, tokens: int | None = None) -> Inputs:
        if self.tokens is None or not isinstance(self.encode, TextEncoder):
            return self.encode(self.chosen(rows))
        return self.encode.of_length(tokens or int(self.tokens[rows[0]]))(self.chosen(rows))

    @cached_property
    def _batches(self) -> list[Rows]:
        if self.tokens is None:
            groups = [self.order]
        else:
            own = self.tokens[self.order]
            groups = [self.order[own == length] for length in np.unique(own)]
        found = [group[at : at + BATCH] for group in groups for at in range(0, len(group), BATCH)]
        if len(groups) > 1 and not self.by_length:
            place = {int(row): at for at, row in enumerate(self.order)}
            found.sort(key=lambda rows: place[int(rows[0])])
        return found

    def _rows(self, number: int) -> Rows:
        if not 0 <= number < len(self):
            raise IndexError(number)
        return self._batches[number]


@dataclass(frozen=True)
class CalibrationBatches:
    """Batches of inputs by name, without targets."""

    rows: EncodedRows

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, number: int) -> dict[str, torch.Tensor]:
        return {name: torch.from_numpy(array) for name, array in self.rows.inputs(number).items()}


@dataclass(frozen=True)
class TrainingBatches:
    """Batches of (inputs by name, target)."""

    rows: EncodedRows

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, number: int) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
        return CalibrationBatches(self.rows)[number], torch.from_numpy(self.rows.target(number))


def evaluation_share(rows: int) -> int:
    """Rows for evaluation, of so many that have no parts."""
    return min(MOST_EVALUATED, max(rows // EVALUATED, min(rows // 2, FEWEST_EVALUATED)))


def split_by_class(classes: NDArray[np.int64] | None, rows: int, seed: int) -> tuple[Rows, Rows]:
    """Rows for training and for evaluation, shuffled by the seed; every class in the same shares, as it can.

    classes: of each row, [rows]; None where labels are no classes.
    """
    order = np.random.default_rng(seed).permutation(rows)
    if classes is not None:
        # Rows of a class stand together, and each place is drawn evenly over all of them.
        order = order[np.argsort(classes[order], kind="stable")]
    wanted = evaluation_share(rows)
    places = (np.arange(wanted) * rows + rows // 2) // max(1, wanted)
    chosen = np.zeros(rows, bool)
    chosen[places] = True
    shuffle = np.random.default_rng([seed, 1])
    return shuffle.permutation(order[~chosen]), shuffle.permutation(order[chosen])

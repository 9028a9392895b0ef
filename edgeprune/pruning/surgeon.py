"""Optimal Brain Surgeon for units: the order in which a group's units leave, and the error of each step.

A layer with inputs x and weights W [rows, features] reads a group. When unit u leaves, with its k columns C,
the weights that are left are set anew by least squares, and the squared error of the outputs grows by

    tr(W_C [(H)_CC]^-1 W_C^T),   H = G^-1,   G = sum of x x^T

so that a unit which others can stand for costs little, however large its weights are. The cheapest leaves, W
and H follow, and the rest is priced again:

    W -= W_C [H_CC]^-1 H_C,:      H -= H_:,C [H_CC]^-1 H_C,:

(Hassibi and Stork 1993, for columns as in ZipLM, Kurtic et al. 2023, and OSSCAR, Meng et al. 2024.) Where
several layers read a group, the errors are added, each as a share of its layer's output energy tr(W G W^T).
Nothing here imports torch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

STEPS = 128  # updates of a layer's matrices at most: of a wider group several units leave in one update
SHORTLIST = 4  # as many of the cheapest units are priced exactly between two updates, per unit that leaves
DAMPING = 1e-4  # of the mean of G's diagonal: dead inputs stay invertible
COMPACT = 0.8  # matrices are cut down to the units left when these are fewer than that share


@dataclass(frozen=True)
class Reader:
    """A layer that reads a group.

    weight: [rows, features]. gram: sum of x x^T, [features, features]. columns: [units, k], the features by
    which each unit is read.
    """

    weight: Floats
    gram: Floats
    columns: Ints


@dataclass(frozen=True)
class Removal:
    """Order in which units leave, [units], and what each step adds to the error, [units]."""

    order: Ints
    errors: Floats

    @property
    def scores(self) -> Floats:
        """[units]: the error that a unit adds when it leaves, raised so that later units score higher.

        Of units that cost nothing none is better than another.
        """
        found = np.empty(len(self.order))
        last = 0.0
        for unit, error in zip(self.order.tolist(), self.errors.tolist(), strict=True):
            # The next single-precision number: scores are compared, and kept, as such.
            least = float(np.nextafter(np.float32(last), np.float32(np.inf))) if last > 0 else 0.0
            last = max(error, least)
            found[unit] = last
        return found


def removal(readers: Sequence[Reader], units: int) -> Removal:
    """Order in which the units of a group leave: each time the one whose loss costs least.

    Raises `ValueError` when nothing reads the group. Layers whose outputs are zero do not count; where a
    number is not finite, no error is.
    """
    reading = [found for reader in readers if (found := _begin(reader)) is not None]
    if not readers:
        raise ValueError("no layer reads the group")
    if not all(np.isfinite(each.energy) for each in reading):
        return Removal(np.arange(units), np.full(units, np.nan))
    if not reading:
        return Removal(np.arange(units), np.zeros(units))
    left = np.arange(units)
    block = -(-units // STEPS)
    order: list[int] = []
    errors: list[float] = []
    while len(left):
        priced = _priced(reading, left)
        # Stable, so that equal units leave in their order on every machine.
        near = left[np.sort(np.argsort(priced, kind="stable")[: SHORTLIST * block])]
        chosen = _cheapest([each.restricted(near) for each in reading], near, block, errors)
        order += chosen
        left = np.setdiff1d(left, chosen, assume_unique=True)
        if len(left):
            reading = [each.without(np.array(chosen)) for each in reading]
            if len(left) < COMPACT * reading[0].held:
                reading = [each.restricted(left) for each in reading]
    return Removal(np.array(order), np.array(errors))


def _cheapest(local: list[_Reading], near: Ints, count: int, errors: list[float]) -> list[int]:
    """The `count` units of a shortlist that leave one after another; what each adds goes to `errors`."""
    left = near
    chosen: list[int] = []
    while len(left) and len(chosen) < count:
        priced = _priced(local, left)
        at = int(np.argmin(priced))
        chosen.append(int(left[at]))
        errors.append(max(float(priced[at]), 0.0))
        left = np.delete(left, at)
        if len(chosen) < count and len(left):
            local = [each.without(np.array(chosen[-1:])) for each in local]
    return chosen


def _priced(reading: Sequence[_Reading], units: Ints) -> Floats:
    total = np.zeros(len(units))
    for each in reading:
        total += each.prices(units)
    return total


@dataclass(frozen=True)
class _Reading:
    """A layer while units leave. places: [units], where each unit's columns are, -1 when they were dropped.

    weight, inverse: of the features in `columns`' order, k for each unit held, then those of no unit.
    """

    weight: Floats
    inverse: Floats
    places: Ints
    k: int
    energy: float

    @property
    def held(self) -> int:
        return int((self.places >= 0).sum())

    def columns(self, units: Ints) -> Ints:
        return (self.places[units][:, None] * self.k + np.arange(self.k)).reshape(-1)

    def prices(self, units: Ints) -> Floats:
        """[units]: share of the output energy that is lost with each of them."""
        columns = self.columns(units).reshape(-1, self.k)
        if self.k == 1:
            flat = columns[:, 0]
            squares: Floats = np.square(self.weight[:, flat]).sum(axis=0)
            squares /= self.inverse[flat, flat] * self.energy
            return squares
        blocks = self.inverse[columns[:, :, None], columns[:, None, :]]
        weights = self.weight[:, columns].transpose(1, 2, 0)  # [units, k, rows]
        products = weights @ weights.transpose(0, 2, 1)
        traces: Floats = np.einsum("uij,uji->u", np.linalg.inv(blocks), products)
        traces /= self.energy
        return traces

    def without(self, units: Ints) -> _Reading:
        """The layer when these units have left, their columns zero."""
        columns = self.columns(units)
        rows = self.inverse[columns]
        solved = np.linalg.solve(rows[:, columns], rows)
        weight = self.weight - self.weight[:, columns] @ solved
        inverse = self.inverse - rows.T @ solved
        weight[:, columns] = 0.0
        inverse[columns] = 0.0
        inverse[:, columns] = 0.0
        return _Reading(weight, inverse, self.places, self.k, self.energy)

    def restricted(self, units: Ints) -> _Reading:
        """The layer's columns of these units alone: the others leave no trace in what these cost."""
        columns = self.columns(units)
        places = np.full_like(self.places, -1)
        places[units] = np.arange(len(units))
        inverse = self.inverse[np.ix_(columns, columns)]
        return _Reading(self.weight[:, columns], inverse, places, self.k, self.energy)


def _begin(reader: Reader) -> _Reading | None:
    """The layer with all units; None when its outputs are zero."""
    units, k = reader.columns.shape
    energy = float(np.einsum("rf,rf->", reader.weight @ reader.gram, reader.weight))
    if energy <= 0:
        return None
    if not np.isfinite(energy):
        return _Reading(reader.weight, reader.gram, np.arange(units), k, energy)
    inverse = _inverse(reader.gram)
    columns = reader.columns.reshape(-1)
    # Features of no unit stand in for those that leave, which the inverse knows.
    return _Reading(
        np.ascontiguousarray(reader.weight[:, columns]),
        inverse[np.ix_(columns, columns)],
        np.arange(units),
        k,
        energy,
    )


def _inverse(gram: Floats) -> Floats:
    """Inverse of a Gram matrix with damping; the damping grows until there is one."""
    from scipy.linalg import lapack  # the table of criteria is read where scipy need not be

    mean = float(gram.diagonal().mean())
    damping = DAMPING
    while True:
        factor, failed = lapack.dpotrf(gram + (damping * mean + 1e-12) * np.eye(len(gram)), lower=1)
        if not failed:
            inverse, failed = lapack.dpotri(factor, lower=1)
            if not failed:
                lower: Floats = np.tril(inverse)
                lower += np.tril(lower, -1).T
                return lower
        damping *= 10

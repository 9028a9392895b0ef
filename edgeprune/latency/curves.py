"""Latency table: measured milliseconds of operators by width, and curves between the measured widths.

An *operator* is a node, or several that a runtime fuses, known by its signature; its time depends on how many
channels it reads and how many it writes. A *row* is one measurement.

Between rows: time is close to `fixed + a * writes + b * reads + c * reads * writes`, with each width rounded
up to a whole number of the kernel's blocks, plus the extra cost of a width that is no whole number of blocks
(a copy into another layout, an activation that is then not fused), once and per whole block in the width:
OpenVINO's INT8 pooling is about as quick with 24 channels as with 32, and takes 18 times as long with 40.
The block sizes are the table's knees: those of `BLOCK_SIZES` that explain the rows best. The rows' residuals
are kept: rows nearby pull the curve towards themselves.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import nnls

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]

BLOCK_SIZES = (1, 4, 8, 16, 32, 64)  # channels
FLOOR_MS = 0.01  # times are compared relatively, but not below this: runtimes count in microseconds
OUTLYING = 2.0  # times the usual error, beyond which a row counts less (Huber)
KNEE_GAIN = 0.95  # a knee must bring the rows' residual to this share of the best one without it
REACH = 0.7  # octaves of width over which a row pulls the curve
NOISE = 1.0  # variance of a row against that of the curve; with 1, a lone row pulls half way
UNIT = 256.0  # channels: keeps the columns of the fit of like size


@dataclass(frozen=True)
class Row:
    """Measurement of one operator at one pair of widths.

    node: of the model; nodes with one signature share a curve.
    reads: 0 for an operator whose time follows one width only.
    """

    operator: str
    node: str
    reads: int
    writes: int
    ms: float


@dataclass(frozen=True)
class Knees:
    """Block sizes of an operator in channels read and written; 1 where time is smooth."""

    reads: int
    writes: int


@dataclass(frozen=True)
class Curve:
    """Milliseconds of one operator at any widths.

    nodes: per node, the share by which its rows differ from the others' of the same signature.
    """

    knees: Knees
    coefficients: Floats
    rows: Integers  # [rows, 2]: reads, writes
    weights: Floats  # [rows]: how strongly each row pulls the curve
    nodes: Mapping[str, float]

    def ms(self, node: str, reads: Integers | int, writes: Integers | int) -> Floats:
        """Broadcast over both widths."""
        u, v = np.broadcast_arrays(np.asarray(reads, np.int64), np.asarray(writes, np.int64))
        widths = np.stack([u.ravel(), v.ravel()], axis=1)
        smooth = _features(widths, self.knees, bool(self.rows[:, 0].any())) @ self.coefficients
        pull = _closeness(widths, self.rows, self.knees) @ self.weights
        found: Floats = smooth * np.clip(1 + pull + self.nodes.get(node, 0.0), 0.5, 2.0)
        return found.reshape(u.shape)


@dataclass(frozen=True)
class Whole:
    """Measurement of a whole model end to end, without a profile."""

    widths: tuple[tuple[str, int], ...]  # group -> units kept
    ms: float
    float_layers: tuple[str, ...] = ()  # in an INT8 table: layers that were float in this one alone


@dataclass(frozen=True)
class LatencyTable:
    """Rows of one model's operators on one device, in one runtime and precision.

    reference_ms: milliseconds of the reference at the machine's speed in `rows` and `wholes`.
    """

    rows: tuple[Row, ...]
    wholes: tuple[Whole, ...] = ()
    reference_ms: float = 1.0

    def at(self, reference_ms: float) -> LatencyTable:
        """Table at another speed of the machine, for comparison with other tables."""
        speed = reference_ms / self.reference_ms
        return LatencyTable(
            tuple(replace(row, ms=speed * row.ms) for row in self.rows),
            tuple(replace(whole, ms=speed * whole.ms) for whole in self.wholes),
            reference_ms,
        )

    def joined(self, other: LatencyTable) -> LatencyTable:
        """Table with the rows of both, which are of one model at one speed of the machine."""
        return replace(self, rows=self.rows + other.rows, wholes=self.wholes + other.wholes)

    @cached_property
    def curves(self) -> Mapping[str, Curve]:
        by_operator: dict[str, list[Row]] = {}
        for row in self.rows:
            by_operator.setdefault(row.operator, []).append(row)
        return {operator: fit(rows) for operator, rows in by_operator.items()}

    def knees(self) -> Mapping[str, Knees]:
        """Block sizes at which an operator's time jumps, without the operators that are smooth."""
        found = {operator: curve.knees for operator, curve in self.curves.items()}
        return {operator: knees for operator, knees in found.items() if knees != Knees(1, 1)}


def fit(rows: Sequence[Row]) -> Curve:
    """Curve of one operator: the knees and coefficients of the least robust relative error."""
    widths = np.array([(row.reads, row.writes) for row in rows], np.int64)
    ms = np.array([row.ms for row in rows], np.float64)
    two = bool(widths[:, 0].any())
    best: tuple[float, Knees, Floats] | None = None
    for reads in _blocks(widths[:, 0]):
        for writes in _blocks(widths[:, 1]):
            knees = Knees(reads, writes)
            loss, coefficients = _least(_features(widths, knees, two), ms)
            if best is None or loss < best[0] * (KNEE_GAIN if best[1] == Knees(1, 1) else 1.0):
                best = loss, knees, coefficients
    if best is None:
        raise ValueError("an operator without rows has no curve")
    _, knees, coefficients = best
    smooth = _features(widths, knees, two) @ coefficients
    beyond = np.clip((ms - smooth) / np.maximum(smooth, FLOOR_MS), -0.5, 0.5)
    nodes = _by_node([row.node for row in rows], beyond)
    beyond = beyond - np.array([nodes[row.node] for row in rows])
    closeness = _closeness(widths, widths, knees)
    weights = np.linalg.solve(closeness + NOISE * np.eye(len(rows)), beyond)
    return Curve(knees, coefficients, widths, weights, nodes)


def _blocks(widths: Integers) -> Iterable[int]:
    """Block sizes that the widths can tell apart: 1, and those of which some width is no multiple."""
    known = {1: tuple(-(-widths // 1))}
    for block in BLOCK_SIZES[1:]:
        rounded = tuple(-(-widths // block) * block)
        if rounded not in known.values() and block <= widths.max(initial=0):
            known[block] = rounded
    return known


def _features(widths: Integers, knees: Knees, two: bool) -> Floats:
    across, *ragged = _rounded(widths[:, 1], knees.writes)
    columns = [np.ones_like(across), across, *ragged]
    if two:
        along, *ragged = _rounded(widths[:, 0], knees.reads)
        columns += [along, along * across, *ragged]
    return np.stack(columns, axis=1)


def _rounded(widths: Integers, block: int) -> tuple[Floats, Floats, Floats]:
    """Widths rounded up to whole blocks; where that changes a width, 1 and its whole blocks, else 0."""
    whole = widths // block * block
    ragged = widths != whole
    return (whole + ragged * block) / UNIT, ragged.astype(np.float64), ragged * whole / UNIT


def _least(features: Floats, ms: Floats) -> tuple[float, Floats]:
    """Non-negative coefficients by relative least squares, reweighted so that outliers count less."""
    scale = 1 / np.maximum(ms, FLOOR_MS)
    weights = scale
    loss = np.inf
    for _ in range(3):
        coefficients, _ = nnls(features * weights[:, None], ms * weights)
        error = np.abs(features @ coefficients - ms) * scale
        usual = 1.48 * float(np.median(error)) + 1e-3
        weights = scale * np.sqrt(np.minimum(1, OUTLYING * usual / np.maximum(error, 1e-9)))
        loss = float(np.minimum(error, 2 * OUTLYING * usual).mean())
    return loss, coefficients


def _closeness(widths: Integers, rows: Integers, knees: Knees) -> Floats:
    """[widths, rows] between 0 and 1, by octaves; ragged and whole widths are far from each other."""

    def place(pairs: Integers) -> Floats:
        octaves = np.log2(np.maximum(pairs, 1)) / REACH
        ragged = (pairs % (knees.reads, knees.writes) != 0) / REACH
        return np.concatenate([octaves, ragged], axis=1)

    distance = place(widths)[:, None] - place(rows)[None]
    found: Floats = np.exp(-(distance**2).sum(axis=2) / 2)
    return found


def _by_node(names: Sequence[str], beyond: Floats) -> dict[str, float]:
    """Median of each node's residuals, drawn towards 0 where there are few; 0 for a lone node."""
    known = sorted(set(names))
    if len(known) == 1:
        return {known[0]: 0.0}
    found = {}
    for node in known:
        own = beyond[[name == node for name in names]]
        found[node] = float(np.median(own)) * len(own) / (len(own) + 4)
    return found

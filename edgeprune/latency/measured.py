"""Measurement of a model's latency table on a device, and prediction of its latency at any widths.

The model's own ONNX file is resized to a few sets of widths that fill the space (`graph.resize`, no export),
quantised where INT8 is wanted, and run with the runtime's profile. Its operators are thus timed as they will
be served: fused as in the model, and with caches as the model leaves them. The milliseconds of an operator at
its widths are a row of the table (`curves`).

The sum of a model's operators is not its latency: the runtime spends time between them, a profile costs some
itself, and machines change their speed. So every set of widths is also timed end to end, in turn with one and
the same reference, and its rows are scaled to that: a profile says where the time goes, the clock how much.
Tables with the same reference can thus be compared, whatever else the machine did while each was measured.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from math import inf
from statistics import median

import numpy as np
import onnx
from numpy.typing import NDArray

from edgeprune.devices import Device, Feeds, Load, Session
from edgeprune.errors import DeviceBusy
from edgeprune.files import scratch
from edgeprune.graph import onnxfile
from edgeprune.graph.coupling import Coupling
from edgeprune.graph.resize import Resizable, Widths, at
from edgeprune.latency.curves import LatencyTable, Row, Whole
from edgeprune.latency.operators import Node, Nodes
from edgeprune.search.ranking import width_step
from edgeprune.search.waiting import undisturbed

DESIGNS = 8  # sets of widths that are timed, besides the whole model
PROFILE_RUNS = 12  # queries of one profile
# End to end, the reference and the resized model take turns until ROUNDS rounds are within 3 % of the fastest
# round of both models.
ROUNDS, MOST_ROUNDS = 2, 8
ROUND_RUNS, ROUND_SECONDS = 3, 0.1
NEAR_FASTEST = 1.03
SPOILT = 0.15  # distance from the usual at which a measurement is repeated
QUICK_PERCENTILE = 25  # percentile of an end-to-end time: other load on the machine only adds
NARROWEST = 0.1  # share of a group's units that the designs go down to

Emit = Callable[[onnx.ModelProto], onnx.ModelProto]  # exported model -> the one that is served


@dataclass(frozen=True)
class Prediction:
    """Prediction of a model's milliseconds at any widths.

    ratio: of the measured end-to-end milliseconds over the sum of the curves; near 1.
    """

    nodes: Mapping[str, Node]  # those that have rows
    table: LatencyTable
    ratio: float = 1.0

    def ms(self, widths: Widths) -> float:
        return sum(self.node_ms(name, widths) for name in self.nodes)

    def node_ms(self, name: str, widths: Widths) -> float:
        node = self.nodes[name]
        return self.ratio * float(self.table.curves[node.operator].ms(name, *node.widths(widths)))

    def node_cost(self, name: str) -> Callable[[Mapping[str, NDArray[np.int64]]], NDArray[np.float64]]:
        """Milliseconds of one node as a function of widths, which broadcast."""
        node = self.nodes[name]
        curve = self.table.curves[node.operator]
        return lambda widths: self.ratio * curve.ms(name, at(node.reads, widths), at(node.writes, widths))

    def corrected(self, measured: Sequence[tuple[Widths, float]]) -> Prediction:
        """Prediction with the median ratio of these end-to-end milliseconds; unchanged without any."""
        if not measured:
            return self
        plain = Prediction(self.nodes, self.table)
        return Prediction(self.nodes, self.table, median(ms / plain.ms(widths) for widths, ms in measured))


def designs(coupling: Coupling, multiple: int, count: int = DESIGNS, seed: int = 0) -> list[dict[str, int]]:
    """Widths of the whole model, then `count` sets of legal widths that cover every group's range evenly.

    A Latin hypercube (McKay, Beckman and Conover 1979), widths rounded to `multiple`.
    """
    rng = np.random.default_rng(seed)
    found: list[dict[str, int]] = [{group.name: group.units for group in coupling.groups}]
    found += [{} for _ in range(count)]
    for group in coupling.groups:
        places = (rng.permutation(count) + rng.random(count)) / count
        for widths, place in zip(found[1:], places.tolist(), strict=True):
            widths[group.name] = legal(
                (NARROWEST + (1 - NARROWEST) * place) * group.units, group.units, multiple, group.least
            )
    return found


def legal(wanted: float, units: int, multiple: int, least: int = 1) -> int:
    """Width nearest to `wanted` that the group's step (`width_step`) and its least units allow."""
    step = width_step(units, multiple)
    nearest = int(np.clip(round(wanted / step), 1, units // step)) * step
    return max(least, nearest if nearest + step <= units or wanted < nearest + step / 2 else units)


def measure_table(
    device: Device,
    load: Load,
    model: Resizable,
    emit: Emit,
    feeds: Feeds,
    wanted: Sequence[Widths],
    listen: Callable[[float], None] = lambda share: None,
) -> LatencyTable:
    """Latency table of every operator and of the whole model at each of the widths, in fresh processes.

    load: how the model will be served; its artefact is the reference. feeds: one query's inputs.
    Raises `DeviceError` when the device fails, is busy or its runtime has no profile.
    """
    nodes = Nodes(model)
    found: list[_ProfiledTimes] = []
    with scratch() as folder, device.start(load) as reference:

        def timed(widths: Widths) -> _ProfiledTimes:
            artefact = onnxfile.save(emit(model.at(widths)), folder / "model.onnx")
            served = replace(load, artefact=artefact)
            with device.start(replace(served, profile=True)) as session:
                shares = nodes.shares(session.operators(feeds, runs=PROFILE_RUNS))
            with device.start(served) as session:
                quick_ms(session, feeds)  # warm-up
                return _ProfiledTimes(shares, *_in_turn(reference, session, feeds))

        quick_ms(reference, feeds)
        for place, widths in enumerate(wanted):
            listen(place / len(wanted))
            found.append(timed(widths))
        ratio, reference_ms = (
            median(each.ratio for each in found),
            median(each.reference_ms for each in found),
        )

        def off(each: _ProfiledTimes) -> float:
            return max(abs(each.ratio / ratio - 1), abs(each.reference_ms / reference_ms - 1))

        for place, widths in enumerate(wanted):
            if off(found[place]) > SPOILT:  # other load came in between
                found[place] = min(found[place], timed(widths), key=off)
    best = min(each.reference_ms for each in found)
    seen = dict.fromkeys(name for each in found for name in each.shares)
    rows = tuple(
        Row(node.operator, name, *node.widths(widths), best * each.relative(name))
        for name in seen
        for node in (nodes.nodes[name],)
        for widths, each in zip(wanted, found, strict=True)
    )
    wholes = tuple(
        Whole(tuple(widths.items()), best * each.ms / each.reference_ms)
        for widths, each in zip(wanted, found, strict=True)
    )
    return LatencyTable(rows, wholes, best)


def _in_turn(reference: Session, resized: Session, feeds: Feeds) -> tuple[float, float]:
    """Quickest milliseconds of both models, measured in turn, of runs that did not wait.

    Raises `DeviceBusy` when all of them did.
    """
    rounds: list[tuple[float, float]] = []
    best = (inf, inf)
    for _ in range(MOST_ROUNDS):
        one, other = quick_ms(reference, feeds), quick_ms(resized, feeds)
        if one is not None and other is not None:
            rounds.append((one, other))
            best = min(ms for ms, _ in rounds), min(ms for _, ms in rounds)
            near = [
                ms <= NEAR_FASTEST * least for both in rounds for ms, least in zip(both, best, strict=True)
            ]
            if sum(map(all, zip(near[::2], near[1::2], strict=True))) >= ROUNDS:
                break
    if not rounds:
        raise DeviceBusy("Operators cannot be timed: other work took the device's time in every round.")
    return best


def quick_ms(session: Session, feeds: Feeds) -> float | None:
    """Milliseconds of a quick query of those that did not wait; None when all of them did."""
    free = undisturbed(session.time(feeds, runs=ROUND_RUNS, seconds=ROUND_SECONDS))
    return float(np.percentile(free, QUICK_PERCENTILE)) if free else None


@dataclass(frozen=True)
class _ProfiledTimes:
    """Milliseconds at one set of widths: by node from a profile, and end to end beside the reference."""

    shares: Mapping[str, float]
    reference_ms: float
    ms: float

    @property
    def ratio(self) -> float:
        return self.ms / max(sum(self.shares.values()), 1e-9)

    def relative(self, node: str) -> float:
        """Share of a node in the end-to-end time, in times of the reference."""
        return self.ratio * self.shares.get(node, 0.0) / self.reference_ms


def prediction(model: Resizable, table: LatencyTable) -> Prediction:
    """Prediction from a table of this model, corrected by the table's end-to-end measurements."""
    return predicting(Nodes(model).nodes.values(), table)


def predicting(nodes: Iterable[Node], table: LatencyTable) -> Prediction:
    """Prediction from a table of the model with these nodes."""
    timed = {row.node for row in table.rows}
    plain = Prediction({node.name: node for node in nodes if node.name in timed}, table)
    return plain.corrected([(dict(whole.widths), whole.ms) for whole in table.wholes])

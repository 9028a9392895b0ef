"""The latency table of a model: measured once on the device, then any widths are predicted in milliseconds.

The model's own ONNX file is resized to a few sets of widths that fill the space (`graph.resize`, no export),
quantised where INT8 is wanted, and run with the runtime's profile. Its operators are so timed as they will be
served: fused as in the model, and with caches as the model leaves them. What an operator took at its widths
is a row of `search.table`.

The sum of a model's rows is not its latency: the runtime spends time between operators, and a profile costs
some itself. The ratio is learnt from what was measured end to end.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median

import numpy as np
import onnx
from numpy.typing import NDArray

from edgeprune.devices import Device, Feeds, Load
from edgeprune.files import scratch
from edgeprune.fitting.operators import Node, Nodes
from edgeprune.fitting.prices import at
from edgeprune.graph.coupling import Coupling
from edgeprune.graph.resize import Resizable, Widths
from edgeprune.search.table import Row, Table, Whole

DESIGNS = 16  # sets of widths that are timed, the whole model in addition
RUNS = 12  # queries of each
WHOLE_SECONDS = 0.3  # of queries end to end
SPOILT = 0.1  # a ratio this far from the usual one is not believed, and the widths are timed again
QUICK = 25  # percentile of an end-to-end time: other load on the machine only adds
SMALLEST = 0.1  # share of a group's units that the designs go down to

Emit = Callable[[Path, Path], Path]  # (float ONNX, where to write) -> the artefact that is served


@dataclass(frozen=True)
class Prediction:
    """Milliseconds of a model at any widths.

    ratio: end to end over the sum of the rows.
    """

    nodes: Mapping[str, Node]  # those that have rows
    table: Table
    ratio: float = 1.0

    def ms(self, widths: Widths) -> float:
        return self.ratio * sum(
            float(self.table.curves[node.operator].ms(node.name, *node.widths(widths)))
            for node in self.nodes.values()
        )

    def price(self, name: str) -> Callable[[Mapping[str, NDArray[np.int64]]], NDArray[np.float64]]:
        """Milliseconds of one node, as a function of widths that broadcast."""
        node = self.nodes[name]
        curve = self.table.curves[node.operator]
        return lambda widths: self.ratio * curve.ms(name, at(node.reads, widths), at(node.writes, widths))

    def corrected(self, measured: Sequence[tuple[Widths, float]]) -> Prediction:
        """With the ratio that these end-to-end milliseconds show: their median; as it is without any."""
        if not measured:
            return self
        plain = Prediction(self.nodes, self.table)
        return Prediction(self.nodes, self.table, median(ms / plain.ms(widths) for widths, ms in measured))


def designs(coupling: Coupling, multiple: int, count: int = DESIGNS, seed: int = 0) -> list[dict[str, int]]:
    """The whole model, then `count` sets of legal widths: each group visits all parts of its range once.

    A Latin hypercube (McKay, Beckman and Conover 1979), widths rounded to `multiple`.
    """
    rng = np.random.default_rng(seed)
    found: list[dict[str, int]] = [{group.name: group.units for group in coupling.groups}]
    found += [{} for _ in range(count)]
    for group in coupling.groups:
        places = (rng.permutation(count) + rng.random(count)) / count
        for widths, place in zip(found[1:], places.tolist(), strict=True):
            widths[group.name] = legal(
                (SMALLEST + (1 - SMALLEST) * place) * group.units, group.units, multiple, group.least
            )
    return found


def legal(wanted: float, units: int, multiple: int, least: int = 1) -> int:
    """The width nearest to `wanted` that is a multiple (in groups at least twice as wide) and possible."""
    if units < 2 * multiple:
        multiple = 1
    nearest = int(np.clip(round(wanted / multiple), 1, units // multiple)) * multiple
    return max(least, nearest if nearest + multiple <= units or wanted < nearest + multiple / 2 else units)


def measure_table(
    device: Device,
    load: Load,
    model: Resizable,
    emit: Emit,
    feeds: Feeds,
    wanted: Sequence[Widths],
    listen: Callable[[float], None] = lambda share: None,
) -> Table:
    """Time every operator at each of the widths, and the whole, in fresh processes.

    load: how it will be served; its artefact is not looked at. feeds: one query's inputs.
    Raises `DeviceError` when the device fails or its runtime has no profile.
    """
    nodes = Nodes(model)
    with scratch() as folder:

        def timed(widths: Widths) -> _Timed:
            plain = folder / "float.onnx"
            onnx.save(model.at(widths), str(plain))
            served = replace(load, artefact=emit(plain, folder / "model.onnx"))
            with device.start(replace(served, profile=True)) as session:
                shares = nodes.shares(session.operators(feeds, runs=RUNS))
            with device.start(served) as session:
                session.warm_up(feeds, WHOLE_SECONDS / 4)
                times = session.time(feeds, runs=RUNS, seconds=WHOLE_SECONDS)
            return _Timed(shares, float(np.percentile(times, QUICK)))

        found: list[_Timed] = []
        for at, widths in enumerate(wanted):
            listen(at / len(wanted))
            found.append(timed(widths))
        usual = median(each.ratio for each in found)
        for at, widths in enumerate(wanted):
            if abs(found[at].ratio / usual - 1) > SPOILT:  # other load came in between
                found[at] = min(found[at], timed(widths), key=lambda each: abs(each.ratio / usual - 1))
    seen = dict.fromkeys(name for each in found for name in each.shares)
    rows = tuple(
        Row(node.operator, name, *node.widths(widths), each.shares.get(name, 0.0))
        for name in seen
        for node in (nodes.nodes[name],)
        for widths, each in zip(wanted, found, strict=True)
    )
    wholes = tuple(Whole(tuple(widths.items()), each.ms) for widths, each in zip(wanted, found, strict=True))
    return Table(rows, wholes)


@dataclass(frozen=True)
class _Timed:
    """Milliseconds by node with a profile, and end to end without one."""

    shares: Mapping[str, float]
    ms: float

    @property
    def ratio(self) -> float:
        return self.ms / max(sum(self.shares.values()), 1e-9)


def prediction(model: Resizable, table: Table) -> Prediction:
    """Predict from a table of this model, with the ratio of what the table holds end to end."""
    timed = {row.node for row in table.rows}
    plain = Prediction({name: node for name, node in Nodes(model).nodes.items() if name in timed}, table)
    return plain.corrected([(dict(whole.widths), whole.ms) for whole in table.wholes])

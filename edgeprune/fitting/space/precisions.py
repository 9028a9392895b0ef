"""Precision of every layer as a choice: latency in INT8 and in float, and the cost of conversions between.

Two tables of the same model, one of each precision, give a node's time in either. A node without weights has
the precision of the layer that its value comes from; an addition that of the earliest of them, which is the
stream's, so that nothing behind a branch depends on a layer that leaves with it. Nodes in front of the first
layer quantise its inputs and have its precision. A value between a float layer and an INT8 one is converted;
the time of conversions is learnt from designs in which layers of both precisions alternate.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from scipy.optimize import nnls

from edgeprune.fitting.space.costs import CostOf, Floats, Item, Switches
from edgeprune.graph import onnxfile
from edgeprune.graph.resize import Integers, Resizable, Size, Widths, at
from edgeprune.latency.curves import LatencyTable, Whole
from edgeprune.latency.measured import Prediction
from edgeprune.latency.operators import START

SAVES = 0.005  # share of a query's time that a layer must save in float to count
MIXED = ((0, 1), (1, 1), (0, 2), (1, 2))  # designs: the first layers that are float, then runs of so many


def int8(layer: str) -> str:
    """Name of a layer's precision decision: 0 float, 1 INT8."""
    return f"int8:{layer}"


@dataclass(frozen=True)
class Border:
    """Value between two layers: `makes` writes it, `node`, which has the precision of `reads`, reads it."""

    makes: str
    reads: str
    node: str
    shape: tuple[Size, ...]

    def elements(self, widths: Mapping[str, Integers]) -> Floats:
        found = np.ones(())
        for size in self.shape:
            found = found * at(size, widths)
        return found

    @property
    def groups(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(group for size in self.shape for group in size.groups))


@dataclass(frozen=True)
class PrecisionChoice:
    """Latencies by precision, and conversions between layers of different precision.

    layers: those whose precision is chosen. owners: node -> the layer whose precision it takes. fixed_ms,
    element_ms: of a conversion, and of each element in it. values: of layers in float.
    """

    plain: Prediction
    integer: Prediction
    layers: tuple[str, ...]
    owners: Mapping[str, str]
    borders: tuple[Border, ...]
    fixed_ms: float = 0.0
    element_ms: float = 0.0
    values: Mapping[str, float] = field(default_factory=dict)

    def items(self, resource: str, branches_of: Callable[[str], tuple[str, ...]]) -> Iterator[Item]:
        """Costs of all nodes and borders. branches_of: node -> the branches that contain it."""
        for name in dict.fromkeys((*self.integer.nodes, *self.plain.nodes)):
            layer = self.owners.get(name)
            node = (self.integer.nodes if name in self.integer.nodes else self.plain.nodes)[name]
            cost = _by_precision(self._cost(self.plain, name), self._cost(self.integer, name), layer)
            yield Item(
                resource, node.groups, cost, () if layer is None else (int8(layer),), branches_of(name)
            )
        for border in self.borders:
            switches = (int8(border.makes), int8(border.reads))
            yield Item(resource, border.groups, self._conversion(border), switches, branches_of(border.node))

    def learnt(self, mixed: Sequence[Whole]) -> PrecisionChoice:
        """Choice with the cost of conversions, fitted to end-to-end milliseconds of mixed designs."""
        free = replace(self, fixed_ms=0.0, element_ms=0.0)
        items = [*free.items("", lambda node: ())]
        rows, beyond = [], []
        for whole in mixed:
            widths, switches = dict(whole.widths), {int8(layer): 0 for layer in whole.float_layers}
            crossed = [
                b for b in self.borders if (b.makes in whole.float_layers) != (b.reads in whole.float_layers)
            ]
            sizes = [
                float(b.elements({name: np.asarray(widths[name]) for name in b.groups})) for b in crossed
            ]
            rows.append((len(crossed), sum(sizes)))
            beyond.append(max(0.0, whole.ms - sum(item.cost(widths, switches) for item in items)))
        if not any(count for count, _ in rows):
            return free
        columns = np.array(rows, np.float64)
        scale = np.maximum(columns.max(axis=0), 1.0)  # counts and elements are of different size
        found, _ = nnls(columns / scale, np.array(beyond))
        return replace(self, fixed_ms=float(found[0] / scale[0]), element_ms=float(found[1] / scale[1]))

    def _conversion(self, border: Border) -> CostOf:
        makes, reads = int8(border.makes), int8(border.reads)

        def cost(widths: Mapping[str, Integers], on: Switches) -> Floats:
            ms = self.fixed_ms + self.element_ms * border.elements(widths)
            return np.asarray(ms) if on[makes] != on[reads] else np.zeros(())

        return cost

    @staticmethod
    def _cost(prediction: Prediction, name: str) -> Callable[[Mapping[str, Integers]], Floats]:
        return prediction.node_cost(name) if name in prediction.nodes else lambda widths: np.zeros(())


def precision_choice(
    plain: Prediction, integer: Prediction, model: Resizable, layers: Collection[str]
) -> PrecisionChoice:
    """Choice of precisions. layers: those that have an INT8 kernel and are not float in any case."""
    named = onnxfile.layers(model.model)
    given = {value.name for value in model.model.graph.input}
    stored = {tensor.name for tensor in model.model.graph.initializer}
    made_by: dict[str, str] = {}  # value -> layer
    order: dict[str, int] = {}
    owners: dict[str, str] = {}
    borders: dict[tuple[str, str], Border] = {}
    for index, node in enumerate(model.model.graph.node):
        sources = [(value, made_by[value]) for value in node.input if value in made_by]
        if index in named:
            owner = named[index] if named[index] in layers else None
        else:
            owner = min((maker for _, maker in sources), key=lambda maker: order[maker], default=None)
            if node.op_type == "Add" and any(v not in made_by and v not in stored for v in node.input):
                owner = None  # the stream comes from no layer that is chosen
        if owner is None:
            continue
        order.setdefault(owner, index)
        owners[node.name] = owner
        if index in named and not given.isdisjoint(node.input):
            owners.setdefault(START, owner)  # the inputs are quantised for it
        made_by.update(dict.fromkeys(node.output, owner))
        for value, maker in sources:
            if maker != owner and value in model.shapes:  # converted once, however many nodes read it
                borders.setdefault((value, owner), Border(maker, owner, node.name, model.shapes[value]))
    return PrecisionChoice(plain, integer, tuple(order), owners, tuple(borders.values()))


def quicker_in_float(plain: LatencyTable, integer: LatencyTable, owners: Mapping[str, str]) -> frozenset[str]:
    """Layers that take less time in float at widths of both tables, the nodes behind them included.

    owners: node -> layer. Less than SAVES of a query does not count.
    """
    found: set[str] = set()
    for whole in plain.wholes:
        same = next((other for other in integer.wholes if other.widths == whole.widths), None)
        if same is not None:
            one, other = (
                _by_layer(table, owners, table.wholes.index(each))
                for table, each in ((plain, whole), (integer, same))
            )
            least = SAVES * same.ms
            found |= {layer for layer, ms in one.items() if other.get(layer, 0.0) - ms > least}
    return frozenset(found)


def _by_layer(table: LatencyTable, owners: Mapping[str, str], place: int) -> dict[str, float]:
    """Milliseconds of each layer in one of the table's models: rows are in the order of `wholes`, by node."""
    found: dict[str, float] = {}
    count = len(table.wholes)
    for row in table.rows[place::count]:
        if row.node in owners:
            found[owners[row.node]] = found.get(owners[row.node], 0.0) + row.ms
    return found


def mixed_designs(
    layers: Sequence[str], wanted: Sequence[Widths]
) -> tuple[tuple[Widths, tuple[str, ...]], ...]:
    """(widths, layers in float): every other layer and every other pair, at the first widths and others."""
    found = []
    for number, (start, run) in enumerate(MIXED):
        left = tuple(sorted(name for at_, name in enumerate(layers) if (at_ // run + start) % 2 == 0))
        if left and len(left) < len(layers):
            found.append((wanted[number % 2 * (len(wanted) - 1)], left))
    return tuple(found)


def _by_precision(
    plain: Callable[[Mapping[str, Integers]], Floats],
    integer: Callable[[Mapping[str, Integers]], Floats],
    layer: str | None,
) -> CostOf:
    return lambda widths, on: (integer if layer is None or on[int8(layer)] else plain)(widths)

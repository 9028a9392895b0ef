"""Minimum cut between float and INT8 layers: the precisions of the least time, conversions included.

A layer costs its milliseconds in its precision, and a value that is made in one precision and read in the
other costs a conversion, once for all its readers. The least sum is a minimum cut between float and INT8
(Picard and Ratliff 1975): exact, in milliseconds even for hundreds of layers.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.sparse import csr_array
from scipy.sparse.csgraph import breadth_first_order, maximum_flow

ALWAYS_FLOAT = ""  # name for what is float in any case: the model's inputs, a softmax, its outputs
_WHOLE = 2**29  # the sum of all costs in integers: SciPy's flows are of 32 bits


@dataclass(frozen=True)
class Times:
    """Milliseconds of a layer and the operators fused into it, in either precision."""

    float_ms: float
    int8_ms: float


@dataclass(frozen=True)
class Value:
    """Value between layers, which are known by name, or ALWAYS_FLOAT.

    ms: of a conversion, when one of the readers computes in another precision than the maker.
    followers: readers that compute on integers whenever their input is integer (an addition).
    """

    maker: str
    readers: tuple[str, ...]
    ms: float
    followers: tuple[str, ...] = ()


def slower_in_int8(times: Mapping[str, Times], values: Sequence[Value]) -> frozenset[str]:
    """Layers to leave float; where both precisions are equally quick, INT8 is chosen, which is smaller."""
    costs = sum(abs(each.float_ms) + abs(each.int8_ms) for each in times.values())
    costs += sum(value.ms for value in values)
    if costs <= 0:
        return frozenset()
    cut = _Cut(times, values, costs)
    return frozenset(times) - cut.in_int8()


def total_ms(times: Mapping[str, Times], values: Sequence[Value], in_float: frozenset[str]) -> float:
    """Milliseconds of a choice of float layers, conversions included."""
    layers = sum(each.float_ms if name in in_float else each.int8_ms for name, each in times.items())
    return layers + sum(value.ms for value in crossed(values, in_float))


def crossed(values: Sequence[Value], in_float: frozenset[str]) -> list[Value]:
    """Values that have to be converted."""
    floats = in_float | {ALWAYS_FLOAT}
    return [
        value
        for value in values
        if any((reader in floats) != (value.maker in floats) for reader in value.readers)
    ]


class _Cut:
    """Flow network whose minimum cut is the choice: layers on the source's side are in INT8."""

    def __init__(self, times: Mapping[str, Times], values: Sequence[Value], costs: float) -> None:
        self._names = {name: at for at, name in enumerate(times)}
        self._count = len(times)
        self._source, self._sink = self._new(), self._new()
        self._costs = costs
        self._edges: dict[tuple[int, int], int] = {}
        for name, each in times.items():
            least = min(each.float_ms, each.int8_ms)  # paid either way
            self._edge(self._source, self._names[name], each.float_ms - least)
            self._edge(self._names[name], self._sink, each.int8_ms - least)
        for value in values:
            self._value(value)

    def in_int8(self) -> frozenset[str]:
        """Largest INT8 side of a minimum cut: the layers without a residual path to the sink."""
        ends, capacities = list(self._edges), list(self._edges.values())
        shape = (self._count, self._count)
        rows, columns = [start for start, _ in ends], [end for _, end in ends]
        network = csr_array((np.array(capacities, np.int32), (rows, columns)), shape)
        residual = network - maximum_flow(network, self._source, self._sink).flow
        residual.data = np.maximum(residual.data, 0)
        residual.eliminate_zeros()
        backwards = csr_array(residual.T)
        floats = breadth_first_order(backwards, self._sink, return_predecessors=False)
        return frozenset(self._names) - {name for name, at in self._names.items() if at in set(floats)}

    def _value(self, value: Value) -> None:
        maker = self._node(value.maker)
        readers = [self._node(reader) for reader in value.readers]
        # Made in INT8, and one reader in float; made in float, and one reader in INT8.
        to_float, to_int8 = self._new(), self._new()
        self._edge(maker, to_float, value.ms)
        self._edge(to_int8, maker, value.ms)
        for reader in readers:
            self._edge(to_float, reader, None)
            self._edge(reader, to_int8, None)
        for follower in value.followers:
            self._edge(maker, self._node(follower), None)

    def _edge(self, start: int, end: int, ms: float | None) -> None:
        """ms: cost of `start` in INT8 and `end` in float; None forbids it."""
        units = _WHOLE if ms is None else round(ms / self._costs * _WHOLE)
        if start != end and units > 0:
            self._edges[start, end] = min(self._edges.get((start, end), 0) + units, _WHOLE)

    def _node(self, name: str) -> int:
        return self._sink if name == ALWAYS_FLOAT else self._names[name]

    def _new(self) -> int:
        self._count += 1
        return self._count - 1

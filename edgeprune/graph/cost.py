"""Cost model: parameters and multiply-accumulates of a graph with any units removed, without cutting it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch.fx import Graph, Node

from edgeprune.graph.blocks import Ids, per_sample
from edgeprune.graph.capture import Captured
from edgeprune.graph.coupling import Coupling, Kept
from edgeprune.graph.depth import dead_nodes
from edgeprune.graph.fx import (
    argument,
    attribute,
    concrete,
    op_name,
    shape_of,
    tensor_readers,
    varies_with_length,
)
from edgeprune.graph.rules import einsum_labels

# Products of two tensors, the first of which is summed up along its last dimension.
_PRODUCTS = (
    *("aten.matmul", "aten.mm", "aten.bmm", "aten.mv", "aten.dot", "aten.vdot", "aten.linalg_matmul"),
    *("aten._grouped_mm", "transformers.grouped_mm_fallback"),
)

Factor = int | Ids  # a fixed size, or the classes along a dimension that can be cut


@dataclass(frozen=True)
class SizeProduct:
    """A product of dimension sizes that counts while at least one of `nodes` is in the graph.

    parameter: name of the parameter whose size the product is, "" for the work of an operation.
    """

    nodes: frozenset[str]
    factors: tuple[Factor, ...]
    parameter: str = ""


@dataclass(frozen=True)
class Cost:
    """Parameters and multiply-accumulates of a graph as sums of products of dimension sizes.

    There is one product per parameter and one or more per operation. `macs` counts the multiply-accumulates
    of convolutions, linear layers, matrix products and attention for one sample, as published MACs tables do;
    where lengths vary, for one of the longest.
    """

    graph: Graph
    coupling: Coupling
    parameter_terms: tuple[SizeProduct, ...]
    mac_terms: tuple[SizeProduct, ...]

    def params(self, kept: Kept) -> int:
        return self._total(self.parameter_terms, kept)

    def macs(self, kept: Kept) -> int:
        return self._total(self.mac_terms, kept)

    def node_macs(self) -> Mapping[str, int]:
        """Multiply-accumulates of the dense graph, by node; nodes without any are left out."""
        found: dict[str, int] = {}
        removed = self.coupling.removed({})
        for term in self.mac_terms:
            (node,) = term.nodes
            found[node] = found.get(node, 0) + prod(_size(factor, removed) for factor in term.factors)
        return found

    def _total(self, terms: Sequence[SizeProduct], kept: Kept) -> int:
        removed = self.coupling.removed(kept)
        dead = dead_nodes(self.graph, self.coupling.dropped(kept))
        return sum(
            prod(_size(factor, removed) for factor in term.factors)
            for term in terms
            if not dead or not term.nodes <= dead
        )


def _size(factor: Factor, removed: NDArray[np.bool_]) -> int:
    return factor if isinstance(factor, int) else int((~removed[factor]).sum())


def count(captured: Captured, coupling: Coupling) -> Cost:
    """Cost model of a captured graph."""
    module = captured.module
    readers = tensor_readers(module)
    parameters = []
    for use in coupling.parameters.values():
        if use.trainable:
            factors = tuple(
                size if atoms is None else coupling.classes[atoms]
                for size, atoms in zip(use.shape, use.atoms, strict=True)
            )
            nodes = readers[id(attribute(module, use.name))]
            parameters.append(SizeProduct(nodes, factors, use.name))
    reader = _CostReader(captured, coupling)
    macs = [
        SizeProduct(frozenset({node.name}), factors)
        for node in module.graph.nodes
        for factors in reader.terms(node)
    ]
    return Cost(module.graph, coupling, tuple(parameters), tuple(macs))


class _CostReader:
    def __init__(self, captured: Captured, coupling: Coupling) -> None:
        self._captured = captured
        self._coupling = coupling

    def terms(self, node: Node) -> list[tuple[Factor, ...]]:
        if node.op != "call_function":
            return []
        name = op_name(node)
        if name.startswith("aten.conv"):
            transposed = (
                argument(node, 6, "transposed") if name == "aten.convolution" else "transpose" in name
            )
            return [self._convolution(node, bool(transposed))]
        if name == "aten.linear":
            return [(*self._dims(node), self._dim(node.args[1], 1))]
        if name in _PRODUCTS:
            return [(*self._dims(node), self._dim(node.args[0], -1))]
        if name in ("aten.addmm", "aten.baddbmm"):
            return [(*self._dims(node), self._dim(node.args[1], -1))]
        if name == "aten.scaled_dot_product_attention":
            query, key, value = node.args[:3]
            rows = self._dims(query)[:-1]
            keys = self._dim(key, -2)
            return [(*rows, keys, self._dim(query, -1)), (*rows, keys, self._dim(value, -1))]
        if name == "aten.einsum":
            return self._einsum(node)
        if name in ("aten.lstm", "aten.gru", "aten.rnn_tanh", "aten.rnn_relu"):
            return self._recurrent(node)
        return []

    def _convolution(self, node: Node, transposed: bool) -> tuple[Factor, ...]:
        """Work of a convolution: every output (transposed: input) position times [I/g, kernel] weights."""
        weight = self._dims(node.args[1])
        return (*self._dims(argument(node, 0, "input") if transposed else node), *weight[1:])

    def _einsum(self, node: Node) -> list[tuple[Factor, ...]]:
        """Work of an einsum, two operands at a time from the left."""
        values: Any = node.args[1]
        operands, wanted = einsum_labels(str(node.args[0]), [len(self._shape(value)) for value in values])
        sizes: dict[str, Factor] = {}
        for labels, value in zip(operands, values, strict=True):
            for dim, label in enumerate(labels):
                known = sizes.get(label, 1)
                if isinstance(known, int) and known == 1:
                    sizes[label] = self._dim(value, dim)
        terms, have = [], operands[0]
        for place, labels in enumerate(operands[1:], 2):
            have = list(dict.fromkeys([*have, *labels]))
            terms.append(tuple(sizes[label] for label in have))
            later = set(wanted).union(*operands[place:])
            have = [label for label in have if label in later]
        return terms

    def _recurrent(self, node: Node) -> list[tuple[Factor, ...]]:
        """Work of a recurrent layer: every step multiplies by every weight matrix once."""
        values: Any = node.args[2]
        steps = self._dim(node.args[0], 1 if argument(node, 8, "batch_first") else 0)
        return [(steps, *self._dims(value)) for value in values if len(self._shape(value)) == 2]

    def _dims(self, value: Any) -> list[Factor]:
        return [self._dim(value, dim) for dim in range(len(self._shape(value)))]

    def _dim(self, value: Any, dim: int) -> Factor:
        shape = self._shape(value)
        dim %= len(shape)
        if (lengths := self._captured.lengths) is not None and value.op != "get_attr":
            size = value.meta["val"].shape[dim]
            if varies_with_length(size):
                return per_sample(concrete(size, lengths.longest))
        for block in self._coupling.values.get(value.name, ()):
            if dim in block.dims:
                # A joint block loses units along one axis only: the axis whose rows have a single class
                # each (`coupling._rectangular`). The block's other axes keep their size.
                classes = self._coupling.classes[block.ids]
                axis = block.dims.index(dim)
                rows = np.moveaxis(classes, axis, 0).reshape(classes.shape[axis], -1)
                if rows.shape[1] == 1 or (rows == rows[:, :1]).all():
                    first: Ids = rows[:, 0]
                    return first
        size = shape[dim]
        return per_sample(size) if size else size

    def _shape(self, value: Any) -> tuple[int, ...]:
        return shape_of(self._captured.module, value)

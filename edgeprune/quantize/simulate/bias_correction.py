"""Bias correction: gives every output channel of an INT8 layer the mean that it has in float.

Rounding errors do not cancel behind a ReLU: inputs of a positive mean turn errors of weights into a shift of
the output's mean, and noise shifts the mean of the ReLU's output. So the mean error of INT8 is subtracted
from each layer's bias (Nagel et al. 2019, "Data-Free Quantization through Weight Equalization and Bias
Correction", section 4.2; the mean is measured here, and derived there). Layers are corrected in execution
order in one pass, each with all layers in front of it corrected.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch.fx import Interpreter, Node

from edgeprune.graph.capture import Captured
from edgeprune.graph.fx import op_name
from edgeprune.graph.length import alike
from edgeprune.quantize.dialects import Dialect
from edgeprune.quantize.ranges import Ranges
from edgeprune.quantize.simulate.planned import Simulation, layer_nodes

CORRECTION_ROWS = 64  # of calibration data; means of channels need no more


def correct_means(
    captured: Captured,
    ranges: Ranges,
    dialect: Dialect,
    batches: Sequence[tuple[torch.Tensor, ...]],
    *,
    reduce_range: bool = False,
    float_layers: Sequence[str] = (),
) -> Ranges:
    """Ranges with the mean error of each layer as `shifts`, to be subtracted from the layer's bias.

    batches: calibration inputs; the first CORRECTION_ROWS rows are used. A layer that is called twice has one
    bias and two means, and is not corrected.
    """
    queries = [query for batch in _first_rows(batches) for query in captured.queries(batch)]
    layers = {
        nodes[0]: _with_norm(nodes[0])
        for layer, nodes in layer_nodes(captured).items()
        if len(nodes) == 1 and layer not in float_layers
    }
    with torch.no_grad():
        exact = _Means(captured, layers.values())
        for query in queries:
            exact.run(*query, enable_io_processing=False)
        rows = [len(query[0]) for query in queries]
        means = {node: _averaged(found, rows) for node, found in exact.found.items()}
        corrected = _Corrected(captured, ranges, dialect, reduce_range, layers, means)
        corrected.correct(queries)
    shifts = {
        name: shift.double().numpy() for name, shift in corrected.shifts.items() if shift.isfinite().all()
    }
    return replace(ranges, shifts=shifts)


def _first_rows(batches: Sequence[tuple[torch.Tensor, ...]]) -> list[tuple[torch.Tensor, ...]]:
    """The first rows, in one batch for each length, which has its share of them."""
    found, every = [], sum(len(batch[0]) for batch in batches)
    for group in alike(batches):
        most = max(1, CORRECTION_ROWS * sum(len(batch[0]) for batch in group) // max(1, every))
        taken: list[tuple[torch.Tensor, ...]] = []
        for batch in group:
            if sum(len(inputs[0]) for inputs in taken) >= most:
                break
            taken.append(batch)
        found.append(tuple(torch.cat(parts)[:most] for parts in zip(*taken, strict=True)))
    return found


def _averaged(means: Sequence[torch.Tensor], rows: Sequence[int]) -> torch.Tensor:
    """Mean over the rows of all queries. means: of each query, [channels]. rows: of each query."""
    if len(set(rows)) == 1:
        return torch.stack(list(means)).mean(0)
    shares = torch.tensor(rows, dtype=means[0].dtype) / sum(rows)
    return shares @ torch.stack(list(means))


def _with_norm(node: Node) -> Node:
    """BatchNorm behind a convolution, which the exporter folds into the convolution; else the node itself."""
    users = list(node.users)
    return users[0] if len(users) == 1 and op_name(users[0]) == "aten.batch_norm" else node


def _channel_means(value: torch.Tensor, image: bool) -> torch.Tensor:
    return value.movedim(1 if image else -1, 0).flatten(1).mean(1)


def _image(node: Node) -> bool:
    return "conv" in op_name(node) or op_name(node) == "aten.batch_norm"


class _Means(Interpreter):
    """Interpreter of the float graph that keeps the channel means of some nodes."""

    def __init__(self, captured: Captured, nodes: Any) -> None:
        super().__init__(captured.module)
        self._nodes = set(nodes)
        self.found: dict[Node, list[torch.Tensor]] = {node: [] for node in self._nodes}  # by query

    def run_node(self, n: Node) -> Any:
        value = super().run_node(n)
        if n in self._nodes:
            self.found[n].append(_channel_means(value, _image(n)))
        return value


class _Corrected(Simulation):
    """Interpreter of the graph in INT8 that corrects every layer's mean before the next layer runs."""

    def __init__(
        self,
        captured: Captured,
        ranges: Ranges,
        dialect: Dialect,
        reduce_range: bool,
        layers: Mapping[Node, Node],
        exact: Mapping[Node, torch.Tensor],
    ) -> None:
        super().__init__(captured, ranges, dialect, reduce_range)
        self._quantised = frozenset(layers)
        self._ends = set(layers.values())
        self._exact = exact
        self.shifts: dict[str, torch.Tensor] = {}

    def written(self, node: Node, result: Any) -> Any:
        """Output of a layer without rounding, which would clip negative values at a fused ReLU."""
        return result

    def correct(self, queries: Sequence[tuple[torch.Tensor, ...]]) -> None:
        """Run the nodes in turn, each on all queries, so that a layer's shift is known before the next."""
        graph = self._captured.module.graph
        self._rows = [len(query[0]) for query in queries]
        placeholders = graph.find_nodes(op="placeholder")
        environments: list[dict[Node, Any]] = [
            dict(zip(placeholders, query, strict=True)) for query in queries
        ]
        for node in graph.nodes:
            if node.op in ("placeholder", "output"):
                continue
            for self.env in environments:
                self.env[node] = self.run_node(node)
            if node in self._ends:
                self._shift(node, environments)
            for environment in environments:
                for read in self.user_to_last_uses.get(node, []):
                    del environment[read]

    def _shift(self, node: Node, environments: Sequence[dict[Node, Any]]) -> None:
        """Subtract the mean error of a layer's output over all queries."""
        image = _image(node)
        means = [_channel_means(environment[node], image) for environment in environments]
        shift = _averaged(means, self._rows) - self._exact[node]
        self.shifts[node.name] = shift
        shape = [1] * environments[0][node].dim()
        shape[1 if image else -1] = -1
        for environment in environments:
            environment[node] = environment[node] - shift.reshape(shape)

"""Gram matrices of what layers read, sum of x x^T over calibration rows: evidence for criteria.

x is an input of a linear layer or a patch of a convolution's, with a constant 1 behind it where the layer has
a bias. One pass over the data serves all criteria, for they are of the dense model only.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch.fx import Interpreter, Node

from edgeprune.graph.capture import Captured
from edgeprune.graph.coupling import Coupling
from edgeprune.graph.fx import argument, attribute, op_name
from edgeprune.pruning.solvable import LINEAR, Layer, layers_of, windows

# Rows sampled from all batches and from one: enough for a Gram matrix, little enough to be quick.
_PATCHES, _PATCHES_PER_BATCH = 8192, 4096
_AT_ONCE = 512  # rows that wait for others of small batches before they are multiplied
_BLOCK = 512  # columns of a Gram matrix that are multiplied at once


@dataclass(frozen=True)
class Consumer:
    """A linear layer or ungrouped convolution that sums over prunable inputs."""

    node: str
    weight: str
    bias: str | None
    gram: torch.Tensor  # [features (+1 with a bias)] squared, float64

    @property
    def spread(self) -> torch.Tensor:
        """[features, features]: the Gram matrix of what a bias cannot take up, x around its mean."""
        if self.bias is None:
            return self.gram
        sums = self.gram[:-1, -1:]
        return self.gram[:-1, :-1] - sums @ sums.T / self.gram[-1, -1]


def grams(
    captured: Captured, coupling: Coupling, batches: Sequence[tuple[torch.Tensor, ...]]
) -> Mapping[str, Consumer]:
    """Gram matrices of all consumers, by weight name, from one pass over calibration inputs."""
    wanted = _consumers(captured, coupling)
    queries = [query for batch in batches for query in captured.queries(batch)]
    collector = _GramCollector(
        captured, wanted, min(_PATCHES_PER_BATCH, -(-_PATCHES // max(len(queries), 1)))
    )
    with torch.no_grad():
        for inputs in queries:
            collector.run(*inputs)
        sums = collector.finish()
    return {
        weight: Consumer(layer.node.name, weight, layer.bias, sums[layer.node.name])
        for weight, layer in wanted.items()
        if layer.node.name in sums
    }


def _consumers(captured: Captured, coupling: Coupling) -> dict[str, Layer]:
    """Layers that sum over prunable inputs, by the names of their weights."""
    module = captured.module
    prunable = {
        (axis.parameter, axis.dim) for group in coupling.groups for axis in group.axes if axis.role == "in"
    }
    canonical = {id(attribute(module, name)): name for name in coupling.parameters}
    found: dict[str, Layer] = {}
    for layer in layers_of(captured).values():
        weight = canonical[id(attribute(module, layer.weight))]
        bias = None if layer.bias is None else canonical[id(attribute(module, layer.bias))]
        if layer.groups == 1 and (weight, 1) in prunable:
            found[weight] = replace(layer, weight=weight, bias=bias)
    return found


class _GramCollector(Interpreter):
    """Interpreter that adds up x x^T at every consumer, of at most `most` rows x of a batch."""

    def __init__(self, captured: Captured, wanted: Mapping[str, Layer], most: int) -> None:
        super().__init__(captured.module)
        self._most = most
        self._wanted = {layer.node: layer.bias for layer in wanted.values()}
        self._generator = torch.Generator().manual_seed(0)
        self._waiting: dict[str, list[torch.Tensor]] = {}
        self._sums: dict[str, torch.Tensor] = {}

    def finish(self) -> dict[str, torch.Tensor]:
        for name in self._waiting:
            self._add(name)
        for found in self._sums.values():
            for at in range(0, len(found), _BLOCK):
                found[at + _BLOCK :, at : at + _BLOCK] = found[at : at + _BLOCK, at + _BLOCK :].T
        return self._sums

    def _add(self, name: str) -> None:
        """Multiply the waiting rows of several small batches at once, so that fewer matrices are added.

        Only the blocks right of the diagonal are added; `finish` mirrors them.
        """
        waiting = self._waiting[name]
        if not waiting:
            return
        rows = torch.cat(waiting)
        waiting.clear()
        width = rows.shape[1]
        if name not in self._sums:
            self._sums[name] = torch.zeros(width, width, dtype=torch.float64)
        for at in range(0, width, _BLOCK):
            # In float32, which takes half the time and errs by far less than the damping moves.
            self._sums[name][at : at + _BLOCK, at:] += rows[:, at : at + _BLOCK].T @ rows[:, at:]

    def run_node(self, n: Node) -> Any:
        if n in self._wanted:
            rows = self._rows(n)
            if self._wanted[n] is not None:
                rows = torch.cat([rows, torch.ones(len(rows), 1, dtype=rows.dtype)], dim=1)
            waiting = self._waiting.setdefault(n.name, [])
            waiting.append(rows.to(torch.float32, copy=True))  # the graph may go on to write into its value
            if sum(map(len, waiting)) >= _AT_ONCE:
                self._add(n.name)
        return super().run_node(n)

    def _rows(self, node: Node) -> torch.Tensor:
        """Input rows of a consumer, [samples, features], in the order of the flattened weight."""
        x: torch.Tensor = self.env[argument(node, 0, "input")].detach()
        if op_name(node) == LINEAR:
            return self._sampled(x.reshape(-1, x.shape[-1]), self._most)
        patches = windows(node, x, self.env[argument(node, 1, "weight")].shape[2:])
        positions = patches.shape[2 : 2 + (patches.dim() - 2) // 2]
        quota = -(-self._most // len(x))
        if positions.numel() <= quota:
            return patches.movedim(1, 1 + len(positions)).flatten(0, len(positions)).flatten(1)
        # The chosen patches alone: all of a batch of large images would take gigabytes.
        images = []
        for image in patches:
            places = torch.unravel_index(self._chosen(positions.numel(), quota), positions)
            images.append(image[(slice(None), *places)].movedim(0, 1).flatten(1))
        return torch.cat(images)

    def _sampled(self, rows: torch.Tensor, most: int) -> torch.Tensor:
        return rows if len(rows) <= most else rows[self._chosen(len(rows), most)]

    def _chosen(self, count: int, most: int) -> torch.Tensor:
        return torch.randperm(count, generator=self._generator)[:most]

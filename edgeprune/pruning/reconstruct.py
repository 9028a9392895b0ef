"""Reconstruction: least-squares weights for consumers that lost inputs, without labels or training.

For a consumer with inputs x (patches of them, for a convolution) and weights W, removing inputs leaves
the set S. The weights that reproduce the dense output best on the calibration data are

    W' = W G[:, S] (G[S, S] + damping)^-1,   G = sum of x x^T

(the layer-wise least-squares step of ZipLM and OSSCAR). G depends on the dense model only, so one pass
over the data serves every candidate of a search. With a bias, x gets a constant 1 and the bias follows.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch.fx import Interpreter, Node

from edgeprune.graph.capture import Captured
from edgeprune.graph.coupling import Coupling, Kept
from edgeprune.graph.depth import dead_nodes
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


def reconstruct(
    pruned: Captured, coupling: Coupling, kept: Kept, consumers: Mapping[str, Consumer], dense: Captured
) -> int:
    """Set the weights of every consumer that lost inputs, in place; the number of layers changed."""
    removed = coupling.removed(kept)
    dead = dead_nodes(dense.module.graph, coupling.dropped(kept))
    changed = 0
    for consumer in consumers.values():
        use = coupling.parameters[consumer.weight]
        if use.atoms[1] is None or consumer.node in dead:
            continue
        stay = torch.from_numpy(~removed[coupling.classes[use.atoms[1]]])
        if bool(stay.all()):
            continue
        old = attribute(dense.module, consumer.weight).detach()
        rows = torch.arange(old.shape[0])
        if use.atoms[0] is not None:
            rows = rows[torch.from_numpy(~removed[coupling.classes[use.atoms[0]]])]
        _solve(pruned, dense, consumer, stay, rows)
        changed += 1
    return changed


def _solve(
    pruned: Captured, dense: Captured, consumer: Consumer, stay: torch.Tensor, rows: torch.Tensor
) -> None:
    old = attribute(dense.module, consumer.weight).detach().double()[rows]
    kernel = old[0, 0].numel()
    columns = stay.repeat_interleave(kernel)
    full = old.reshape(len(rows), -1)
    if consumer.bias is not None:
        bias = attribute(dense.module, consumer.bias).detach().double()[rows]
        full = torch.cat([full, bias[:, None]], dim=1)
        columns = torch.cat([columns, torch.ones(1, dtype=torch.bool)])
    gram = consumer.gram
    some = gram[columns]  # symmetric, and rows are quicker to take than columns
    inside = some[:, columns]
    # Relative damping keeps dead inputs (a zero row and column) solvable without moving the others.
    damping = 1e-4 * float(inside.diagonal().mean()) + 1e-12
    inside.diagonal().add_(damping)
    # Damping pulls towards the dense weights, not towards zero.
    right = full @ some.T + damping * full[:, columns]
    factor, failed = torch.linalg.cholesky_ex(inside)
    # `failed`: numerically not definite for all the damping.
    solved = torch.linalg.solve(inside, right.T) if failed else torch.cholesky_solve(right.T, factor)
    solved = solved.T
    weight = attribute(pruned.module, consumer.weight)
    with torch.no_grad():
        if consumer.bias is not None:
            attribute(pruned.module, consumer.bias).copy_(solved[:, -1])
            solved = solved[:, :-1]
        weight.copy_(solved.reshape(weight.shape))


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

"""Reconstruction: least-squares weights for consumers that lost inputs, without labels or training.

For a consumer with inputs x (patches of them, for a convolution) and weights W, removing inputs leaves
the set S. The weights that reproduce the dense output best on the calibration data are

    W' = W G[:, S] (G[S, S] + damping)^-1,   G = sum of x x^T

(the layer-wise least-squares step of ZipLM and OSSCAR). G depends on the dense model only, so one pass
over the data serves every candidate of a search. With a bias, x gets a constant 1 and the bias follows.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch.fx import Interpreter, Node

from edgeprune.graph.capture import Captured
from edgeprune.graph.coupling import Coupling, Kept
from edgeprune.graph.depth import dead_nodes
from edgeprune.graph.fx import argument, attribute, op_name, tensor_uses

MAX_FEATURES = 8192  # a Gram matrix of 8192 x 8192 doubles is 512 MiB
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
        weight: Consumer(node.name, weight, bias, sums[node.name])
        for weight, (node, bias) in wanted.items()
        if node.name in sums
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


def _consumers(captured: Captured, coupling: Coupling) -> dict[str, tuple[Node, str | None]]:
    """Consumers: weight name -> (node, bias name); none whose weight or bias has another use, or is tied."""
    module = captured.module
    prunable = {
        (axis.parameter, axis.dim) for group in coupling.groups for axis in group.axes if axis.role == "in"
    }
    canonical = {id(attribute(module, name)): name for name in coupling.parameters}
    uses = tensor_uses(module)
    found: dict[str, tuple[Node, str | None]] = {}
    for node in module.graph.nodes:
        if node.op != "call_function" or op_name(node) not in _SOLVABLE:
            continue
        tensors = [node.args[1], argument(node, 2, "bias")]
        parts = [tensor for tensor in tensors if tensor is not None]
        if any(p.op != "get_attr" or uses[id(attribute(module, str(p.target)))] > 1 for p in parts):
            continue
        if op_name(node) != "aten.linear" and int(argument(node, 6, "groups", 1)) != 1:
            continue
        names = [canonical[id(attribute(module, str(part.target)))] for part in parts]
        weight, bias = names[0], names[1] if len(names) > 1 else None
        if (weight, 1) in prunable and attribute(module, weight)[0].numel() <= MAX_FEATURES:
            found[weight] = (node, bias)
    return found


_SOLVABLE = ("aten.linear", "aten.conv2d", "aten.conv1d")


class _GramCollector(Interpreter):
    """Interpreter that adds up x x^T at every consumer, of at most `most` rows x of a batch."""

    def __init__(self, captured: Captured, wanted: Mapping[str, tuple[Node, str | None]], most: int) -> None:
        super().__init__(captured.module)
        self._most = most
        self._wanted = dict(wanted.values())
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
        if op_name(node) == "aten.linear":
            return self._sampled(x.reshape(-1, x.shape[-1]), self._most)
        windows = _windows(node, x, self.env[argument(node, 1, "weight")].shape[2:])
        positions = windows.shape[2 : 2 + (windows.dim() - 2) // 2]
        quota = -(-self._most // len(x))
        if positions.numel() <= quota:
            return windows.movedim(1, 1 + len(positions)).flatten(0, len(positions)).flatten(1)
        # The chosen patches alone: all of a batch of large images would take gigabytes.
        images = []
        for image in windows:
            places = torch.unravel_index(self._chosen(positions.numel(), quota), positions)
            images.append(image[(slice(None), *places)].movedim(0, 1).flatten(1))
        return torch.cat(images)

    def _sampled(self, rows: torch.Tensor, most: int) -> torch.Tensor:
        return rows if len(rows) <= most else rows[self._chosen(len(rows), most)]

    def _chosen(self, count: int, most: int) -> torch.Tensor:
        return torch.randperm(count, generator=self._generator)[:most]


def _windows(node: Node, x: torch.Tensor, kernel: Sequence[int]) -> torch.Tensor:
    """Patches of a convolution's input as a view, [B, I, *positions, *kernel]."""
    space = len(kernel)
    stride = _each(argument(node, 3, "stride", 1), space)
    dilation = _each(argument(node, 5, "dilation", 1), space)
    x = F.pad(x, _margins(argument(node, 4, "padding", 0), kernel, dilation))
    for dim, (size, step, reach) in enumerate(zip(kernel, stride, dilation, strict=True), start=2):
        x = x.unfold(dim, reach * (size - 1) + 1, step)
    inside: tuple[Any, ...] = tuple(slice(None, None, reach) for reach in dilation)
    return x[(..., *inside)]


def _margins(padding: Any, kernel: Sequence[int], dilation: Sequence[int]) -> list[int]:
    """Padding as `F.pad` takes it: (before, after) of each dimension, the last one first."""
    if padding == "valid":
        return [0, 0] * len(kernel)
    if padding == "same":  # an odd position goes after
        totals = [reach * (size - 1) for size, reach in zip(kernel, dilation, strict=True)]
        return [side for total in reversed(totals) for side in (total // 2, total - total // 2)]
    return [side for side in reversed(_each(padding, len(kernel))) for _ in range(2)]


def _each(value: Any, space: int) -> list[int]:
    """Argument of a convolution as one number per dimension."""
    values = list(value) if isinstance(value, list | tuple) else [int(value)]
    return values * space if len(values) == 1 else values

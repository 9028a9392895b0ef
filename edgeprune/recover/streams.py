"""Residual streams that both networks have whole: their values are compared while the smaller one trains.

Feature distillation (Romero et al. 2015, "FitNets") without extra layers: only sums whose shapes are the same
in both graphs, and that are made of the same weights, are compared.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch.fx import Node

from edgeprune.graph.capture import Captured
from edgeprune.graph.fx import concrete, op_name
from edgeprune.graph.moving import device_of

_TINY = 1e-12
LARGEST_IN_STREAM = 1e4  # a larger value is a mask's, which stands for minus infinity


@dataclass
class Streams:
    """Values of the streams in the last run of each network."""

    student: list[torch.Tensor] = field(default_factory=list)
    teacher: list[torch.Tensor] = field(default_factory=list)

    def distance(self) -> torch.Tensor:
        """Squared error relative to the teacher's variance, a mean over the streams. Forgets the values."""
        rows = zip(self.student, self.teacher, strict=True)
        errors = [F.mse_loss(ours, theirs) / theirs.var().clamp_min(_TINY) for ours, theirs in rows]
        self.student.clear()
        self.teacher.clear()
        return torch.stack(errors).mean()


def whole_streams(student: Captured, teacher: Captured) -> tuple[str, ...]:
    """Names of the sums of two floating-point tensors that have the same shape in both graphs.

    Both addends depend on inputs and on weights, and the sum is moderate for the teacher's example: masks and
    biases of attention are no stream. A name may have moved to another sum where branches were dropped, so
    the weights that the student's depends on must be among those of the teacher's.
    """
    ours, theirs = (_sums(captured) for captured in (student, teacher))
    names = tuple(
        name
        for name, (shape, weights) in ours.items()
        if name in theirs and shape == theirs[name][0] and weights <= theirs[name][1]
    )
    values: list[torch.Tensor] = []
    example = tuple(tensor.to(device_of(teacher.module)) for tensor in teacher.inputs)
    with torch.no_grad(), _kept(teacher, names, values):
        teacher.run(*next(iter(teacher.queries(example))))
    rows = zip(_in_order(teacher, names), values, strict=True)
    # False for NaN, too.
    moderate = {name for name, value in rows if float(value.abs().max()) < LARGEST_IN_STREAM}
    return tuple(name for name in names if name in moderate)


def _in_order(captured: Captured, names: tuple[str, ...]) -> list[str]:
    return [node.name for node in captured.module.graph.nodes if node.name in names]


@contextmanager
def observed(student: Captured, teacher: Captured, names: tuple[str, ...]) -> Iterator[Streams]:
    """Context in which each run of the two graphs leaves its values of the nodes `names`."""
    streams = Streams()
    with _kept(student, names, streams.student), _kept(teacher, names, streams.teacher):
        yield streams


@contextmanager
def _kept(captured: Captured, names: tuple[str, ...], values: list[torch.Tensor]) -> Iterator[None]:
    graph = captured.module.graph

    def keep_stream(value: torch.Tensor) -> None:
        values.append(value)

    added = []
    for node in [node for node in graph.nodes if node.name in names]:
        with graph.inserting_after(node):
            added.append(graph.call_function(keep_stream, (node,)))
    captured.module.recompile()
    try:
        yield
    finally:
        for node in added:
            graph.erase_node(node)
        captured.module.recompile()


def _sums(captured: Captured) -> dict[str, tuple[tuple[int, ...], frozenset[str]]]:
    """Shape without the batch, and the weights before it, of each sum by the name of its node."""
    before: dict[Node, frozenset[str]] = {}
    fed: set[Node] = set()  # nodes that depend on an input
    found = {}
    for node in captured.module.graph.nodes:
        own = {str(node.target)} if node.op == "get_attr" else set()
        before[node] = frozenset(own.union(*(before[each] for each in node.all_input_nodes)))
        if node.op == "placeholder" or fed.intersection(node.all_input_nodes):
            fed.add(node)
        value = node.meta.get("val")
        if not isinstance(value, torch.Tensor) or not value.is_floating_point() or value.dim() < 2:
            continue
        addends = node.all_input_nodes
        whole = len(addends) == 2 and all(each in fed and before[each] for each in addends)
        if op_name(node) in ("aten.add", "aten.add_") and whole:
            found[node.name] = (tuple(map(concrete, value.shape[1:])), before[node])
    return found

"""Module of an exported graph, which holds its mode and its device as arguments of its operations."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch.fx import GraphModule, Node

from edgeprune.graph.fx import op_name, set_argument
from edgeprune.graph.moving import device_of, put_operations
from edgeprune.graph.one_row import row_by_row, takes_one_row

_SWITCHES = ("train", "training", "use_input_stats")  # names of the arguments in torch's schemas
_STATISTICS = ("aten.batch_norm", "aten.instance_norm")
# A BatchNorm with momentum None averages over all batches; a graph that was exported in evaluation mode has
# 0.0 there and counts no batches, so while it trains it has torch's default.
_AVERAGED, _MOMENTUM = 0.0, 0.1
_MARK = "edgeprune.mode"  # in node.meta: the arguments that evaluation mode needs back


class TrainableGraph(GraphModule):
    """Graph module whose `train()` and `eval()` switch dropout and BatchNorm, as those of any nn.Module, and
    which is moved as a whole by `to()`, `cuda()` and `cpu()`.

    Only what the graph holds is switched: what a model does in training alone by its Python code, such as
    dropping whole paths, left no operation, and fused attention has no dropout. A graph that takes one row
    answers several one by one; its BatchNorm keeps its running statistics, for one row has none.
    """

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        call = super().__call__
        if takes_one_row(self.graph):
            return row_by_row(call, args, kwargs)
        return call(*args, **kwargs)

    def train(self, mode: bool = True) -> TrainableGraph:
        kept = _STATISTICS if takes_one_row(self.graph) else ()
        nodes = [
            node for node in self.graph.nodes if node.op == "call_function" and op_name(node) not in kept
        ]
        changed = [_switched(node, mode) for node in nodes]
        if any(changed):
            self.recompile()
        super().train(mode)
        return self

    def _apply(self, fn: Callable[[torch.Tensor], torch.Tensor], recurse: bool = True) -> TrainableGraph:
        """Every move and conversion of a module comes by here."""
        goes_to = fn(torch.empty(1, device=device_of(self))).device
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        put_operations(self, goes_to)
        return self


def trains(node: Node) -> bool:
    """Whether an operation behaves as it does in training: noise, or the statistics of its own batch.

    A norm without running statistics has no other behaviour, whatever its switch says.
    """
    found = _switch(node)
    return found is not None and _value(node, *found) is True and not _always(node)


def _switched(node: Node, mode: bool) -> bool:
    """Set an operation's arguments for a mode; whether that changed any."""
    before = node.meta.get(_MARK)
    if not mode:
        for place, name, value in node.meta.pop(_MARK, ()):
            set_argument(node, place, name, value)
        return before is not None
    found = _switch(node)
    if before is not None or found is None or _value(node, *found) is True:
        return False
    marked: list[tuple[int, str, object]] = [(*found, False)]
    if op_name(node) in _STATISTICS:
        at = [argument.name for argument in _arguments(node)].index("momentum")
        if _value(node, at, "momentum") == _AVERAGED:
            marked.append((at, "momentum", _AVERAGED))
            set_argument(node, at, "momentum", _MOMENTUM)
    set_argument(node, *found, True)
    node.meta[_MARK] = tuple(marked)
    return True


def _switch(node: Node) -> tuple[int, str] | None:
    """Place and name of the argument that says whether an operation trains."""
    for place, argument in enumerate(_arguments(node)):
        if argument.name in _SWITCHES:
            return place, argument.name
    return None


def _always(node: Node) -> bool:
    return op_name(node) in _STATISTICS and node.args[3] is None


def _arguments(node: Node) -> list[torch.Argument]:
    schema = getattr(node.target, "_schema", None)
    return list(schema.arguments) if schema is not None else []


def _value(node: Node, place: int, name: str) -> object:
    return node.args[place] if place < len(node.args) else node.kwargs.get(name)

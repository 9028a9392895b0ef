"""What leaves with a residual branch: groups and parameters that nothing else reads, nodes of a file."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import onnx
from torch.fx import GraphModule

from edgeprune.graph import onnxfile
from edgeprune.graph.coupling import Coupling
from edgeprune.graph.depth import Branch, dead_nodes, stream_of
from edgeprune.graph.fx import attribute


@dataclass(frozen=True)
class Holding:
    """Names of what is gone when this branch alone is.

    nodes: of the captured graph. groups: those of which every parameter is gone.
    """

    nodes: frozenset[str]
    parameters: frozenset[str]
    groups: frozenset[str]


def holdings(module: GraphModule, coupling: Coupling) -> Mapping[str, Holding]:
    """Branch name -> what it holds."""
    return {branch.name: _holding(module, coupling, (branch,)) for branch in coupling.branches}


def groups_without_use(module: GraphModule, coupling: Coupling, dropped: Iterable[Branch]) -> frozenset[str]:
    """Groups of which nothing is left when these branches are gone together."""
    return _holding(module, coupling, tuple(dropped)).groups


def _holding(module: GraphModule, coupling: Coupling, dropped: tuple[Branch, ...]) -> Holding:
    dead = dead_nodes(module.graph, dropped)
    readers: dict[int, set[str]] = {}  # a tied parameter has several names
    for node in module.graph.nodes:
        if node.op == "get_attr":
            readers.setdefault(id(attribute(module, str(node.target))), set()).add(node.name)
    gone = frozenset(
        name for name in coupling.parameters if readers.get(id(attribute(module, name)), {""}) <= dead
    )
    groups = frozenset(
        group.name for group in coupling.groups if all(axis.parameter in gone for axis in group.axes)
    )
    return Holding(dead, gone, groups)


def held_nodes(
    model: onnx.ModelProto, module: GraphModule, branches: Iterable[Branch]
) -> Mapping[str, frozenset[str]]:
    """Branch name -> names of the ONNX nodes that feed no output once it is gone.

    A branch whose addition is no node of its own in the file holds none: it would seem to cost nothing.
    """
    captured = onnxfile.captured_names(model)
    makers = {value: node for node in model.graph.node for value in node.output}
    additions = {node.name: node for node in module.graph.nodes}
    whole = _live(model, makers, {})
    found = {}
    for branch in branches:
        add = next((makers[v] for v, name in captured.items() if name == branch.add and v in makers), None)
        if add is None or add.op_type != "Add":
            found[branch.name] = frozenset[str]()
            continue
        stream = stream_of(additions[branch.add], branch).name
        skip = next((value for value in add.input if captured.get(value) == stream), add.input[branch.skip])
        found[branch.name] = whole - _live(model, makers, {add.name: skip})
    return found


def _live(
    model: onnx.ModelProto, makers: Mapping[str, onnx.NodeProto], instead: Mapping[str, str]
) -> frozenset[str]:
    """Names of the nodes that the outputs need; `instead`: node -> the input that is read in its place."""
    live: set[str] = set()
    open_ = [value.name for value in model.graph.output]
    while open_:
        node = makers.get(open_.pop())
        if node is None or node.name in live:
            continue
        live.add(node.name)
        inner = [name for graph in onnxfile.inner_graphs(node) for each in graph.node for name in each.input]
        open_ += [instead[node.name]] if node.name in instead else [*node.input, *inner]
    return frozenset(live - instead.keys())

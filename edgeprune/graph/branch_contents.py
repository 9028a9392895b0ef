"""Contents of a residual branch: the nodes, parameters and groups that nothing else reads."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import onnx
from torch.fx import GraphModule

from edgeprune.graph import onnxfile
from edgeprune.graph.coupling import Coupling
from edgeprune.graph.depth import Branch, dead_nodes, stream_of
from edgeprune.graph.fx import attribute, tensor_readers


@dataclass(frozen=True)
class BranchContents:
    """Names of the nodes, parameters and groups that disappear when one branch is dropped.

    nodes: of the captured graph. groups: those of which every parameter disappears.
    """

    nodes: frozenset[str]
    parameters: frozenset[str]
    groups: frozenset[str]


def branch_contents(module: GraphModule, coupling: Coupling) -> Mapping[str, BranchContents]:
    """Contents of every branch, by the branch's name."""
    return {branch.name: _contents(module, coupling, (branch,)) for branch in coupling.branches}


def groups_without_use(module: GraphModule, coupling: Coupling, dropped: Iterable[Branch]) -> frozenset[str]:
    """Groups of which every parameter disappears when these branches are dropped together."""
    return _contents(module, coupling, tuple(dropped)).groups


def _contents(module: GraphModule, coupling: Coupling, dropped: tuple[Branch, ...]) -> BranchContents:
    dead = dead_nodes(module.graph, dropped)
    readers = tensor_readers(module)
    gone = frozenset(
        name for name in coupling.parameters if readers.get(id(attribute(module, name)), {""}) <= dead
    )
    groups = frozenset(
        group.name for group in coupling.groups if all(axis.parameter in gone for axis in group.axes)
    )
    return BranchContents(dead, gone, groups)


def branch_nodes(
    model: onnx.ModelProto, module: GraphModule, branches: Iterable[Branch]
) -> Mapping[str, frozenset[str]]:
    """Names of the ONNX nodes that feed no output once a branch is dropped, by the branch's name.

    A branch whose addition is no node of its own in the file has none, so its latency counts as zero.
    """
    captured = onnxfile.captured_names(model)
    makers = {value: node for node in model.graph.node for value in node.output}
    additions = {node.name: node for node in module.graph.nodes}
    whole = {node.name for node in onnxfile.live_nodes(model.graph)}
    found = {}
    for branch in branches:
        add = next((makers[v] for v, name in captured.items() if name == branch.add and v in makers), None)
        if add is None or add.op_type != "Add":
            found[branch.name] = frozenset[str]()
            continue
        stream = stream_of(additions[branch.add], branch).name
        skip = next((value for value in add.input if captured.get(value) == stream), add.input[branch.skip])
        left = {node.name for node in onnxfile.live_nodes(model.graph, {add.name: skip})}
        found[branch.name] = frozenset(whole - left | {add.name})
    return found

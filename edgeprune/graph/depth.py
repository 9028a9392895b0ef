"""Residual branches that can be dropped whole: depth pruning.

In `x + f(x)` the branch f can be dropped: later operations read x. The result is exactly the dense model with
f's output at zero, whatever f computes. A branch is found from the graph alone:

- an addition of two tensors of the shape of the sum
- one operand, the *skip*, is the input of the other operand (or a sum with that input as a term, as in
  x + attention(x) + mlp(x))
- some weight is read by nothing but the other operand, the *branch*
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass

import torch
from torch.fx import Graph, GraphModule, Node

from edgeprune.graph.fx import attribute, concrete, module_name, op_name, owner_of
from edgeprune.graph.memory import writers, writes

_ADDITIONS = ("aten.add", "aten.add_")


@dataclass(frozen=True)
class Branch:
    """A residual branch, identified by the addition that ends the branch.

    add: name of the addition; skip: position of the skip among the addition's two arguments.
    parameters: qualified names of the weights that are removed when this branch alone is dropped.
    """

    name: str
    add: str
    skip: int
    parameters: tuple[str, ...]


def find_branches(module: GraphModule) -> tuple[Branch, ...]:
    """Branches of a captured graph, in the order of their additions."""
    graph = module.graph
    ancestors = _ancestors(graph)
    found: list[Branch] = []
    for node in graph.nodes:
        if not _adds_alike(node):
            continue
        for skip in (0, 1):
            stream, branch = node.args[skip], node.args[1 - skip]
            if not any(ancestors[branch] >> place & 1 for place in _terms(stream, ancestors)):
                continue
            weights = _own_weights(module, graph, Branch("", node.name, skip, ()))
            if weights:
                name = f"branch:{module_name(weights[-1])}"
                taken = sum(each.name.partition("#")[0] == name for each in found)
                name += f"#{taken + 1}" * bool(taken)
                found.append(Branch(name, node.name, skip, weights))
                break
    return tuple(found)


def dead_nodes(graph: Graph, dropped: Collection[Branch]) -> frozenset[str]:
    """Names of the nodes that feed an output only through the dropped branches."""
    if not dropped:
        return frozenset()
    return _live(graph, {}) - _live(graph, {branch.add: branch for branch in dropped})


def drop_branches(module: GraphModule, dropped: Collection[Branch]) -> None:
    """Drop branches in place: later operations read the skips, and nodes that nothing reads are removed."""
    if not dropped:
        return
    graph = module.graph
    dead = dead_nodes(graph, dropped)
    nodes = {node.name: node for node in graph.nodes}
    # An in-place operation behind the branch would write into the skip, which other nodes may read.
    guarded = any(writes(node) for node in graph.nodes)
    for branch in dropped:
        node = nodes[branch.add]
        stream = stream_of(node, branch)
        if guarded:
            with graph.inserting_before(node):
                stream = graph.call_function(torch.ops.aten.clone.default, (stream,))
            stream.meta = dict(node.meta)
        node.replace_all_uses_with(stream)
    before = _read(graph)
    for node in reversed(graph.nodes):
        gone = node.name in dead or any(value.name in dead for value in node.all_input_nodes)
        if gone and not node.users:
            graph.erase_node(node)
    for name in before - _read(graph):
        delattr(*owner_of(module, name))


def stream_of(add: Node, branch: Branch) -> Node:
    """The skip of a branch, which takes the place of the branch's addition `add`."""
    stream = add.args[branch.skip]
    if not isinstance(stream, Node):
        raise TypeError(f"{add.name} adds {stream!r}, not the result of an operation")
    return stream


def _adds_alike(node: Node) -> bool:
    """Whether a node adds two float tensors of the sum's shape, neither of them scaled by `alpha`."""
    if node.op != "call_function" or op_name(node) not in _ADDITIONS or len(node.args) != 2:
        return False
    if node.kwargs.get("alpha", 1) != 1:
        return False
    found = [value.meta.get("val") for value in (node, *node.args) if isinstance(value, Node)]
    tensors = [value for value in found if isinstance(value, torch.Tensor) and value.is_floating_point()]
    kinds = {(tensor.dtype, *(concrete(size) for size in tensor.shape)) for tensor in tensors}
    return len(tensors) == 3 and len(kinds) == 1


def _ancestors(graph: Graph) -> Mapping[Node, int]:
    """For every node a bit set of the nodes that the node was computed from, itself included."""
    found: dict[Node, int] = {}
    for place, node in enumerate(graph.nodes):
        bits = 1 << place
        for value in node.all_input_nodes:
            bits |= found[value]
        found[node] = bits
    return found


def _terms(node: Node, ancestors: Mapping[Node, int]) -> list[int]:
    """Places in the graph of a sum's terms, the partial sums included."""
    terms, open_ = [], [node]
    while open_:
        node = open_.pop()
        terms.append(ancestors[node].bit_length() - 1)
        if _adds_alike(node):
            open_.extend(node.all_input_nodes)
    return terms


def _own_weights(module: GraphModule, graph: Graph, branch: Branch) -> tuple[str, ...]:
    """Names of the matrices and filters that only this branch reads, in the graph's order of use."""
    dead = dead_nodes(graph, [branch])
    found: dict[str, None] = {}
    for node in graph.nodes:
        if node.name in dead and node.op == "call_function":
            for value in node.all_input_nodes:
                if value.op == "get_attr" and value.name in dead:
                    tensor = attribute(module, str(value.target))
                    if isinstance(tensor, torch.nn.Parameter) and tensor.dim() > 1:
                        found[str(value.target)] = None
    return tuple(found)


def _live(graph: Graph, dropped: Mapping[str, Branch]) -> frozenset[str]:
    live: set[Node] = set()
    writing = writers(graph)
    open_ = [node for node in graph.nodes if node.op in ("placeholder", "output")]
    while open_:
        node = open_.pop()
        if node in live:
            continue
        live.add(node)
        branch = dropped.get(node.name)
        open_.extend(writing.get(node, ()))  # a branch may write into what others read
        open_.extend(node.all_input_nodes if branch is None else [stream_of(node, branch)])
    return frozenset(node.name for node in live if node.name not in dropped)


def _read(graph: Graph) -> set[str]:
    return {str(node.target) for node in graph.nodes if node.op == "get_attr"}

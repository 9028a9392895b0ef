"""Values of a graph that may share memory, so that an operation in place on one changes the other.

A write through a view reaches all who read the same memory. Whether `contiguous`, `reshape` and their like
give a view or a copy depends on the strides, and those of a dimension of size 1 tell nothing: where a cut
leaves a single position, what was a copy may become a view, and the other way round.
"""

from __future__ import annotations

import operator
from collections.abc import Iterator, Mapping

import torch
from torch.fx import Graph, Node
from torch.utils import _pytree as pytree

from edgeprune.graph.fx import argument, aten, op_name

# In evaluation mode, or where nothing is to be done, these return an argument itself; no schema says so.
_MAY_RETURN_AN_ARGUMENT = frozenset(
    aten("dropout feature_dropout alpha_dropout feature_alpha_dropout type_as einsum")
)
_VIEW_OR_COPY = frozenset(aten("contiguous reshape view flatten ravel reshape_as view_as"))


def writes(node: Node) -> bool:
    """Whether an operation works in place."""
    target = node.target
    return isinstance(target, torch._ops.OpOverload) and target._schema.is_mutable


def memory_of(node: Node) -> tuple[Node, ...]:
    """Arguments whose memory a node's value may be, or be a part of."""
    target = node.target
    if target is operator.getitem or op_name(node) in _MAY_RETURN_AN_ARGUMENT:
        return tuple(node.all_input_nodes)
    if not isinstance(target, torch._ops.OpOverload):
        return ()
    declared = enumerate(target._schema.arguments)
    shared = [argument(node, place, each.name) for place, each in declared if each.alias_info is not None]
    return tuple(value for value in pytree.tree_leaves(shared) if isinstance(value, Node))


def writers(graph: Graph) -> Mapping[Node, list[Node]]:
    """Nodes whose memory some operation writes into, with all operations that do, in the graph's order."""
    found = [node for node in graph.nodes if writes(node)]
    if not found:
        return {}
    families = _families(graph)
    by_family: dict[Node, list[Node]] = {}
    for node in found:
        for family in {families[value] for value in memory_of(node)}:
            by_family.setdefault(family, []).append(node)
    return {node: by_family[family] for node, family in families.items() if family in by_family}


def fragile(graph: Graph) -> Iterator[Node]:
    """Nodes whose value must stay a view, or a copy, of their argument's, lest others read something else.

    These are views or copies by their strides, in front of a write to either side, whose argument's memory is
    read by others too.
    """
    for node, found in writers(graph).items():
        if op_name(node) in _VIEW_OR_COPY and node < found[-1] and _is_shared(node):
            yield node


def _families(graph: Graph) -> Mapping[Node, Node]:
    """For every node the first one of those that may share memory with it."""
    found: dict[Node, Node] = {}
    for node in graph.nodes:
        first, *others = dict.fromkeys(found[value] for value in memory_of(node)) or [node]
        found[node] = first
        if others:
            found.update((each, first) for each, family in found.items() if family in others)
    return found


def _is_shared(node: Node) -> bool:
    """Whether others read the memory of a node's argument, or of what that is a view of."""
    open_ = list(memory_of(node))
    while open_:
        value = open_.pop()
        if len(value.users) > 1 or value.op in ("placeholder", "get_attr"):
            return True
        open_ += memory_of(value)
    return False

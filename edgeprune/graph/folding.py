"""Folding of weights that an evaluated model computes from its parameters alone.

Spectral and weight norm, standardised and re-parametrised weights, attached masks and merged low-rank
updates reach a layer through arithmetic on parameters. In evaluation mode its result is a constant, the
weight that the layer multiplies with. It becomes the parameter, so that everything that asks for a layer's
weight (units and their importance, least squares, INT8, training) sees the one that counts, and a unit that
is removed does not change the weights of those that stay, as it would through a norm.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch.fx import Graph, GraphModule, Node
from torch.fx.node import map_arg

from edgeprune.graph.fx import aten, attribute, is_pointwise, op_name, owner_of
from edgeprune.graph.memory import writers

# Operations that only move, choose or join values: followed position by position, and nothing is gained.
_MOVING = frozenset(
    aten(
        "t transpose permute view reshape unsqueeze squeeze flatten unflatten expand contiguous clone detach"
        " alias to _to_copy slice select narrow split chunk unbind cat stack index index_select embedding"
        " repeat repeat_interleave movedim lift_fresh_copy view_as reshape_as expand_as"
    )
)
# Operations that multiply with a weight: of these even a weight that is computed value by value is folded.
_LAYERS = frozenset(
    aten(
        "linear conv1d conv2d conv3d conv_transpose1d conv_transpose2d conv_transpose3d matmul mm bmm addmm"
        " baddbmm einsum embedding _grouped_mm lstm gru rnn_tanh rnn_relu"
    )
)
_PARAMETRISED = re.compile(r"(^|\.)parametrizations\.(\w+)\.original\d*$")
# Endings of the names that torch.nn.utils gives a weight's source, and those of what lies beside it.
_ENDINGS = (("_orig", "_mask"), ("_orig", "_u"), ("_v", "_g"))


def fold_weights(module: GraphModule) -> None:
    """Replace computed weights in place by parameters of their values.

    A weight is folded where arithmetic on trainable parameters gives it, and where it has no more elements
    than the parameters that then leave: what is made of few stays so, and tied parameters stay tied.
    """
    graph = module.graph
    computed = _computed(module)
    if not any(node.op == "call_function" for node in computed):
        return
    _unite_alike(graph, computed)
    behind = {weight: _behind(weight, computed) for weight in _weights(graph, computed)}
    leaving = set().union(*behind.values())
    alone = {id(tensor): tensor.numel() for tensor in _read_by(module, leaving)}
    folded = []
    for weight, nodes in behind.items():
        room = sum(alone.get(key, 0) for key in {id(tensor) for tensor in _trainable(module, nodes)})
        if _is_arithmetic(weight, nodes) and weight.meta["val"].numel() <= room:
            folded.append((weight, nodes, *_parameter(module, nodes)))
    for weight, nodes, name, parameter in folded:
        with graph.inserting_before(nodes[0]):
            node = graph.create_node("get_attr", name, name=name.replace(".", "_"))
        node.meta = dict(weight.meta)
        weight.replace_all_uses_with(node)
        _drop_unread(module, nodes, node)
        while name in _read(graph, node):
            name += "_folded"
        node.target = name
        owner, leaf = owner_of(module, name)
        owner.register_parameter(leaf, parameter)
    if folded:
        module.recompile()


def _computed(module: GraphModule) -> frozenset[Node]:
    """Nodes that compute from stored tensors alone, always the same and changing nothing."""
    found: set[Node] = set()
    changed = writers(module.graph)
    for node in module.graph.nodes:
        target: Any = node.target
        if node in changed:
            continue
        if node.op == "get_attr":
            if isinstance(attribute(module, str(target)), torch.Tensor):
                found.add(node)
        elif isinstance(target, torch._ops.OpOverload) and found.issuperset(node.all_input_nodes):
            draws = torch.Tag.nondeterministic_seeded in target.tags
            if not draws and isinstance(node.meta.get("val"), torch.Tensor):
                found.add(node)
    return frozenset(found)


def _unite_alike(graph: Graph, computed: Iterable[Node]) -> None:
    """Let nodes that compute the same read one of them: a layer that is used twice has one weight."""
    first: dict[Any, Node] = {}
    for node in [node for node in graph.nodes if node in computed]:
        key = (node.target, repr((node.args, node.kwargs)))
        known = first.setdefault(key, node)
        if known is not node:
            node.replace_all_uses_with(known)
            graph.erase_node(node)


def _weights(graph: Graph, computed: frozenset[Node]) -> list[Node]:
    """Computed floats that the rest of the graph reads."""
    return [
        node
        for node in graph.nodes
        if node.op == "call_function"
        and node in computed
        and node.meta["val"].is_floating_point()
        and any(user not in computed and user.op != "output" for user in node.users)
    ]


def _behind(weight: Node, computed: frozenset[Node]) -> list[Node]:
    """Nodes that a weight is computed by, in the graph's order: stored tensors first, the weight last."""
    found, open_ = {weight}, [weight]
    while open_:
        new = {node for node in open_.pop().all_input_nodes if node in computed} - found
        found |= new
        open_ += new
    return sorted(found)


def _trainable(module: GraphModule, nodes: Iterable[Node]) -> list[torch.nn.Parameter]:
    stored = [attribute(module, str(node.target)) for node in nodes if node.op == "get_attr"]
    return [each for each in stored if isinstance(each, torch.nn.Parameter) and each.is_floating_point()]


def _read_by(module: GraphModule, nodes: set[Node]) -> list[torch.nn.Parameter]:
    """Trainable parameters that no other node reads, under any of their names."""
    others = {
        id(attribute(module, str(node.target)))
        for node in module.graph.nodes
        if node.op == "get_attr" and not nodes.issuperset(node.users)
    }
    return [each for each in _trainable(module, nodes) if id(each) not in others]


def _is_arithmetic(weight: Node, nodes: Sequence[Node]) -> bool:
    """Whether more is done than move values; value by value alone counts only where a layer multiplies."""
    steps = [node for node in nodes if node.op == "call_function" and op_name(node) not in _MOVING]
    multiplied = any(user.op == "call_function" and op_name(user) in _LAYERS for user in weight.users)
    return bool(steps) and (multiplied or not all(is_pointwise(node) for node in steps))


def _parameter(module: GraphModule, nodes: Sequence[Node]) -> tuple[str, torch.nn.Parameter]:
    """Parameter of a computed weight's value, and the name of the layer's weight."""
    values: dict[Node, torch.Tensor] = {}
    with torch.no_grad():
        for node in nodes:
            target: Any = node.target
            if node.op == "get_attr":
                values[node] = attribute(module, str(target)).detach()
            else:
                args, kwargs = map_arg((node.args, node.kwargs), values.__getitem__)
                values[node] = target(*args, **kwargs)
    sources = _trainable(module, nodes)
    parameter = torch.nn.Parameter(
        values[nodes[-1]].clone(memory_format=torch.contiguous_format),
        requires_grad=any(source.requires_grad for source in sources),
    )
    largest = max(sources, key=torch.Tensor.numel)
    names = [str(node.target) for node in nodes if node.op == "get_attr"]
    name = next(name for name in names if attribute(module, name) is largest)
    plain = _PARAMETRISED.sub(r"\1\2", name)
    for ending, beside in _ENDINGS:
        if plain.endswith(ending) and plain.removesuffix(ending) + beside in names:
            plain = plain.removesuffix(ending)
    return plain, parameter


def _drop_unread(module: GraphModule, nodes: Sequence[Node], but: Node) -> None:
    """Erase those of some nodes that nothing reads, with the stored tensors that only they read."""
    names = set()
    left = set(module.graph.nodes)  # without those that went with another weight
    for node in reversed(nodes):
        if node in left and not node.users:
            module.graph.erase_node(node)
            names |= {str(node.target)} if node.op == "get_attr" else set()
    for name in names - _read(module.graph, but):
        delattr(*owner_of(module, name))


def _read(graph: Graph, but: Node | None = None) -> set[str]:
    return {str(node.target) for node in graph.nodes if node.op == "get_attr" and node is not but}

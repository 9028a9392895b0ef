"""Coupling rules of recurrent layers; a hidden unit is removed with its gates and its feedback weights."""

from __future__ import annotations

from typing import Any

import numpy as np
from torch.fx import Graph, Node

from edgeprune.graph.blocks import Block, Blocks, Ids
from edgeprune.graph.fx import op_name
from edgeprune.graph.rules import rule
from edgeprune.graph.walk import Walk

_GATES = {"aten.lstm": 4, "aten.gru": 3, "aten.rnn_tanh": 1, "aten.rnn_relu": 1}


def recurrent_modules(graph: Graph) -> frozenset[str]:
    """Qualified names of the LSTM, GRU and RNN modules of a captured graph."""
    found: list[Any] = [node.args[2] for node in graph.nodes if op_name(node) in _GATES]
    return frozenset(str(weights[0].target).rpartition(".")[0] for weights in found)


@rule(*_GATES)
def recurrent(walk: Walk, node: Node) -> list[Blocks]:
    """LSTM, GRU, RNN: x [.., I]; state [cells, B, H]; cell weights [gates * H, I], [gates * H, H], biases.

    The final states of all cells (layers, and directions within layers) are stacked in one tensor, so all
    cells have the same hidden units. A unit whose weights are zero keeps its initial state of zero.
    """
    name = op_name(node)
    arguments: Any = node.args
    x, states, weights, biased = arguments[:4]
    directions = 2 if arguments[7] else 1
    tensors = 4 if biased else 2
    states = [states] if isinstance(states, Node) else list(states)
    size = walk.shape(weights[1])[-1]
    followed = [*states, *weights]
    if len(weights) % tensors or not all(_tracked(walk, value) for value in followed):
        for value in (x, *followed):
            walk.freeze(node, name, "its weights or states cannot be cut", walk.all_blocks(value))
        return [()] * (1 + len(states))
    hidden = walk.book.fresh(size)
    for state in states:
        walk.book.unite(_side(walk, state, 2), hidden)
    last = len(walk.shape(x)) - 1
    output = np.tile(hidden, directions)
    entering = _width(walk, node, x, last)
    for cell, start in enumerate(range(0, len(weights), tensors)):
        into, back, *biases = weights[start : start + tensors]
        for weight in (into, back, *biases):
            walk.book.unite(_side(walk, weight, 0).reshape(_GATES[name], size), hidden)
        walk.consumed.extend([_side(walk, into, 1), _side(walk, back, 1)])
        walk.book.unite(_side(walk, back, 1), hidden)
        before = entering if cell < directions else output
        if before is None:
            walk.book.freeze(_side(walk, into, 1), node.name, name, "its inputs cannot be cut")
        else:
            walk.book.unite(_side(walk, into, 1), before)
    return [(Block((last,), output),), *[(Block((2,), hidden),)] * len(states)]


def _width(walk: Walk, node: Node, x: Node, last: int) -> Ids | None:
    """Atoms of the input's width; steps and batch are closed."""
    blocks = walk.blocks(x)
    for dim in range(last):
        blocks = walk.close(node, blocks, dim, "the layer runs over this dimension")
    return next((block.ids for block in blocks), None)


def _side(walk: Walk, value: Node, dim: int) -> Ids:
    return next(block.ids for block in walk.blocks(value) if block.dims == (dim,))


def _tracked(walk: Walk, value: Node) -> bool:
    """Whether every dimension of a weight, or the width of a state, has a block of its own."""
    rank = len(walk.shape(value))
    wanted = {2} if rank == 3 else set(range(rank))
    return wanted <= {block.dims[0] for block in walk.blocks(value) if len(block.dims) == 1}

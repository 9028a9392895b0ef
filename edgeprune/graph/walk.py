"""Walk over the graph that carries blocks from parameters to outputs, by the rule of every operation."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch.fx import GraphModule, Node

from edgeprune.graph.blocks import Block, Blocks, Book, Ids, Operand, merge, project, reshape
from edgeprune.graph.fx import attribute, concrete, op_name, shape_of

# Operations that may lie between a parameter and the operation that multiplies with the parameter.
_MOVING = (
    *("aten.t", "aten.transpose", "aten.permute", "aten.view", "aten.reshape", "aten.unsqueeze"),
    "aten._weight_norm",
)

Rule = Callable[["Walk", Node], Any]


@dataclass(frozen=True)
class ParameterUse:
    """A parameter or buffer, with one atom per index of every dimension longer than 1."""

    name: str  # qualified name of the first alias
    shape: tuple[int, ...]
    atoms: tuple[Ids | None, ...]
    trainable: bool


class Walk:
    """State of one pass over a graph, from which rules read blocks and in which rules record unions.

    inner: names of nodes at which a joint block keeps its innermost dimension (head-dimension pruning)
        instead of its outermost (whole heads).
    """

    def __init__(self, module: GraphModule, inner: frozenset[str] = frozenset()) -> None:
        self.module = module
        self.book = Book()
        self.inner = inner
        self.values: dict[Node, Any] = {}
        self.parameters: dict[str, ParameterUse] = {}
        self.consumed: list[Ids] = []  # atoms that an operation sums over (weights' input side)
        self.normed: list[tuple[Ids, Node]] = []  # atoms whose number enters a statistic
        self.taken: list[tuple[Ids, int]] = []  # atoms of which an operation takes the best so many
        self.unknown: set[str] = set()
        self._by_tensor: dict[int, ParameterUse] = {}

    def run(self, rules: Mapping[str, Rule]) -> None:
        for node in self.module.graph.nodes:
            if node.op == "get_attr":
                self.values[node] = self._parameter(node)
            elif node.op == "call_function":
                self.values[node] = self._apply(node, rules)
            elif node.op == "output":
                for argument in node.all_input_nodes:
                    self.freeze(node, "output", "is an output of the model", self.all_blocks(argument))
            elif node.op != "placeholder":
                self._unknown(node)

    # Read by rules -------------------------------------------------------------------------------

    def shape(self, value: Any) -> tuple[int, ...]:
        """Concrete shape of an argument; the batch is SYMBOLIC_BATCH, and scalars have ()."""
        return shape_of(self.module, value) if isinstance(value, Node) else ()

    def blocks(self, value: Any) -> Blocks:
        found = self.values.get(value, ()) if isinstance(value, Node) else ()
        return found if isinstance(found, tuple) else ()

    def all_blocks(self, value: Node) -> Blocks:
        found = self.values.get(value, ())
        if isinstance(found, list):
            return tuple(block for blocks in found for block in blocks)
        return found if isinstance(found, tuple) else ()

    # Called by rules --------------------------------------------------------------------------------

    def freeze(self, node: Node, op: str, reason: str, blocks: Blocks) -> None:
        for block in blocks:
            self.book.freeze(block.ids, node.name, op, reason)

    def close(self, node: Node, blocks: Blocks, dim: int, reason: str) -> Blocks:
        """Blocks once `dim` may not be cut: frozen where `dim` stands alone, united where `dim` is joint."""
        kept = []
        for block in blocks:
            if dim not in block.dims:
                kept.append(block)
            elif len(block.dims) == 1:
                self.freeze(node, op_name(node), reason, (block,))
            else:
                axis = block.dims.index(dim)
                first = block.ids.take([0], axis=axis)
                self.book.unite(block.ids, first)
                dims = tuple(d for d in block.dims if d != dim)
                kept.append(Block(dims, first.squeeze(axis)))
        return tuple(kept)

    def operand(self, value: Any, labels: Sequence[Any], blocks: Blocks | None = None) -> Operand:
        """An argument with one label per dimension; a dimension of size 1 is broadcast."""
        shape = self.shape(value)
        named = tuple(label if size != 1 else None for label, size in zip(labels, shape, strict=True))
        return Operand(self.blocks(value) if blocks is None else blocks, named, self.is_weight(value))

    def is_weight(self, value: Any) -> bool:
        """Whether an argument is a parameter, possibly transposed or viewed."""
        while isinstance(value, Node) and value.op == "call_function" and op_name(value) in _MOVING:
            value = value.args[0]
        return isinstance(value, Node) and value.op == "get_attr"

    def contract(self, node: Node, operands: Sequence[Operand], output: Sequence[Any]) -> Blocks:
        """Blocks of an operation written as an einsum: operands are united at equal labels.

        Labels that are not in `output` are summed over.
        """
        inner = node.name in self.inner
        order = list(dict.fromkeys([*output, *(label for o in operands for label in o.labels)]))
        for operand in operands:
            if operand.weight:
                gone = [ids for labels, ids in operand.labelled() if not set(labels) <= set(output)]
                self.consumed.extend(gone)
        merged = merge(self.book, operands, order, node.name, op_name(node), inner=inner)
        return project(self.book, merged, output, inner=inner)

    def elementwise(self, node: Node, arguments: Sequence[Any]) -> Blocks:
        """Blocks of an operation that works position by position, with broadcasting."""
        rank = len(self.shape(node))
        operands = []
        for value in arguments:
            shape = self.shape(value)
            if shape:
                operands.append(self.operand(value, range(rank - len(shape), rank)))
        return self.contract(node, operands, range(rank))

    def reshaped(self, node: Node, value: Any) -> Blocks:
        """Blocks of a node that views `value` in another shape."""
        inner = node.name in self.inner
        carried, lost = reshape(self.blocks(value), self.shape(value), self.shape(node), inner=inner)
        self.freeze(node, op_name(node), "this view cannot be followed", lost)
        return carried

    # ------------------------------------------------------------------------------------------------

    def _apply(self, node: Node, rules: Mapping[str, Rule]) -> Any:
        rule = rules.get(op_name(node))
        if rule is None:
            return self._unknown(node)
        result = rule(self, node)
        if isinstance(result, list):
            shapes = [tuple(concrete(size) for size in meta.shape) for meta in node.meta["val"]]
            return [self._tidy(node, blocks, shape) for blocks, shape in zip(result, shapes, strict=True)]
        return self._tidy(node, result, self.shape(node))

    def _tidy(self, node: Node, blocks: Blocks, shape: tuple[int, ...]) -> Blocks:
        """Close dimensions of size 1, which later operations would broadcast."""
        for dim, size in enumerate(shape):
            if size == 1:
                blocks = self.close(node, blocks, dim, "a single position of this dimension is taken")
        return blocks

    def _unknown(self, node: Node) -> Blocks:
        for argument in node.all_input_nodes:
            touched = self.all_blocks(argument)
            if touched:
                self.unknown.add(op_name(node))
            self.freeze(node, op_name(node), "no rule for this operation", touched)
        return ()

    def _parameter(self, node: Node) -> Blocks:
        tensor = attribute(self.module, str(node.target))
        if not isinstance(tensor, torch.Tensor):
            return ()
        use = self._by_tensor.get(id(tensor))
        if use is None:
            atoms = tuple(self.book.fresh(size) if size > 1 else None for size in tensor.shape)
            trainable = isinstance(tensor, torch.nn.Parameter)
            use = ParameterUse(str(node.target), tuple(tensor.shape), atoms, trainable)
            self._by_tensor[id(tensor)] = use
            self.parameters[use.name] = use
        return tuple(Block((dim,), ids) for dim, ids in enumerate(use.atoms) if ids is not None)

"""Walk over the graph that carries blocks from parameters to outputs, by the rule of every operation."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch.fx import GraphModule, Node

from edgeprune.graph.blocks import (
    SYMBOLIC_BATCH,
    Block,
    Blocks,
    Book,
    Ids,
    Operand,
    merge,
    project,
    reshape,
)
from edgeprune.graph.fx import attribute, constant_nodes, is_pointwise, op_name, shape_of, written_at
from edgeprune.graph.memory import fragile, memory_of

log = logging.getLogger(__name__)

Rule = Callable[["Walk", Node], Any]


def _pointwise(walk: Walk, node: Node) -> Blocks:
    return walk.elementwise(node, node.all_input_nodes)


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
        self.taken: list[tuple[Ids, int]] = []  # atoms of which an operation needs so many
        self.inside: list[Block] = []  # joint blocks inside an operation, which must stay rectangular too
        self.unknown: set[str] = set()
        self._constant = constant_nodes(module.graph)
        self._unread: set[Node] = set()  # arguments of the node at hand of which only the dtype matters
        self._left_out: list[Ids] = []  # atoms that the node at hand sums up or leaves out, and says so
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
        for node in fragile(self.module.graph):
            self._keep_strides(node)

    def _keep_strides(self, node: Node) -> None:
        """Keep two positions of every dimension that a node has or reads: one alone has any stride."""
        for block in [block for value in (node, *memory_of(node)) for block in self.all_blocks(value)]:
            for axis, size in enumerate(block.ids.shape):
                rows = np.moveaxis(block.ids, axis, 0).reshape(size, -1)
                self.taken.append((rows[:, 0], min(2, size)))

    def touched_by(self, name: str) -> Blocks:
        """Blocks of a node's arguments and of its outputs."""
        node = next(node for node in self.module.graph.nodes if node.name == name)
        return tuple(block for value in (*node.all_input_nodes, node) for block in self.all_blocks(value))

    def freeze_misfit(self, name: str) -> None:
        """Freeze what a node touches, whose sizes cannot be written after a cut."""
        node = next(node for node in self.module.graph.nodes if node.name == name)
        for block in self.touched_by(name):
            self._freeze_ids(node, "its sizes cannot be written after a cut", block.ids)

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

    def unread(self, value: Any) -> None:
        """Note that the node at hand takes only the dtype and the device of an argument."""
        if isinstance(value, Node):
            self._unread.add(value)

    def leave_out(self, blocks: Blocks) -> Blocks:
        """Note that the node at hand takes only some positions of these blocks, at constant places."""
        self._left_out.extend(block.ids for block in blocks)
        return blocks

    def check_width(self, value: Any, dim: int) -> None:
        """Raise `ValueError` where a dimension is batch times width: its block holds one sample's."""
        size = self.shape(value)[dim]
        if size and size % SYMBOLIC_BATCH == 0 and any(dim in block.dims for block in self.blocks(value)):
            raise ValueError(f"dimension {dim} holds the width of every sample")

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
        """Whether an argument is a parameter or computed from parameters alone."""
        return value in self._constant

    def contract(self, node: Node, operands: Sequence[Operand], output: Sequence[Any]) -> Blocks:
        """Blocks of an operation written as an einsum: operands are united at equal labels.

        Labels that are not in `output` are summed over.
        """
        inner = node.name in self.inner
        order = list(dict.fromkeys([*output, *(label for o in operands for label in o.labels)]))
        for operand in operands:
            gone = [ids for labels, ids in operand.labelled() if not set(labels) <= set(output)]
            self._left_out.extend(gone)
            if operand.weight:
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
        return self.viewed(node, self.blocks(value), self.shape(value), self.shape(node))

    def viewed(self, node: Node, blocks: Blocks, old: Sequence[int], new: Sequence[int]) -> Blocks:
        """Blocks after a view from shape `old` to shape `new`."""
        inner = node.name in self.inner
        carried, lost = reshape(blocks, old, new, inner=inner, last=self.book.follows)
        self.freeze(node, op_name(node), "this view cannot be followed", lost)
        return carried

    # ------------------------------------------------------------------------------------------------

    def _apply(self, node: Node, rules: Mapping[str, Rule]) -> Any:
        rule = rules.get(op_name(node))
        if rule is None and is_pointwise(node):
            rule = _pointwise
        if rule is None:
            return self._unknown(node)
        before = (self.book.mark(), len(self.normed))
        self._unread.clear()
        self._left_out.clear()
        try:
            result = self._checked(node, rule(self, node))
        except Exception as error:  # whatever a rule did not expect: its node is then one without a rule
            log.debug("the rule of %s fails at %r", op_name(node), node.name, exc_info=error)
            return self._held(node, "no rule for these arguments")
        unaccounted = self._unaccounted(node, result, before)
        if unaccounted.size:
            self._freeze_ids(node, "its rule does not follow every dimension", unaccounted)
        return result

    def _checked(self, node: Node, result: Any) -> Any:
        """What a rule returned, if it describes the node's outputs; raises ValueError otherwise."""
        meta = node.meta.get("val")
        if not isinstance(result, list):
            if isinstance(meta, tuple | list) and result:
                raise ValueError("blocks of one output for several")
            return self._tidy(node, result, self.shape(node))
        if not isinstance(meta, tuple | list):
            raise ValueError("blocks of several outputs for one")
        shapes = [shape_of(self.module, node, part) for part in range(len(meta))]
        return [self._tidy(node, blocks, shape) for blocks, shape in zip(result, shapes, strict=True)]

    def _tidy(self, node: Node, blocks: Blocks, shape: tuple[int, ...]) -> Blocks:
        """Close dimensions of size 1, which later operations would broadcast; an empty one has no atoms."""
        blocks = tuple(block for block in blocks if block.ids.size)
        for dim, size in enumerate(shape):
            if size == 1:
                blocks = self.close(node, blocks, dim, "a single position of this dimension is taken")
        seen: set[int] = set()
        for block in blocks:
            sizes = [shape[dim] for dim in block.dims]
            sizes = [
                size // SYMBOLIC_BATCH if size and size % SYMBOLIC_BATCH == 0 else size for size in sizes
            ]
            if list(block.ids.shape) != sizes or list(block.dims) != sorted(set(block.dims) - seen):
                raise ValueError(f"a block {block.dims} of {block.ids.shape} in a tensor of {shape}")
            seen.update(block.dims)
        return blocks

    def _unaccounted(self, node: Node, result: Any, before: tuple[tuple[int, int], int]) -> Ids:
        """Atoms of the arguments that the node's rule lost.

        An atom is accounted for in the result, frozen, summed up, in a statistic, left out by the rule's own
        word, or united with such an atom or with one of another argument.
        """
        operands = [self.all_blocks(value) for value in node.all_input_nodes if value not in self._unread]
        sides = [np.concatenate([b.ids.ravel() for b in blocks]) for blocks in operands if blocks]
        if not sides:
            return np.empty(0, np.int64)
        parts = result if isinstance(result, list) else [result]
        known = [block.ids.ravel() for blocks in parts for block in blocks]
        known += [ids.ravel() for ids in self._left_out]
        known += [ids.ravel() for ids, _ in self.normed[before[1] :]]
        return self.book.lost(sides, known, before[0])

    def _unknown(self, node: Node) -> Blocks:
        if any(self.all_blocks(argument) for argument in node.all_input_nodes):
            self.unknown.add(op_name(node))
        return self._held(node, "no rule for this operation")

    def _held(self, node: Node, reason: str) -> Blocks:
        """No blocks: everything that the node touches is frozen."""
        for argument in node.all_input_nodes:
            for block in self.all_blocks(argument):
                self._freeze_ids(node, reason, block.ids)
        return ()

    def _freeze_ids(self, node: Node, reason: str, ids: Ids) -> None:
        self.book.freeze(ids, node.name, op_name(node), f"{reason}{written_at(node)}")

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

"""Symbol of the length in a captured graph, and the number that stands for it while the graph is analysed.

Analyses read shapes as numbers: the batch is SYMBOLIC_BATCH, and the length a number of its own. A view
tells which of its dimensions are which by their sizes, so that number is one that no width has, and no width
equals what is computed from it: of lengths to 128, with 64 channels, 127.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator
from itertools import chain
from typing import Any, TypeAlias

import torch
from torch.fx import GraphModule
from torch.utils import _pytree as pytree

from edgeprune.errors import InputError
from edgeprune.graph.blocks import per_sample
from edgeprune.graph.fx import concrete, mark_length, varies_with_length
from edgeprune.records.lengths import LEAST_LENGTH, Lengths

Inputs: TypeAlias = tuple[torch.Tensor, ...]


def tell_length(module: GraphModule, lengths: Lengths) -> None:
    """Mark the symbol of the length in a graph that was just exported, with a number told from all widths.

    Raises `InputError` where there is no such number.
    """
    given = [node.meta["val"] for node in module.graph.find_nodes(op="placeholder")]
    size = next(value.shape[dim] for value, dims in zip(given, lengths.dims, strict=True) for dim in dims)
    mark_length(size, lengths.longest)
    found = list(_sizes(module))
    varying = {each.node.expr: each for each in found if varies_with_length(each)}
    widths = {per_sample(concrete(each)) for each in found if not varies_with_length(each)}
    shorter = range(lengths.values[0] - 1, LEAST_LENGTH - 1, -1)
    for number in chain(lengths.between(), shorter):  # of a prime no view makes a product
        if not widths & {per_sample(concrete(each, number)) for each in varying.values()}:
            mark_length(size, number)
            return
    raise InputError(
        f"The lengths {lengths.told} cannot be told from the model's widths: each number up to "
        f"{lengths.longest} is one of them.",
        "State a longer length, or leave lengths out.",
    )


def alike(batches: Iterable[Inputs]) -> list[list[Inputs]]:
    """Batches with inputs of one shape, the rows aside, together: one list for each length."""
    found: dict[Any, list[Inputs]] = defaultdict(list)
    for batch in batches:
        found[tuple(tensor.shape[1:] for tensor in batch)].append(batch)
    return list(found.values())


def joined(batches: Iterable[Inputs]) -> list[Inputs]:
    """All rows of some batches, in one batch for each length."""
    return [tuple(map(torch.cat, zip(*group, strict=True))) for group in alike(batches)]


def _sizes(module: GraphModule) -> Iterator[Any]:
    """Sizes of all stored tensors and of all values of a graph."""
    for tensor in (*module.parameters(), *module.buffers()):
        yield from tensor.shape
    for node in module.graph.nodes:
        for value in pytree.tree_leaves(node.meta.get("val")):
            if isinstance(value, torch.Tensor):
                yield from value.shape

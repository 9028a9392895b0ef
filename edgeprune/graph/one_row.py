"""Graphs whose batch is fixed at one row, and how they answer several rows: one by one."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch.fx import Graph
from torch.utils import _pytree as pytree

FOR_ONE_ROW = "it was exported for one row"


def takes_one_row(graph: Graph) -> bool:
    """Whether a graph was captured for a batch of one row: its inputs have the number 1 for their batch."""
    for node in graph.find_nodes(op="placeholder"):
        value = node.meta.get("val")
        if isinstance(value, torch.Tensor) and value.dim():
            return isinstance(value.shape[0], int) and value.shape[0] == 1
    return False


def single_rows(given: Any) -> Iterator[Any]:
    """Structures like `given` with one row of its tensors each, in order."""
    rows = next(len(leaf) for leaf in pytree.tree_leaves(given) if isinstance(leaf, torch.Tensor))
    for row in range(rows):
        yield first_rows(given, row)


def first_rows(given: Any, row: int = 0) -> Any:
    """A structure like `given` with one row of its tensors, the batch kept."""
    return pytree.tree_map_only(torch.Tensor, lambda tensor: tensor[row : row + 1], given)


def row_by_row(answer: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Answer to several rows from one call for each: tensors are put together along the batch.

    Gradients flow through to what each call used. What is no tensor is that of the first row.
    """
    answers = [answer(*one, **named) for one, named in single_rows((args, kwargs))]
    if len(answers) == 1:
        return answers[0]
    leaves, (spec, *_) = zip(*(pytree.tree_flatten(each) for each in answers), strict=True)
    joined = [
        torch.cat(column) if isinstance(column[0], torch.Tensor) else column[0]
        for column in zip(*leaves, strict=True)
    ]
    return pytree.tree_unflatten(joined, spec)

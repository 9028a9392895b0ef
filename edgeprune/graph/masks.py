"""Masks of the positions that a cut keeps, for every value and every parameter of a graph."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch.fx import GraphModule, Node

from edgeprune.graph.blocks import Blocks, Ids
from edgeprune.graph.fx import concrete, shape_of
from edgeprune.graph.size_rewrites import Mask
from edgeprune.graph.walk import ParameterUse


@dataclass(frozen=True)
class Masks:
    """Masks of a cut, read from the blocks of values and from the atoms of parameters.

    values: node name -> blocks, or a list of them. removed: [classes], True for a class that is removed.
    """

    module: GraphModule
    values: Mapping[str, Any]
    parameters: Mapping[str, ParameterUse]
    classes: Ids
    removed: NDArray[np.bool_]

    def mask(self, value: Any, dim: int) -> Mask | None:
        """[size], True at the positions of `dim` that are kept; None where all are."""
        blocks = self.values.get(value.name, ()) if isinstance(value, Node) else ()
        return self._of(blocks, dim) if isinstance(blocks, tuple) else None

    def part_mask(self, node: Node, part: int, dim: int) -> Mask | None:
        """The mask of one of a node's several outputs."""
        parts = self.values.get(node.name, ())
        return self._of(parts[part], dim) if isinstance(parts, list) else None

    def shape(self, value: Any) -> tuple[int, ...]:
        """Shape before the cut; the batch is SYMBOLIC_BATCH."""
        return shape_of(self.module, value)

    def parameter_masks(self) -> dict[str, list[Mask | None]]:
        """Masks of every dimension of the parameters that lose something, by name."""
        found = {}
        for use in self.parameters.values():
            gone = [self.removed[self.classes[atoms]] if atoms is not None else None for atoms in use.atoms]
            masks = [~lost if lost is not None and lost.any() else None for lost in gone]
            if any(keep is not None for keep in masks):
                found[use.name] = masks
        return found

    def promised(self, node: Node, whole: Any) -> Any:
        """Description of a node's value after the cut. whole: `described` of what it is without one."""
        if isinstance(whole, list):
            return [_narrowed(each, partial(self.part_mask, node, part)) for part, each in enumerate(whole)]
        return _narrowed(whole, partial(self.mask, node))

    def _of(self, blocks: Blocks, dim: int) -> Mask | None:
        for block in blocks:
            if dim in block.dims:
                gone = self.removed[self.classes[block.ids]]
                axis = block.dims.index(dim)
                others = tuple(other for other in range(gone.ndim) if other != axis)
                stays: Mask = np.logical_not(gone.all(axis=others, keepdims=True)).reshape(-1)
                return None if stays.all() else stays
        return None


class Description(NamedTuple):
    """A tensor without its values; the batch is SYMBOLIC_BATCH."""

    shape: tuple[int, ...]
    dtype: torch.dtype
    device: torch.device


def described(value: Any) -> Any:
    """Tensors by their descriptions, sizes as numbers, several outputs as a list."""
    if isinstance(value, torch.Tensor):
        return Description(tuple(concrete(size) for size in value.shape), value.dtype, value.device)
    if isinstance(value, tuple | list):
        return [described(each) for each in value]
    return concrete(value) if isinstance(value, torch.SymInt) else value


def _narrowed(value: Any, mask: Callable[[int], Mask | None]) -> Any:
    """A description with the masked positions gone; batch times width holds the width of every sample."""
    if not isinstance(value, Description):
        return value
    masks = [mask(dim) for dim in range(len(value.shape))]
    sizes = [
        size if keep is None else size // len(keep) * int(keep.sum())
        for size, keep in zip(value.shape, masks, strict=True)
    ]
    return value._replace(shape=tuple(sizes))

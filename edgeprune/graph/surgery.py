"""Surgery on a captured graph: removal of units and branches, with all sizes that depend on them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch.fx import GraphModule

from edgeprune.graph.capture import Captured
from edgeprune.graph.coupling import Coupling, Kept
from edgeprune.graph.depth import drop_branches
from edgeprune.graph.fx import attribute, op_name, owner_of
from edgeprune.graph.shapes import derive_shapes
from edgeprune.graph.size_rewrites import REWRITES, Mask


def cut(captured: Captured, coupling: Coupling, kept: Kept) -> Captured:
    """A trainable copy of the model with only the kept units and branches.

    The copy's module is an ordinary `GraphModule` whose parameters keep their names, and whose nodes tell the
    shapes that they have now.
    """
    cutter = coupling.masks(captured.module, coupling.removed(kept))
    masks = cutter.parameter_masks()
    # Tensors that are sliced are not copied first: a cut needs no more memory than its result.
    result = captured.copy(borrowed=[attribute(captured.module, name) for name in masks])
    for node in result.module.graph.nodes:
        if node.op == "call_function" and op_name(node) in REWRITES:
            REWRITES[op_name(node)](cutter, node)
        if node.target is torch.ops.aten.view.default:
            # A width of 1 changes strides, so a tensor that was contiguous, as a view needs, may not be.
            node.target = torch.ops.aten.reshape.default
    _slice_parameters(result.module, masks)
    drop_branches(result.module, coupling.dropped(kept))
    result.module.graph.lint()
    result.module.recompile()
    derive_shapes(result.module, cutter)
    return result


def _slice_parameters(module: GraphModule, parameter_masks: Mapping[str, Sequence[Mask | None]]) -> None:
    """Slice each tensor once and give the slice to all the tensor's names, so that tied weights stay tied."""
    names: dict[int, list[str]] = {}
    for name, tensor in [
        *module.named_parameters(remove_duplicate=False),
        *module.named_buffers(remove_duplicate=False),
    ]:
        names.setdefault(id(tensor), []).append(name)
    for name, masks in parameter_masks.items():
        old = attribute(module, name)
        aliases = names.get(id(old), [name])
        new = old.detach()
        for dim, keep in enumerate(masks):
            if keep is not None:
                new = new.index_select(dim, torch.from_numpy(np.flatnonzero(keep)).to(new.device))
        if isinstance(old, torch.nn.Parameter):
            new = torch.nn.Parameter(new, requires_grad=old.requires_grad)
        for alias in aliases:
            owner, leaf = owner_of(module, alias)
            if isinstance(old, torch.nn.Parameter):
                setattr(owner, leaf, new)
            elif leaf in owner._buffers:
                owner._buffers[leaf] = new
            else:
                setattr(owner, leaf, new)


def uncut(captured: Captured, coupling: Coupling, kept: Kept, smaller: Captured) -> Captured:
    """Copy of the whole model that computes what `smaller` does, for groups whose units feed sums alone.

    smaller: `cut(captured, coupling, kept)`, trained since. Removed units have the values of `captured`, and
    the weights that read them are zero: cutting the same units again gives `smaller` back, and another choice
    may keep such a unit. Dropped branches are those of `captured`.
    """
    masks = coupling.masks(captured.module, coupling.removed(kept)).parameter_masks()
    trained = smaller.module.state_dict()
    result = captured.copy()
    with torch.no_grad():
        for name, whole in result.module.state_dict().items():
            if name not in trained:  # part of a dropped branch
                continue
            places = [
                torch.arange(size) if keep is None else torch.from_numpy(np.flatnonzero(keep))
                for size, keep in zip(whole.shape, masks.get(name, [None] * whole.dim()), strict=True)
            ]
            if places:
                whole[torch.meshgrid(*places, indexing="ij")] = trained[name]
            else:
                whole.copy_(trained[name])
        for group in coupling.groups:
            lost = np.setdiff1d(np.arange(group.units), kept.get(group.name, range(group.units)))
            for axis in group.axes:
                if axis.role == "in":
                    read = attribute(result.module, axis.parameter)
                    read.index_fill_(axis.dim, torch.from_numpy(axis.positions[lost].reshape(-1)), 0)
    return result

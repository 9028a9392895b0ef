"""What a cut must equal, computed on the dense graph: nothing here slices a parameter."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch.fx import Interpreter, Node

from edgeprune.graph.blocks import SYMBOLIC_BATCH
from edgeprune.graph.capture import Captured
from edgeprune.graph.coupling import Coupling, Kept
from edgeprune.graph.fx import arguments, attribute, op_name, shape_of
from edgeprune.graph.memory import writes

LIMIT = 1e-5  # of the largest output, float32


class Masked(Interpreter):
    """Runs the dense graph with the removed positions of every value at zero.

    Norms, means and variances are taken over the positions that stay. This holds for groups that enter
    a statistic, where zeroed parameters do not describe a narrower network.
    """

    def __init__(self, captured: Captured, coupling: Coupling, kept: Kept) -> None:
        super().__init__(captured.module)
        self._coupling = coupling
        self._removed = coupling.removed(kept)
        self._dropped = {branch.add: branch for branch in coupling.dropped(kept)}

    def run_node(self, n: Node) -> Any:
        value = self._statistic(n) if n.op == "call_function" else None
        if n.name in self._dropped:  # the branch adds nothing
            stream, branch = n.args[self._dropped[n.name].skip], n.args[1 - self._dropped[n.name].skip]
            value = self.env[stream] + torch.zeros_like(self.env[branch])
        if value is None:
            value = super().run_node(n)
        blocks = self._coupling.values.get(n.name, ())
        if isinstance(value, torch.Tensor):
            zeroed = self._zeroed(value, blocks)
            if writes(n) and zeroed is not value:  # the memory is that of others too
                return value.copy_(zeroed)
            return zeroed
        if isinstance(value, tuple | list) and isinstance(blocks, list):
            return [self._zeroed(part, own) for part, own in zip(value, blocks, strict=True)]
        return value

    def stays(self, shape: torch.Size, blocks: Any) -> torch.Tensor:
        """[shape, broadcast]: False where a position has left."""
        keep = torch.ones([1] * len(shape), dtype=torch.bool)
        for block in blocks:
            gone = self._removed[self._coupling.classes[block.ids]]
            sizes = [1] * len(shape)
            for dim, size in zip(block.dims, gone.shape, strict=True):
                sizes[dim] = size
            if gone.size == 0:
                continue
            own = torch.from_numpy(~gone).reshape(sizes)
            # [B, C] -> [B*C]: the block holds one sample, and every sample repeats it.
            keep = keep & own.tile(
                [shape[d] // sizes[d] if d in block.dims else 1 for d in range(len(shape))]
            )
        return keep

    def _zeroed(self, value: torch.Tensor, blocks: Any) -> torch.Tensor:
        if not blocks:
            return value
        gone = ~self.stays(value.shape, blocks)
        # A view of what is zeroed already stays a view: a later operation in place writes through it.
        return value.masked_fill(gone, 0) if (value.detach() != 0).logical_and(gone).any() else value

    def _statistic(self, node: Node) -> Any:
        name = op_name(node)
        if node.name not in self._coupling.normed_nodes:
            return None
        args, kwargs = self.fetch_args_kwargs_from_env(node)
        x = args[0]
        source = node.args[0]
        assert isinstance(source, Node)
        keep = self.stays(x.shape, self._coupling.values[source.name]).expand(x.shape).to(x.dtype)
        if name in ("aten.softmax", "aten.log_softmax", "aten.topk"):
            return node.target(x.masked_fill(keep == 0, float("-inf")), *args[1:], **kwargs)
        if name in ("aten.layer_norm", "aten.rms_norm"):
            dims = list(range(x.dim() - len(args[1]), x.dim()))
            centre = _mean(x, keep, dims) if name == "aten.layer_norm" else 0.0
            default = 1e-5 if name == "aten.layer_norm" else torch.finfo(x.dtype).eps
            eps = args[4] if name == "aten.layer_norm" and len(args) > 4 else default
            eps = args[3] if name == "aten.rms_norm" and len(args) > 3 and args[3] is not None else eps
            variance = _mean((x - centre) ** 2, keep, dims)
            return _affine((x - centre) / torch.sqrt(variance + eps), args[2:4], name)
        if name == "aten.group_norm":
            groups, weight, bias = args[1], *args[2:4]
            eps = args[4] if len(args) > 4 else 1e-5
            rows, own = x.reshape(len(x), groups, -1), keep.reshape(len(x), groups, -1)
            centre = _mean(rows, own, [2])
            variance = _mean((rows - centre) ** 2, own, [2])
            scaled = ((rows - centre) / torch.sqrt(variance + eps)).reshape(x.shape)
            shape = [1, -1, *[1] * (x.dim() - 2)]
            return scaled * weight.reshape(shape) + bias.reshape(shape)
        if name in ("aten.mean", "aten.var", "aten.std"):
            dims = args[1] if len(args) > 1 and args[1] is not None else list(range(x.dim()))
            dims = [dims] if isinstance(dims, int) else list(dims)
            given = arguments(node)
            keepdim = given.get("keepdim", False)
            centre = _mean(x, keep, dims)
            if name != "aten.mean":
                freedom = kwargs.get("correction", int(given.get("unbiased", True)))
                count = keep.sum(dims, keepdim=True)
                centre = ((x - centre) ** 2 * keep).sum(dims, keepdim=True) / (count - freedom)
                centre = centre.sqrt() if name == "aten.std" else centre
            return centre if keepdim else centre.squeeze(dims)
        return None


def _mean(x: torch.Tensor, keep: torch.Tensor, dims: list[int]) -> torch.Tensor:
    return (x * keep).sum(dims, keepdim=True) / keep.sum(dims, keepdim=True).clamp(min=1)


def _affine(x: torch.Tensor, affine: Any, name: str) -> torch.Tensor:
    weight = affine[0] if affine else None
    bias = affine[1] if name == "aten.layer_norm" and len(affine) > 1 else None
    x = x if weight is None else x * weight
    return x if bias is None else x + bias


def masked(
    captured: Captured, coupling: Coupling, kept: Kept, inputs: tuple[torch.Tensor, ...]
) -> tuple[torch.Tensor, ...]:
    """The outputs of the dense graph with the removed positions of every value at zero."""
    from torch.utils import _pytree as pytree

    with torch.no_grad():
        found = Masked(captured, coupling, kept).run(*inputs)
    return tuple(leaf for leaf in pytree.tree_leaves(found) if isinstance(leaf, torch.Tensor))


def zeroed(captured: Captured, coupling: Coupling, kept: Kept) -> Captured:
    """The dense graph with everything that leaves set to zero; knows nothing of activations."""
    result = captured.copy()
    with torch.no_grad():
        for group in coupling.groups:
            if group.name not in kept:
                continue
            gone = np.setdiff1d(np.arange(group.units), np.asarray(kept[group.name], dtype=np.int64))
            for axis in group.axes:
                positions = torch.from_numpy(axis.positions[gone].ravel())
                attribute(result.module, axis.parameter).index_fill_(axis.dim, positions, 0)
    return result


def random_kept(
    coupling: Coupling, seed: int, share: float | None = None, depth: float | None = None
) -> Mapping[str, tuple[int, ...]]:
    """A random legal subset of every group: `share` of its units, or any number.

    depth: the share of the residual branches to keep; None keeps them all.
    """
    random = np.random.default_rng(seed)
    kept = {}
    for group in coupling.groups:
        any_number = random.integers(group.least, group.units + 1)
        wanted = any_number if share is None else max(group.least, round(share * group.units))
        chosen = random.choice(group.units, size=int(wanted), replace=False)
        kept[group.name] = tuple(sorted(int(unit) for unit in chosen))
    if depth is not None:
        kept.update((branch.name, (0,) if random.random() < depth else ()) for branch in coupling.branches)
    return kept


def wrong_shapes(captured: Captured, inputs: tuple[torch.Tensor, ...]) -> dict[str, tuple[object, ...]]:
    """The shape told and the shape computed of every value where the two differ."""
    wrong: dict[str, tuple[object, ...]] = {}

    class Watched(Interpreter):
        def run_node(self, n: Node) -> Any:
            value = super().run_node(n)
            if n.op != "output" and isinstance(value, torch.Tensor):
                told = tuple(
                    size // SYMBOLIC_BATCH * len(inputs[0]) if size and size % SYMBOLIC_BATCH == 0 else size
                    for size in shape_of(self.module, n)  # type: ignore[arg-type]
                )
                if told != tuple(value.shape):
                    wrong[n.name] = (told, tuple(value.shape))
            return value

    with torch.no_grad():
        Watched(captured.module).run(*inputs, enable_io_processing=False)
    return wrong


def difference(found: tuple[torch.Tensor, ...], wanted: tuple[torch.Tensor, ...]) -> float:
    """The largest difference of floating outputs, as a share of the largest finite value of that output."""
    worst = 0.0
    for left, right in zip(found, wanted, strict=True):
        if left.shape != right.shape:
            return float("inf")
        if left.is_floating_point() and left.numel():
            same = (left.isnan() & right.isnan()) | (left.isinf() & (left == right))
            left, right = (value.detach().masked_fill(same, 0.0) for value in (left, right))
            scale = max(float(right.abs().max()), 1e-3)
            error = float((left - right).abs().max()) / scale
            worst = max(worst, error if error == error else float("inf"))
    return worst


__all__ = ["LIMIT", "Masked", "difference", "masked", "random_kept", "wrong_shapes", "zeroed"]

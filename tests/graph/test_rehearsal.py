"""Cuts that are rehearsed: whatever is called with whatever arguments is cut exactly, or is frozen."""

from __future__ import annotations

from itertools import islice
from types import ModuleType

import pytest
import torch

from edgeprune.errors import InputError
from edgeprune.graph.capture import capture
from edgeprune.graph.coupling import analyse
from edgeprune.graph.surgery import cut

FAMILIES = {
    "views": "view reshape flatten unflatten squeeze unsqueeze view_as reshape_as",
    "permutations": "permute transpose t movedim swapaxes mT",
    "copies": "expand expand_as broadcast_to repeat tile repeat_interleave",
    "parts": "slice narrow select unbind split split_with_sizes chunk tensor_split glu",
    "look-ups": "index_select index gather embedding take_along_dim",
    "writes": "scatter scatter_add index_add slice_scatter select_scatter index_fill",
    "joins": "cat stack hstack",
    "products": "linear matmul mm bmm addmm einsum outer vdot inner conv2d conv_transpose2d",
    "statistics": "mean sum softmax batch_norm instance_norm layer_norm",
    "orders": "cumsum sort flip roll topk max amax argmax median any",
    "images": "max_pool2d avg_pool2d upsample_nearest2d pad pixel_shuffle pixel_unshuffle im2col",
    "values": "add mul where clamp addcmul lerp pow type_as zeros_like new_zeros",
}
OVERLOADS = 2  # of each operation, one legal call of each


def assert_exact(model: torch.nn.Module, calls: ModuleType, references: ModuleType) -> int:
    """Whether a call exports; if it does, any cut runs, and one that meets no statistic is exact."""
    model.eval()
    try:
        captured = capture(model, calls.EXAMPLES[0])
    except InputError:
        return 0
    coupling = analyse(captured)
    x = calls.EXAMPLES[1]
    with torch.no_grad():
        cut(captured, coupling, references.random_kept(coupling, 0)).run(*x)
        kept = dict(references.random_kept(coupling, 1, 0.5))
        for group in coupling.groups:
            if group.normed:
                kept[group.name] = tuple(range(group.units))
        found = cut(captured, coupling, kept).run(*x)
        wanted = references.zeroed(captured, coupling, kept).run(*x)
    if not all(bool(output.isfinite().all()) for output in wanted if output.is_floating_point()):
        return 0  # the original with zeros in place of units is none: a zero is outside the call's domain
    assert references.difference(found, wanted) < references.LIMIT, model.given
    return 1


@pytest.mark.filterwarnings("ignore:Converting a tensor")  # torch's, where a size is drawn as a tensor
@pytest.mark.parametrize("family", FAMILIES)
def test_every_call_is_cut_exactly_or_frozen(family: str, calls: ModuleType, references: ModuleType) -> None:
    found = 0
    for name in FAMILIES[family].split():
        packet = getattr(torch.ops.aten, name)
        overloads = [getattr(packet, overload) for overload in packet.overloads()]
        drawn = (next(calls.legal(each, seed=0), None) for each in overloads if calls.is_drawn(each))
        for model in islice(filter(None, drawn), OVERLOADS):
            found += assert_exact(model, calls, references)
    assert found >= 2  # of those that were drawn, as many export

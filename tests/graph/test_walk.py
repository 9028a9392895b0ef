"""The promise of the walk: whatever a rule does not follow is frozen there and then, and told."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from types import ModuleType

import pytest
import torch
from torch import nn
from torch.fx import Node
from torch.nn import functional as F

from edgeprune.graph.blocks import Blocks
from edgeprune.graph.capture import Captured, capture
from edgeprune.graph.coupling import Coupling, analyse
from edgeprune.graph.resize import sizes
from edgeprune.graph.rulebook import RULES
from edgeprune.graph.surgery import cut
from edgeprune.graph.walk import Walk

Image = Callable[[torch.Tensor, "Branches"], torch.Tensor]


class Branches(nn.Module):
    """Two convolutions of 8 filters on one image, the work on what they give, and a head behind it."""

    def __init__(self, work: Image, example: torch.Tensor) -> None:
        super().__init__()
        self.one, self.two = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(3, 8, 3, padding=1)
        self.bank = nn.Parameter(torch.randn(8, 8, 3, 3) / 9)
        self.narrow = nn.Parameter(torch.randn(8, 4, 3, 3) / 6)
        self.style = nn.Linear(3, 8)
        self.work = work
        self.eval()
        with torch.no_grad():
            self.head = nn.Linear(work(example, self).flatten(1).shape[1], 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.work(x, self).flatten(1))


@dataclass(frozen=True)
class Case:
    """units: how many units the filters of `one` have; 0 where they are frozen."""

    name: str
    work: Image
    units: int


def _unpooled(x: torch.Tensor, net: Branches) -> torch.Tensor:
    small, places = F.max_pool2d(net.one(x), 2, return_indices=True)
    return F.max_unpool2d(torch.relu(small), places, 2)


def _places_of_another(x: torch.Tensor, net: Branches) -> torch.Tensor:
    _, places = F.adaptive_max_pool2d(net.two(x), 1, return_indices=True)
    return net.one(x).flatten(2).gather(2, places.flatten(2))


def _heads_in_batch(x: torch.Tensor, net: Branches) -> torch.Tensor:
    rows = x.shape[0]
    heads = net.one(x).flatten(2).reshape(rows * 2, 4, 64)
    return F.conv1d(heads, net.narrow[:4, :1, 0], padding=1, groups=4).reshape(rows, 8, 64)


def _bank_of_a_sample(x: torch.Tensor, net: Branches) -> torch.Tensor:
    rows = x.shape[0]
    style = net.style(x.mean((2, 3)))
    bank = (net.bank[None] * style[:, None, :, None, None]).reshape(rows * 8, 8, 3, 3)
    images = net.one(x).reshape(1, rows * 8, 8, 8)
    return F.conv2d(images, bank, padding=1, groups=rows).reshape(rows, 8, 8, 8)


def _packed(x: torch.Tensor, net: Branches) -> torch.Tensor:
    rows = x.shape[0]
    pixels = net.one(x).flatten(2).transpose(1, 2)
    q, k = pixels.reshape(rows, 64, 2, 2, -1).permute(2, 0, 3, 1, 4).reshape(2, rows * 2, 64, -1).unbind(0)
    return ((q @ k.transpose(1, 2)).softmax(-1) @ k).reshape(rows, 2, 64, -1)


def _places_first(x: torch.Tensor, net: Branches) -> torch.Tensor:
    """As attention that gives its weights: heads join the batch behind the places, and leave it again."""
    rows = x.shape[0]
    places = net.one(x).flatten(2).permute(2, 0, 1).contiguous()
    heads = places.view(64, rows * 2, 4).transpose(0, 1)
    mixed = (heads @ heads.transpose(1, 2)).softmax(-1) @ heads
    joined = mixed.transpose(0, 1).contiguous().view(64 * rows, 8)
    return joined.view(64, rows, 8).permute(1, 2, 0)


def _repeated_for_every_sample(x: torch.Tensor, net: Branches) -> torch.Tensor:
    """As relative positions: heads of parameters, repeated for the heads of every sample in the batch."""
    rows = x.shape[0]
    heads = net.one(x).reshape(rows * 2, 4, 64)
    places = net.style.bias.view(2, 4, 1).repeat(rows, 1, 1)
    return (heads + places).reshape(rows, 8, 64)


def _looked_up_by_head(x: torch.Tensor, net: Branches) -> torch.Tensor:
    """As relative attention: one table of places, expanded to all heads of all samples, added to zeros."""
    rows = x.shape[0]
    heads = net.one(x).reshape(rows * 2, 4, 64)
    places = torch.arange(4).expand(64, 4).T.flip(0).expand(heads.shape[0], 4, 64)
    return (heads.new_zeros(heads.shape[0], 4, 64) + heads.gather(1, places)).reshape(rows, 8, 64)


def _deformable(x: torch.Tensor, net: Branches) -> torch.Tensor:
    """As deformable attention: each head of each sample, in the batch, is looked up at places of its own."""
    rows = x.shape[0]
    places = torch.tanh(net.two(x).mean((2, 3))).reshape(rows * 2, 1, 2, 2)
    heads = net.one(x).reshape(rows * 2, 4, 8, 8)
    return F.grid_sample(heads, places, align_corners=False).reshape(rows, 8, 2)


def _places_in_a_volume(x: torch.Tensor, net: Branches) -> torch.Tensor:
    """Places that are made of whole heads, in volumes: two coordinates of a plane and a constant depth."""
    rows = x.shape[0]
    places = torch.tanh(net.two(x).mean((2, 3))).reshape(rows * 2, 1, 2, 1, 2)
    volumes = net.one(x).reshape(rows * 2, 4, 2, 4, 8)
    return F.grid_sample(volumes, F.pad(places, (0, 1)), "nearest", align_corners=True).reshape(rows, 8, 2)


def _places_of_channels(x: torch.Tensor, net: Branches) -> torch.Tensor:
    """Every channel of one branch gives a row of places: those stay, the channels looked up do not."""
    places = torch.tanh(net.two(x)).reshape(x.shape[0], 8, 32, 2)
    return F.grid_sample(net.one(x), places, align_corners=False)


def _folded(x: torch.Tensor, net: Branches) -> torch.Tensor:
    columns = F.unfold(net.one(x), 3, padding=1)
    return F.fold(torch.relu(columns), (8, 8), 3, padding=1)


def _wide(x: torch.Tensor) -> torch.Tensor:
    return x.repeat(1, 3, 1, 1)[:, :8]


def _grouped_input(x: torch.Tensor, net: Branches) -> torch.Tensor:
    return F.conv2d(_wide(x), net.narrow, groups=2) + net.one(x)[..., :6, :6]


def _normalised(x: torch.Tensor, net: Branches) -> torch.Tensor:
    y = net.one(x)
    return y / y.norm(dim=1, keepdim=True).clamp_min(1e-6).expand_as(y)


CASES = [
    Case("places of a pool, unpooled", _unpooled, 8),
    Case("places that another branch chose", _places_of_another, 8),
    Case("heads in the batch of a depthwise convolution", _heads_in_batch, 2),
    Case("a filter bank for each sample", _bank_of_a_sample, 0),
    Case("two products packed, heads in the batch", _packed, 2),
    Case("heads in the batch behind the places", _places_first, 2),
    Case("heads repeated for every sample", _repeated_for_every_sample, 4),
    Case("one look-up for the heads of every sample", _looked_up_by_head, 2),
    Case("heads looked up at places of their own", _deformable, 2),
    Case("heads looked up in volumes", _places_in_a_volume, 2),
    Case("looked up at places that channels give", _places_of_channels, 8),
    Case("patches as columns, and back", _folded, 8),
    Case("pixel shuffle takes four planes at once", lambda x, net: F.pixel_shuffle(net.one(x), 2), 2),
    Case("pixel unshuffle", lambda x, net: F.pixel_unshuffle(net.one(x), 2), 8),
    Case("channels shuffled", lambda x, net: F.channel_shuffle(net.one(x), 4).relu(), 4),
    Case("in the shape of another", lambda x, net: net.one(x).flatten(1).view_as(net.two(x)), 8),
    Case("reshaped as an untouched one", lambda x, net: net.one(x).reshape_as(_wide(x)), 0),
    Case("divided by its norm", _normalised, 8),
    Case("a map that is expanded by number", lambda x, net: net.one(x) / x[:, :1].expand(-1, 8, -1, -1), 8),
    Case("rolled, all dimensions as one", lambda x, net: torch.roll(net.one(x), 1), 0),
    Case("rolled along an image", lambda x, net: torch.roll(net.one(x), (1, -1), (2, -1)), 8),
    Case("an empty part", lambda x, net: torch.cat([net.one(x)[:, :8], net.one(x)[:, 8:]], 1), 8),
    Case("sorted along the channels", lambda x, net: torch.sort(net.one(x), dim=1, stable=True).values, 0),
    Case("sorted along rows", lambda x, net: torch.sort(net.one(x), stable=True).values, 8),
    Case("the largest of the channels", lambda x, net: net.one(x).max(1).values, 0),
    Case("the larger of two", lambda x, net: torch.max(net.one(x), net.two(x)), 8),
    Case("the median of each plane", lambda x, net: net.one(x).flatten(2).median(-1).values, 8),
    Case("a spread of all channels", lambda x, net: net.one(x) / net.one(x).std(), 8),
    Case("a mask of another branch", lambda x, net: torch.where(net.two(x) > 0, net.one(x), 0.0), 8),
    Case("the other name of a product", lambda x, net: torch.multiply(net.one(x), net.two(x)), 8),
    Case("exotic, position by position", lambda x, net: torch.logaddexp(net.one(x), net.two(x)).erfc(), 8),
    Case("filters of another shape of groups", lambda x, net: F.conv2d(net.one(x), net.narrow, groups=2), 2),
    Case("grouped without an input that is cut", _grouped_input, 4),
    Case("three dimensions of an image", lambda x, net: F.avg_pool3d(net.one(x).unsqueeze(2), (1, 2, 2)), 8),
    Case("an adaptive pool of rows", lambda x, net: F.adaptive_max_pool1d(net.one(x).flatten(2), 3), 8),
    Case("padded by its own border", lambda x, net: F.pad(net.one(x), (1, 2, 0, 1), mode="reflect"), 8),
    Case("einsum without an arrow", lambda x, net: torch.einsum("bchw,bchv", net.one(x), net.two(x)), 8),
    Case("einsum with dots", lambda x, net: torch.einsum("b...hw,b...hv->b...wv", net.one(x), net.two(x)), 8),
    Case("a weight transposed", lambda x, net: F.linear(net.one(x).mean((2, 3)), net.bank[..., 0, 0].t()), 8),
    Case("axes moved", lambda x, net: net.one(x).movedim((1, 2), (-1, 1)).swapaxes(1, -1), 8),
    Case("one channel selected of pairs", lambda x, net: net.one(x).unflatten(1, (4, 2))[:, -1], 2),
    Case("a place that is the number of samples", lambda x, net: net.one(x).narrow(3, x.shape[0], 2), 8),
    Case("the diagonal of channels and rows", lambda x, net: net.one(x).diagonal(dim1=1, dim2=2), 0),
]  # fmt: skip


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_unusual_work_is_cut_exactly_or_frozen(case: Case, references: ModuleType) -> None:
    torch.manual_seed(0)
    example = torch.randn(2, 3, 8, 8)
    captured = capture(Branches(case.work, example), example)
    coupling = analyse(captured)
    one = [g for g in coupling.groups if any(a.parameter == "one.weight" and a.dim == 0 for a in g.axes)]
    assert sum(group.units for group in one) == case.units
    assert_exact(references, captured, coupling)


def assert_exact(references: ModuleType, captured: Captured, coupling: Coupling) -> None:
    """Random units leave, and what stays is what the dense graph computes with them at zero."""
    for seed in range(3):
        kept = references.random_kept(coupling, seed)
        x = tuple(torch.randn(3, *tensor.shape[1:]) for tensor in captured.inputs)
        with torch.no_grad():
            found = cut(captured, coupling, kept).run(*x)
        assert references.difference(found, references.masked(captured, coupling, kept, x)) < 1e-5
        removed = [group for group in coupling.groups if len(kept[group.name]) < group.units]
        if not any(group.normed for group in removed):
            with torch.no_grad():
                wanted = references.zeroed(captured, coupling, kept).run(*x)
            assert references.difference(found, wanted) < 1e-5


def relu_of(x: torch.Tensor, net: Branches) -> torch.Tensor:
    return torch.relu(net.one(x)) + x.mean()


def raises(walk: Walk, node: Node) -> Blocks:
    raise TypeError("int() argument must be a string")


def forgets(walk: Walk, node: Node) -> Blocks:
    return ()


def misplaces(walk: Walk, node: Node) -> Blocks:
    (block,) = walk.blocks(node.args[0])
    return (type(block)((2,), block.ids),)


def too_many(walk: Walk, node: Node) -> list[Blocks]:  # type: ignore[return]
    return [walk.blocks(node.args[0])] * 2


BROKEN = {
    raises: "no rule for these arguments",
    forgets: "its rule does not follow every dimension",
    too_many: "no rule for these arguments",
}


@pytest.mark.parametrize("broken", BROKEN, ids=lambda broken: broken.__name__)
def test_a_rule_that_is_wrong_freezes_what_its_node_touches_and_is_named(
    broken: Callable[[Walk, Node], Blocks], references: ModuleType
) -> None:
    example = torch.randn(2, 3, 8, 8)
    captured = capture(Branches(relu_of, example), example)
    coupling = analyse(captured, rules={**RULES, "aten.relu": broken})
    (frozen,) = [each for each in coupling.frozen if each.name == "one.bias"]
    assert frozen.op == "aten.relu"
    assert frozen.reason.startswith(f"{BROKEN[broken]} (")
    assert "line" in frozen.reason
    assert "self.work(x, self)" in frozen.reason


def test_blocks_of_the_wrong_dimension_are_found_by_the_rehearsal(references: ModuleType) -> None:
    """The image has as many rows as channels, so that no size tells the two apart before a cut."""
    example = torch.randn(2, 3, 8, 8)
    captured = capture(Branches(relu_of, example), example)
    coupling = analyse(captured, rules={**RULES, "aten.relu": misplaces})
    (frozen,) = [each for each in coupling.frozen if each.name == "one.bias"]
    assert (frozen.op, frozen.reason.split(" (")[0]) == (
        "aten.relu",
        "its sizes cannot be written after a cut",
    )
    assert_exact(references, captured, coupling)


class Experts(nn.Module):
    """Rows of data, each to two of four experts, whose products are grouped by runs of rows."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.router, self.last = nn.Linear(6, 16), nn.Linear(16, 4), nn.Linear(16, 3)
        self.up = nn.Parameter(torch.randn(4, 16, 12) / 4)
        self.down = nn.Parameter(torch.randn(4, 12, 16) / 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        product = torch.ops.transformers.grouped_mm_fallback
        rows = self.first(x).reshape(-1, 16)
        scores, chosen = self.router(rows).softmax(-1).topk(2, -1)
        order = chosen.flatten().argsort(stable=True)
        ends = (chosen.flatten()[:, None] == torch.arange(4)).sum(0).cumsum(0).to(torch.int32)
        made = product(
            torch.relu(product(rows.repeat_interleave(2, 0)[order], self.up, ends)), self.down, ends
        )
        back = torch.zeros_like(made).index_copy(0, order, made).reshape(-1, 2, 16)
        return self.last((rows + (back * scores[..., None]).sum(1)).reshape(*x.shape[:-1], 16))


def test_grouped_products_of_experts_are_cut_exactly(references: ModuleType) -> None:
    pytest.importorskip("transformers.integrations.moe")
    torch.manual_seed(0)
    example = torch.randn(2, 8, 6)
    captured = capture(Experts().eval(), example)
    coupling = analyse(captured)
    assert coupling.unknown == ()
    assert sorted(group.units for group in coupling.groups) == [12, 16]
    assert_exact(references, captured, coupling)


def test_an_empty_part_of_a_tensor_holds_no_atoms() -> None:
    """Sizes that depend on the widths are read from blocks: an empty one tells none."""
    example = torch.randn(2, 3, 8, 8)
    (work,) = [case.work for case in CASES if case.name == "an empty part"]
    coupling = analyse(capture(Branches(work, example), example))
    blocks = [
        each for value in coupling.values.values() for each in (value if isinstance(value, tuple) else ())
    ]
    assert all(block.ids.size for block in blocks)
    assert {size.at({"one": 5}) for size in sizes(coupling) if size.groups == ("one",)} == {5, 5 * 64}

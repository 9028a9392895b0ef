"""The promise of the graph room, over random networks: a cut is exact or it is not made."""

from __future__ import annotations

import re
from types import ModuleType

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import nn

from edgeprune.errors import InputError
from edgeprune.graph.capture import Captured, capture
from edgeprune.graph.coupling import Coupling, analyse
from edgeprune.graph.rules import RULES
from edgeprune.graph.surgery import cut

IMAGE = [
    "activation",
    "batch norm",
    "channel shuffle",
    "concat",
    "conv",
    "depthwise conv",
    "gate",
    "group norm",
    "grouped conv",
    "pooling",
    "residual",
    "split",
    "squeeze-excite",
    "transposed conv",
]
SEQUENCE = [
    "activation",
    "attention",
    "attention written out",
    "expanded attention",
    "fused attention",
    "gated",
    "grouped attention",
    "layer norm",
    "linear",
    "mlp",
    "rms norm",
]
MODEST = settings(
    max_examples=10, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow]
)
seeds = st.integers(0, 2**20)


@st.composite
def images(draw: st.DrawFn) -> tuple[str, tuple[str, ...], tuple[str, ...], bool, int]:
    layers = draw(st.lists(st.sampled_from(IMAGE), min_size=1, max_size=5))
    tail = draw(st.lists(st.sampled_from(SEQUENCE), max_size=1))
    return "image", tuple(layers), tuple(tail), draw(st.booleans()), draw(seeds)


@st.composite
def sequences(draw: st.DrawFn) -> tuple[str, tuple[str, ...], tuple[str, ...], bool, int]:
    start = draw(st.sampled_from(["sequence", "words"]))
    tail = draw(st.lists(st.sampled_from(SEQUENCE), min_size=1, max_size=4))
    return start, (), tuple(tail), draw(st.booleans()), draw(seeds)


def test_the_lists_of_layers_are_those_that_the_drawings_know(networks: ModuleType) -> None:
    assert sorted(networks.IMAGE_LAYERS) == IMAGE
    assert sorted(networks.SEQUENCE_LAYERS) == SEQUENCE


def assert_exact(
    networks: ModuleType, references: ModuleType, captured: Captured, coupling: Coupling, seed: int
) -> None:
    """Random subsets of units and, in the last, of residual branches, on other batches than the example's."""
    (example,) = captured.inputs
    for size, share, depth in ((1, None, None), (3, 0.5, None), (2, None, 0.5)):
        kept = references.random_kept(coupling, seed + size, share, depth)
        x = networks.batch(example, size, seed)
        pruned = cut(captured, coupling, kept)
        with torch.no_grad():
            found = pruned.run(x)
        assert references.difference(found, references.masked(captured, coupling, kept, (x,))) < 1e-5
        removed = [group for group in coupling.groups if len(kept[group.name]) < group.units]
        if depth is None and not any(group.normed for group in removed):
            with torch.no_grad():
                wanted = references.zeroed(captured, coupling, kept).run(x)
            assert references.difference(found, wanted) < 1e-5


@given(drawing=images())
@MODEST
def test_a_cut_convolutional_network_equals_the_dense_one_with_its_units_zeroed(
    networks: ModuleType,
    references: ModuleType,
    drawing: tuple[str, tuple[str, ...], tuple[str, ...], bool, int],
) -> None:
    model, example = networks.draw(networks.Drawing(*drawing))
    captured = capture(model, example)
    coupling = analyse(captured)
    assert coupling.unknown == ()
    assert_exact(networks, references, captured, coupling, drawing[-1])


@given(drawing=sequences())
@MODEST
def test_a_cut_transformer_equals_the_dense_one_with_its_units_zeroed(
    networks: ModuleType,
    references: ModuleType,
    drawing: tuple[str, tuple[str, ...], tuple[str, ...], bool, int],
) -> None:
    model, example = networks.draw(networks.Drawing(*drawing))
    captured = capture(model, example)
    coupling = analyse(captured)
    assert coupling.unknown == ()
    assert_exact(networks, references, captured, coupling, drawing[-1])


@given(drawing=st.one_of(images(), sequences()), source=st.randoms(use_true_random=False))
@MODEST
def test_without_some_rules_parameters_freeze_and_no_cut_is_wrong(
    networks: ModuleType,
    references: ModuleType,
    drawing: tuple[str, tuple[str, ...], tuple[str, ...], bool, int],
    source: object,
) -> None:
    model, example = networks.draw(networks.Drawing(*drawing))
    captured = capture(model, example)
    used = sorted({_op(node) for node in captured.module.graph.nodes} & set(RULES))
    forgotten = set(source.sample(used, k=min(len(used), source.randint(1, 3))))  # type: ignore[attr-defined]
    coupling = analyse(captured, rules={name: rule for name, rule in RULES.items() if name not in forgotten})
    assert set(coupling.unknown) <= forgotten
    assert_exact(networks, references, captured, coupling, drawing[-1])


def _op(node: torch.fx.Node) -> str:
    from edgeprune.graph.fx import op_name

    return op_name(node) if node.op == "call_function" else ""


class Strange(nn.Module):
    """`renorm` has no rule: the width that it touches is frozen, the hidden widths are not."""

    def __init__(self) -> None:
        super().__init__()
        self.before, self.touched = nn.Linear(4, 8), nn.Linear(8, 6)
        self.after, self.last = nn.Linear(6, 5), nn.Linear(5, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.last(torch.relu(self.after(torch.renorm(self.touched(self.before(x)), 2, 0, 1.0))))


def test_an_operation_without_a_rule_freezes_what_it_touches_and_is_named() -> None:
    coupling = analyse(capture(Strange(), torch.randn(2, 4)))
    assert coupling.unknown == ("aten.renorm",)
    assert {group.name: group.units for group in coupling.groups} == {"before": 8, "after": 5}
    (frozen,) = [each for each in coupling.frozen if each.name == "touched.bias"]
    assert (frozen.op, frozen.size) == ("aten.renorm", 6)
    assert re.fullmatch(
        r"no rule for this operation \(.*test_coupling\.py, line \d+: return self\.last\(.*\)", frozen.reason
    )


def test_heads_are_units_and_shared_kv_heads_take_their_queries_along(networks: ModuleType) -> None:
    width, heads, size = 6, 4, 3
    for style, units in (("apart", 4), ("fused", 4), ("written out", 4), ("grouped", 2), ("expanded", 2)):
        model = nn.Sequential(networks.Attention(width, heads, size, style), nn.Linear(width, 2))
        coupling = analyse(capture(model, torch.randn(2, 5, width)))
        (group,) = [
            g for g in coupling.groups if any("out.weight" in a.parameter and a.dim == 1 for a in g.axes)
        ]
        assert group.units == units, style
        (consumer,) = [axis for axis in group.axes if axis.parameter == "0.out.weight"]
        assert consumer.role == "in"
        assert consumer.positions.shape == (units, heads * size // units)


def test_head_dimensions_are_units_where_they_are_asked_for(
    networks: ModuleType, references: ModuleType
) -> None:
    width, heads, size = 6, 4, 3
    for style in ("apart", "fused", "written out", "grouped", "expanded"):
        model = nn.Sequential(networks.Attention(width, heads, size, style), nn.Linear(width, 2))
        captured = capture(model, torch.randn(2, 5, width))
        coupling = analyse(captured, inner=frozenset(node.name for node in captured.module.graph.nodes))
        (values,) = [
            group
            for group in coupling.groups
            if any(axis.parameter == "0.out.weight" and axis.dim == 1 for axis in group.axes)
        ]
        assert values.units == size, style
        kept = references.random_kept(coupling, 0, 0.5)
        x = torch.randn(3, 5, width)
        with torch.no_grad():
            found = cut(captured, coupling, kept).run(x)
            wanted = references.zeroed(captured, coupling, kept).run(x)
        assert references.difference(found, wanted) < references.LIMIT, style


def test_a_residual_stream_is_one_group_through_all_its_layers(networks: ModuleType) -> None:
    blocks = [networks.Residual(nn.Sequential(nn.Linear(6, 9), nn.ReLU(), nn.Linear(9, 6))) for _ in range(3)]
    coupling = analyse(capture(nn.Sequential(nn.Linear(4, 6), *blocks, nn.Linear(6, 2)), torch.randn(2, 4)))
    stream = coupling.group("0")
    assert stream.units == 6
    assert not stream.normed
    producers = {axis.parameter for axis in stream.axes if axis.role == "out"}
    assert producers == {
        "0.weight",
        "0.bias",
        *(f"{n}.inner.2.{p}" for n in (1, 2, 3) for p in ("weight", "bias")),
    }
    assert [g.units for g in coupling.groups if g is not stream] == [9, 9, 9]


def test_flattened_channels_take_all_their_pixels_along() -> None:
    model = nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.Flatten(), nn.Linear(36, 2))
    (group,) = analyse(capture(model, torch.randn(2, 1, 3, 3))).groups
    (consumer,) = [axis for axis in group.axes if axis.parameter == "2.weight"]
    assert np.array_equal(consumer.positions, np.arange(36).reshape(4, 9))


def test_a_group_that_enters_a_norm_says_so() -> None:
    model = nn.Sequential(nn.Linear(4, 6), nn.LayerNorm(6), nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 2))
    coupling = analyse(capture(model, torch.randn(2, 4)))
    assert {group.name: group.normed for group in coupling.groups} == {"0": True, "2": False}


@pytest.fixture(scope="module")
def plain() -> Coupling:
    return analyse(capture(nn.Sequential(nn.Linear(4, 3), nn.Linear(3, 2)), torch.randn(2, 4)))


def test_units_that_a_group_does_not_have_are_refused(plain: Coupling) -> None:
    with pytest.raises(InputError, match=r"Group '0' has units 0 to 2, not 3\."):
        plain.removed({"0": (0, 3)})


def test_a_group_cannot_be_emptied_or_keep_a_unit_twice(plain: Coupling) -> None:
    with pytest.raises(InputError, match="would keep 0 units"):
        plain.removed({"0": ()})
    with pytest.raises(InputError, match="would keep 2 units"):
        plain.removed({"0": (1, 1)})


def test_a_group_that_is_not_there_is_refused(plain: Coupling) -> None:
    with pytest.raises(InputError, match="There is no group 'head'"):
        plain.removed({"head": (0,)})

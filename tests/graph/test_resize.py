"""A file resized without an export has the shapes of the one that is exported at those widths."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import numpy_helper

from edgeprune.errors import EdgepruneError
from edgeprune.export import export_onnx
from edgeprune.graph.capture import Captured, capture
from edgeprune.graph.coupling import Coupling, analyse
from edgeprune.graph.resize import Size, Widths, resizable, sizes
from edgeprune.graph.surgery import cut

Export = Callable[[Widths], onnx.ModelProto]


@pytest.fixture
def exporter(tmp_path: Path) -> Callable[[Captured, Coupling], Export]:
    def make(captured: Captured, coupling: Coupling) -> Export:
        def export(widths: Widths) -> onnx.ModelProto:
            kept = {name: range(units) for name, units in widths.items()}
            return onnx.load(export_onnx(cut(captured, coupling, kept), tmp_path / "cut.onnx"))

        return export

    return make


def _like(model: onnx.ModelProto) -> Counter[tuple[object, ...]]:
    """Shapes of the weights, and what the shape constants hold."""
    found: Counter[tuple[object, ...]] = Counter()
    for tensor in model.graph.initializer:
        whole = tensor.data_type == onnx.TensorProto.INT64
        found[(*tensor.dims, *(numpy_helper.to_array(tensor).ravel().tolist() if whole else ()))] += 1
    return found


class _Images(torch.nn.Module):
    """A residual block, a concat and a depthwise convolution: [N, 3, 16, 16] -> [N, 5]."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.body = torch.nn.Conv2d(3, 16, 3, padding=1), torch.nn.Conv2d(16, 16, 3, padding=1)
        self.left, self.right = torch.nn.Conv2d(16, 24, 1), torch.nn.Conv2d(16, 16, 1)
        self.depth, self.head = torch.nn.Conv2d(40, 40, 3, groups=40), torch.nn.Linear(40 * 4, 5)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        x = torch.relu(self.stem(image))
        x = torch.relu(x + self.body(x))
        x = torch.relu(self.depth(torch.cat([self.left(x), self.right(x)], 1)))
        return self.head(torch.nn.functional.adaptive_avg_pool2d(x, 2).flatten(1))


def _images() -> Captured:
    torch.manual_seed(0)
    return capture(_Images(), torch.randn(1, 3, 16, 16))


class _Attention(torch.nn.Module):
    """Heads, a feed-forward block and norms: [N, 6, 32] -> [N, 6, 4]."""

    def __init__(self) -> None:
        super().__init__()
        self.first = torch.nn.Linear(32, 32)
        self.query, self.key, self.value = (torch.nn.Linear(32, 32) for _ in range(3))
        self.out, self.up, self.down = (
            torch.nn.Linear(32, 32),
            torch.nn.Linear(32, 48),
            torch.nn.Linear(48, 32),
        )
        self.norm, self.head = torch.nn.LayerNorm(32), torch.nn.Linear(32, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.first(x)
        heads = [layer(x).view(-1, 6, 4, 8).transpose(1, 2) for layer in (self.query, self.key, self.value)]
        mixed = torch.nn.functional.scaled_dot_product_attention(*heads).transpose(1, 2).reshape(-1, 6, 32)
        x = self.norm(x + self.out(mixed))
        return self.head(x + self.down(torch.nn.functional.gelu(self.up(x))))


@pytest.mark.parametrize("kind", ["images", "attention"])
def test_any_widths_have_the_shapes_of_their_export_and_run(
    kind: str, exporter: Callable[[Captured, Coupling], Export]
) -> None:
    torch.manual_seed(0)
    captured = _images() if kind == "images" else capture(_Attention(), torch.randn(1, 6, 32))
    coupling = analyse(captured)
    export = exporter(captured, coupling)
    learnt = resizable(coupling, export)
    whole = {group.name: group.units for group in coupling.groups}
    half = {name: max(1, units // 2) for name, units in whole.items()}
    for widths in (whole, half):
        resized = learnt.at(widths)
        assert _like(resized) == _like(export(widths))
        session = onnxruntime.InferenceSession(
            resized.SerializeToString(), providers=["CPUExecutionProvider"]
        )
        feeds = {
            name: tensor.numpy() for name, tensor in zip(captured.input_names, captured.inputs, strict=True)
        }
        assert np.isfinite(session.run(None, feeds)[0]).all()


def test_the_shapes_of_values_follow_the_widths(exporter: Callable[[Captured, Coupling], Export]) -> None:
    captured = _images()
    coupling = analyse(captured)
    learnt = resizable(coupling, exporter(captured, coupling))
    (head,) = (node for node in learnt.model.graph.node if node.op_type == "Gemm")
    batch, width = learnt.shapes[head.input[0]]
    assert batch == Size(1)
    assert set(width.groups) == {"left", "right"}
    assert width.at({"left": 5, "right": 7}) == 4 * 12


def test_a_size_counts_the_positions_of_every_unit() -> None:
    captured = capture(_Attention(), torch.randn(1, 6, 32))
    coupling = analyse(captured)
    assert Size(0, (("query", 8),)) in sizes(coupling)
    assert Size(0, (("query", 1),)) in sizes(coupling)
    assert Size(0, (("up", 1),)) in sizes(coupling)


def test_a_graph_that_changes_with_the_widths_is_refused(
    exporter: Callable[[Captured, Coupling], Export],
) -> None:
    captured = _images()
    coupling = analyse(captured)
    export, calls = exporter(captured, coupling), []

    def moody(widths: Widths) -> onnx.ModelProto:
        model = export(widths)
        calls.append(widths)
        if len(calls) == 2:
            model.graph.node[0].op_type = "Other"
        return model

    with pytest.raises(EdgepruneError, match="another graph at other widths"):
        resizable(coupling, moody)


def test_channels_padded_around_a_shortcut_follow_the_widths(
    nets: ModuleType, exporter: Callable[[Captured, Coupling], Export]
) -> None:
    """How many stand in front and how many behind depends on which are kept, and takes the same time."""
    captured = nets.residual()
    coupling = analyse(captured)
    learnt = resizable(coupling, exporter(captured, coupling))
    half = {group.name: max(1, group.units // 2) for group in coupling.groups}
    session = onnxruntime.InferenceSession(
        learnt.at(half).SerializeToString(), providers=["CPUExecutionProvider"]
    )
    feeds = {name: tensor.numpy() for name, tensor in zip(captured.input_names, captured.inputs, strict=True)}
    assert np.isfinite(session.run(None, feeds)[0]).all()


def test_a_sum_of_widths_that_chance_left_as_it_was_is_not_taken_for_fixed(
    nets: ModuleType, exporter: Callable[[Captured, Coupling], Export]
) -> None:
    """A stream that is padded has the units of two groups: one more of these and one less of those."""
    captured = nets.residual()
    coupling = analyse(captured)
    whole: onnx.ModelProto = exporter(captured, coupling)(
        {group.name: group.units for group in coupling.groups}
    )
    drawn: list[Widths] = []

    def noted(widths: Widths) -> onnx.ModelProto:
        drawn.append(widths)
        return whole

    for seed in range(20):
        drawn.clear()
        resizable(coupling, noted, seed)
        for size in sizes(coupling):
            assert len({size.at(widths) for widths in drawn}) > 1, (seed, size)


def test_a_size_that_follows_no_group_is_refused_by_name(
    exporter: Callable[[Captured, Coupling], Export],
) -> None:
    captured = _images()
    coupling = analyse(captured)
    export, calls = exporter(captured, coupling), []

    def odd(widths: Widths) -> onnx.ModelProto:
        model = export(widths)
        calls.append(widths)
        (bias,) = (tensor for tensor in model.graph.initializer if tensor.name == "stem.bias")
        bias.CopyFrom(numpy_helper.from_array(np.zeros(1000 + len(calls) ** 2, np.float32), bias.name))
        return model

    with pytest.raises(EdgepruneError, match=r"initialiser stem.bias .* follows no group"):
        resizable(coupling, odd)

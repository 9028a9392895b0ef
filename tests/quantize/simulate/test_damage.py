"""Which layers INT8 hurts."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from edgeprune.graph.capture import capture
from edgeprune.quantize.calibrate import calibrate
from edgeprune.quantize.dialects import TABLE
from edgeprune.quantize.simulate.damage import damage, weight_damage
from edgeprune.quantize.simulate.planned import layer_nodes
from edgeprune.quantize.weight_only import TABLE as FORMS
from tests.support.yardsticks import yardstick_of


class Chain(nn.Module):
    """Four convolutions and a classifier; in front of the third one channel is 3000 times the others."""

    def __init__(self) -> None:
        super().__init__()
        self.convs = nn.ModuleList(nn.Conv2d(4, 4, 3, padding=1) for _ in range(4))
        self.head = nn.Linear(4, 3)
        with torch.no_grad():
            self.convs[1].weight[0] *= 3e3
            self.convs[1].bias[0] *= 3e3
            self.convs[2].weight[:, 0] /= 3e3

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for conv in self.convs:
            x = torch.relu(conv(x))
        return self.head(x.mean((2, 3)))


@pytest.mark.parametrize("dialect", ["onnxruntime-x86", "onnxruntime-arm", "tensorrt"])
def test_the_layers_around_an_outlier_are_hurt_most(dialect: str) -> None:
    torch.manual_seed(0)
    captured = capture(Chain(), torch.randn(16, 4, 6, 6))
    layers = tuple(layer_nodes(captured))
    assert layers == ("convs.0", "convs.1", "convs.2", "convs.3", "head")
    ranges = calibrate(captured, [captured.inputs], "minmax")
    found = damage(captured, ranges, TABLE[dialect], layers, captured.inputs, yardstick_of(captured))
    ranked = sorted(found, key=lambda layer: -found[layer])
    assert set(ranked[:2]) == {"convs.1", "convs.2"}
    assert found[ranked[1]] > 3 * found[ranked[2]]
    assert all(value > 0 for value in found.values())


def test_a_layer_that_is_not_known_counts_as_harmless() -> None:
    captured = capture(Chain(), torch.randn(2, 4, 6, 6))
    ranges = calibrate(captured, [captured.inputs], "minmax")
    found = damage(
        captured, ranges, TABLE["openvino"], ["elsewhere"], captured.inputs, yardstick_of(captured)
    )
    assert found == {"elsewhere": 0.0}


class Products(nn.Module):
    """Three layers; every block of the middle one has weights 100 times the others, for inputs as small."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(64, 64, bias=False) for _ in range(3))
        with torch.no_grad():
            self.layers[0].weight[::16] /= 100
            self.layers[1].weight[:, ::16] *= 100

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for layer in self.layers:
            x = torch.tanh(layer(x))
        return x


def test_the_layer_whose_blocks_have_outliers_is_hurt_most_by_few_bits() -> None:
    torch.manual_seed(0)
    captured = capture(Products().eval(), torch.randn(8, 64))
    layers = ("layers.0", "layers.1", "layers.2")
    before = captured.run(*captured.inputs)[0]
    found = {
        name: weight_damage(captured, form, (*layers, "elsewhere"), captured.inputs, yardstick_of(captured))
        for name, form in FORMS.items()
    }
    assert max(layers, key=lambda layer: found["int4-weights"][layer]) == "layers.1"
    for layer in layers:
        assert 0 < found["int8-weights"][layer] < found["int4-weights"][layer]
    assert found["int4-weights"]["elsewhere"] == 0.0
    assert torch.equal(captured.run(*captured.inputs)[0], before), "the model itself is untouched"

"""What the nodes of a cut graph tell of their values is what they compute."""

from __future__ import annotations

from types import ModuleType

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import nn

from edgeprune.graph.capture import Captured, capture
from edgeprune.graph.coupling import analyse
from edgeprune.graph.fx import shape_of
from edgeprune.graph.surgery import cut

DECODERS = (
    *("transposed convolutions beside a rectified skip", "maps brought to the size of another"),
    *("a cropped skip, padded back", "depth to space", "a gated skip", "a U-Net over time"),
)


def halved(model: nn.Module, example: torch.Tensor, references: ModuleType) -> Captured:
    dense = capture(model, example)
    coupling = analyse(dense)
    return cut(dense, coupling, references.random_kept(coupling, 0, 0.5))


@pytest.mark.parametrize("name", DECODERS)
def test_a_cut_pyramid_tells_its_own_shapes(name: str, pyramids: ModuleType, references: ModuleType) -> None:
    assert set(pyramids.PYRAMIDS) == set(DECODERS)
    model, example = pyramids.pyramid(name)
    assert references.wrong_shapes(halved(model, example, references), (example,)) == {}


@settings(max_examples=12, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_every_value_of_a_cut_graph_has_the_shape_that_is_told(
    data: st.DataObject, networks: ModuleType, references: ModuleType
) -> None:
    drawing = networks.Drawing(
        start=data.draw(st.sampled_from(networks.STARTS)),
        layers=tuple(data.draw(st.lists(st.sampled_from(networks.names(networks.IMAGE_LAYERS)), max_size=4))),
        tail=tuple(
            data.draw(st.lists(st.sampled_from(networks.names(networks.SEQUENCE_LAYERS)), max_size=3))
        ),
        flat=data.draw(st.booleans()),
        seed=data.draw(st.integers(0, 2**16)),
    )
    model, example = networks.draw(drawing)
    found = halved(model, example, references)
    assert references.wrong_shapes(found, (networks.batch(example, 5),)) == {}


class Picked(nn.Module):
    """Rows are picked by their values: no shape knows how many."""

    def __init__(self) -> None:
        super().__init__()
        self.inner, self.out = nn.Linear(8, 32), nn.Linear(32, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.out(torch.relu(self.inner(x[x[:, 0] > 0])))


def test_a_size_that_depends_on_values_stays_one(references: ModuleType) -> None:
    pruned = halved(Picked().eval(), torch.randn(6, 8), references)
    inner = next(node for node in pruned.module.graph.nodes if node.name == "linear")
    assert inner.meta["val"].shape[-1] == 16
    assert len(pruned.run(torch.ones(3, 8))[0]) == 3
    assert shape_of(pruned.module, inner)[-1] == 16

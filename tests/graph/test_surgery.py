"""What a cut leaves: an ordinary trainable model, and the dense one untouched."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType

import pytest
import torch
from torch import nn

from edgeprune.graph.capture import Captured, capture, module_of
from edgeprune.graph.coupling import analyse
from edgeprune.graph.surgery import cut


class Tied(nn.Module):
    """A language model's embedding, used again as its output layer."""

    def __init__(self) -> None:
        super().__init__()
        self.words, self.body = nn.Embedding(11, 6), nn.Linear(6, 6)
        self.head = nn.Linear(6, 11, bias=False)
        self.head.weight = self.words.weight

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(torch.relu(self.body(self.words(x))))


@pytest.fixture
def image(networks: ModuleType) -> Captured:
    layers = ("conv", "batch norm", "squeeze-excite", "grouped conv", "concat")
    return capture(*networks.draw(networks.Drawing("image", layers, ("fused attention",), True, 3)))


def halved(captured: Captured, references: ModuleType, seed: int = 0) -> Captured:
    coupling = analyse(captured)
    return cut(captured, coupling, references.random_kept(coupling, seed, 0.5))


def test_a_cut_leaves_the_dense_model_as_it_was(
    image: Captured, networks: ModuleType, references: ModuleType
) -> None:
    x = networks.batch(image.inputs[0], 2)
    with torch.no_grad():
        before = image.run(x)
        pruned = halved(image, references)
        for parameter in pruned.module.parameters():
            parameter.zero_()
        assert torch.equal(image.run(x)[0], before[0])


def test_a_cut_model_has_fewer_parameters_under_the_same_names(
    image: Captured, references: ModuleType
) -> None:
    pruned = halved(image, references)
    dense, left = (dict(each.module.named_parameters()) for each in (image, pruned))
    assert dense.keys() == left.keys()
    assert sum(p.numel() for p in left.values()) < 0.7 * sum(p.numel() for p in dense.values())


def test_every_parameter_of_a_cut_model_gets_a_finite_gradient(
    image: Captured, references: ModuleType
) -> None:
    pruned = halved(image, references)
    (output,) = pruned.run(*image.inputs)
    output.square().mean().backward()
    for name, parameter in pruned.module.named_parameters():
        assert parameter.requires_grad, name
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name


def test_frozen_weights_of_the_user_stay_without_gradient(references: ModuleType) -> None:
    model = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 2))
    model[0].weight.requires_grad_(False)
    pruned = halved(capture(model, torch.randn(2, 4)), references)
    wanted = {name: parameter.requires_grad for name, parameter in pruned.module.named_parameters()}
    assert wanted == {"0.weight": False, "0.bias": True, "2.weight": True, "2.bias": True}


def test_a_cut_model_is_saved_and_reloaded_without_pickle(
    image: Captured, networks: ModuleType, references: ModuleType, tmp_path: Path
) -> None:
    pruned = halved(image, references)
    torch.export.save(pruned.program(), tmp_path / "small.pt2")
    again = image.with_module(module_of(torch.export.load(tmp_path / "small.pt2")))
    for size in (1, 3):
        x = networks.batch(image.inputs[0], size)
        with torch.no_grad():
            assert torch.equal(again.run(x)[0], pruned.run(x)[0])


def test_a_cut_model_can_be_analysed_and_cut_again(
    image: Captured, networks: ModuleType, references: ModuleType
) -> None:
    once = halved(image, references)
    again = capture(once.module, image.inputs[0])
    coupling = analyse(again)
    kept = references.random_kept(coupling, 1, 0.5)
    x = networks.batch(image.inputs[0], 3)
    with torch.no_grad():
        found = cut(again, coupling, kept).run(x)
    assert references.difference(found, references.masked(again, coupling, kept, (x,))) < references.LIMIT


def test_tied_weights_stay_tied(references: ModuleType) -> None:
    dense = capture(Tied(), torch.randint(0, 11, (2, 5)))
    coupling = analyse(dense)
    kept = {group.name: (0, 2, 5) for group in coupling.groups}
    pruned = cut(dense, coupling, kept)
    assert pruned.module.head.weight is pruned.module.words.weight
    assert pruned.module.head.weight.shape == (11, 3)
    with torch.no_grad():
        wanted = references.zeroed(dense, coupling, kept).run(*dense.inputs)
        assert references.difference(pruned.run(*dense.inputs), wanted) < references.LIMIT


def test_keeping_every_unit_changes_nothing(image: Captured, networks: ModuleType) -> None:
    coupling = analyse(image)
    whole = cut(image, coupling, {group.name: range(group.units) for group in coupling.groups})
    x = networks.batch(image.inputs[0], 3)
    with torch.no_grad():
        assert torch.equal(whole.run(x)[0], image.run(x)[0])


class Views(nn.Module):
    """Heads of 3 side by side, brought back in front, and one view over batch and sequence (as Conv1D)."""

    def __init__(self) -> None:
        super().__init__()
        self.enter, self.leave = nn.Linear(4, 12), nn.Linear(12, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        b, s, _ = x.shape
        heads = self.enter(x).view(b, s, 4, 3).transpose(1, 2)
        mixed = heads @ heads.transpose(-1, -2) @ heads
        flat = mixed.transpose(1, 2).reshape(b, s, 12).view(-1, 12)
        return self.leave(flat).view(b, s, 2)


def test_a_width_of_one_may_stand_before_a_view(references: ModuleType) -> None:
    captured = capture(Views(), torch.randn(2, 5, 4))
    coupling = analyse(captured, inner=frozenset(node.name for node in captured.module.graph.nodes))
    for group in coupling.groups:
        kept = {group.name: (0,)}
        with torch.no_grad():
            found = cut(captured, coupling, kept).run(*captured.inputs)
        assert (
            references.difference(found, references.masked(captured, coupling, kept, captured.inputs)) < 1e-5
        )


def test_a_dimension_that_a_cut_leaves_with_one_position_is_not_squeezed(references: ModuleType) -> None:
    class Pooled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.filters, self.pool, self.head = nn.Conv2d(3, 6, 3), nn.AdaptiveAvgPool2d(1), nn.Linear(6, 4)

        def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            pooled = self.pool(self.filters(x))
            return self.head(pooled.squeeze()), self.head(pooled.squeeze(3).squeeze((1, 2)))

    captured, x = capture(Pooled().eval(), torch.randn(2, 3, 6, 6)), torch.randn(3, 3, 6, 6)
    coupling = analyse(captured)
    kept = {"filters": (4,)}
    with torch.no_grad():
        found = cut(captured, coupling, kept).run(x)
        wanted = references.zeroed(captured, coupling, kept).run(x)
    assert references.difference(found, wanted) < references.LIMIT


def test_a_variance_keeps_the_units_that_it_is_divided_by(references: ModuleType) -> None:
    class Spread(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.wide, self.head = nn.Linear(6, 8), nn.Linear(8, 4)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            x = self.wide(x)
            return self.head(x / x.std(1, keepdim=True))

    captured, x = capture(Spread().eval(), torch.randn(2, 6)), torch.randn(3, 6)
    coupling = analyse(captured)
    assert coupling.group("wide").least == 2
    with torch.no_grad():
        found = cut(captured, coupling, {"wide": (1, 5)}).run(x)
        wanted = references.masked(captured, coupling, {"wide": (1, 5)}, (x,))
    assert found[0].isfinite().all()
    assert references.difference(found, wanted) < references.LIMIT

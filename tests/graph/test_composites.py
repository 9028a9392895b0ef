"""Composite operations written out: what they compute, and what is left as it was."""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from edgeprune.graph.capture import capture
from edgeprune.graph.coupling import analyse
from edgeprune.graph.fx import op_name
from edgeprune.graph.surgery import cut
from edgeprune.quiet import quiet


class Between(nn.Module):
    """Eight units, the operation, and a layer that reads what it gives."""

    def __init__(self, work: Callable[[torch.Tensor], torch.Tensor]) -> None:
        super().__init__()
        self.first, self.work = nn.Linear(4, 8), work
        self.last = nn.Linear(work(torch.zeros(2, 3, 8)).shape[-1], 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.last(self.work(torch.tanh(self.first(x))))


FOLLOWED: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "aten.cosine_similarity": lambda x: x * F.cosine_similarity(x, 2 * x + 1, dim=1)[:, None],
    "aten.hstack": lambda x: torch.hstack([x, -x]),
    "aten.fliplr": lambda x: x.fliplr(),
    "aten.special_expit": torch.special.expit,
    "aten.inner": lambda x: torch.inner(x, x[0, :2]),
    "aten.tensordot": lambda x: torch.tensordot(x, x[0], dims=([2], [1])),
    "aten.diff": lambda x: x.diff(dim=1),
    "aten.instance_norm": lambda x: F.instance_norm(x.transpose(1, 2)).transpose(1, 2),
    "aten.broadcast_tensors": lambda x: torch.broadcast_tensors(x, x[:, :1])[1] + x,
}


@pytest.mark.parametrize("name", FOLLOWED)
def test_a_composite_operation_is_followed_by_its_definition(name: str, references: ModuleType) -> None:
    torch.manual_seed(0)
    model, example = Between(FOLLOWED[name]).eval(), torch.randn(2, 3, 4)
    captured = capture(model, example)
    x = torch.randn(5, 3, 4)
    with torch.no_grad():
        assert references.difference(captured.run(x), (model(x),)) < references.LIMIT
    coupling = analyse(captured)
    assert coupling.unknown == ()
    assert [group.units for group in coupling.groups if group.name == "first"] == [8]
    kept = references.random_kept(coupling, 0, 0.5)
    with torch.no_grad():
        found = cut(captured, coupling, kept).run(x)
        wanted = references.zeroed(captured, coupling, kept).run(x)
    assert references.difference(found, wanted) < references.LIMIT


def test_what_is_made_of_an_operation_without_a_rule_stays_one_that_runtimes_may_know() -> None:
    captured = capture(Between(lambda x: x * torch.linalg.det(x.mT @ x)[:, None, None]), torch.randn(2, 3, 4))
    operations = {op_name(node) for node in captured.module.graph.nodes if node.op == "call_function"}
    assert "aten.linalg_det" in operations
    assert analyse(captured).unknown == ("aten.linalg_det",)


def test_what_has_a_rule_stays_one_operation_and_trains() -> None:
    model = nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.Dropout(0.5), nn.Flatten(), nn.Linear(32, 2)
    )
    captured = capture(model.eval(), torch.randn(2, 3, 4, 4))
    operations = [op_name(node) for node in captured.module.graph.nodes if node.op == "call_function"]
    assert operations == [f"aten.{name}" for name in ("conv2d", "batch_norm", "dropout", "flatten", "linear")]


def test_gradients_go_through_what_was_written_out() -> None:
    captured = capture(Between(FOLLOWED["aten.cosine_similarity"]).eval(), torch.randn(2, 3, 4))
    captured.run(torch.randn(2, 3, 4))[0].sum().backward()
    weight = captured.module.get_parameter("first.weight")
    assert weight.grad is not None
    assert weight.grad.abs().sum() > 0


def test_a_program_in_core_operations_is_cut_like_the_model(references: ModuleType) -> None:
    layers = [nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 8, 1, groups=8), nn.Dropout(0.5)]
    tokens = [nn.Flatten(2), nn.Linear(16, 12), nn.LayerNorm(12), nn.Linear(12, 5)]
    model = nn.Sequential(*layers, nn.ConvTranspose2d(8, 6, 2, 2), *tokens).eval()
    example = torch.randn(2, 3, 4, 4)
    with quiet():  # torch deprecates what it calls itself
        whole = torch.export.export(model, (example,), dynamic_shapes=({0: torch.export.Dim.DYNAMIC},))
        core = whole.run_decompositions().module()
    captured = capture(core, example)
    operations = {op_name(node) for node in captured.module.graph.nodes if node.op == "call_function"}
    assert {"aten.convolution", "aten.native_layer_norm"} <= operations
    coupling = analyse(captured)
    assert sorted(group.units for group in coupling.groups) == [8, 12]
    kept = {**references.random_kept(coupling, 0, 0.5)}
    for group in coupling.groups:
        if group.normed:
            with torch.no_grad():
                cut(captured, coupling, {group.name: kept[group.name]}).run(example)
            kept[group.name] = tuple(range(group.units))
    with torch.no_grad():
        found = cut(captured, coupling, kept).run(example)
        wanted = references.zeroed(captured, coupling, kept).run(example)
    assert references.difference(found, wanted) < references.LIMIT

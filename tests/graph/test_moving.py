"""A captured graph is moved as a whole: what it makes itself lies where its weights do.

The device is the stand-in of tests/support/elsewhere.py, which refuses tensors of two devices.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from benchmarks.zoo import ENTRIES
from edgeprune.graph.capture import Captured, capture
from edgeprune.graph.moving import CPU, device_of
from tests.support.elsewhere import ELSEWHERE, ElsewhereTensor, elsewhere


class MakesTensors(nn.Module):
    """Positions, a mask, zeros that are moved, stored constants and a literal, all made in `forward`."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(16, 8)
        self.norm = nn.BatchNorm1d(5)
        self.head = nn.Linear(8, 4)
        self.register_buffer("scale", torch.ones(1))
        self.shift = torch.full((1,), 2.0)

    def forward(self, x: Tensor) -> Tensor:
        h = self.embedding(x) + self.embedding(torch.arange(x.shape[1]))
        mask = torch.tril(torch.ones(x.shape[1], x.shape[1], device=x.device))
        h = self.norm(mask @ h + torch.zeros(x.shape[0], 1, 8).to("cpu"))
        h = torch.where(torch.full_like(h, 0.5) < h, h, torch.zeros_like(h))
        return self.head(h) * self.scale + self.shift * torch.tensor([2.0]) * torch.rand_like(h).mean()


class ComputesConstants(nn.Module):
    """Without a parameter: all that it adds is made by operations."""

    def forward(self, x: Tensor) -> Tensor:
        return x + torch.linspace(0, 1, x.shape[1]) + torch.eye(x.shape[1]).sum(0)


class Rolls(nn.Module):
    """A window that is shifted, and a mask that is written to part by part (Swin's)."""

    def __init__(self) -> None:
        super().__init__()
        self.proj = nn.Linear(8, 8)

    def forward(self, x: Tensor) -> Tensor:
        mask = torch.zeros(1, x.shape[1], 8)
        for number, part in enumerate((slice(0, 2), slice(2, None))):
            mask[:, part] = number
        return self.proj(torch.roll(x, 1, 1) + mask.masked_fill(mask > 0, -1.0))


CASES: list[tuple[Callable[[], nn.Module], Callable[[], Tensor]]] = [
    (MakesTensors, lambda: torch.randint(0, 16, (2, 5))),
    (ComputesConstants, lambda: torch.randn(2, 5)),
    (Rolls, lambda: torch.randn(2, 5, 8)),
    (lambda: nn.Transformer(8, 2, 1, 1, 16, batch_first=True).encoder, lambda: torch.randn(2, 5, 8)),
    (lambda: nn.Sequential(nn.LSTM(8, 4, batch_first=True), First()), lambda: torch.randn(2, 5, 8)),
]


class First(nn.Module):
    def forward(self, x: tuple[Tensor, ...]) -> Tensor:
        return x[0]


def captured(build: Callable[[], nn.Module], example: Tensor) -> Captured:
    torch.manual_seed(0)
    return capture(build().eval(), example)


def trained_step(network: Captured, x: Tensor) -> Tensor:
    """Loss of the second of two steps of training, and whatever it leaves in the weights."""
    torch.manual_seed(1)
    parameters = [p for p in network.module.parameters() if p.requires_grad]
    optimiser = torch.optim.SGD(parameters, lr=1e-2) if parameters else None
    network.module.train()
    loss = torch.zeros(())
    for _ in range(2):
        loss = network.run(x)[0].square().mean()
        if optimiser is not None:
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
    network.module.eval()
    return loss


@pytest.mark.parametrize(("build", "example"), CASES, ids=lambda case: getattr(case, "__name__", ""))
def test_a_moved_graph_computes_and_trains_where_it_lies(
    build: Callable[[], nn.Module], example: Callable[[], Tensor]
) -> None:
    x = example()
    here = captured(build, x)
    there = here.copy()
    wanted = trained_step(here, x)
    with elsewhere():
        there.module.to(ELSEWHERE)
        assert device_of(there.module) == ELSEWHERE
        found = trained_step(there, x.to(ELSEWHERE))
        assert isinstance(found, ElsewhereTensor)
        there.module.to(CPU)
    # Attention and LSTM are computed by other kernels there.
    torch.testing.assert_close(found.here.detach(), wanted.detach())
    torch.testing.assert_close(there.module.state_dict(), here.module.state_dict())
    with torch.no_grad():  # it is back: nothing in the graph says the other device
        torch.manual_seed(2)
        once = here.run(x)[0]
        torch.manual_seed(2)
        torch.testing.assert_close(there.run(x)[0], once)


@pytest.mark.parametrize("name", ["Swin", "GPT-2", "Llama", "Mixture of experts"])
def test_architectures_that_make_masks_and_positions_are_moved(name: str) -> None:
    (entry,) = [entry for entry in ENTRIES if entry.name == name]
    pytest.importorskip(entry.needs or "torch")
    model, example = entry.made()
    here = capture(model, example)
    there = here.copy()

    def trained(network: Captured, device: torch.device) -> Tensor:
        torch.manual_seed(1)  # of dropout
        network.module.train()
        outputs = network.run(*(x.to(device) for x in here.inputs))
        loss = torch.stack([y.float().square().mean() for y in outputs if y.is_floating_point()]).sum()
        loss.backward()
        assert {p.grad.device for p in network.module.parameters() if p.grad is not None} == {device}
        return loss.detach()

    wanted = trained(here, CPU)
    with elsewhere():
        there.module.to(ELSEWHERE)
        found = trained(there, ELSEWHERE)
    assert isinstance(found, ElsewhereTensor)
    torch.testing.assert_close(found.here, wanted)


def test_a_graph_that_is_moved_leaves_its_copies() -> None:
    one = captured(MakesTensors, torch.randint(0, 16, (2, 5)))
    other = one.copy()
    with elsewhere():
        one.module.to(ELSEWHERE)
    assert device_of(other.module) == CPU
    assert other.run(torch.zeros(2, 5, dtype=torch.long))[0].device == CPU


def test_a_graph_moves_with_the_module_that_holds_it() -> None:
    x = torch.randint(0, 16, (2, 5))
    outer = nn.Sequential(captured(MakesTensors, x).module)
    with elsewhere():
        outer.to(ELSEWHERE)
        assert outer(x.to(ELSEWHERE)).device == ELSEWHERE


def test_another_number_type_moves_nothing() -> None:
    one = captured(ComputesConstants, torch.randn(2, 5))
    assert device_of(one.copy().module.double()) == CPU
    with elsewhere():
        one.module.to(ELSEWHERE)
        assert device_of(one.module.double()) == ELSEWHERE


def test_the_stand_in_refuses_tensors_of_two_devices() -> None:
    with elsewhere():
        there = torch.ones(2, device=ELSEWHERE)
        with pytest.raises(RuntimeError, match="same device"):
            there + torch.ones(2)
        with pytest.raises(RuntimeError, match="same device"):
            torch.stack([there, torch.ones(2)])
        assert (there + torch.tensor(1.0)).device == ELSEWHERE
        assert torch.equal((there + 1).to(CPU), torch.full((2,), 2.0))

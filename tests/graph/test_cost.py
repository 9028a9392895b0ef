"""What the cost model predicts is what is counted on the graph that was really cut."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import scaled_dot_product_attention
from torch.utils.flop_counter import FlopCounterMode

from edgeprune.graph.capture import Captured, capture
from edgeprune.graph.cost import count
from edgeprune.graph.coupling import Kept, analyse
from edgeprune.graph.surgery import cut

BATCH = 3  # no other size of the networks: macs are for one sample, so this has to divide out


class Branches(nn.Module):
    """A residual addition, a concatenation, and a flatten that gives each channel 16 features."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(4, 12, 3, padding=1)
        self.norm = nn.BatchNorm2d(12)
        self.body = nn.Conv2d(12, 12, 3, padding=1, bias=False)
        self.left = nn.Conv2d(12, 6, 1)
        self.right = nn.Conv2d(12, 10, 3, stride=2, padding=1)
        self.head = nn.Linear(16 * 16, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.norm(self.stem(x)))
        x = torch.relu(x + self.body(x))
        x = torch.cat([self.left(x)[:, :, ::2, ::2], self.right(x)], dim=1)
        return self.head(x.flatten(1))


class Attention(nn.Module):
    """Four heads over fused queries, keys and values; by the operator or by two matrix products."""

    def __init__(self, operator: bool) -> None:
        super().__init__()
        self.operator = operator
        self.norm = nn.LayerNorm(16)
        self.fused = nn.Linear(16, 48)
        self.project = nn.Linear(16, 16)
        self.up, self.down = nn.Linear(16, 40), nn.Linear(40, 16)
        self.head = nn.Linear(16, 5)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.fused(self.norm(x)).view(x.shape[0], 7, 3, 4, 4).permute(2, 0, 3, 1, 4).unbind(0)
        if self.operator:
            y = scaled_dot_product_attention(q, k, v)
        else:
            y = (q @ k.transpose(-1, -2) / 2).softmax(-1) @ v
        x = x + self.project(y.transpose(1, 2).reshape(x.shape[0], 7, 16))
        x = x + self.down(torch.relu(self.up(x)))
        return self.head(x.mean(1))


class Grouped(nn.Module):
    """Two key and value heads serve six query heads."""

    def __init__(self) -> None:
        super().__init__()
        self.q, self.kv, self.out = nn.Linear(16, 48), nn.Linear(16, 32), nn.Linear(48, 5)

    def forward(self, x: Tensor) -> Tensor:
        q = self.q(x).view(-1, 7, 6, 8).transpose(1, 2)
        k, v = self.kv(x).view(-1, 7, 2, 2, 8).permute(2, 0, 3, 1, 4).unbind(0)
        y = scaled_dot_product_attention(q, k, v, enable_gqa=True)
        return self.out(y.transpose(1, 2).reshape(-1, 7, 48)).mean(1)


class Einsum(nn.Module):
    """A bilinear layer written as einsum, with explicit labels, and one with an ellipsis."""

    def __init__(self) -> None:
        super().__init__()
        self.enter, self.leave = nn.Linear(8, 12), nn.Linear(10, 5)
        self.mix = nn.Parameter(torch.randn(12, 10))
        self.time = nn.Parameter(torch.randn(7, 4))

    def forward(self, x: Tensor) -> Tensor:
        x = torch.einsum("bti,io->bto", torch.relu(self.enter(x)), self.mix)
        x = torch.einsum("b...o,...s->bos", x, self.time)
        return self.leave(x.mean(2))


class Recurrent(nn.Module):
    """Two layers in both directions, then one."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(8, 6, num_layers=2, bidirectional=True, batch_first=True)
        self.gru = nn.GRU(12, 9, batch_first=True)
        self.head = nn.Linear(9, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.gru(self.lstm(x)[0])[0].mean(1))


class Tied(nn.Module):
    """An embedding whose table is the last layer too, and a parameter that nothing uses."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(11, 16)
        self.hidden = nn.Linear(16, 16)
        self.head = nn.Linear(16, 11, bias=False)
        self.head.weight = self.embed.weight
        self.unused = nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.relu(self.hidden(self.embed(x))))


def sequence(*layers: nn.Module) -> nn.Module:
    return nn.Sequential(*layers)


IMAGE, SIGNAL, TOKENS = torch.randn(BATCH, 4, 8, 8), torch.randn(BATCH, 4, 20), torch.randn(BATCH, 7, 16)


@dataclass(frozen=True)
class Case:
    make: Callable[[], nn.Module]
    example: Tensor


CASES = {
    "convolutions with stride, padding and dilation": Case(
        lambda: sequence(
            nn.Conv2d(4, 10, 3, stride=2, padding=1),
            nn.ReLU(),
            nn.Conv2d(10, 8, (3, 1), dilation=(2, 1), padding="same"),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
            nn.Linear(8, 5),
        ),
        IMAGE,
    ),
    "residual, concatenation and flatten": Case(Branches, IMAGE),
    "depthwise separable": Case(
        lambda: sequence(
            nn.Conv2d(4, 12, 1),
            nn.Conv2d(12, 12, 3, padding=1, groups=12, bias=False),
            nn.BatchNorm2d(12),
            nn.Conv2d(12, 24, 3, groups=4),
            nn.Conv2d(24, 5, 1),
        ),
        IMAGE,
    ),
    "transposed": Case(
        lambda: sequence(
            nn.Conv2d(4, 10, 3),
            nn.ConvTranspose2d(10, 6, 4, stride=2),
            nn.ReLU(),
            nn.ConvTranspose2d(6, 6, 3, groups=6),
            nn.ConvTranspose2d(6, 12, 3, groups=3, bias=False),
            nn.Conv2d(12, 5, 1),
        ),
        IMAGE,
    ),
    "one dimension": Case(
        lambda: sequence(nn.Conv1d(4, 10, 5, padding=2), nn.GELU(), nn.Conv1d(10, 5, 3)), SIGNAL
    ),
    "attention, one operator": Case(lambda: Attention(True), TOKENS),
    "attention, two products": Case(lambda: Attention(False), TOKENS),
    "grouped-query attention": Case(Grouped, TOKENS),
    "einsum": Case(Einsum, torch.randn(BATCH, 7, 8)),
    # In double, or oneDNN would run the LSTM as one operation that the counter does not know.
    "recurrent": Case(lambda: Recurrent().double(), torch.randn(BATCH, 7, 8).double()),
    "tied embedding": Case(Tied, torch.arange(BATCH * 7).reshape(BATCH, 7) % 11),
}


def counted(captured: Captured) -> tuple[int, int]:
    """Parameters of the module, and half the operations torch's own counter sees per sample."""
    parameters = sum(parameter.numel() for parameter in captured.module.parameters())
    # The math backend is made of matrix products, which the counter knows on every machine.
    with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        captured.run(*captured.inputs)
    operations = counter.get_total_flops()
    assert operations % (2 * BATCH) == 0
    return parameters, operations // (2 * BATCH)


@pytest.mark.parametrize("name", CASES)
def test_params_and_macs_are_those_of_the_graph_that_was_cut(name: str) -> None:
    torch.manual_seed(0)
    dense = capture(CASES[name].make(), CASES[name].example)
    coupling = analyse(dense)
    cost = count(dense, coupling)
    assert (cost.params({}), cost.macs({})) == counted(dense)
    assert coupling.groups
    random = np.random.default_rng(0)
    for _ in range(3):
        kept: Kept = {
            group.name: sorted(
                random.choice(group.units, random.integers(1, group.units + 1), replace=False).tolist()
            )
            for group in coupling.groups
        }
        assert (cost.params(kept), cost.macs(kept)) == counted(cut(dense, coupling, kept)), kept


def test_a_group_that_is_not_named_stays_whole() -> None:
    dense = capture(nn.Sequential(nn.Linear(6, 10), nn.ReLU(), nn.Linear(10, 5)), torch.randn(2, 6))
    coupling = analyse(dense)
    cost = count(dense, coupling)
    (group,) = coupling.groups
    assert cost.macs({group.name: range(10)}) == cost.macs({}) == 6 * 10 + 10 * 5
    assert cost.params({group.name: [3]}) == 6 + 1 + 5 + 5

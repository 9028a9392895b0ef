"""Small networks with sane random weights, and what a test wants to know of them."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from edgeprune.graph.capture import Captured, capture


class Residual(nn.Module):
    """Every pattern of a convolutional network whose integers must not be interrupted.

    Stem with a max-pool, a projected and a padded shortcut, a SiLU gate, a concat, a depthwise ReLU6
    convolution, a global mean and a classifier: 9 convolutions, 3 additions, 2 multiplications.
    """

    convolutions, additions, multiplications = 9, 3, 2

    def __init__(self, width: int = 16, classes: int = 10) -> None:
        super().__init__()
        self.stem = conv(3, width, 3)
        self.body = conv(width, width, 3)
        self.down = conv(width, width, 3, stride=2)
        self.short = conv(width, width, 1, stride=2)
        self.wide = conv(width, 2 * width, 3, stride=2)
        self.gate = nn.Conv2d(2 * width, 2 * width, 1)
        self.left, self.right = conv(2 * width, width, 1), conv(2 * width, width, 1)
        self.depth = conv(2 * width, 2 * width, 3, groups=2 * width)
        self.head = nn.Linear(2 * width, classes)

    def forward(self, image: Tensor) -> Tensor:
        x = functional.max_pool2d(torch.relu(self.stem(image)), 3, 2, 1)
        y = self.body(x)
        y += x  # in place: the captured graph holds add_
        x = torch.relu(y)
        x = torch.relu(self.down(x) + self.short(x))
        padded = functional.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, 8, 8))
        x = torch.relu(self.wide(x) + padded)
        x = x * torch.sigmoid(functional.silu(self.gate(x)))
        x = torch.cat([torch.relu(self.left(x)), self.right(x)], 1)
        x = functional.relu6(self.depth(x))
        return self.head(x.mean((2, 3)))


class Masked(nn.Module):
    """One attention head whose mask is minus infinity above the diagonal; tokens in, two outputs."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(20, 16)
        self.query, self.key, self.value = (nn.Linear(16, 16) for _ in range(3))
        self.norm = nn.LayerNorm(16)

    def forward(self, tokens: Tensor, scale: Tensor) -> tuple[Tensor, Tensor]:
        x = self.embed(tokens) * scale[:, None]
        scores = self.query(x) @ self.key(x).transpose(1, 2)
        future = torch.ones(tokens.shape[1], tokens.shape[1], dtype=torch.bool).triu(1)
        weights = scores.masked_fill(future, float("-inf")).softmax(-1)
        return self.norm(weights @ self.value(x)), weights


def conv(channels: int, width: int, size: int, stride: int = 1, groups: int = 1) -> nn.Sequential:
    """A convolution and a BatchNorm that has seen data."""
    norm = nn.BatchNorm2d(width)
    with torch.no_grad():
        norm.weight.uniform_(0.5, 1.5)
        norm.bias.normal_(0, 0.1)
        norm.running_mean.normal_(0, 0.1)
        norm.running_var.uniform_(0.5, 1.5)
    filters = nn.Conv2d(channels, width, size, stride, size // 2, groups=groups, bias=False)
    nn.init.kaiming_normal_(filters.weight)  # the default would let the signal fade below the biases
    return nn.Sequential(filters, norm)


def residual() -> Captured:
    """`Residual`, captured on one 32x32 image."""
    torch.manual_seed(0)
    return capture(Residual(), torch.randn(1, 3, 32, 32))


def masked() -> Captured:
    """`Masked`, captured with keyword inputs."""
    torch.manual_seed(0)
    return capture(Masked(), {"tokens": torch.arange(12).reshape(2, 6), "scale": torch.rand(2, 1)})


def images(batches: int, rows: int, seed: int = 1) -> list[tuple[Tensor, ...]]:
    """Calibration batches for `residual`: noise of varying colour and contrast."""
    generator = torch.Generator().manual_seed(seed)

    def batch() -> Tensor:
        noise = torch.randn(rows, 3, 32, 32, generator=generator)
        contrast = torch.rand(rows, 1, 1, 1, generator=generator)
        return noise * contrast + torch.randn(rows, 3, 1, 1, generator=generator)

    return [(batch(),) for _ in range(batches)]

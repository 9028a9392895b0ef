"""Small networks of several kinds. Two come with published weights (`tasks`), the others are trained once."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn


class InvertedResidual(nn.Module):
    """Expand, depthwise, project (Sandler et al. 2018)."""

    def __init__(self, wide: int, out: int, stride: int, expand: int = 4) -> None:
        super().__init__()
        hidden = wide * expand
        self.expand, self.expand_norm = nn.Conv2d(wide, hidden, 1, bias=False), nn.BatchNorm2d(hidden)
        self.depth = nn.Conv2d(hidden, hidden, 3, stride, 1, groups=hidden, bias=False)
        self.depth_norm = nn.BatchNorm2d(hidden)
        self.project, self.project_norm = nn.Conv2d(hidden, out, 1, bias=False), nn.BatchNorm2d(out)
        self.skip = stride == 1 and wide == out

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = F.relu6(self.expand_norm(self.expand(x)))
        y = F.relu6(self.depth_norm(self.depth(y)))
        y = self.project_norm(self.project(y))
        return x + y if self.skip else y


class MobileNet(nn.Module):
    """MobileNetV2 for 28x28 pixels."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.stem_norm = nn.Conv2d(1, 16, 3, 1, 1, bias=False), nn.BatchNorm2d(16)
        shapes = ((16, 24, 2), (24, 24, 1), (24, 40, 2), (40, 40, 1), (40, 40, 1))
        self.blocks = nn.Sequential(*(InvertedResidual(*shape) for shape in shapes))
        self.head, self.head_norm = nn.Conv2d(40, 160, 1, bias=False), nn.BatchNorm2d(160)
        self.classify = nn.Linear(160, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.blocks(F.relu6(self.stem_norm(self.stem(x))))
        return self.classify(F.relu6(self.head_norm(self.head(x))).mean((2, 3)))


class Layer(nn.Module):
    """A transformer's encoder layer, norms first."""

    def __init__(self, wide: int, heads: int, hidden: int) -> None:
        super().__init__()
        self.heads, self.size = heads, wide // heads
        self.before, self.between = nn.LayerNorm(wide), nn.LayerNorm(wide)
        self.query, self.key, self.value = (nn.Linear(wide, wide) for _ in range(3))
        self.out, self.up, self.down = nn.Linear(wide, wide), nn.Linear(wide, hidden), nn.Linear(hidden, wide)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.before(x)
        rows, tokens = y.shape[0], y.shape[1]
        q, k, v = (
            made(y).view(rows, tokens, self.heads, self.size).transpose(1, 2)
            for made in (self.query, self.key, self.value)
        )
        seen = F.scaled_dot_product_attention(q, k, v).transpose(1, 2)
        x = x + self.out(seen.reshape(rows, tokens, self.heads * self.size))
        return x + self.down(F.gelu(self.up(self.between(x))))


class Vit(nn.Module):
    """A vision transformer on 4x4 patches of 28x28 pixels; classes from the mean of the tokens."""

    def __init__(self, wide: int = 64, heads: int = 4, hidden: int = 128, layers: int = 4) -> None:
        super().__init__()
        self.patches = nn.Conv2d(1, wide, 4, 4)
        self.places = nn.Parameter(0.02 * torch.randn(1, 49, wide))
        self.layers = nn.Sequential(*(Layer(wide, heads, hidden) for _ in range(layers)))
        self.norm, self.classify = nn.LayerNorm(wide), nn.Linear(wide, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.patches(x).flatten(2).transpose(1, 2) + self.places
        return self.classify(self.norm(self.layers(x)).mean(1))


class Bert(nn.Module):
    """A BERT-like classifier of sentences; classes from the mean of the tokens."""

    def __init__(
        self, words: int, tokens: int, wide: int = 96, heads: int = 4, hidden: int = 192, layers: int = 3
    ) -> None:
        super().__init__()
        self.words, self.places = nn.Embedding(words, wide), nn.Parameter(0.02 * torch.randn(1, tokens, wide))
        self.layers = nn.Sequential(*(Layer(wide, heads, hidden) for _ in range(layers)))
        self.norm, self.classify = nn.LayerNorm(wide), nn.Linear(wide, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.classify(self.norm(self.layers(self.words(x) + self.places)).mean(1))


class ResidualBlock(nn.Module):
    def __init__(self, wide: int, hidden: int) -> None:
        super().__init__()
        self.norm, self.up, self.down = nn.BatchNorm1d(wide), nn.Linear(wide, hidden), nn.Linear(hidden, wide)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.down(F.relu(self.up(self.norm(x))))


class ResidualMlp(nn.Module):
    """A residual network of linear layers for rows of numbers (Gorishniy et al. 2021)."""

    def __init__(self, columns: int, wide: int = 256, hidden: int = 512, blocks: int = 4) -> None:
        super().__init__()
        self.enter = nn.Linear(columns, wide)
        self.blocks = nn.Sequential(*(ResidualBlock(wide, hidden) for _ in range(blocks)))
        self.norm, self.classify = nn.BatchNorm1d(wide), nn.Linear(wide, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.classify(F.relu(self.norm(self.blocks(self.enter(x)))))


class FtTransformer(nn.Module):
    """A transformer over the columns of a row, each a token (Gorishniy et al. 2021)."""

    def __init__(
        self, columns: int, wide: int = 64, heads: int = 4, hidden: int = 128, layers: int = 3
    ) -> None:
        super().__init__()
        self.scale, self.shift = (nn.Parameter(0.2 * torch.randn(columns, wide)) for _ in range(2))
        self.layers = nn.Sequential(*(Layer(wide, heads, hidden) for _ in range(layers)))
        self.norm, self.classify = nn.LayerNorm(wide), nn.Linear(wide, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        tokens = x.unsqueeze(-1) * self.scale + self.shift
        return self.classify(F.relu(self.norm(self.layers(tokens)).mean(1)))


class Cnn(nn.Module):
    """Two convolutions and two linear layers on 28x28 pixels."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.first_norm = nn.Conv2d(1, 32, 3, 1, 1, bias=False), nn.BatchNorm2d(32)
        self.second, self.second_norm = nn.Conv2d(32, 64, 3, 1, 1, bias=False), nn.BatchNorm2d(64)
        self.hidden, self.classify = nn.Linear(64 * 49, 128), nn.Linear(128, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = F.max_pool2d(F.relu(self.first_norm(self.first(x))), 2)
        x = F.max_pool2d(F.relu(self.second_norm(self.second(x))), 2)
        return self.classify(F.relu(self.hidden(x.flatten(1))))

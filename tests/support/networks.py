"""Random small networks, drawn layer by layer: the ground on which cuts are tried."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import nn
from torch.nn import functional as F

SIDE = 6  # pixels
STEPS = 5  # positions of a sequence
WORDS = 11  # entries of a vocabulary


class Attention(nn.Module):
    """Self-attention as the libraries write it: projections apart, fused, or with shared KV heads."""

    def __init__(self, width: int, heads: int, size: int, style: str) -> None:
        super().__init__()
        self.heads, self.size, self.style = heads, size, style
        self.kv = heads // 2 if style in ("grouped", "expanded") else heads
        if style == "fused":
            self.qkv = nn.Linear(width, 3 * heads * size)
        else:
            self.q = nn.Linear(width, heads * size)
            self.k = nn.Linear(width, self.kv * size)
            self.v = nn.Linear(width, self.kv * size)
        self.out = nn.Linear(heads * size, width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        b, s, _ = x.shape
        if self.style == "fused":
            q, k, v = self.qkv(x).reshape(b, s, 3, self.heads, self.size).permute(2, 0, 3, 1, 4)
        else:
            q = self.q(x).view(b, s, self.heads, self.size).transpose(1, 2)
            k = self.k(x).view(b, s, self.kv, self.size).transpose(1, 2)
            v = self.v(x).view(b, s, self.kv, self.size).transpose(1, 2)
        if self.style == "expanded":
            times = self.heads // self.kv
            k = k[:, :, None].expand(b, self.kv, times, s, self.size).reshape(b, self.heads, s, self.size)
            v = v.repeat_interleave(times, dim=1)
        if self.style == "written out":
            found = torch.softmax(q @ k.transpose(-1, -2) / self.size**0.5, dim=-1) @ v
        else:
            found = F.scaled_dot_product_attention(q, k, v, enable_gqa=self.style == "grouped")
        return self.out(found.transpose(1, 2).reshape(b, s, self.heads * self.size))


class Residual(nn.Module):
    def __init__(self, inner: nn.Module, norm: nn.Module | None = None) -> None:
        super().__init__()
        self.inner, self.norm = inner, norm if norm is not None else nn.Identity()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.inner(self.norm(x))


class Concat(nn.Module):
    def __init__(self, *branches: nn.Module) -> None:
        super().__init__()
        self.branches = nn.ModuleList(branches)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.cat([branch(x) for branch in self.branches], dim=1)


class Parts(nn.Module):
    """Cut channels into uneven parts, work on one, and join them in another order."""

    def __init__(self, channels: int, first: int) -> None:
        super().__init__()
        self.sizes = [first, channels - first]
        self.conv = nn.Conv2d(first, first, 3, padding=1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        left, right = torch.split(x, self.sizes, dim=1)
        return torch.cat([right, torch.relu(self.conv(left))], dim=1)


class Gate(nn.Module):
    """Half of the channels gate the other half."""

    def __init__(self, channels: int, dim: int) -> None:
        super().__init__()
        self.dim = dim
        self.make = nn.Conv2d(channels, 2 * channels, 1) if dim == 1 else nn.Linear(channels, 2 * channels)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        value, gate = self.make(x).chunk(2, dim=self.dim)
        return value * torch.sigmoid(gate)


class SqueezeExcite(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.down, self.up = nn.Conv2d(channels, 3, 1), nn.Conv2d(3, channels, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        pooled = x.mean(dim=(2, 3), keepdim=True)
        return x * torch.sigmoid(self.up(torch.relu(self.down(pooled))))


class Shuffle(nn.Module):
    def __init__(self, groups: int) -> None:
        super().__init__()
        self.groups = groups

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        b, c, h, w = x.shape
        return x.view(b, self.groups, c // self.groups, h, w).transpose(1, 2).reshape(b, c, h, w)


class RootMeanSquare(nn.Module):
    """RMSNorm in arithmetic, as the language models write it."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.rand(width) + 0.5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.weight * x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-6)


class Sequenced(nn.Module):
    """[B, C, H, W] to a sequence of pixels."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.flatten(2).transpose(1, 2)


class Averaged(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.mean(dim=1)


class Words(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.words, self.positions = nn.Embedding(WORDS, width), nn.Parameter(torch.randn(1, STEPS, width))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.words(x) + self.positions


# Layers ---------------------------------------------------------------------------------------------
# Each takes a random source and the channels that come in; gives the layer and the channels that go out.

Drawn = tuple[nn.Module, int]


def _divided(r: random.Random, channels: int) -> int:
    return r.choice([d for d in range(1, channels + 1) if channels % d == 0])


def _conv(r: random.Random, c: int) -> Drawn:
    out = r.randint(2, 9)
    return nn.Conv2d(c, out, r.choice([1, 3]), padding="same", bias=r.random() < 0.5), out


def _grouped(r: random.Random, c: int) -> Drawn:
    groups = _divided(r, c)
    out = groups * r.randint(2 if groups == 1 else 1, 3)
    return nn.Conv2d(c, out, 3, padding=1, groups=groups), out


def _transposed(r: random.Random, c: int) -> Drawn:
    groups = _divided(r, c)
    out = groups * r.randint(2 if groups == 1 else 1, 3)
    return nn.ConvTranspose2d(c, out, 3, padding=1, groups=groups), out


def _group_norm(r: random.Random, c: int) -> Drawn:
    return nn.GroupNorm(_divided(r, c), c), c


def _image_residual(r: random.Random, c: int) -> Drawn:
    return Residual(nn.Sequential(nn.Conv2d(c, c, 3, padding=1), nn.BatchNorm2d(c), nn.ReLU())), c


def _concat(r: random.Random, c: int) -> Drawn:
    outs = [r.randint(2, 5) for _ in range(2)]
    branches = [nn.Conv2d(c, out, 1) for out in outs]
    return Concat(*branches, nn.Identity()), sum(outs) + c


def _parts(r: random.Random, c: int) -> Drawn:
    return Parts(c, r.randint(1, c - 1)), c


def _shuffle(r: random.Random, c: int) -> Drawn:
    return Shuffle(_divided(r, c)), c


def _mlp(r: random.Random, w: int) -> Drawn:
    hidden = r.randint(3, 8)
    return Residual(nn.Sequential(nn.Linear(w, hidden), nn.GELU(), nn.Linear(hidden, w)), nn.LayerNorm(w)), w


def _attention(style: str) -> Callable[[random.Random, int], Drawn]:
    def draw(r: random.Random, w: int) -> Drawn:
        heads, size = r.choice([2, 4]), r.choice([2, 3])
        return Residual(Attention(w, heads, size, style), nn.LayerNorm(w)), w

    return draw


def _linear(r: random.Random, w: int) -> Drawn:
    out = r.randint(3, 9)
    return nn.Linear(w, out), out


IMAGE_LAYERS: dict[str, Callable[[random.Random, int], Drawn]] = {
    "conv": _conv,
    "grouped conv": _grouped,
    "depthwise conv": lambda r, c: (nn.Conv2d(c, c, 3, padding=1, groups=c), c),
    "transposed conv": _transposed,
    "batch norm": lambda r, c: (nn.BatchNorm2d(c), c),
    "group norm": _group_norm,
    "activation": lambda r, c: (r.choice([nn.ReLU(), nn.Hardswish(), nn.Sigmoid(), nn.GELU()]), c),
    "residual": _image_residual,
    "concat": _concat,
    "split": _parts,
    "gate": lambda r, c: (Gate(c, 1), c),
    "squeeze-excite": lambda r, c: (SqueezeExcite(c), c),
    "channel shuffle": _shuffle,
    "pooling": lambda r, c: (nn.AvgPool2d(3, 1, 1), c),
}
SEQUENCE_LAYERS: dict[str, Callable[[random.Random, int], Drawn]] = {
    "linear": _linear,
    "layer norm": lambda r, w: (nn.LayerNorm(w), w),
    "rms norm": lambda r, w: (RootMeanSquare(w), w),
    "mlp": _mlp,
    "gated": lambda r, w: (Residual(Gate(w, -1)), w),
    "attention": _attention("apart"),
    "attention written out": _attention("written out"),
    "fused attention": _attention("fused"),
    "grouped attention": _attention("grouped"),
    "expanded attention": _attention("expanded"),
    "activation": lambda r, w: (r.choice([nn.ReLU(), nn.SiLU(), nn.Tanh()]), w),
}
STARTS = ("image", "sequence", "words")


@dataclass(frozen=True)
class Drawing:
    """A network by its layers' names: what a failing test prints."""

    start: str
    layers: tuple[str, ...]  # of an image
    tail: tuple[str, ...]  # of the sequence that follows
    flat: bool  # ends in a flatten rather than a mean
    seed: int


def draw(drawing: Drawing) -> tuple[nn.Module, torch.Tensor]:
    """The network in evaluation mode, no statistic or affine at its default, and a batch of two."""
    r = random.Random(drawing.seed)
    torch.manual_seed(drawing.seed)
    found: list[nn.Module] = []
    if drawing.start == "image":
        width = r.randint(3, 6)
        found.append(nn.Conv2d(2, width, 3, padding=1))
        for name in drawing.layers:
            layer, width = IMAGE_LAYERS[name](r, width)
            found.append(layer)
        found.append(Sequenced())
        example, steps = torch.randn(2, 2, SIDE, SIDE), SIDE * SIDE
    elif drawing.start == "sequence":
        width = r.randint(3, 7)
        found.append(nn.Linear(4, width))
        example, steps = torch.randn(2, STEPS, 4), STEPS
    else:
        width = r.randint(3, 7)
        found.append(Words(width))
        example, steps = torch.randint(0, WORDS, (2, STEPS)), STEPS
    for name in drawing.tail:
        layer, width = SEQUENCE_LAYERS[name](r, width)
        found.append(layer)
    found.append(nn.Flatten() if drawing.flat else Averaged())
    found.append(nn.Linear(steps * width if drawing.flat else width, 3))
    model = nn.Sequential(*found).eval()
    unsettle(model)
    return model, example


def unsettle(model: nn.Module) -> None:
    """Move norms away from the identity, so that a slice of the wrong channels shows."""
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
                module.running_mean.uniform_(-0.5, 0.5)  # type: ignore[operator, union-attr]
                module.running_var.uniform_(0.5, 2.0)  # type: ignore[operator, union-attr]
        for name, parameter in model.named_parameters():
            if parameter.dim() == 1:
                parameter.uniform_(0.5, 1.5) if "weight" in name else parameter.uniform_(-0.5, 0.5)


def batch(example: torch.Tensor, size: int, seed: int = 0) -> torch.Tensor:
    """Other inputs like the example, `size` of them."""
    source = torch.Generator().manual_seed(seed)
    if example.is_floating_point():
        return torch.randn(size, *example.shape[1:], generator=source)
    return torch.randint(0, WORDS, (size, *example.shape[1:]), generator=source)


def names(layers: dict[str, Callable[[random.Random, int], Drawn]]) -> Sequence[str]:
    return sorted(layers)

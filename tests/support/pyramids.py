"""Small U-Nets and feature pyramids: networks that join what they made at several sizes of the image."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional as F


def conv(channels: int, width: int, padding: int = 1) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(channels, width, 3, padding=padding, bias=False), nn.BatchNorm2d(width), nn.ReLU()
    )


class Transposed(nn.Module):
    """Upsampled by a transposed convolution, beside a rectified value."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = conv(3, 16), conv(16, 24)
        self.up, self.join, self.out = nn.ConvTranspose2d(24, 8, 2, 2), conv(24, 12), nn.Conv2d(12, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        skip = self.first(x)
        deep = self.up(self.second(F.max_pool2d(skip, 2)))
        return self.out(self.join(torch.cat([deep, skip], 1)))


class Interpolated(nn.Module):
    """A feature pyramid: deeper maps are brought to the size of the map beside them, and added."""

    def __init__(self) -> None:
        super().__init__()
        self.stages = nn.ModuleList([conv(3, 12), conv(12, 16), conv(16, 24)])
        self.sides = nn.ModuleList([nn.Conv2d(width, 10, 1) for width in (12, 16, 24)])
        self.outs = nn.ModuleList([nn.Conv2d(10, 6, 3, padding=1) for _ in range(3)])

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        maps = []
        for stage in self.stages:
            x = F.max_pool2d(stage(x), 2)
            maps.append(x)
        found = [self.sides[-1](maps[-1])]
        for side, value in zip(list(self.sides)[-2::-1], maps[-2::-1], strict=True):
            found.append(side(value) + F.interpolate(found[-1], size=value.shape[-2:], mode="nearest"))
        return tuple(out(value) for out, value in zip(self.outs, reversed(found), strict=True))


class Cropped(nn.Module):
    """Convolutions without padding: the skip is cropped to what came up, and that is padded back."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = conv(3, 12), conv(12, 16, padding=0)
        self.up, self.join, self.out = nn.ConvTranspose2d(16, 12, 2, 2), conv(24, 12), nn.Conv2d(24, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        skip = self.first(x)
        deep = self.up(self.second(F.max_pool2d(skip, 2)))
        edge = (skip.shape[-1] - deep.shape[-1]) // 2
        cropped = skip[:, :, edge : edge + deep.shape[-2], edge : edge + deep.shape[-1]]
        joined = self.join(torch.cat([cropped, deep], 1))
        return self.out(torch.cat([skip, F.pad(joined, [edge, edge, edge, edge])], 1))


class Shuffled(nn.Module):
    """Depth to space in the decoder."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.join = conv(3, 12), conv(12, 32), conv(20, 12)
        self.out = nn.Conv2d(12, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        skip = self.first(x)
        deep = F.pixel_shuffle(self.second(F.max_pool2d(skip, 2)), 2)
        return self.out(self.join(torch.cat([skip, deep], 1)))


class Gated(nn.Module):
    """The skip passes a gate that what came up opens, at every pixel."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.gate = conv(3, 16), conv(16, 16), nn.Conv2d(16, 16, 1)
        self.out = nn.Conv2d(32, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        skip = self.first(x)
        deep = self.second(F.avg_pool2d(skip, 2))
        deep = F.interpolate(deep, scale_factor=2, mode="bilinear", align_corners=False)
        return self.out(torch.cat([skip * torch.sigmoid(self.gate(deep)), deep], 1))


class Wave(nn.Module):
    """A U-Net over time."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv1d(3, 16, 5, padding=2), nn.Conv1d(16, 24, 5, 2, padding=2)
        self.up, self.out = nn.ConvTranspose1d(24, 8, 4, 2, padding=1), nn.Conv1d(24, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        skip = torch.relu(self.first(x.flatten(2)))
        deep = torch.relu(self.up(torch.relu(self.second(skip))))
        return self.out(torch.cat([deep, skip], 1))


PYRAMIDS: Mapping[str, Callable[[], nn.Module]] = {
    "transposed convolutions beside a rectified skip": Transposed,
    "maps brought to the size of another": Interpolated,
    "a cropped skip, padded back": Cropped,
    "depth to space": Shuffled,
    "a gated skip": Gated,
    "a U-Net over time": Wave,
}


def pyramid(name: str) -> tuple[nn.Module, Tensor]:
    """A network of `PYRAMIDS` with norms that are not the identity, and an image."""
    torch.manual_seed(0)
    model = PYRAMIDS[name]().eval()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.running_mean, -0.5, 0.5)
            nn.init.uniform_(module.running_var, 0.5, 2.0)
            nn.init.uniform_(module.weight, 0.5, 1.5)
    return model, torch.randn(2, 3, 16, 16)

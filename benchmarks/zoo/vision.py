"""Convolutional networks, detectors and vision transformers."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional as F

from benchmarks.zoo.entry import Entry, Part, from_config, images, written


class Dense(nn.Module):
    """DenseNet (Huang et al. 2017): every layer sees all the layers before it."""

    def __init__(self, growth: int = 8, layers: int = 3, blocks: int = 3) -> None:
        super().__init__()
        width = 16
        self.stem = nn.Conv2d(3, width, 3, padding=1)
        self.blocks, self.transitions = nn.ModuleList(), nn.ModuleList()
        for _ in range(blocks):
            block = nn.ModuleList()
            for _ in range(layers):
                block.append(
                    nn.Sequential(
                        nn.BatchNorm2d(width),
                        nn.ReLU(),
                        nn.Conv2d(width, 4 * growth, 1, bias=False),
                        nn.BatchNorm2d(4 * growth),
                        nn.ReLU(),
                        nn.Conv2d(4 * growth, growth, 3, padding=1, bias=False),
                    )
                )
                width += growth
            self.blocks.append(block)
            self.transitions.append(
                nn.Sequential(
                    nn.BatchNorm2d(width), nn.ReLU(), nn.Conv2d(width, width // 2, 1), nn.AvgPool2d(2)
                )
            )
            width //= 2
        self.head = nn.Linear(width, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.stem(x)
        for block, transition in zip(self.blocks, self.transitions, strict=True):
            for layer in block:
                x = torch.cat([x, layer(x)], dim=1)
            x = transition(x)
        return self.head(x.mean(dim=(2, 3)))


class ShuffleUnit(nn.Module):
    """ShuffleNet V2 (Ma et al. 2018): half of the channels pass, half are worked on, then they mix."""

    def __init__(self, width: int) -> None:
        super().__init__()
        half = width // 2
        self.branch = nn.Sequential(
            nn.Conv2d(half, half, 1, bias=False),
            nn.BatchNorm2d(half),
            nn.ReLU(),
            nn.Conv2d(half, half, 3, padding=1, groups=half, bias=False),
            nn.BatchNorm2d(half),
            nn.Conv2d(half, half, 1, bias=False),
            nn.BatchNorm2d(half),
            nn.ReLU(),
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        left, right = x.chunk(2, dim=1)
        x = torch.cat([left, self.branch(right)], dim=1)
        b, c, h, w = x.shape
        return x.view(b, 2, c // 2, h, w).transpose(1, 2).reshape(b, c, h, w)


class ShuffleNet(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 32, 3, stride=2, padding=1), nn.BatchNorm2d(32), nn.ReLU())
        self.first = nn.Sequential(*[ShuffleUnit(32) for _ in range(3)])
        self.down = nn.Sequential(nn.Conv2d(32, 64, 3, stride=2, padding=1), nn.BatchNorm2d(64), nn.ReLU())
        self.second = nn.Sequential(*[ShuffleUnit(64) for _ in range(3)])
        self.last = nn.Sequential(nn.Conv2d(64, 96, 1), nn.BatchNorm2d(96), nn.ReLU())
        self.head = nn.Linear(96, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.last(self.second(self.down(self.first(self.stem(x)))))
        return self.head(x.mean(dim=(2, 3)))


def _double(before: int, after: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(before, after, 3, padding=1),
        nn.BatchNorm2d(after),
        nn.ReLU(),
        nn.Conv2d(after, after, 3, padding=1),
        nn.BatchNorm2d(after),
        nn.ReLU(),
    )


class UNet(nn.Module):
    """U-Net (Ronneberger et al. 2015), once up with a transposed convolution, once by resizing."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two, self.three = _double(3, 16), _double(16, 32), _double(32, 64)
        self.up = nn.ConvTranspose2d(64, 32, 2, stride=2)
        self.four, self.narrow, self.five = _double(64, 32), nn.Conv2d(32, 16, 1), _double(32, 16)
        self.head = nn.Conv2d(16, 2, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        one = self.one(x)
        two = self.two(F.max_pool2d(one, 2))
        three = self.three(F.max_pool2d(two, 2))
        x = self.four(torch.cat([two, self.up(three)], dim=1))
        x = F.interpolate(self.narrow(x), scale_factor=2.0, mode="bilinear", align_corners=False)
        return self.head(self.five(torch.cat([one, x], dim=1)))


class ConvSilu(nn.Sequential):
    def __init__(self, before: int, after: int, kernel: int = 3, stride: int = 1) -> None:
        super().__init__(
            nn.Conv2d(before, after, kernel, stride, kernel // 2, bias=False),
            nn.BatchNorm2d(after),
            nn.SiLU(),
        )


class C2f(nn.Module):
    """The split-and-gather block of the YOLO family: every bottleneck's output is kept."""

    def __init__(self, before: int, after: int, count: int = 2) -> None:
        super().__init__()
        self.half = after // 2
        self.enter = ConvSilu(before, after, 1)
        self.leave = ConvSilu((2 + count) * self.half, after, 1)
        self.work = nn.ModuleList(
            nn.Sequential(ConvSilu(self.half, self.half), ConvSilu(self.half, self.half))
            for _ in range(count)
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        parts = list(self.enter(x).chunk(2, 1))
        for bottleneck in self.work:
            parts.append(parts[-1] + bottleneck(parts[-1]))
        return self.leave(torch.cat(parts, 1))


class Detector(nn.Module):
    """A YOLO-like detector: C2f, fast spatial pyramid pooling, a top-down neck, heads at two scales."""

    def __init__(self, classes: int = 5) -> None:
        super().__init__()
        self.stem = ConvSilu(3, 16, stride=2)
        self.stage1 = nn.Sequential(ConvSilu(16, 32, stride=2), C2f(32, 32))
        self.stage2 = nn.Sequential(ConvSilu(32, 64, stride=2), C2f(64, 64))
        self.enter, self.leave = ConvSilu(64, 32, 1), ConvSilu(128, 64, 1)
        self.neck = C2f(96, 32)
        self.heads = nn.ModuleList(
            nn.Sequential(ConvSilu(width, 32), nn.Conv2d(32, 4 + classes, 1)) for width in (32, 64)
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        fine = self.stage1(self.stem(x))
        pooled = [self.enter(self.stage2(fine))]
        for _ in range(3):
            pooled.append(F.max_pool2d(pooled[-1], 5, 1, 2))
        coarse = self.leave(torch.cat(pooled, 1))
        fine = self.neck(torch.cat([fine, F.interpolate(coarse, scale_factor=2.0)], 1))
        found = [head(x).flatten(2) for head, x in zip(self.heads, (fine, coarse), strict=True)]
        return torch.cat(found, 2).transpose(1, 2)


def _pixels(size: int) -> torch.Tensor:
    return torch.randn(2, 3, size, size)


_VIT = {
    "hidden_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 96,
    "image_size": 32,
    "patch_size": 8,
}

ENTRIES: tuple[Entry, ...] = (
    from_config(
        "ResNetForImageClassification",
        "ResNetConfig",
        images(32),
        layer_type="basic",
        embedding_size=16,
        hidden_sizes=[16, 32, 64],
        depths=[2, 2, 2],
        num_labels=10,
    ).named("ResNet, basic"),
    from_config(
        "ResNetForImageClassification",
        "ResNetConfig",
        images(32),
        layer_type="bottleneck",
        embedding_size=16,
        hidden_sizes=[32, 64, 128],
        depths=[2, 2, 2],
        num_labels=10,
    ).named("ResNet, bottleneck"),
    from_config(
        "MobileNetV2ForImageClassification",
        "MobileNetV2Config",
        images(64),
        depth_multiplier=0.35,
        num_labels=10,
    ).named("MobileNetV2"),
    from_config(
        "EfficientNetForImageClassification",
        "EfficientNetConfig",
        images(64),
        width_coefficient=0.35,
        depth_coefficient=0.35,
        hidden_dim=448,
        num_labels=10,
    ).named("EfficientNet"),
    from_config(
        "ConvNextForImageClassification",
        "ConvNextConfig",
        images(64),
        hidden_sizes=[16, 32, 48, 64],
        depths=[1, 1, 2, 1],
        num_labels=10,
    ).named("ConvNeXt"),
    from_config(
        "RegNetForImageClassification",
        "RegNetConfig",
        images(64),
        embedding_size=16,
        hidden_sizes=[16, 32, 48, 64],
        depths=[1, 1, 2, 1],
        groups_width=8,
        num_labels=10,
    ).named("RegNet"),
    written("DenseNet", Dense, lambda: _pixels(32)),
    written("ShuffleNet V2", ShuffleNet, lambda: _pixels(32)),
    written("U-Net", UNet, lambda: _pixels(32)),
    written("YOLO-like detector", Detector, lambda: _pixels(64)),
    from_config("ViTForImageClassification", "ViTConfig", images(32), **_VIT, num_labels=10).named("ViT"),
    from_config("DeiTForImageClassification", "DeiTConfig", images(32), **_VIT, num_labels=10).named("DeiT"),
    from_config(
        "SwinForImageClassification",
        "SwinConfig",
        images(32),
        image_size=32,
        patch_size=2,
        embed_dim=24,
        depths=[2, 2],
        num_heads=[2, 4],
        window_size=4,
        num_labels=10,
    ).named("Swin"),
    from_config(
        "SegformerForSemanticSegmentation",
        "SegformerConfig",
        images(64),
        hidden_sizes=[16, 32, 48, 64],
        depths=[1, 1, 1, 1],
        num_attention_heads=[1, 2, 3, 4],
        decoder_hidden_size=32,
        num_labels=5,
    ).named("Segformer"),
    from_config(
        "YolosForObjectDetection",
        "YolosConfig",
        images(32),
        hidden_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=96,
        image_size=[32, 32],
        patch_size=8,
        num_detection_tokens=5,
        outputs=("logits", "pred_boxes"),
        num_labels=5,
    ).named("YOLOS"),
    from_config(
        "MobileViTForImageClassification",
        "MobileViTConfig",
        images(64),
        image_size=64,
        hidden_sizes=[24, 32, 40],
        neck_hidden_sizes=[8, 16, 24, 32, 40, 48, 64],
        num_attention_heads=4,
        num_labels=10,
    ).named("MobileViT"),
    from_config(
        "CLIPForImageClassification",
        "CLIPVisionConfig",
        images(32),
        vision_config=Part("CLIPVisionConfig", _VIT),
        num_labels=10,
    ).named("CLIP, vision tower"),
)

"""The networks of the latency table: published shapes, random weights, statistics of random data."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import nn

Inputs = Mapping[str, torch.Tensor]  # by the name of forward's parameter, batch 1
CALIBRATION = 8  # samples; ranges of random networks need no more


class Logits(nn.Module):
    """A transformers model that returns its first output alone."""

    def __init__(self, model: nn.Module, name: str) -> None:
        super().__init__()
        self.model, self.name = model, name

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.model(**{self.name: x})[0]


def image_model(
    name: str, config: str, **settings: object
) -> Callable[[], tuple[nn.Module, list[torch.Tensor]]]:
    def build() -> tuple[nn.Module, list[torch.Tensor]]:
        import transformers

        model = getattr(transformers, name)(getattr(transformers, config)(**settings))
        images = [torch.randn(1, 3, 224, 224) for _ in range(CALIBRATION)]
        return _settled(Logits(model, "pixel_values"), images), images

    return build


def bert() -> tuple[nn.Module, list[torch.Tensor]]:
    import transformers

    model = transformers.BertForSequenceClassification(transformers.BertConfig())
    words = [torch.randint(0, 30_000, (1, 128)) for _ in range(CALIBRATION)]
    return _settled(Logits(model, "input_ids"), words), words


def _settled(model: nn.Module, batches: list[torch.Tensor]) -> nn.Module:
    """Give BatchNorm the statistics of the data: random weights let activations die or explode without."""
    model.train()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = None  # a plain average
    with torch.no_grad():
        for _ in range(2):
            model(torch.cat(batches))
    return model.eval()


MODELS: Mapping[str, Callable[[], tuple[nn.Module, list[torch.Tensor]]]] = {
    "ResNet-18, 224x224": image_model(
        "ResNetForImageClassification",
        "ResNetConfig",
        layer_type="basic",
        hidden_sizes=[64, 128, 256, 512],
        depths=[2, 2, 2, 2],
    ),
    "ResNet-50, 224x224": image_model("ResNetForImageClassification", "ResNetConfig"),
    "MobileNetV2, 224x224": image_model("MobileNetV2ForImageClassification", "MobileNetV2Config"),
    "ViT-S, 224x224": image_model(
        "ViTForImageClassification",
        "ViTConfig",
        hidden_size=384,
        num_attention_heads=6,
        intermediate_size=1536,
    ),
    "BERT-base, 128 tokens": bert,
}

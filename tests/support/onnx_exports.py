"""ONNX files as people have them: exported by torch in several ways, and rewritten as other tools do."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import onnx
import torch
from onnx import helper, version_converter
from torch import Tensor, nn

from edgeprune.quiet import quiet

SIDE = 12


class Residual(nn.Module):
    """Convolutions with BatchNorm, one residual sum, a head that flattens by x.size(0): [N, 3, 12, 12]."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 16, 3, padding=1, bias=False), nn.BatchNorm2d(16), nn.ReLU())
        self.one = nn.Sequential(nn.Conv2d(16, 24, 3, padding=1, bias=False), nn.BatchNorm2d(24), nn.ReLU())
        self.two = nn.Sequential(nn.Conv2d(24, 16, 3, padding=1, bias=False), nn.BatchNorm2d(16))
        self.pool, self.head = nn.MaxPool2d(4), nn.Linear(16 * 9, 5)

    def forward(self, image: Tensor) -> Tensor:
        x = self.stem(image)
        x = self.pool(torch.relu(self.two(self.one(x)) + x))
        return self.head(x.view(x.size(0), -1))


class Transformer(nn.Module):
    """Class of 6 tokens, by one layer of attention with two heads: [N, 6] -> [N, 4]."""

    def __init__(self) -> None:
        super().__init__()
        self.words, self.places = nn.Embedding(20, 16), nn.Parameter(torch.randn(1, 6, 16) / 4)
        self.norm, self.qkv, self.out = nn.LayerNorm(16), nn.Linear(16, 48), nn.Linear(16, 16)
        self.norm2, self.up, self.down = nn.LayerNorm(16), nn.Linear(16, 40), nn.Linear(40, 16)
        self.head = nn.Linear(16, 4)

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.words(tokens) + self.places
        rows, steps, width = x.shape
        q, k, v = self.qkv(self.norm(x)).view(rows, steps, 3, 2, width // 2).permute(2, 0, 3, 1, 4)
        found = torch.softmax(q @ k.transpose(-1, -2) / (width // 2) ** 0.5, -1) @ v
        x = x + self.out(found.transpose(1, 2).reshape(rows, steps, width))
        x = x + self.down(nn.functional.gelu(self.up(self.norm2(x))))
        return self.head(x.mean(1))


def residual() -> nn.Module:
    torch.manual_seed(0)
    model = Residual()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, 0, 0.2)
            nn.init.normal_(module.running_mean, 0, 0.2)
            nn.init.uniform_(module.running_var, 0.5, 1.5)
    return model.eval()


def transformer() -> nn.Module:
    torch.manual_seed(0)
    return Transformer().eval()


def images(rows: int, seed: int = 1) -> Tensor:
    return torch.randn(rows, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(seed))


def tokens(rows: int, seed: int = 1) -> Tensor:
    return torch.randint(0, 20, (rows, 6), generator=torch.Generator().manual_seed(seed))


def scripted(model: nn.Module, inputs: Tensor, path: Path, opset: int, **options: Any) -> Path:
    """The file of torch's older exporter; the batch varies where nothing else is said."""
    name = next(iter(model.forward.__annotations__))
    options = {"dynamic_axes": {name: {0: "batch"}, "y": {0: "batch"}}, **options}
    with warnings.catch_warnings(), quiet("torch.onnx"):
        warnings.simplefilter("ignore")  # it is deprecated, and files by it will be about for long
        torch.onnx.export(
            model,
            (inputs,),
            str(path),
            dynamo=False,
            opset_version=opset,
            input_names=[name],
            output_names=["y"],
            **options,
        )
    return path


def exported(model: nn.Module, inputs: Tensor, path: Path, opset: int, **options: Any) -> Path:
    """The file of torch's newer exporter."""
    with warnings.catch_warnings(), quiet("torch.onnx", "torch.export", "onnxscript", "onnx_ir"):
        warnings.simplefilter("ignore")
        torch.onnx.export(
            model,
            (inputs,),
            str(path),
            dynamo=True,
            opset_version=opset,
            dynamic_shapes=({0: torch.export.Dim("batch")},),
            output_names=["y"],
            verbose=False,
            **{"external_data": False, **options},
        )
    return path


def as_constants(path: Path) -> Path:
    """The same file with its weights as Constant operators."""
    model = onnx.load(str(path))
    made = [helper.make_node("Constant", [], [each.name], value=each) for each in model.graph.initializer]
    nodes = list(model.graph.node)
    del model.graph.initializer[:], model.graph.node[:]
    model.graph.node.extend([*made, *nodes])
    onnx.save(model, str(path))
    return path


def converted(path: Path, opset: int) -> Path:
    """The same file in another opset, by onnx's own converter."""
    onnx.save(version_converter.convert_version(onnx.load(str(path)), opset), str(path))
    return path

"""Five kinds of models as people bring them, small, each trained for a moment on data that is made here.

All data is synthetic: waves, squares and token rules from fixed seeds.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import openvino
import torch
import torch.nn.functional as F
from onnx import numpy_helper
from torch import Tensor, nn

import edgeprune

BATCH = 64


def batches(*columns: Any, rows: int) -> list[Any]:
    """Rows in batches, as pairs or single columns; a column is a tensor or a tree of them."""

    def sliced(column: Any, part: slice) -> Any:
        if isinstance(column, dict):
            return {name: tensor[part] for name, tensor in column.items()}
        return tuple(t[part] for t in column) if isinstance(column, tuple) else column[part]

    parts = [slice(start, min(start + BATCH, rows)) for start in range(0, rows, BATCH)]
    found = [tuple(sliced(column, part) for column in columns) for part in parts]
    return [row[0] for row in found] if len(columns) == 1 else found


def trained(model: nn.Module, pairs: list[Any], loss: Callable[[Any, Any], Tensor], epochs: int) -> nn.Module:
    optimiser = torch.optim.Adam(model.parameters(), 3e-3)
    model.train()
    for _ in range(epochs):
        for inputs, target in pairs:
            optimiser.zero_grad()
            loss(model(**inputs) if isinstance(inputs, dict) else model(inputs), target).backward()
            optimiser.step()
    return model.eval()


def forecaster() -> edgeprune.Task:
    """Values: the next 8 of 32 noisy samples of a wave, judged by their mean squared error."""
    numbers = np.random.default_rng(0)
    time, rows = np.arange(40), 512
    phase = time * numbers.uniform(0.1, 0.5, (rows, 1)) + numbers.uniform(0, 6, (rows, 1))
    wave = torch.tensor(np.sin(phase) + numbers.normal(0, 0.05, phase.shape), dtype=torch.float32)
    past, future = wave[:, None, :32], wave[:, 32:]
    torch.manual_seed(0)
    net = nn.Sequential(
        *(nn.Conv1d(1, 32, 5, padding=2), nn.ReLU(), nn.Conv1d(32, 32, 5, padding=2), nn.ReLU()),
        *(nn.Flatten(), nn.Linear(32 * 32, 8)),
    )
    pairs = batches(past, future, rows=384)
    trained(net, pairs, F.mse_loss, 12)

    def error(predict: Any) -> float:
        return float(np.square(predict(past[384:].numpy()) - future[384:].numpy()).mean())

    return edgeprune.Task(
        model=net,
        example=past[:1],
        calibration=[inputs for inputs, _ in pairs],
        train=pairs,
        loss=F.mse_loss,
        outputs="values",
        evaluate=error,
        metric="MSE",
        lower_is_better=True,
    )


class Detector(nn.Module):
    """[N, 3, 16, 16] -> maps at two scales, [N, 5, 4, 4] and [N, 5, 2, 2]."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 16, 3, 2, 1), nn.ReLU(), nn.Conv2d(16, 32, 3, 2, 1), nn.ReLU())
        self.deep = nn.Sequential(nn.Conv2d(32, 32, 3, 2, 1), nn.ReLU())
        self.fine, self.coarse = nn.Conv2d(32, 5, 1), nn.Conv2d(32, 5, 1)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        x = self.stem(x)
        return self.fine(x), self.coarse(self.deep(x))


def detector() -> edgeprune.Task:
    """Values in a tuple, targets in a tuple, one loss over both."""
    x = torch.rand(320, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    maps = tuple(F.avg_pool2d(x, size).mean(1, keepdim=True).expand(-1, 5, -1, -1).clone() for size in (4, 8))

    def loss(outputs: Any, targets: Any) -> Tensor:
        return sum(F.mse_loss(output, target) for output, target in zip(outputs, targets, strict=True))

    torch.manual_seed(0)
    pairs = batches(x, maps, rows=256)
    net = trained(Detector(), pairs, loss, 12)

    def error(predict: Any) -> float:
        found = predict(x[256:].numpy())
        return float(sum(np.square(a - b[256:].numpy()).mean() for a, b in zip(found, maps, strict=True)))

    return edgeprune.Task(
        model=net,
        example=x[:1],
        calibration=[inputs for inputs, _ in pairs],
        train=pairs,
        loss=loss,
        outputs=("values", "values"),
        evaluate=error,
        metric="error",
        lower_is_better=True,
    )


class UNet(nn.Module):
    """[N, 1, 16, 16] -> [N, 2, 16, 16], two scales with skips."""

    def __init__(self) -> None:
        super().__init__()

        def block(inputs: int, outputs: int) -> nn.Module:
            return nn.Sequential(nn.Conv2d(inputs, outputs, 3, padding=1), nn.BatchNorm2d(outputs), nn.ReLU())

        self.down1, self.down2, self.bottom = block(1, 12), block(12, 24), block(24, 24)
        self.rise2, self.rise1 = nn.ConvTranspose2d(24, 24, 2, 2), nn.ConvTranspose2d(24, 12, 2, 2)
        self.up2, self.up1, self.head = block(48, 24), block(24, 12), nn.Conv2d(12, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        one = self.down1(x)
        two = self.down2(F.max_pool2d(one, 2))
        deep = self.bottom(F.max_pool2d(two, 2))
        deep = self.up2(torch.cat([self.rise2(deep), two], 1))
        return self.head(self.up1(torch.cat([self.rise1(deep), one], 1)))


def unet() -> edgeprune.Task:
    """Classes per pixel: bright squares on noise, judged by the share of pixels that are right."""
    numbers = np.random.default_rng(0)
    masks = np.zeros((256, 16, 16), np.int64)
    for mask, (top, left) in zip(masks, numbers.integers(0, 9, (256, 2)), strict=True):
        mask[top : top + 7, left : left + 7] = 1
    images = torch.tensor(masks[:, None] + numbers.normal(0, 0.4, (256, 1, 16, 16)), dtype=torch.float32)
    classes = torch.from_numpy(masks)
    torch.manual_seed(0)
    pairs = batches(images, classes, rows=192)
    net = trained(UNet(), pairs, F.cross_entropy, 12)

    def right(predict: Any) -> float:
        return float((predict(images[192:].numpy()).argmax(1) == masks[192:]).mean())

    return edgeprune.Task(
        model=net,
        example=images[:1],
        calibration=[inputs for inputs, _ in pairs],
        train=pairs,
        evaluate=right,
        metric="pixel accuracy",
    )


class Logits(nn.Module):
    """A causal language model of `transformers` with its logits alone, [N, tokens, vocabulary]."""

    def __init__(self) -> None:
        from transformers import LlamaConfig, LlamaForCausalLM

        super().__init__()
        self.model = LlamaForCausalLM(
            LlamaConfig(
                vocab_size=24,
                hidden_size=32,
                intermediate_size=64,
                num_hidden_layers=1,
                num_attention_heads=4,
                num_key_value_heads=2,
                max_position_embeddings=32,
            )
        )

    def forward(self, input_ids: Tensor) -> Tensor:
        logits: Tensor = self.model(input_ids=input_ids, use_cache=False).logits
        return logits


def language_model() -> edgeprune.Task:
    """Classes per token: sequences that count by a step of their own, judged by perplexity."""
    numbers = np.random.default_rng(0)
    steps, starts = numbers.integers(1, 5, (320, 1)), numbers.integers(0, 24, (320, 1))
    tokens = torch.from_numpy((starts + steps * np.arange(13)) % 24)
    given, wanted = tokens[:, :-1], tokens[:, 1:]

    def loss(logits: Tensor, target: Tensor) -> Tensor:
        return F.cross_entropy(logits.flatten(0, 1), target.flatten())

    torch.manual_seed(0)
    pairs = batches(given, wanted, rows=256)
    net = trained(Logits(), pairs, loss, 15)

    def perplexity(predict: Any) -> float:
        logits = torch.from_numpy(predict(given[256:].numpy()))
        return float(loss(logits, wanted[256:]).exp())

    return edgeprune.Task(
        model=net,
        example=given[:1],
        calibration=[inputs for inputs, _ in pairs],
        train=pairs,
        loss=loss,
        outputs="classes",
        evaluate=perplexity,
        metric="perplexity",
        lower_is_better=True,
    )


class MaskedEncoder(nn.Module):
    """Class of a sequence, [N, 2], whose padding is masked."""

    def __init__(self) -> None:
        from transformers import BertConfig, BertModel

        super().__init__()
        shape = BertConfig(
            vocab_size=24,
            hidden_size=32,
            intermediate_size=64,
            num_hidden_layers=1,
            num_attention_heads=4,
            max_position_embeddings=16,
        )
        self.encoder, self.head = BertModel(shape), nn.Linear(32, 2)

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        found = self.encoder(input_ids=input_ids, attention_mask=attention_mask)
        scores: Tensor = self.head(found.pooler_output)
        return scores


def masked_encoder() -> edgeprune.Task:
    """Classes, inputs in a dict: whether token 7 is in the part that the mask shows."""
    numbers = np.random.default_rng(0)
    tokens, lengths = numbers.integers(8, 24, (448, 12)), numbers.integers(4, 13, (448, 1))
    seven = numbers.integers(0, 12, (448, 1))
    tokens[np.arange(12) == seven] = 7
    shown = np.arange(12) < lengths
    classes = torch.from_numpy((seven < lengths).astype(np.int64)[:, 0])
    inputs = {
        "input_ids": torch.from_numpy(tokens),
        "attention_mask": torch.from_numpy(shown.astype(np.int64)),
    }
    torch.manual_seed(0)
    pairs = batches(inputs, classes, rows=384)
    net = trained(MaskedEncoder(), pairs, F.cross_entropy, 15)
    held = {name: tensor[384:].numpy() for name, tensor in inputs.items()}

    def right(predict: Any) -> float:
        return float((predict(held).argmax(1) == classes[384:].numpy()).mean())

    return edgeprune.Task(
        model=net,
        example={name: tensor[:1] for name, tensor in inputs.items()},
        calibration=[{**given, "labels": target} for given, target in pairs],
        train=pairs,
        evaluate=right,
        metric="accuracy",
    )


ROADS: dict[str, Callable[[], edgeprune.Task]] = {
    "a forecaster": forecaster,
    "a detector": detector,
    "a U-Net": unet,
    "a language model": language_model,
    "a masked encoder": masked_encoder,
}


def weights_ms(artefact: Path) -> float:
    """A made-up device: time grows with the weights of matrices; integer weights are 1.25 times as quick."""
    if artefact.suffix == ".xml":
        nodes = openvino.Core().read_model(str(artefact)).get_ops()
        stored = [node.data for node in nodes if node.get_type_name() == "Constant"]
    else:
        stored = [numpy_helper.to_array(tensor) for tensor in onnx.load(artefact).graph.initializer]
    weights = [array for array in stored if array.ndim > 1 and array.size > max(array.shape)]
    integer = sum(array.size for array in weights if array.dtype == np.int8)
    return 0.1 + 1e-4 * (sum(array.size for array in weights) - integer + integer / 1.25)

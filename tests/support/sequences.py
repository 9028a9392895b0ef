"""Models of sequences whose length may vary, with random weights: an encoder of nn modules, and a BERT."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

import edgeprune

LENGTHS = (8, 16)


class Encoder(nn.Module):
    """Tokens [N, length] and their mask -> 3 class scores; positions are learnt, attention has 4 heads."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.embed, self.places = nn.Embedding(50, 24), nn.Parameter(torch.randn(1, 16, 24))
        self.query, self.key, self.value = (nn.Linear(24, 24) for _ in range(3))
        self.norm, self.out = nn.LayerNorm(24), nn.Linear(24, 24)
        self.inner = nn.Sequential(nn.Linear(24, 32), nn.GELU(), nn.Linear(32, 24))
        self.head = nn.Linear(24, 3)

    def forward(self, ids: Tensor, mask: Tensor) -> Tensor:
        rows, length = ids.shape
        x = self.embed(ids) + self.places[:, :length]
        y = self.norm(x)
        q, k, v = (
            layer(y).view(rows, length, 4, 6).transpose(1, 2) for layer in (self.query, self.key, self.value)
        )
        seen = mask[:, None, None, :].bool()
        attended = nn.functional.scaled_dot_product_attention(q, k, v, attn_mask=seen)
        x = x + self.out(attended.transpose(1, 2).reshape(rows, length, 24))
        x = x + self.inner(x)
        weights = mask[..., None].float()
        return self.head((x * weights).sum(1) / weights.sum(1))


class Recorder(nn.Module):
    """Samples [N, length] of a sound -> 2 class scores, by strided convolutions."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.listen = nn.Sequential(
            *(nn.Conv1d(1, 8, 5, 2, 2), nn.ReLU(), nn.Conv1d(8, 12, 3, 2, 1), nn.ReLU()),
        )
        self.head = nn.Linear(12, 2)

    def forward(self, samples: Tensor) -> Tensor:
        return self.head(self.listen(samples[:, None]).mean(2))


def tokens(rows: int, length: int, vocabulary: int = 50, seed: int = 0) -> dict[str, Tensor]:
    """Tokens, some rows of which end early, and their mask."""
    numbers = torch.Generator().manual_seed(seed)
    ids = torch.randint(0, vocabulary, (rows, length), generator=numbers)
    ends = torch.randint(length // 2, length + 1, (rows, 1), generator=numbers)
    return {"ids": ids, "mask": (torch.arange(length) < ends).long()}


def bert() -> nn.Module:
    """A BERT of two layers that answers two class scores."""
    import transformers

    class Scores(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(0)
            config = transformers.BertConfig(
                vocab_size=50,
                hidden_size=32,
                num_hidden_layers=2,
                num_attention_heads=4,
                intermediate_size=64,
                max_position_embeddings=64,
            )
            self.model = transformers.BertForSequenceClassification(config)

        def forward(self, ids: Tensor, mask: Tensor) -> Tensor:
            scores: Tensor = self.model(input_ids=ids, attention_mask=mask).logits
            return scores

    return Scores().eval()


def labelled(rows: int, length: int, seed: int) -> tuple[dict[str, Tensor], Tensor]:
    """Tokens, and whether more than half of those that count are small ones."""
    given = tokens(rows, length, seed=seed)
    small = ((given["ids"] < 25) & (given["mask"] > 0)).float().sum(1) / given["mask"].sum(1)
    return given, (small > 0.5).long()


def classifier(model: nn.Module, **changes: Any) -> edgeprune.Task:
    """Task of a model that is trained on both lengths for a moment."""
    pairs = [labelled(32, LENGTHS[seed % 2], seed) for seed in range(12)]
    optimiser = torch.optim.Adam(model.parameters(), 3e-3)
    for _ in range(6):
        for given, target in pairs:
            optimiser.zero_grad()
            nn.functional.cross_entropy(model(**given), target).backward()
            optimiser.step()
    judged = [labelled(32, LENGTHS[seed % 2], seed) for seed in range(100, 106)]

    def accuracy(predict: Any) -> float:
        found = [
            predict({name: x.numpy() for name, x in given.items()}).argmax(1) == target.numpy()
            for given, target in judged
        ]
        return float(np.concatenate(found).mean())

    fields: dict[str, Any] = {
        "model": model.eval(),
        "example": tokens(1, 16),
        "calibration": [given for given, _ in pairs],
        "train": pairs,
        "evaluate": accuracy,
        "metric": "accuracy",
        # Any INT8 form is as good on this subset: the first one is built, and no other.
        "evaluate_subset": lambda predict: 0.5,
        "lengths": LENGTHS,
        "length_dims": 1,
    }
    return edgeprune.Task(**{**fields, **changes})

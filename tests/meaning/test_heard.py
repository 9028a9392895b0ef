"""A loss tells what an output is by what it gives it to, and by nothing else."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from edgeprune.meaning.heard import hear
from edgeprune.records.meaning import Meaning

VECTOR, TOKENS, IMAGE = torch.randn(6, 5), torch.randn(6, 7, 5), torch.randn(6, 5, 4, 4)
CLASSES, VALUES, LABELS = torch.arange(6) % 5, torch.randn(6, 5), (torch.randn(6, 5) > 0).float()
PLACES, PIXELS = torch.randint(5, (6, 7)), torch.randint(5, (6, 4, 4))


@dataclass(frozen=True)
class Case:
    name: str
    loss: Callable[[Any, Any], Any]
    target: Any
    expected: Meaning | None
    output: Tensor = VECTOR


CASES = (
    Case("cross_entropy", F.cross_entropy, CLASSES, Meaning("classes", 1)),
    Case("CrossEntropyLoss", nn.CrossEntropyLoss(label_smoothing=0.1), CLASSES, Meaning("classes", 1)),
    Case("a part of it", partial(F.cross_entropy, ignore_index=3), CLASSES, Meaning("classes", 1)),
    Case("a lambda", lambda y, t: 0.5 * F.cross_entropy(y.float(), t), CLASSES, Meaning("classes", 1)),
    Case("pixels", F.cross_entropy, PIXELS, Meaning("classes", 1), IMAGE),
    Case(
        "tokens, flattened",
        lambda y, t: F.cross_entropy(y.view(-1, 5), t.view(-1)),
        PLACES,
        Meaning("classes", 2),
        TOKENS,
    ),
    Case(
        "tokens, turned",
        lambda y, t: F.cross_entropy(y.transpose(1, 2), t),
        PLACES,
        Meaning("classes", 2),
        TOKENS,
    ),
    Case(
        "tokens, shifted by one",
        lambda y, t: F.cross_entropy(y[:, :-1].reshape(-1, 5), t[:, 1:].reshape(-1)),
        PLACES,
        Meaning("classes", 2),
        TOKENS,
    ),
    Case(
        "as many places as classes",
        lambda y, t: F.cross_entropy(y.reshape(-1, 5), t.reshape(-1)),
        PLACES[:, :5],
        Meaning("classes"),
        TOKENS[:, :5],
    ),
    Case(
        "as many places as classes, turned",
        lambda y, t: F.cross_entropy(y.transpose(1, 2), t),
        PLACES[:, :5],
        Meaning("classes"),
        TOKENS[:, :5],
    ),
    Case(
        "as many places as classes, by torch's own axis",
        lambda y, t: F.cross_entropy(y.float(), t),
        PLACES[:, :5],
        Meaning("classes", 1),
        TOKENS[:, :5],
    ),
    Case("classes of the batch", lambda y, t: F.log_softmax(y, 0).mean(), CLASSES, None),
    Case(
        "a contrastive loss",
        lambda y, t: F.cross_entropy(F.normalize(y, dim=1) @ F.normalize(VECTOR + 1).T, t),
        CLASSES,
        Meaning("embeddings", 1),
    ),
    Case("a cosine", lambda y, t: 1 - F.cosine_similarity(t, y).mean(), VALUES, Meaning("embeddings", 1)),
    Case(
        "CosineEmbeddingLoss",
        lambda y, t: nn.CosineEmbeddingLoss()(t, y, torch.ones(6)),
        VALUES,
        Meaning("embeddings", 1),
    ),
    Case("NLLLoss", lambda y, t: F.nll_loss(y.log_softmax(-1), t), CLASSES, Meaning("classes", 1)),
    Case(
        "a focal loss of one's own",
        lambda y, t: ((1 - F.softmax(y, dim=1)) * F.log_softmax(y, 1)).mean(),
        CLASSES,
        Meaning("classes", 1),
    ),
    Case("BCEWithLogitsLoss", nn.BCEWithLogitsLoss(), LABELS, Meaning("labels")),
    Case("mse_loss", F.mse_loss, VALUES, Meaning("values")),
    Case("HuberLoss", nn.HuberLoss(), VALUES, Meaning("values")),
    Case("named arguments", lambda y, t: F.l1_loss(input=y, target=t), VALUES, Meaning("values")),
    Case("arithmetic of one's own", lambda y, t: (y - t).square().mean(), VALUES, None),
    Case("a part of the output", lambda y, t: F.mse_loss(y[:, :2], t[:, :2]), VALUES, None),
    Case(
        "two parts, read in two ways",
        lambda y, t: F.mse_loss(y[:, :2], t[:, :2]) + F.cross_entropy(y[:, 2:], t[:, 0].long() * 0),
        VALUES,
        None,
    ),
    Case(
        "two readings of all", lambda y, t: F.mse_loss(y, t) + F.cross_entropy(y, t.argmax(1)), VALUES, None
    ),
    Case("what was made of the output", lambda y, t: F.mse_loss(y * 2, t), VALUES, None),
    Case("the target", lambda y, t: F.mse_loss(t, y), VALUES, None),
)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_a_loss_tells_what_it_does_with_an_output(case: Case) -> None:
    expected = case.loss(case.output, case.target)
    result, (told,) = hear(lambda: case.loss(case.output, case.target), [case.output])
    assert told == case.expected
    torch.testing.assert_close(result, expected)


def test_each_output_is_told_by_itself() -> None:
    boxes, scores = torch.randn(6, 4), torch.randn(6, 5)
    _, told = hear(
        lambda: F.smooth_l1_loss(boxes, boxes + 1) + F.cross_entropy(scores, CLASSES), [boxes, VECTOR, scores]
    )
    assert told == (Meaning("values"), None, Meaning("classes", 1))

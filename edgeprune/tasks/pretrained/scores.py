"""Metrics by name (`--metric`), computed by scikit-learn from logits and targets."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeprune.errors import InputError
from edgeprune.meaning.losses import IGNORED
from edgeprune.tasks.pretrained.heads import Answers

Floats = NDArray[np.floating[Any]]
Targets = NDArray[Any]


@dataclass(frozen=True)
class NamedScore:
    """Score of logits against targets.

    Of classes, logits are [rows, classes] and targets [rows]; of labels both are [rows, labels]; of values
    both are [rows, 1].
    shown: the metric's name in answers. answers: kinds of outputs that it scores. chance: the score of the
    best answer that is the same for every row, and the name of that answer. margin: by which a score of n
    rows is off by luck, from the score by chance and n.
    """

    shown: str
    answers: tuple[Answers, ...]
    of: Callable[[Floats, Targets], float]
    chance: Callable[[Targets, int], float]
    margin: Callable[[float, int], float]
    lower_is_better: bool = False


def _accuracy(logits: Floats, targets: Targets) -> float:
    from sklearn.metrics import accuracy_score

    if targets.ndim == 2:
        return float(accuracy_score((targets > 0.5).reshape(-1), (logits > 0).reshape(-1)))
    return float(accuracy_score(targets, logits.argmax(-1)))


def _f1(logits: Floats, targets: Targets) -> float:
    from sklearn.metrics import f1_score

    if targets.ndim == 2:
        return float(f1_score(targets > 0.5, logits > 0, average="macro", zero_division=0))
    if logits.shape[-1] == 2:
        return float(f1_score(targets, logits.argmax(-1), average="binary", zero_division=0))
    every = list(range(logits.shape[-1]))
    return float(f1_score(targets, logits.argmax(-1), labels=every, average="macro", zero_division=0))


def _auc(logits: Floats, targets: Targets) -> float:
    from scipy.special import softmax
    from sklearn.metrics import roc_auc_score

    wide = logits.astype(np.float64)
    if targets.ndim == 2:
        return float(roc_auc_score(targets > 0.5, wide, average="macro"))
    if logits.shape[-1] == 2:
        return float(roc_auc_score(targets, wide[:, 1] - wide[:, 0]))
    every = list(range(logits.shape[-1]))
    return float(
        roc_auc_score(targets, softmax(wide, axis=-1), multi_class="ovr", average="macro", labels=every)
    )


def _matthews(logits: Floats, targets: Targets) -> float:
    from sklearn.metrics import matthews_corrcoef

    return float(matthews_corrcoef(targets, logits.argmax(-1)))


def _rmse(logits: Floats, targets: Targets) -> float:
    from sklearn.metrics import root_mean_squared_error

    return float(root_mean_squared_error(targets.astype(np.float64), logits.astype(np.float64)))


def _shares(targets: Targets, classes: int) -> NDArray[np.float64]:
    """Share of the rows that each class, or each label, has."""
    if targets.ndim == 2:
        return np.asarray((targets > 0.5).mean(0), np.float64)
    return np.bincount(targets, minlength=classes)[:classes] / max(1, len(targets))


def _most_frequent(targets: Targets, classes: int) -> float:
    shares = _shares(targets, classes)
    return float(np.maximum(shares, 1 - shares).mean() if targets.ndim == 2 else shares.max())


def _always(targets: Targets, classes: int) -> float:
    shares = _shares(targets, classes)
    f1 = 2 * shares / (1 + shares)
    if targets.ndim == 2:
        return float(f1.mean())
    return float(f1[1] if classes == 2 else f1.max() / classes)


def _binomial(chance: float, rows: int) -> float:
    return 2 * math.sqrt(chance * (1 - chance) / rows)


def _by_root(chance: float, rows: int) -> float:
    return 1 / math.sqrt(rows)


SCORES: Mapping[str, NamedScore] = {
    "accuracy": NamedScore("accuracy", ("classes", "labels"), _accuracy, _most_frequent, _binomial),
    "f1": NamedScore("F1", ("classes", "labels"), _f1, _always, _by_root),
    "auc": NamedScore("AUC", ("classes", "labels"), _auc, lambda targets, classes: 0.5, _by_root),
    "matthews": NamedScore("Matthews", ("classes",), _matthews, lambda targets, classes: 0.0, _by_root),
    "rmse": NamedScore(
        *(
            "RMSE",
            ("values",),
            _rmse,
            lambda targets, classes: float(targets.std()),
            lambda chance, rows: 0.0,
        ),
        lower_is_better=True,
    ),
}
USUAL_SCORES: Mapping[Answers, str] = {"classes": "accuracy", "labels": "f1", "values": "rmse"}


def score_named(name: str | None, answers: Answers) -> NamedScore:
    """Score of `--metric`, or the default of what the outputs are. Raises `InputError`."""
    fitting = [each for each, score in SCORES.items() if answers in score.answers]
    name = USUAL_SCORES[answers] if name is None else name
    if name not in fitting:
        told = "is no metric" if name not in SCORES else f"does not score a model of {answers}"
        raise InputError(f"--metric {name} {told}.", f"Choose one of: {', '.join(fitting)}.")
    return SCORES[name]


def check_scored(score: NamedScore, targets: Targets, names: tuple[str, ...]) -> None:
    """Refuse evaluation rows of which a score cannot be taken. Raises `InputError`."""
    if score.shown != "AUC":
        return
    shares = _shares(targets, len(names))
    empty = [name for name, share in zip(names, shares, strict=True) if share in (0, 1)]
    if empty:
        raise InputError(
            f"AUC needs rows of every class, with and without it, and the evaluation rows are not so for "
            f"{', '.join(empty[:5])}.",
            "Give more rows for evaluation, or another --metric.",
        )


def counted(logits: Floats, targets: Targets) -> tuple[Floats, Targets]:
    """Logits and targets of what counts: of tokens those with a label, one below the other."""
    if targets.ndim != 2 or logits.ndim != 3:
        return logits, targets
    there = targets != IGNORED
    return logits[there], targets[there]

"""Importance of units: a criterion's scores for every group, from evidence that is measured as it asks."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, TypeAlias

import numpy as np
import torch

from edgeprune.errors import InputError
from edgeprune.graph.capture import Captured
from edgeprune.graph.coupling import Coupling, Group
from edgeprune.meaning.losses import Loss
from edgeprune.pruning.criteria import Criterion, Evidence, Need, Scores, find_criterion
from edgeprune.pruning.reconstruct import Consumer, grams

Batches: TypeAlias = Iterable[tuple[tuple[torch.Tensor, ...], Any]]  # (inputs, target or None)


def importance(
    captured: Captured,
    coupling: Coupling,
    criterion: str | Criterion,
    batches: Batches = (),
    loss: Loss | None = None,
    seed: int = 0,
    consumers: Callable[[], Mapping[str, Consumer]] | None = None,
) -> Mapping[str, Scores]:
    """Scores per group, for a ranking of all groups together.

    Divided by their group's mean, unless the criterion's scores are comparable between groups as they are.

    batches: (inputs, target or None), for criteria that need data. loss: (what the model returns, target or
        None) -> scalar, for criteria that look at gradients (`meaning.losses.or_own`).
    consumers: called for the Gram matrices that reconstruction uses too; None measures them on the batches.
    Raises `InputError` for an unknown criterion, one that needs data and gets none, and scores that are
    not finite or not one for each unit.
    """
    chosen = find_criterion(criterion)
    if "grams" in chosen.needs and consumers is None:
        batches = list(batches)
    evidence = Evidence(
        dict(captured.module.named_parameters(remove_duplicate=False)),
        seed,
        measure_gradients=lambda: _gradients(captured, batches, loss, chosen, seed),
        measure_grams=lambda: _grams(captured, coupling, batches, chosen, consumers),
    )
    scores = {}
    for group in coupling.groups:
        raw = _checked(chosen, evidence, group)
        mean = 1.0 if chosen.comparable else float(raw.mean(dtype=np.float64))
        scores[group.name] = raw / mean if mean > 0 else raw
    return scores


def _checked(criterion: Criterion, evidence: Evidence, group: Group) -> Scores:
    raw = np.asarray(criterion.score(evidence, group), np.float32)
    if raw.shape != (group.units,):
        raise InputError(
            f"Criterion {criterion.name!r} gives group {group.name!r} scores of shape {raw.shape}.",
            f"Return one score for each of its {group.units} units.",
        )
    if not np.isfinite(raw).all():
        raise InputError(
            f"Criterion {criterion.name!r} gives group {group.name!r} scores that are not finite.",
            "Look for NaN or infinite values in the model's weights, the data and the loss.",
        )
    return raw


def _gradients(
    captured: Captured, batches: Batches, loss: Loss | None, criterion: Criterion, seed: int
) -> dict[str, torch.Tensor]:
    """The mean gradient of the loss over the batches, by parameter.

    Taken on a copy: the captured graph shares its parameters, and so their gradients and what is
    trainable, with the user's model.
    """
    _check_declared(criterion, "gradients")
    if loss is None:
        raise InputError(
            f"Criterion {criterion.name!r} looks at gradients, and there is no loss.", "Give one."
        )
    copy = captured.copy()
    for parameter in copy.module.parameters():
        parameter.requires_grad_(parameter.is_floating_point())
    seen = 0
    with torch.random.fork_rng(devices=[]), torch.enable_grad():
        torch.manual_seed(seed)  # a loader that shuffles draws from it
        for inputs, target in batches:
            criterion.check_labels(target is not None)
            if loss is None:
                raise InputError(
                    f"Criterion {criterion.name!r} looks at gradients, and there is no loss.",
                    "Give one: `or_own` makes one of what the outputs are.",
                )
            objective = loss(copy.answer(*inputs), target)
            if not objective.requires_grad:
                raise InputError(
                    f"Criterion {criterion.name!r} looks at gradients, and the loss of this model has none.",
                    "Return scores instead of classes, or choose l1 or l2.",
                )
            objective.backward()  # type: ignore[no-untyped-call]
            seen += 1
    _check_data(criterion, seen)
    return {
        name: parameter.grad / seen
        for name, parameter in copy.module.named_parameters(remove_duplicate=False)
        if parameter.grad is not None
    }


def _grams(
    captured: Captured,
    coupling: Coupling,
    batches: Batches,
    criterion: Criterion,
    consumers: Callable[[], Mapping[str, Consumer]] | None,
) -> dict[str, torch.Tensor]:
    """The Gram matrix of every consumer, without the row and the column of its bias."""
    _check_declared(criterion, "grams")
    if consumers is None:
        inputs = [inputs for inputs, _ in batches]
        _check_data(criterion, len(inputs))
        found = grams(captured, coupling, inputs)
    else:
        found = consumers()
    return {
        weight: consumer.gram if consumer.bias is None else consumer.gram[:-1, :-1]
        for weight, consumer in found.items()
    }


def _check_declared(criterion: Criterion, need: Need) -> None:
    if need not in criterion.needs:
        raise InputError(
            f"Criterion {criterion.name!r} looks at {need} and does not say that it needs them.",
            f'Give the Criterion needs=frozenset({{"{need}"}}).',
        )


def _check_data(criterion: Criterion, batches: int) -> None:
    if batches == 0:
        raise InputError(
            f"Criterion {criterion.name!r} needs data and there is none.",
            "Give calibration data, or choose l1 or l2.",
        )

"""Importance of units: a criterion's scores for every group, from evidence that is measured as it asks."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import TypeAlias

import numpy as np
import torch
from torch.fx import Node

from edgeprune.errors import InputError
from edgeprune.graph.capture import Captured
from edgeprune.graph.coupling import Coupling, Group
from edgeprune.graph.fx import attribute, op_name
from edgeprune.meaning.losses import Loss
from edgeprune.pruning.criteria import Criterion, Evidence, Need, Scores, Slopes, find_criterion
from edgeprune.pruning.gradients import Step, samples, slopes
from edgeprune.pruning.grams import Consumer, grams

Batches: TypeAlias = Iterable[Step]


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
        measure_slopes=lambda: _slopes(captured, coupling, batches, loss, chosen, seed),
        measure_grams=lambda: _grams(captured, coupling, batches, chosen, consumers),
        scales=_batchnorm_scales(captured, coupling),
        measure_spreads=lambda: {
            name: consumer.spread
            for name, consumer in _measured(captured, coupling, batches, chosen, consumers).items()
        },
    )
    scores = {}
    for group in coupling.groups:
        raw = _checked(chosen, evidence, group)
        mean = 1.0 if chosen.comparable else float(raw.mean(dtype=np.float64))
        scores[group.name] = raw / mean if mean > 0 else raw
    return scores


def check_scorable(captured: Captured, coupling: Coupling, criterion: Criterion) -> None:
    """Raise `InputError` for a group that a criterion of weights alone cannot score."""
    if not criterion.needs:
        importance(captured, coupling, criterion)


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


def _slopes(
    captured: Captured,
    coupling: Coupling,
    batches: Batches,
    loss: Loss | None,
    criterion: Criterion,
    seed: int,
) -> Slopes:
    """Slopes of the batches, or of their samples where the criterion needs those."""
    _check_declared(criterion, "gradients")
    if loss is None:
        raise InputError(
            f"Criterion {criterion.name!r} looks at gradients, and there is no loss.",
            "Give one: `or_own` makes one of what the outputs are.",
        )

    def labelled() -> Batches:
        for inputs, target in batches:
            criterion.check_labels(target is not None)
            yield inputs, target

    steps = samples(labelled()) if "samples" in criterion.needs else labelled()
    with torch.random.fork_rng(devices=[]), torch.enable_grad():
        torch.manual_seed(seed)  # a loader that shuffles draws from it
        found = slopes(captured, coupling.groups, steps, loss)
    if found is None:
        raise _no_data(criterion)
    return found


def _grams(
    captured: Captured,
    coupling: Coupling,
    batches: Batches,
    criterion: Criterion,
    consumers: Callable[[], Mapping[str, Consumer]] | None,
) -> dict[str, torch.Tensor]:
    """The Gram matrix of every consumer, without the row and the column of its bias."""
    return {
        weight: consumer.gram if consumer.bias is None else consumer.gram[:-1, :-1]
        for weight, consumer in _measured(captured, coupling, batches, criterion, consumers).items()
    }


def _measured(
    captured: Captured,
    coupling: Coupling,
    batches: Batches,
    criterion: Criterion,
    consumers: Callable[[], Mapping[str, Consumer]] | None,
) -> Mapping[str, Consumer]:
    _check_declared(criterion, "grams")
    if consumers is not None:
        return consumers()
    inputs = [inputs for inputs, _ in batches]
    if not inputs:
        raise _no_data(criterion)
    return grams(captured, coupling, inputs)


def _check_declared(criterion: Criterion, need: Need) -> None:
    if need not in criterion.needs:
        raise InputError(
            f"Criterion {criterion.name!r} looks at {need} and does not say that it needs them.",
            f'Give the Criterion needs=frozenset({{"{need}"}}).',
        )


def _no_data(criterion: Criterion) -> InputError:
    return InputError(
        f"Criterion {criterion.name!r} needs data and there is none.",
        "Give calibration data, or choose l1 or l2.",
    )


def _batchnorm_scales(captured: Captured, coupling: Coupling) -> frozenset[str]:
    """Names of the weights that BatchNorms multiply with."""
    module = captured.module
    named = {id(attribute(module, name)): name for name in coupling.parameters}
    given = [node.args[1] for node in module.graph.nodes if op_name(node) in _BATCHNORMS]
    scales = [node for node in given if isinstance(node, Node) and node.op == "get_attr"]
    return frozenset(named[id(attribute(module, str(node.target)))] for node in scales)


_BATCHNORMS = ("aten.batch_norm", "aten._native_batch_norm_legit_no_training")

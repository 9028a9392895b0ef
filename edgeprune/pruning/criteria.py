"""Importance of units: one table of functions group -> float32[units]."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from edgeprune.errors import InputError
from edgeprune.graph.capture import Captured
from edgeprune.graph.coupling import Coupling, Group

Scores = NDArray[np.float32]


@dataclass(frozen=True)
class Evidence:
    """What a criterion may look at: parameters by name, and their gradients when it asked for them."""

    weights: Mapping[str, torch.Tensor]
    gradients: Mapping[str, torch.Tensor]
    seed: int


def _summed(group: Group, values: Callable[[str], torch.Tensor | None]) -> NDArray[np.float64]:
    """[units]: elements of `values(parameter)` summed over everything that leaves with each unit."""
    total = np.zeros(group.units, dtype=np.float64)
    for axis in group.axes:
        found = values(axis.parameter)
        if found is None:
            continue
        rows = found.movedim(axis.dim, 0).reshape(axis.size, -1).sum(dim=1, dtype=torch.float64)
        total += rows.cpu().numpy()[axis.positions].sum(axis=1)
    return total


def _magnitude(evidence: Evidence, group: Group, power: int) -> NDArray[np.float64]:
    """Matrices and filters only: a bias or a norm's scale says little about a unit's size."""

    def values(name: str) -> torch.Tensor | None:
        weight = evidence.weights.get(name)
        if weight is None or (weight.dim() < 2 and not only_vectors):
            return None
        return weight.detach().double().abs() ** power  # a half squared may be zero or infinite

    only_vectors = all(
        evidence.weights[a.parameter].dim() < 2 for a in group.axes if a.parameter in evidence.weights
    )
    return _summed(group, values)


def l1(evidence: Evidence, group: Group) -> Scores:
    """Sum of |w| over the group (Li et al. 2017, summed over the coupled layers as in DepGraph, 2023)."""
    return _magnitude(evidence, group, 1).astype(np.float32)


def l2(evidence: Evidence, group: Group) -> Scores:
    """Root of the sum of squared weights over the group."""
    return np.sqrt(_magnitude(evidence, group, 2)).astype(np.float32)


def taylor(evidence: Evidence, group: Group) -> Scores:
    """First-order change of the loss when the unit is zeroed: sum of |g * w| (Molchanov et al. 2019)."""

    def values(name: str) -> torch.Tensor | None:
        gradient = evidence.gradients.get(name)
        return None if gradient is None else (gradient.double() * evidence.weights[name].detach()).abs()

    return _summed(group, values).astype(np.float32)


def random(evidence: Evidence, group: Group) -> Scores:
    """Seeded noise: the baseline that any criterion has to beat."""
    key = [evidence.seed & 0xFFFFFFFF, *group.name.encode()]  # numpy takes no negative seed
    return np.random.default_rng(key).random(group.units).astype(np.float32)


@dataclass(frozen=True)
class Criterion:
    score: Callable[[Evidence, Group], Scores]
    needs_gradients: bool = False


TABLE: Mapping[str, Criterion] = {
    "l1": Criterion(l1),
    "l2": Criterion(l2),
    "taylor": Criterion(taylor, needs_gradients=True),
    "random": Criterion(random),
}


def find_criterion(name: str) -> Criterion:
    """The criterion of that name; `InputError` when there is none."""
    if name not in TABLE:
        raise InputError(f"There is no criterion {name!r}.", f"Choose one of: {', '.join(TABLE)}.")
    return TABLE[name]


def importance(
    captured: Captured,
    coupling: Coupling,
    criterion: str,
    batches: Iterable[tuple[tuple[torch.Tensor, ...], torch.Tensor | None]] = (),
    loss: Callable[[torch.Tensor, torch.Tensor], torch.Tensor] | None = None,
    seed: int = 0,
) -> Mapping[str, Scores]:
    """Scores per group, each divided by its group's mean so that groups can be ranked together.

    batches: (inputs, target or None), for criteria that need gradients. Without a target the model's own
        answer stands in for it.
    Raises `InputError` for an unknown criterion, one that needs data and gets none, and scores that are
    not finite.
    """
    chosen = find_criterion(criterion)
    gradients = _gradients(captured, batches, loss, criterion, seed) if chosen.needs_gradients else {}
    evidence = Evidence(dict(captured.module.named_parameters(remove_duplicate=False)), gradients, seed)
    scores = {}
    for group in coupling.groups:
        raw = chosen.score(evidence, group)
        if not np.isfinite(raw).all():
            raise InputError(
                f"Criterion {criterion!r} gives group {group.name!r} scores that are not finite.",
                "Look for NaN or infinite values in the model's weights, the data and the loss.",
            )
        mean = float(raw.mean(dtype=np.float64))
        scores[group.name] = raw / mean if mean > 0 else raw
    return scores


def _gradients(
    captured: Captured,
    batches: Iterable[tuple[tuple[torch.Tensor, ...], torch.Tensor | None]],
    loss: Callable[[torch.Tensor, torch.Tensor], torch.Tensor] | None,
    criterion: str,
    seed: int,
) -> dict[str, torch.Tensor]:
    """The mean gradient of the loss over the batches, by parameter.

    Taken on a copy: the captured graph shares its parameters, and so their gradients and what is
    trainable, with the user's model.
    """
    copy = captured.copy()
    for parameter in copy.module.parameters():
        parameter.requires_grad_(parameter.is_floating_point())
    seen = 0
    with torch.random.fork_rng(devices=[]), torch.enable_grad():
        torch.manual_seed(seed)  # a loader that shuffles draws from it
        for inputs, target in batches:
            _objective(copy.run(*inputs)[0], target, loss).backward()  # type: ignore[no-untyped-call]
            seen += 1
    if seen == 0:
        raise InputError(
            f"Criterion {criterion!r} needs data and there is none.",
            "Give calibration data, or choose l1 or l2.",
        )
    return {
        name: parameter.grad / seen
        for name, parameter in copy.module.named_parameters(remove_duplicate=False)
        if parameter.grad is not None
    }


def _objective(
    output: torch.Tensor,
    target: torch.Tensor | None,
    loss: Callable[[torch.Tensor, torch.Tensor], torch.Tensor] | None,
) -> torch.Tensor:
    """The task's loss; without labels, cross-entropy against the model's own class or the output's energy."""
    if target is not None:
        return (loss or torch.nn.functional.cross_entropy)(output, target)
    if output.dim() == 2 and output.shape[1] > 1:
        return torch.nn.functional.cross_entropy(output, output.detach().argmax(dim=1))
    return output.square().mean()

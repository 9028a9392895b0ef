"""Pruning alone: no device, no search."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.fx import GraphModule
from torch.utils._pytree import tree_map_only

from edgeprune.errors import InputError
from edgeprune.files import replacing
from edgeprune.graph.capture import Captured, capture, flatten
from edgeprune.graph.cost import count
from edgeprune.graph.coupling import FrozenParameter, analyse
from edgeprune.graph.surgery import cut
from edgeprune.pruning.criteria import find_criterion, importance
from edgeprune.pruning.reconstruct import grams, reconstruct
from edgeprune.search.ranking import Choice, Ranking


@dataclass(frozen=True)
class Pruned:
    """A smaller, dense, trainable model.

    module: called like the original; dynamic batch; parameters keep their names.
    kept: indices of the units kept, by group. frozen: what could not be pruned, and why.
    """

    module: GraphModule
    kept: Mapping[str, tuple[int, ...]]
    frozen: tuple[FrozenParameter, ...]
    params: int
    macs: int
    dense_params: int
    dense_macs: int
    captured: Captured

    def save(self, path: str | Path) -> Path:
        """Write a `torch.export` file (no pickle); the batch stays dynamic."""
        destination = Path(path)
        with replacing(destination) as temporary, temporary.open("wb") as stream:
            torch.export.save(self.captured.program(), stream)
        return destination


def prune(
    model: torch.nn.Module,
    example: Any,
    ratio: float = 0.3,
    criterion: str = "l2",
    calibration: Iterable[Any] | None = None,
    seed: int = 0,
) -> Pruned:
    """Remove a share of the prunable parameters, spread over all groups by the criterion.

    example: tensor, tuple or dict of tensors, dimension 0 the batch. ratio: in [0, 1); parameters that
    nothing can be removed from do not count. calibration: inputs like `example`; with them, the layers
    that lost inputs get the least-squares best weights for what is left.
    Raises `InputError` for a ratio out of range, an unknown criterion, a model that does not export, a
    calibration batch unlike the example, and a ratio that cannot be reached with every layer keeping a
    tenth of its units.
    """
    if not 0 <= ratio < 1:
        raise InputError(f"The ratio is {ratio}.", "Give a share of the parameters, 0 <= ratio < 1.")
    find_criterion(criterion)
    dense = capture(model, example)
    coupling = analyse(dense)
    if not coupling.groups:
        raise InputError(
            "Nothing in this model can be pruned: every parameter is frozen.",
            "`edgeprune inspect MODEL` says which operation holds each of them.",
        )
    calibration = () if calibration is None else calibration
    batches = [_inputs(example, batch, number) for number, batch in enumerate(calibration, 1)]
    scores = importance(dense, coupling, criterion, ((batch, None) for batch in batches), seed=seed)
    cost = count(dense, coupling)
    frozen = sum(parameter.size for parameter in coupling.frozen)
    ranking = Ranking(
        tuple(Choice(group.name, scores[group.name], 1) for group in coupling.groups),
        work=lambda widths: float(cost.params(widths) - frozen),
    )
    kept = ranking.keep(1 - ratio)
    prunable = cost.params({}) - frozen
    if cost.params(kept) - frozen > (1 - ratio) * prunable:
        most = 1 - (cost.params(ranking.smallest()) - frozen) / prunable
        raise InputError(
            f"A ratio of {ratio} cannot be reached: {most:.2f} is the most when every layer keeps a tenth.",
            "Give a smaller ratio.",
        )
    pruned = cut(dense, coupling, kept)
    if batches:
        reconstruct(pruned, coupling, kept, grams(dense, coupling, batches), dense)
    return Pruned(
        module=pruned.module,
        kept=kept,
        frozen=coupling.frozen,
        params=cost.params(kept),
        macs=cost.macs(kept),
        dense_params=cost.params({}),
        dense_macs=cost.macs({}),
        captured=pruned,
    )


def _inputs(example: Any, batch: Any, number: int) -> tuple[torch.Tensor, ...]:
    """The tensors of a batch in the example's order; a dict is matched by name."""
    if isinstance(example, Mapping) and isinstance(batch, Mapping) and set(batch) == set(example):
        batch = {name: batch[name] for name in example}
    given, like = flatten(tree_map_only(np.ndarray, torch.tensor, batch)), flatten(example)
    shapes = [[tuple(tensor.shape[1:]) for tensor in tensors] for tensors in (given, like)]
    same_names = not isinstance(example, Mapping) or (isinstance(batch, Mapping) and [*batch] == [*example])
    if shapes[0] != shapes[1] or not same_names:
        raise InputError(
            f"Calibration batch {number} is not laid out like the example: after the batch dimension its "
            f"shapes are {shapes[0]}, the example's {shapes[1]}.",
            "Give the inputs alone, as tensors or arrays in the example's form; only the batch may differ.",
        )
    return given

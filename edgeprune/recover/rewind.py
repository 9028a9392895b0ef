"""Rewinding: the units that the trained weights chose, with the values of weights from earlier in training.

The later training starts there (Frankle et al. 2020, "Linear Mode Connectivity and the Lottery Ticket
Hypothesis"; Renda et al. 2020 compare it with fine-tuning).
"""

from __future__ import annotations

from collections.abc import Mapping

import torch

from edgeprune.errors import InputError
from edgeprune.graph.capture import Captured
from edgeprune.graph.coupling import Coupling, Kept
from edgeprune.graph.surgery import cut

_KEPT = "kept"


def remember(pruned: Captured, kept: Kept) -> Captured:
    """Note in a graph what was kept of the dense one; copies of the graph know it too.

    Later steps change the weights of `pruned`, so nothing else in it tells which units they belong to.
    """
    pruned.module.meta[_KEPT] = kept
    return pruned


def required(earlier: Mapping[str, torch.Tensor] | None) -> Mapping[str, torch.Tensor]:
    """The earlier weights; raises `InputError` where the task has none."""
    if earlier is None:
        raise InputError(
            "Rewinding needs weights from early in the training, and the task has no `earlier`.",
            "Give Task.earlier, a state_dict of the same model, or recover with finetune.",
        )
    return earlier


def rewound(
    pruned: Captured, dense: Captured, coupling: Coupling, earlier: Mapping[str, torch.Tensor]
) -> Captured:
    """The units of `pruned` with their earlier values, statistics of BatchNorm included.

    pruned: cut from `dense`, with a note by `remember`. earlier: a state_dict of the dense model.
    """
    early = dense.copy()
    early.module.load_state_dict(dict(earlier))
    return cut(early, coupling, pruned.module.meta[_KEPT])

"""Rewinding: the units kept start from their weights of earlier in training.

Training goes on from there (Frankle et al. 2020, "Linear Mode Connectivity and the Lottery Ticket
Hypothesis"; Renda et al. 2020 compare it with fine-tuning).
"""

from __future__ import annotations

from collections.abc import Mapping

import torch

from edgeprune.errors import InputError
from edgeprune.graph.capture import Captured
from edgeprune.graph.coupling import Coupling, Kept
from edgeprune.graph.surgery import cut


def required(earlier: Mapping[str, torch.Tensor] | None) -> Mapping[str, torch.Tensor]:
    """The earlier weights; raises `InputError` where the task has none."""
    if earlier is None:
        raise InputError(
            "Rewinding needs weights from early in the training, and the task has no `earlier`.",
            "Give Task.earlier, a state_dict of the same model, or recover with finetune.",
        )
    return earlier


def rewound(dense: Captured, coupling: Coupling, kept: Kept, earlier: Mapping[str, torch.Tensor]) -> Captured:
    """The pruned network with its earlier weights, statistics of BatchNorm included.

    earlier: a state_dict of the dense model.
    """
    early = dense.copy()
    # What no output depends on is no part of the graph.
    early.module.load_state_dict({name: earlier[name] for name in early.module.state_dict()})
    return cut(early, coupling, kept)

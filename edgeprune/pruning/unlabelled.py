"""Scores of units without labels: the dense model's own answers take the place of targets."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import cache

import numpy as np
import torch
from numpy.typing import NDArray

from edgeprune.graph.capture import Captured, flatten
from edgeprune.graph.coupling import Coupling
from edgeprune.graph.outputs import check_lengths_apart
from edgeprune.meaning.kinds import Said, understood
from edgeprune.meaning.losses import Loss
from edgeprune.meaning.yardstick import Yardstick, yardstick
from edgeprune.pruning.criteria import Criterion
from edgeprune.pruning.grams import grams
from edgeprune.pruning.importance import importance
from edgeprune.records.meaning import check_words

Batches = Sequence[tuple[torch.Tensor, ...]]


def unlabelled_scores(
    dense: Captured,
    coupling: Coupling,
    criterion: Criterion,
    batches: Batches,
    said: Said,
    measured: Callable[[], Yardstick],
    seed: int,
) -> Mapping[str, NDArray[np.float32]]:
    """Importance of the units of each group, [units]. said: what the outputs are, as in `Task.outputs`."""
    consumers = cache(lambda: grams(dense, coupling, batches))
    return importance(
        *(dense, coupling, criterion, ((batch, None) for batch in batches)),
        *(_own_objective(criterion, said, measured), seed),
        consumers=consumers if batches else None,
    )


def own_yardstick(dense: Captured, said: Said, batches: Batches) -> Yardstick:
    """Yardstick of the outputs on the dense model's own answers."""
    check_lengths_apart(dense)
    with torch.no_grad():
        meanings = understood(dense, dense.answer(*dense.inputs), said)
        return yardstick(meanings, (dense.run(*inputs) for inputs in batches))


def _own_objective(criterion: Criterion, said: Said, measured: Callable[[], Yardstick]) -> Loss | None:
    """The objective that the dense model's own answer gives, without labels, where gradients are asked for.

    Of class scores it is the cross-entropy against the model's own classes; of outputs that nobody says
    anything about, their energy.
    """
    check_words(said)
    if "gradients" not in criterion.needs:
        return None
    own = measured().own_objective
    return lambda answer, target: own(flatten(answer))

"""The recovery ways: one row each, read by the command line, the search and the training.

Ordered as a ladder: each row asks more of the user or of the machine than the one before. To add a way, add
its row here; `tests/recover/test_doors.py` shows that nothing else has to change.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from edgeprune.errors import InputError


@dataclass(frozen=True)
class RecoveryWay:
    """A recovery way: how a pruned network gets back what it lost.

    says: one sentence, for the documentation.
    reconstructs: first, least squares for the layers that lost inputs, and new BatchNorm statistics.
    trains: then, `epochs` of distillation from the original.
    labels: of the training data: never read, added to the loss where the task has them, or required.
    needs_earlier: training starts from weights of early in the original training, which the task must give.
    low_rank: low-rank updates are trained and merged, instead of all weights.
    warm_start: training may start from a larger network of the same fit that was trained before.
    own_loop: the task's own loop trains, for as long as it likes.
    """

    name: str
    says: str
    reconstructs: bool = True
    trains: bool = True
    labels: Literal["unused", "optional", "required"] = "unused"
    needs_earlier: bool = False
    low_rank: bool = False
    warm_start: bool = False
    own_loop: bool = False

    def check_labels(self, labelled: bool) -> None:
        """Raise `InputError` when the way requires labels and the task has none, or None in their place."""
        if self.labels == "required" and not labelled:
            without = [
                row.name
                for row in TABLE.values()
                if row.trains and row.labels != "required" and not row.own_loop
            ]
            raise InputError(
                f"Recovery {self.name!r} needs labelled data, and the task has no `train`, or None for its "
                "targets.",
                f"Give Task.train with targets, or recover with {' or '.join(without)}.",
            )


_ROWS = (
    RecoveryWay("none", "The cut network as it is.", reconstructs=False, trains=False),
    RecoveryWay(
        "reconstruct",
        "Least-squares weights for layers that lost inputs, and new BatchNorm statistics: no training.",
        trains=False,
    ),
    RecoveryWay("distill", "Training on the original's outputs: no labels.", warm_start=True),
    RecoveryWay(
        "finetune",
        "Training on labels and on the original's outputs.",
        labels="required",
        warm_start=True,
    ),
    RecoveryWay(
        "lora",
        "Training of low-rank weight updates (LoRA), then merged; on labels, too, where there are any.",
        labels="optional",
        low_rank=True,
        warm_start=True,
    ),
    RecoveryWay(
        "rewind",
        "Fine-tuning that starts from the weights that the kept units had early in training.",
        labels="required",
        needs_earlier=True,
    ),
    RecoveryWay(
        "trainer",
        "Training by the task's own loop, `Task.trainer`.",
        labels="optional",
        warm_start=True,
        own_loop=True,
    ),
)
TABLE: Mapping[str, RecoveryWay] = {row.name: row for row in _ROWS}
UNLABELLED, LABELLED, OWN = "distill", "finetune", "trainer"  # what a fit does when it is told nothing


def find_way(name: str) -> RecoveryWay:
    """The row of `name`. Raises `InputError` when there is none."""
    if name not in TABLE:
        raise InputError(f"There is no recovery {name!r}.", f"Choose one of: {', '.join(TABLE)}.")
    return TABLE[name]


def before_training(name: str) -> str:
    """The way that does what `name` does before it trains: how the trials of a search are recovered."""
    return "reconstruct" if find_way(name).reconstructs else "none"


__all__ = ["LABELLED", "OWN", "TABLE", "UNLABELLED", "RecoveryWay", "before_training", "find_way"]

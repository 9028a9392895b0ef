"""Tasks: made of MODEL, checked, and called where their code is the user's."""

from __future__ import annotations

from edgeprune.tasks.check import check_task, training_again, training_pairs
from edgeprune.tasks.evaluation import GuardedLoss, call_evaluate, call_evaluate_samples
from edgeprune.tasks.forms import TaskOptions, load_task
from edgeprune.tasks.guest import guest, walk
from edgeprune.tasks.items import flat_inputs, laid_out, lengths_of
from edgeprune.tasks.prepared import PreparedTask
from edgeprune.tasks.purity import capture_pure
from edgeprune.tasks.shuffled import scored

__all__ = [
    "GuardedLoss",
    "PreparedTask",
    "TaskOptions",
    "call_evaluate",
    "call_evaluate_samples",
    "capture_pure",
    "check_task",
    "flat_inputs",
    "guest",
    "laid_out",
    "lengths_of",
    "load_task",
    "scored",
    "training_again",
    "training_pairs",
    "walk",
]

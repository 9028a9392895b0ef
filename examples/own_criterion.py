"""Handwritten digits with a pruning criterion of one's own: `python examples/own_criterion.py`.

FPGM, by the geometric median (He et al. 2019, arXiv:1811.00250): a filter in the middle of its group says
little that the others do not say, however large its weights are. edgeprune has no row for it, and needs none.
"""

from __future__ import annotations

import digits
import numpy as np
import torch
from numpy.typing import NDArray

import edgeprune

RATIO = 0.9  # of the parameters, for the comparison without a device
SPEEDUP = 4


def distances(evidence: edgeprune.Evidence, group: edgeprune.Group) -> NDArray[np.float32]:
    """Sum of each unit's distances to all units of its group, by the weights that compute them; [units]."""
    filters = []
    for axis in group.axes:
        weight = evidence.weights.get(axis.parameter)  # a BatchNorm's statistics are axes, and no weights
        if axis.role == "out" and weight is not None and weight.dim() > 1:  # a bias is no filter
            rows = weight.detach().movedim(axis.dim, 0).flatten(1)
            filters.append(rows[torch.from_numpy(axis.positions)].flatten(1))
    units = torch.cat(filters, dim=1)
    return torch.cdist(units, units).sum(dim=1).numpy()


FPGM = edgeprune.Criterion("fpgm", distances)


def pruned_accuracy(task: edgeprune.Task, criterion: edgeprune.Criterion | str) -> float:
    """Accuracy with a share of the parameters removed and the rest solved for, without training."""
    pruned = edgeprune.prune(task.model, task.example, RATIO, criterion, task.calibration)

    def predict(images: NDArray[np.float32]) -> NDArray[np.float32]:
        with torch.no_grad():
            return pruned.module(torch.from_numpy(images)).numpy()

    return task.evaluate(predict)


def main() -> None:
    task = digits.task()
    for criterion in (FPGM, "l2", "obs", "random"):
        name = criterion if isinstance(criterion, str) else criterion.name
        print(f"{RATIO:.0%} pruned by {name}: top-1 {pruned_accuracy(task, criterion):.4f}")
    result = edgeprune.fit(task, criterion=FPGM, speedup=SPEEDUP, out="runs/own_criterion")
    before, after = result.baseline, result.chosen
    print(f"{result.verdict.kind}: {after.name}, top-1 {before.metric:.4f} -> {after.metric:.4f}, ", end="")
    print(f"{before.params:,} -> {after.params:,} parameters")
    print("the whole answer: edgeprune report runs/own_criterion")


if __name__ == "__main__":
    main()

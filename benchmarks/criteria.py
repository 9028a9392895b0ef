"""`python -m benchmarks.criteria`: what each criterion keeps of ResNet-20 on CIFAR-10 before any training.

Every row of the table of criteria, by itself. Three cuts give every group the same share of its units: only
the choice within groups counts. Two remove a share of the parameters by one ranking of all. What is cut is
reconstructed from 1,024 training images; BatchNorm statistics are re-estimated from the same images where
that lowers the loss on 512 others. Gradients are those of the labelled images. `random` is a mean of 3 seeds.
Top-1 on test images, which nothing else has seen.
"""

from __future__ import annotations

import argparse
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.nn.functional import cross_entropy

from benchmarks.sensitivity import DATA, Case, resnet20
from edgeprune.graph.capture import Captured, capture
from edgeprune.graph.cost import Cost, count
from edgeprune.graph.coupling import Coupling, analyse
from edgeprune.graph.surgery import cut
from edgeprune.pruning.criteria import TABLE
from edgeprune.pruning.grams import Consumer, grams
from edgeprune.pruning.importance import importance
from edgeprune.pruning.sequential import refit, solving_rows
from edgeprune.recover.batchnorm import reestimate
from edgeprune.search.ranking import Choice, Ranking, Widths

CALIBRATION, HELD_BACK = 1024, 512
SEEDS = 3  # of criteria that draw
Scores = Mapping[str, Any]


@dataclass(frozen=True)
class Bench:
    """The dense network with all that its cuts share."""

    case: Case
    dense: Captured
    coupling: Coupling
    cost: Cost

    @cached_property
    def labelled(self) -> list[tuple[tuple[torch.Tensor, ...], torch.Tensor]]:
        images, labels = (part[:CALIBRATION].split(64) for part in self._training)
        return [((x,), y) for x, y in zip(images, labels, strict=True)]

    @property
    def _training(self) -> tuple[torch.Tensor, torch.Tensor]:
        return self.case.train.images, self.case.train.labels

    @cached_property
    def consumers(self) -> Mapping[str, Consumer]:
        return grams(self.dense, self.coupling, [inputs for inputs, _ in self.labelled])

    @cached_property
    def rows(self) -> list[tuple[torch.Tensor, ...]]:
        return solving_rows([inputs for inputs, _ in self.labelled], self.cost.macs({}))

    def scores(self, criterion: str, seed: int) -> Scores:
        return importance(
            *(self.dense, self.coupling, criterion, self.labelled, cross_entropy, seed),
            consumers=lambda: self.consumers,
        )

    def top_1(self, kept: Widths) -> float:
        """Accuracy in percent of the cut network, reconstructed."""
        pruned = cut(self.dense, self.coupling, kept)
        refit(pruned, self.dense, self.coupling, kept, self.rows)
        other = pruned.copy()
        reestimate(other, [inputs for inputs, _ in self.labelled])
        held_back = [part[CALIBRATION : CALIBRATION + HELD_BACK] for part in self._training]
        better = min(
            (pruned, other), key=lambda each: float(cross_entropy(_outputs(each, held_back[0]), held_back[1]))
        )
        hits = _outputs(better, self.case.test.images).argmax(1) == self.case.test.labels
        return 100 * float(hits.double().mean())


def _outputs(captured: Captured, images: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        return torch.cat([captured.run(batch)[0] for batch in images.split(250)])


def _alike(bench: Bench, scores: Scores, share: float, names: Sequence[str]) -> Widths:
    """The same share of the units of each named group; the other groups stay whole."""
    return {
        name: tuple(
            np.sort(np.argsort(-scores[name], kind="stable")[: round(share * len(scores[name]))]).tolist()
        )
        for name in names
    }


def _inner(bench: Bench, scores: Scores) -> Widths:
    """Half of the channels between the two convolutions of each block."""
    return _alike(bench, scores, 0.5, [name for name in scores if name.endswith(".conv1")])


def _together(bench: Bench, scores: Scores, share: float) -> Widths:
    """A share of the prunable parameters, by one ranking of all units."""
    choices = tuple(Choice(group.name, scores[group.name], 1, group.least) for group in bench.coupling.groups)
    fixed = sum(parameter.size for parameter in bench.coupling.frozen)
    return Ranking(choices, lambda widths: float(bench.cost.params(widths) - fixed)).keep(share)


CUTS: Mapping[str, Callable[[Bench, Scores], Widths]] = {
    "inner channels x 0.5": _inner,
    "all units x 0.7": lambda bench, scores: _alike(bench, scores, 0.7, list(scores)),
    "all units x 0.5": lambda bench, scores: _alike(bench, scores, 0.5, list(scores)),
    "parameters x 0.7": lambda bench, scores: _together(bench, scores, 0.7),
    "parameters x 0.5": lambda bench, scores: _together(bench, scores, 0.5),
}


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.criteria", description=__doc__)
    parser.add_argument("--data", type=Path, default=DATA, metavar="FOLDER")
    parser.add_argument("--only", nargs="*", default=list(TABLE), choices=list(TABLE), metavar="CRITERION")
    parser.add_argument("--test", type=int, default=2000, help="images to test with", metavar="ROWS")
    asked = parser.parse_args()
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    case = resnet20(asked.data, CALIBRATION + HELD_BACK, asked.test)
    dense = capture(case.net.eval(), case.train.images[:2])
    coupling = analyse(dense)
    bench = Bench(case, dense, coupling, count(dense, coupling))
    heads = ("criterion", *CUTS, "scores, s")
    print(f"dense: {bench.top_1({}):.2f}")
    print(f"| {' | '.join(heads)} |\n|{'---|' * len(heads)}", flush=True)
    for name in asked.only:
        cells, seconds = _row(bench, name)
        print(f"| `{name}` | {' | '.join(f'{cell:.1f}' for cell in cells)} | {seconds:.1f} |", flush=True)


def _row(bench: Bench, name: str) -> tuple[list[float], float]:
    """Accuracy of each cut, and the seconds that the scores took beside the Gram matrices."""
    seeds = range(SEEDS if name == "random" else 1)
    started = time.monotonic()
    scores = [bench.scores(name, seed) for seed in seeds]
    seconds = (time.monotonic() - started) / len(seeds)
    return [
        float(np.mean([bench.top_1(kept(bench, each)) for each in scores])) for kept in CUTS.values()
    ], seconds


if __name__ == "__main__":
    main()

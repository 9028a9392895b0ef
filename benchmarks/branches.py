"""`python -m benchmarks.branches`: which residual branches can be spared?

Trained networks on real data, from which 1, 2, 3 branches are dropped whole, without any training. They are
chosen by block influence (ShortGPT); by what the outputs lose without each one, all at once; by the same, one
after another, as `edgeprune.prune(branches=N)` does; and at random, a mean of 5 draws. Top-1 in percent, and
the seconds that the choice of three took.
"""

from __future__ import annotations

import argparse
import time
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch

import edgeprune
from benchmarks.contract.__main__ import cache
from benchmarks.contract.tasks import TITLES, eager, load
from benchmarks.sensitivity import DATA
from edgeprune.graph.capture import Captured, capture
from edgeprune.graph.coupling import Coupling, analyse
from edgeprune.graph.surgery import cut
from edgeprune.meaning.kinds import understood
from edgeprune.meaning.yardstick import Yardstick, yardstick
from edgeprune.pruning.influence import Inputs, influence, least_missed, output_loss

NETWORKS = ("resnet20", "vit", "bert")
DROPPED = (1, 2, 3)
DRAWS = 5


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.branches", description=__doc__)
    parser.add_argument("--data", type=Path, default=DATA, metavar="FOLDER")
    parser.add_argument("--work", type=Path, default=cache(), help="where trained weights are kept")
    parser.add_argument("--only", nargs="*", default=NETWORKS, choices=NETWORKS, metavar="NETWORK")
    asked = parser.parse_args()
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    heads = ("network", "choice by", *(f"{count} dropped" for count in DROPPED), "s")
    print(f"| {' | '.join(heads)} |")
    print(f"|{'---|' * len(heads)}", flush=True)
    for name in asked.only:
        torch.manual_seed(0)
        _print(TITLES[name], load(name, asked.data, asked.work))


def _print(title: str, task: edgeprune.Task) -> None:
    dense = capture(task.model, task.example)
    coupling = analyse(dense)
    batches = [(x,) for x in task.calibration]
    with torch.no_grad():
        meanings = understood(dense, dense.answer(*dense.inputs), "classes")
        measured = yardstick(meanings, (dense.run(*inputs) for inputs in batches))
    for way, choose in _ways(dense, coupling, batches, measured).items():
        started = time.monotonic()
        choose(max(DROPPED))
        seconds = time.monotonic() - started
        cells = [
            float(np.mean([_top_1(task, dense, coupling, names) for names in choose(count)]))
            for count in DROPPED
        ]
        kept = " | ".join(f"{cell:.1f}" for cell in cells)
        print(f"| {title} | {way} | {kept} | {seconds:.1f} |", flush=True)
    whole = _top_1(task, dense, coupling, ())
    print(f"| {title} | none of {len(coupling.branches)} dropped: {whole:.1f} | | | | |", flush=True)


def _ways(
    dense: Captured, coupling: Coupling, batches: Sequence[Inputs], measured: Yardstick
) -> dict[str, Callable[[int], list[Sequence[str]]]]:
    """Ways to choose a number of branches by name; one gives several draws."""
    names = [branch.name for branch in coupling.branches]

    def lowest(count: int, scores: dict[str, float]) -> list[Sequence[str]]:
        return [sorted(scores, key=lambda name: scores[name])[:count]]

    def drawn(count: int) -> list[Sequence[str]]:
        random = np.random.default_rng(0)
        return [random.choice(names, count, replace=False).tolist() for _ in range(DRAWS)]

    return {
        "block influence": lambda count: lowest(count, dict(influence(dense, coupling, batches))),
        "loss of the outputs, at once": lambda count: lowest(
            count, dict(output_loss(dense, coupling, batches, measured.distance))
        ),
        "loss of the outputs, one after another": lambda count: [
            least_missed(dense, coupling, batches, measured.distance, count)
        ],
        "random": drawn,
    }


def _top_1(task: edgeprune.Task, dense: Captured, coupling: Coupling, dropped: Sequence[str]) -> float:
    pruned = cut(dense, coupling, dict.fromkeys(dropped, ()))
    return 100 * float(task.evaluate(eager(pruned.module)))


if __name__ == "__main__":
    main()

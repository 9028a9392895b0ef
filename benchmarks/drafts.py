"""`python -m benchmarks.drafts`: candidates against their drafts, which only have their shapes and precision.

Random weights, random images or words to calibrate on. Per architecture and runtime, INT8: candidates with a
width and units drawn for every group alone, the last without a residual branch. Both files are made as a fit
makes them, and take turns in one process until some rounds are near the fastest of both; their peak
memory is that of fresh processes. Printed are the seconds that each took to make, in the mean, and of what a
draft takes in times of the candidate the one furthest from 1.
"""

from __future__ import annotations

import argparse
import tempfile
import time
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import mean
from typing import TypeVar

import numpy as np
import torch

import edgeprune
from benchmarks.prediction.measuring import in_turn
from benchmarks.prediction.subject import DIALECTS, MODELS, MULTIPLE
from edgeprune.devices import Load
from edgeprune.devices.artefact import artefact_size_mib
from edgeprune.devices.local import LocalDevice
from edgeprune.graph.branch_contents import groups_without_use
from edgeprune.make import Workshop, as_candidate_kept
from edgeprune.quantize.dialects import dialect_for
from edgeprune.records.trial import Candidate

CANDIDATES = 4
RUNS = 64  # before a process is asked for its peak memory
HEADS = ("model", "runtime", "candidates", "built, s", "drafted, s", "latency", "memory", "size")

T = TypeVar("T")


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.drafts", description=__doc__)
    parser.add_argument("--only", nargs="*", default=[""], metavar="WORD", help="of an architecture")
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    print(f"| {' | '.join(HEADS)} |\n|{'---|' * len(HEADS)}")
    for name in MODELS:
        if any(word.lower() in name.lower() for word in options.only):
            for runtime in DIALECTS:
                with tempfile.TemporaryDirectory() as folder:
                    _print(name, runtime, Path(folder))


def _print(name: str, runtime: str, folder: Path) -> None:
    shop = _workshop(name, runtime)
    shop.draft(Candidate((), "int8", "minmax"), folder / "dense")  # what is learnt of the model once
    seconds, ratios = [], []
    for seed in range(CANDIDATES):
        candidate = Candidate(as_candidate_kept(_kept(shop, seed)), "int8", "minmax")
        built, built_s = _timed(lambda: _built(shop, candidate, folder / f"built-{seed}"))  # noqa: B023
        draft, draft_s = _timed(lambda: shop.draft(candidate, folder / f"draft-{seed}"))  # noqa: B023
        seconds.append((built_s, draft_s))
        ratios.append(_compared(runtime, built, draft, shop))
    off = [max(column, key=lambda ratio: abs(ratio - 1)) for column in zip(*ratios, strict=True)]
    cells = [name, runtime, str(CANDIDATES)]
    cells += [f"{mean(column):.1f}" for column in zip(*seconds, strict=True)]
    print(f"| {' | '.join([*cells, *(f'{ratio:.3f}' for ratio in off)])} |", flush=True)


def _workshop(name: str, runtime: str) -> Workshop:
    torch.manual_seed(0)
    model, batches = MODELS[name]()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() == 1:  # biases that are all zero are not stored, those of a trained model are
                parameter += 0.01 * torch.randn_like(parameter)
    task = edgeprune.Task(
        model=model, example=batches[0], calibration=batches, evaluate=lambda predict: float("nan")
    )
    return Workshop(task, dialect_for(DIALECTS[runtime], "x86_64"), runtime=runtime)


def _kept(shop: Workshop, seed: int) -> dict[str, tuple[int, ...]]:
    """From a quarter of a group's units up to all; the last candidate loses its first branch, if any."""
    rng = np.random.default_rng(seed)
    branches = shop.coupling.branches[:1] if seed == CANDIDATES - 1 else ()
    found: dict[str, tuple[int, ...]] = {branch.name: () for branch in branches}
    gone = groups_without_use(shop.dense.module, shop.coupling, branches)
    for group in (group for group in shop.coupling.groups if group.name not in gone):
        step = MULTIPLE if group.units >= 2 * MULTIPLE else 1
        legal = [width for width in range(step, group.units + 1, step) if 4 * width >= group.units]
        width = max(group.least, int(rng.choice(legal)))
        found[group.name] = tuple(np.sort(rng.permutation(group.units)[:width]).tolist())
    return found


def _built(shop: Workshop, candidate: Candidate, folder: Path) -> Path:
    pruned, _ = shop.prune(dict(candidate.kept), "reconstruct")
    probe = tuple(tensor[:1] for tensor in shop.calibration[0])
    return shop.builder.build(candidate, pruned, folder, probe).artefact


def _timed(work: Callable[[], T]) -> tuple[T, float]:
    started = time.monotonic()
    return work(), time.monotonic() - started


def _compared(runtime: str, built: Path, draft: Path, shop: Workshop) -> Sequence[float]:
    """Of latency, peak memory and size: the draft's in times of the candidate's."""
    inputs = zip(shop.dense.input_names, shop.dense.inputs, strict=True)
    feed = {name: tensor.numpy() for name, tensor in inputs}
    built_ms, draft_ms = in_turn(runtime, [built, draft], feed)

    def memory_mib(artefact: Path) -> float:
        with LocalDevice().start(Load(runtime, artefact, 1)) as session:
            session.time(feed, runs=RUNS, seconds=0.0)
            return session.memory().added_mib

    memory = memory_mib(draft) / memory_mib(built)
    return draft_ms / built_ms, memory, artefact_size_mib(draft) / artefact_size_mib(built)


if __name__ == "__main__":
    main()

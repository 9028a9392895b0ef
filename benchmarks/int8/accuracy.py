"""`python -m benchmarks.int8.accuracy`: INT8 on CIFAR-10 as a fit chooses it, in the runtime that serves it.

Each row takes the first step of a fit, by its own code (`fitting.dense_forms.dense_int8`): forms are built,
compared, and evaluated on `--rows` shuffled images of the test file until one loses at most `--drop`. The
percentages are of all of the test file, computed from the artefacts that this left: float, the plain form
(min-max, 8-bit weights), and the one that was chosen. "Ships" says whether a fit serves it: not where it is
larger or slower than float. Last, MLPerf's own INT8 file of ResNet-8 in OpenVINO.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

import edgeprune
from benchmarks.int8.cifar import CALIBRATION, MLPERF_INT8, TRAINING, Data, Network, load
from edgeprune import runtimes
from edgeprune.devices import agent
from edgeprune.fitting.dense_forms import DENSE, dense_int8
from edgeprune.fitting.loop import FLOAT, workshop_for
from edgeprune.fitting.order import resolve_orders, resume_key
from edgeprune.fitting.trials.runner import Trials
from edgeprune.ledger import Ledger
from edgeprune.options import FitOptions
from edgeprune.records.progress import Event

BATCH = 200
RUNTIMES = ("onnxruntime", "openvino")
HEADS = ("network", "runtime", "float, %", "min-max, 8 bit, %", "chosen, %", "lost", "form", "ships")


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.int8.accuracy", description=__doc__)
    parser.add_argument("--data", type=Path, default=os.environ.get("EDGEPRUNE_DATA"))
    parser.add_argument("--only", nargs="*", default=[""], metavar="WORD", help="of a network's title")
    parser.add_argument("--runtime", nargs="*", default=RUNTIMES, choices=RUNTIMES)
    parser.add_argument("--rows", type=int, default=None, help="images of the fit's evaluation; else all")
    parser.add_argument("--drop", type=float, default=0.003)
    options = parser.parse_args()
    if options.data is None:
        parser.error("--data or $EDGEPRUNE_DATA says where the data is")
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    print_table(options.data, options.only, tuple(options.runtime), options.rows, options.drop)


def print_table(
    folder: Path,
    only: list[str],
    chosen: tuple[str, ...] = RUNTIMES,
    rows: int | None = None,
    drop: float = 0.003,
) -> None:
    """One row per network and runtime; `folder` holds the files that its README lists."""
    data, networks = load(folder)
    print(f"\n| {' | '.join(HEADS)} |\n|{'---|' * len(HEADS)}", flush=True)
    for network in networks:
        for runtime in chosen:
            if any(word.lower() in network.title.lower() for word in only):
                print(f"| {' | '.join(_row(network, data, runtime, rows, drop))} |", flush=True)
    if any(word.lower() in MLPERF_INT8 for word in only) and "openvino" in chosen:
        share = _accuracy(_mlperf(folder / MLPERF_INT8), *data.test)
        print(f"\n{MLPERF_INT8} in OpenVINO: {100 * share:.2f} %", flush=True)


def _row(network: Network, data: Data, runtime: str, rows: int | None, drop: float) -> list[str]:
    images, labels = network.prepared(data.test[0]), data.test[1]
    with tempfile.TemporaryDirectory() as folder:
        form, ships, artefacts = _chosen(_task(network, data, rows), runtime, drop, Path(folder))
        found = [_accuracy(_served(runtime, path), images, labels) for path in artefacts]
    lost = f"{100 * (found[0] - found[2]):+.2f}"
    return [network.title, runtime, *(f"{100 * share:.2f}" for share in found), lost, form, ships]


def _chosen(task: edgeprune.Task, runtime: str, drop: float, folder: Path) -> tuple[str, str, list[Path]]:
    """The form that a fit goes on with, whether it serves it, and the files: float, plain, chosen."""
    orders, _ = resolve_orders(FitOptions(max_drop=drop, runtime=runtime, listen=_tell))
    workshop = workshop_for(task, orders[0])
    with Ledger.open(folder, resume_key(orders, workshop), False) as ledger:
        trials = Trials(orders[0], workshop, ledger)
        trials.run(DENSE, FLOAT, kind="dense")
        served = dense_int8(trials, workshop.highest_rung(None))
        form = served if served != DENSE else list(trials.tested)[-1]
        plain = next(name for name in trials.screened if trials.screened[name].candidate.precision == "int8")
        return (
            form,
            "yes" if served == form else "no",
            [trials.device_side.artefact(n) for n in (DENSE, plain, form)],
        )


def _tell(event: Event) -> None:
    print(f"{event.stage}: {event.doing}", file=sys.stderr)


def _task(network: Network, data: Data, rows: int | None) -> edgeprune.Task:
    images, labels = network.prepared(data.test[0][:rows]), data.test[1][:rows]
    training = torch.from_numpy(network.prepared(data.train[0][:TRAINING]))
    targets = torch.from_numpy(data.train[1][:TRAINING].astype(np.int64))
    return edgeprune.Task(
        model=network.net,
        example=training[:1],
        calibration=list(training[:CALIBRATION].split(64)),
        train=list(zip(training.split(64), targets.split(64), strict=True)),
        evaluate=lambda predict: _accuracy(predict, images, labels),
        metric="top-1",
    )


def _accuracy(predict: Callable[[Any], Any], images: Any, labels: Any) -> float:
    parts = range(0, len(images), BATCH)
    right = [(predict(images[at : at + BATCH]).argmax(1) == labels[at : at + BATCH]).sum() for at in parts]
    return int(sum(right)) / len(images)


def _served(runtime: str, path: Path) -> Callable[[Any], Any]:
    file = agent.load_module(runtimes.find(runtime).file)
    runner = file.Runner(str(path), 1)
    name = runner.inputs[0][0]
    return lambda images: runner.run({name: images})[0]


def _mlperf(path: Path) -> Callable[[Any], Any]:
    """Its input are pixels less 128, channels last."""
    import openvino

    compiled = openvino.Core().compile_model(str(path), "CPU", {"INFERENCE_NUM_THREADS": 1})

    def predict(images: Any) -> Any:
        pixels = (images.astype(np.int16) - 128).astype(np.int8)
        return compiled(pixels.transpose(0, 2, 3, 1))[0]

    return predict


if __name__ == "__main__":
    main()

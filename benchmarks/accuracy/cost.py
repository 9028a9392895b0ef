"""`python -m benchmarks.accuracy.cost`: scores and reconstruction of a ResNet-50, in a process of its own.

Random weights and images at 224x224, all cores; half of the units of every group are cut. Prints one JSON
object: the seconds of scoring, those of the cut with its reconstruction, and the peak memory of the process
in GiB, with the capture of the model before.
"""

from __future__ import annotations

import json
import resource
import subprocess
import sys
import time
import warnings
from dataclasses import replace

import torch

import edgeprune
from benchmarks.accuracy.rows import Row
from benchmarks.int8.models import MODELS
from edgeprune.detect import cores
from edgeprune.make import Workshop
from edgeprune.options import FitOptions
from edgeprune.quantize.dialects import TABLE

BATCH = 16
MODEL = "ResNet-50, 224x224"


def row_of(row: Row) -> Row:
    """The row with the figures of a fresh process."""
    command = [sys.executable, "-W", "ignore", "-m", "benchmarks.accuracy.cost", str(row.images)]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    found = json.loads(done.stdout.strip().splitlines()[-1])
    note = f"scores {found['scores']:.0f} s, cut and reconstruction {found['reconstruction']:.0f} s"
    seconds = found["scores"] + found["reconstruction"]
    return replace(row, seconds=seconds, peak_gib=found["peak_gib"], note=note)


def main() -> None:
    warnings.simplefilter("ignore")
    torch.set_num_threads(cores() or 1)
    torch.manual_seed(0)
    model, _ = MODELS[MODEL]()
    images = torch.randn(int(sys.argv[1]), 3, 224, 224)
    task = edgeprune.Task(
        model=model,
        example=images[:2],
        calibration=list(images.split(BATCH)),
        evaluate=lambda predict: 0.0,
        outputs="classes",
    )
    workshop = Workshop(task, TABLE["onnxruntime-x86"], criterion=FitOptions().criterion)
    started = time.monotonic()
    scores = workshop.scores
    scored = time.monotonic()
    kept = {
        group.name: tuple(
            sorted(scores[group.name].argsort()[-max(group.least, group.units // 2) :].tolist())
        )
        for group in workshop.coupling.groups
    }
    workshop.prune(kept, "reconstruct")
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    answer = {"scores": scored - started, "reconstruction": time.monotonic() - scored, "peak_gib": peak}
    print(json.dumps(answer))


if __name__ == "__main__":
    main()

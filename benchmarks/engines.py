"""`python -m benchmarks.engines`: the zoo in INT8 as TensorRT for RTX builds it, on a machine without a GPU.

Every architecture is calibrated, written in the TensorRT dialect and built for each capability; layers that
the engine runs in float go back to float, until what is INT8 in the file is INT8 in every engine. One row
each: layers in INT8, layers in float, sizes of the files, types of the engine's multiplying layers.
Ends with status 1 when one does not build.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import warnings
from collections import Counter
from pathlib import Path

import torch

from benchmarks.zoo import ENTRIES, Entry
from edgeprune.errors import EdgepruneError
from edgeprune.export import to_onnx
from edgeprune.graph.capture import capture
from edgeprune.quantize.calibrate import calibrate
from edgeprune.quantize.dialects import TABLE
from edgeprune.quantize.emit import Quantised, quantise
from edgeprune.quantize.simulate.bias_correction import correct_means
from edgeprune.quantize.tensorrt.engines import MULTIPLYING, Engine, build_engine, write_for_engine

CAPABILITIES = ("SM86", "SM89")


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.engines", description=__doc__)
    parser.add_argument("--only", nargs="*", default=[""], metavar="WORD")
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    heads = ("architecture", "INT8", "in float", "float, KiB", "INT8, KiB", *CAPABILITIES)
    print(f"| {' | '.join(heads)} |\n|{'---|' * len(heads)}")
    failed = 0
    for entry in ENTRIES:
        if any(word.lower() in entry.name.lower() for word in options.only):
            try:
                cells = _row(entry)
            except EdgepruneError as error:
                failed += 1
                cells = [entry.name, f"{error.what[:160]}"]
            print(f"| {' | '.join(cells)} |", flush=True)
    return 1 if failed else 0


def _row(entry: Entry) -> list[str]:
    model, example = entry.made()
    captured = capture(model, example)
    with tempfile.TemporaryDirectory() as folder:
        exported = to_onnx(captured)
        ranges = calibrate(captured, [captured.inputs], "minmax")
        ranges = correct_means(captured, ranges, TABLE["tensorrt"], [captured.inputs])
        engines: dict[str, Engine] = {}

        def lost_in(path: Path) -> set[str]:
            engines.update((each, build_engine(path, each)) for each in CAPABILITIES)
            return {layer for engine in engines.values() for layer in engine.not_int8}

        def without(kept: tuple[str, ...]) -> Quantised:
            return quantise(exported, ranges, "tensorrt", float_layers=kept)

        written, _ = write_for_engine(without, Path(folder) / "int8.onnx", lost_in)
        sizes = [f"{model.ByteSize() / 1024:.0f}" for model in (exported, written.model)]
    given_back = ", ".join(written.layers_float) or "-"
    return [entry.name, str(len(written.layers_int8)), given_back, *sizes, *map(_types, engines.values())]


def _types(engine: Engine) -> str:
    """`correlation Int8 15`: how many layers of the engine multiply, by their kind and the type they read."""
    found = Counter(
        f"{layer.kind} {layer.inputs[0]}"
        for layer in engine.layers
        if layer.kind in MULTIPLYING and layer.inputs
    )
    return ", ".join(f"{name} {count}" for name, count in sorted(found.items()))


if __name__ == "__main__":
    sys.exit(main())

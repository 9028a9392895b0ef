"""`python -m benchmarks.int8`: INT8 / float latency of edgeprune, ONNX Runtime's quantiser and NNCF.

All sessions of a row take turns in one process, batch 1, one thread; a ratio is of medians. The error is
the distance of the INT8 outputs to the float outputs, as a share of what tells the float outputs of
different inputs apart, over inputs that calibration did not see; *in float*: the layers that edgeprune leaves
in float, because they gain nothing here in INT8. With --data (or $EDGEPRUNE_DATA) the
second table measures accuracy on CIFAR-10.
"""

from __future__ import annotations

import argparse
import logging
import os
import tempfile
import time
import warnings
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch

from benchmarks.int8.models import MODELS
from edgeprune.devices import Load, agent
from edgeprune.devices.local import LocalDevice
from edgeprune.export import export_onnx, to_onnx
from edgeprune.fitting.dense_forms import PLAIN
from edgeprune.graph import onnxfile
from edgeprune.graph.capture import Captured, capture
from edgeprune.graph.pointwise import convolve_products
from edgeprune.latency.float_layers import Mixing
from edgeprune.make.builder import Builder
from edgeprune.meaning.kinds import understood
from edgeprune.meaning.yardstick import yardstick
from edgeprune.quantize.dialects import TABLE

SECONDS = 8.0  # of each session's queries
UNSEEN = 32  # inputs for the error
Feed = Mapping[str, Any]
Run = Callable[[Feed], Any]


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.int8", description=__doc__)
    parser.add_argument("--only", nargs="*", default=[""], metavar="WORD")
    parser.add_argument("--data", type=Path, default=os.environ.get("EDGEPRUNE_DATA"))
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    heads = ("model", "ORT float, ms", "edgeprune", "in float", "ORT quantize_static", "error", "theirs")
    heads += ("OpenVINO float, ms", "edgeprune", "in float", "NNCF", "error", "theirs")
    print(f"| {' | '.join(heads)} |\n|{'---|' * len(heads)}")
    for name in MODELS:
        if any(word.lower() in name.lower() for word in options.only):
            with tempfile.TemporaryDirectory() as folder:
                print(f"| {' | '.join(row(name, Path(folder)))} |", flush=True)
    if options.data is not None:
        from benchmarks.int8.accuracy import print_table

        print_table(Path(options.data), options.only)


def row(name: str, folder: Path) -> list[str]:
    torch.manual_seed(0)
    model, batches = MODELS[name]()
    captured = capture(model, batches[0])
    exported = export_onnx(captured, folder / "float.onnx")
    feeds = [{captured.input_names[0]: unseen} for unseen in _unseen(batches[0])]
    cells = [name]
    for runtime, short, dialect, peer in (
        ("onnxruntime", "ort", "onnxruntime-x86", quantised_by_ort),
        ("openvino", "ov", "openvino", _theirs_nncf),
    ):
        ours, in_float = _ours(captured, batches, runtime, short, dialect, folder)
        theirs = peer(exported, captured.input_names[0], batches, folder)
        runs = {
            title: session(short, path)
            for title, path in (("float", exported), ("ours", ours), ("theirs", theirs))
        }
        outputs = {title: np.concatenate([run(feed) for feed in feeds]) for title, run in runs.items()}
        errors = {title: _error(found, outputs["float"]) for title, found in outputs.items()}
        times = in_turn(runs, feeds[0])
        cells.append(f"{times['float']:.1f}")
        cells += [f"{times['ours'] / times['float']:.3f}", in_float]
        cells.append(f"{times['theirs'] / times['float']:.3f}")
        cells += [f"{errors[title]:.2f}" for title in ("ours", "theirs")]
    return cells


def _ours(
    captured: Captured, batches: list[torch.Tensor], runtime: str, short: str, dialect: str, folder: Path
) -> tuple[Path, str]:
    """As a fit does it, with the error on the calibration data for a metric; how many layers stay float.

    The quickest mixture of float and INT8, plain or of like channels, each in 8 and in 7 bits.
    """
    given = [(batch,) for batch in batches]
    feeds = [{captured.input_names[0]: batch.numpy()} for batch in batches]
    outputs = understood(captured, captured.answer(*given[0]), None)
    yards = yardstick(outputs, (captured.run(*inputs) for inputs in given))
    builder = Builder(captured, given, TABLE[dialect], runtime, yardstick=lambda: yards)
    served = Load(runtime, folder / "float.onnx", 1)
    mixing = Mixing(
        LocalDevice(), served, TABLE[dialect], builder.emitter, builder.exported(captured), feeds[0]
    )
    mixture = mixing.quickest(PLAIN)
    found = []
    for equalised, form in ((False, captured), (True, builder.equalised(captured))):
        source = to_onnx(form)
        exact = _answers(short, onnxfile.save(source, folder / "form.onnx"), feeds)
        for narrow in (False, True):
            candidate = mixture.of(replace(PLAIN, equalised=equalised, reduce_range=narrow))
            written = builder.quantised(candidate, form, source)
            if candidate.convolved:
                convolve_products(written.model)
            path = onnxfile.save(written.model, folder / f"{short}.{equalised}.{narrow}.onnx")
            layers = f"{len(written.layers_float)}/{len(written.layers_float + written.layers_int8)}"
            found.append((_error(_answers(short, path, feeds), exact), path, layers))
    return min(found)[1:]


def _answers(runtime: str, path: Path, feeds: list[dict[str, Any]]) -> Any:
    run = session(runtime, path)
    return np.concatenate([run(feed) for feed in feeds])


def in_turn(runs: Mapping[str, Run], feed: Feed) -> dict[str, float]:
    """Median milliseconds of each, one query at a time, all in turn."""
    times: dict[str, list[float]] = {title: [] for title in runs}
    for run in runs.values():
        for _ in range(3):
            run(feed)
    ends = time.monotonic() + SECONDS * len(runs)
    while time.monotonic() < ends:
        for title, run in runs.items():
            started = time.perf_counter()
            run(feed)
            times[title].append(1e3 * (time.perf_counter() - started))
    return {title: median(found) for title, found in times.items()}


def session(runtime: str, path: Path) -> Run:
    runner = agent.load_module(f"{runtime}.py").Runner(str(path), 1)
    return lambda feed: runner.run(feed)[0]


def _unseen(batch: torch.Tensor) -> list[Any]:
    source = torch.Generator().manual_seed(1)
    if batch.is_floating_point():
        return [torch.randn(batch.shape, generator=source).numpy() for _ in range(UNSEEN)]
    return [torch.randint(0, 30_000, batch.shape, generator=source).numpy() for _ in range(UNSEEN)]


def _error(found: Any, exact: Any) -> float:
    centred = exact - exact.mean(0)
    return float(np.sqrt(((found - exact) ** 2).sum() / (centred**2).sum()))


def quantised_by_ort(exported: Path, name: str, batches: list[torch.Tensor], folder: Path) -> Path:
    """ONNX Runtime's own static quantiser, in the types that its documentation names for x86 (u8 s8)."""
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    class Reader(CalibrationDataReader):  # type: ignore[misc]
        def __init__(self) -> None:
            self._left = iter(batches)

        def get_next(self) -> dict[str, Any] | None:
            batch = next(self._left, None)
            return None if batch is None else {name: batch.numpy()}

    prepared, written = folder / "prepared.onnx", folder / "theirs.onnx"
    quant_pre_process(str(exported), str(prepared), skip_symbolic_shape=True)
    quantize_static(
        *(str(prepared), str(written), Reader()),
        quant_format=QuantFormat.QDQ,
        per_channel=True,
        activation_type=QuantType.QUInt8,
        weight_type=QuantType.QInt8,
    )
    return written


def _theirs_nncf(exported: Path, name: str, batches: list[torch.Tensor], folder: Path) -> Path:
    """NNCF's post-training quantisation with its transformer preset where the model is one."""
    import nncf
    import openvino

    logging.getLogger("nncf").setLevel(logging.ERROR)
    model = openvino.Core().read_model(str(exported))
    attention = any("softmax" in node.get_type_name().lower() for node in model.get_ops())
    kind = nncf.ModelType.TRANSFORMER if attention else None
    data = nncf.Dataset([{name: batch.numpy()} for batch in batches])
    openvino.save_model(
        nncf.quantize(model, data, subset_size=len(batches), model_type=kind), str(folder / "theirs.xml")
    )
    return folder / "theirs.xml"


if __name__ == "__main__":
    main()

"""`python -m benchmarks.prediction`: latency predicted from the table against latency measured.

Per architecture, runtime and precision: the table is measured once (`fitting.latency`), then random
candidates, with a width drawn for every group alone, are measured end to end, batch 1, one thread. None of
them is in the table. A candidate and the dense model take turns; only rounds in which the
dense model was about as quick as ever count, so that a busy machine does not pass for a wrong prediction.
"""

from __future__ import annotations

import argparse
import tempfile
import time
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import onnx
import torch
from torch import nn

from benchmarks.int8.models import CALIBRATION, Logits, image_model
from edgeprune.devices import Load, agent
from edgeprune.devices.local import LocalDevice
from edgeprune.export import export_onnx
from edgeprune.fitting.latency import designs, measure_table, prediction
from edgeprune.graph.capture import Captured, capture
from edgeprune.graph.coupling import Coupling, analyse
from edgeprune.graph.resize import Widths, resizable
from edgeprune.graph.surgery import cut
from edgeprune.quantize.calibrate import calibrate
from edgeprune.quantize.emit import quantise

CANDIDATES = 12
ROUNDS = 5  # in which the machine was quiet
MOST_ROUNDS = 25
BLOCK_SECONDS = 0.06
QUIET = 1.03  # times the quickest block of the dense model
MULTIPLE = 8
RUNTIMES = {"onnxruntime": "onnxruntime-x86", "openvino": "openvino"}


def _bert() -> tuple[nn.Module, list[torch.Tensor]]:
    import transformers

    config = transformers.BertConfig(
        hidden_size=256, num_hidden_layers=4, num_attention_heads=8, intermediate_size=1024
    )
    words = [torch.randint(0, 30_000, (1, 128)) for _ in range(CALIBRATION)]
    return Logits(transformers.BertForSequenceClassification(config).eval(), "input_ids"), words


MODELS: Mapping[str, Callable[[], tuple[nn.Module, list[torch.Tensor]]]] = {
    "ResNet-18, 224x224": image_model(
        "ResNetForImageClassification",
        "ResNetConfig",
        layer_type="basic",
        hidden_sizes=[64, 128, 256, 512],
        depths=[2, 2, 2, 2],
    ),
    "MobileNetV2, 224x224": image_model("MobileNetV2ForImageClassification", "MobileNetV2Config"),
    "ResNet-50, 224x224": image_model("ResNetForImageClassification", "ResNetConfig"),
    "ViT (4 layers, 256), 224x224": image_model(
        "ViTForImageClassification",
        "ViTConfig",
        hidden_size=256,
        num_hidden_layers=4,
        num_attention_heads=8,
        intermediate_size=1024,
    ),
    "BERT (4 layers, 256), 128 tokens": _bert,
}


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.prediction", description=__doc__)
    parser.add_argument("--only", nargs="*", default=[""], metavar="WORD")
    parser.add_argument("--candidates", type=int, default=CANDIDATES, metavar="N")
    parser.add_argument(
        "--export",
        action="store_true",
        help="cut and export the candidates (resized files have equal shapes)",
    )
    parser.add_argument("--details", action="store_true", help="print every candidate, too")
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    heads = ("model", "runtime", "precision", "dense, ms", "candidates, ms", "table, s")
    heads += ("mean error", "median", "worst", "candidates")
    print(f"| {' | '.join(heads)} |\n|{'---|' * len(heads)}")
    for name in MODELS:
        if any(word.lower() in name.lower() for word in options.only):
            with tempfile.TemporaryDirectory() as folder:
                _rows(name, Path(folder), options.candidates, options.details, options.export)


def _rows(name: str, folder: Path, count: int, details: bool, export: bool) -> None:
    torch.manual_seed(0)
    model, batches = MODELS[name]()
    with (
        torch.no_grad()
    ):  # biases that are all zero are stored once for all layers, which a trained model's are not
        for parameter in model.parameters():
            if parameter.dim() == 1:
                parameter += 0.01 * torch.randn_like(parameter)
    captured = capture(model, batches[0])
    coupling = analyse(captured)
    ranges = calibrate(captured, [(batch,) for batch in batches], "minmax")
    feed = {captured.input_names[0]: batches[0].numpy()}

    def exported(widths: Widths, path: Path) -> Path:
        return export_onnx(_cut(captured, coupling, widths), path, prove=False)

    started = time.monotonic()
    learnt = resizable(coupling, lambda widths: onnx.load(exported(widths, folder / "probe.onnx")))
    learning = time.monotonic() - started
    whole = {group.name: group.units for group in coupling.groups}
    drawn = [_drawn(coupling, np.random.default_rng(at)) for at in range(1, count + 1)]
    files = []
    for at, widths in enumerate([whole, *drawn]):
        files.append(folder / f"{at}.onnx")
        if export:
            exported(widths, files[-1])
        else:
            onnx.save(learnt.at(widths), str(files[-1]))
    for runtime, dialect in RUNTIMES.items():
        for precision in ("float32", "int8"):

            def emit(source: Path, path: Path) -> Path:
                if precision == "float32":  # noqa: B023 - called within this round of the loop
                    return source
                return quantise(source, ranges, dialect, path).path  # noqa: B023

            started = time.monotonic()
            table = measure_table(
                LocalDevice(), Load(runtime, Path(), 1), learnt, emit, feed, designs(coupling, MULTIPLE)
            )
            seconds = time.monotonic() - started + learning
            predicted = prediction(learnt, table)
            made = [emit(file, file.with_suffix(".int8.onnx")) for file in files]
            measured = _measured(runtime, made, feed)
            errors = [predicted.ms(widths) / ms - 1 for widths, ms in zip(drawn, measured[1:], strict=True)]
            _print(name, runtime, precision, measured, seconds, errors)
            if details:
                for widths, ms in zip(drawn, measured[1:], strict=True):
                    print(f"    measured {ms:8.3f} ms, predicted {predicted.ms(widths):8.3f} ms", flush=True)


def _print(
    name: str, runtime: str, precision: str, measured: list[float], seconds: float, errors: list[float]
) -> None:
    sizes = [abs(error) for error in errors]
    cells = [
        name,
        runtime,
        precision,
        f"{measured[0]:.2f}",
        f"{min(measured[1:]):.2f} - {max(measured[1:]):.2f}",
    ]
    cells += [
        f"{seconds:.0f}",
        f"{np.mean(sizes):.1%}",
        f"{median(sizes):.1%}",
        f"{max(sizes):.1%}",
        f"{len(errors)}",
    ]
    print(f"| {' | '.join(cells)} |", flush=True)


def _cut(captured: Captured, coupling: Coupling, widths: Widths) -> Captured:
    return cut(captured, coupling, {name: range(units) for name, units in widths.items()})


def _drawn(coupling: Coupling, rng: np.random.Generator) -> dict[str, int]:
    """Every group at a legal width of its own, from an eighth of its units up to all of them."""
    found = {}
    for group in coupling.groups:
        step = MULTIPLE if group.units >= 2 * MULTIPLE else 1
        legal = [width for width in range(step, group.units + 1, step) if 8 * width >= group.units]
        found[group.name] = max(group.least, int(rng.choice(legal)))
    return found


def _measured(runtime: str, files: list[Path], feed: Mapping[str, Any]) -> list[float]:
    """Milliseconds of each file at the machine's best speed; the first is the reference of the others."""
    module = agent.load_session(runtime)
    dense = module.Runner(str(files[0]), 1)
    best = min(_block(dense, feed) for _ in range(10))
    found = []
    for file in files[1:]:
        runner = module.Runner(str(file), 1)
        _block(runner, feed)
        rounds: list[tuple[float, float]] = []
        while len([1 for reference, _ in rounds if reference <= QUIET * best]) < ROUNDS:
            before, own, after = _block(dense, feed), _block(runner, feed), _block(dense, feed)
            best = min(best, before, after)
            rounds.append((max(before, after), own))
            if len(rounds) >= MOST_ROUNDS:
                break
        quiet = sorted(rounds)[:ROUNDS]
        found.append(median(own * best / reference for reference, own in quiet))
    return [best, *found]


def _block(runner: Any, feed: Mapping[str, Any]) -> float:
    return median(agent.timed(runner, feed, 3, BLOCK_SECONDS))


if __name__ == "__main__":
    main()

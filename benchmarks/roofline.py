"""`python -m benchmarks.roofline --clock-ghz X`: the roofline beside what this machine measures.

Networks of the INT8 benchmark and small ones of the zoo, in float and in INT8, one thread, batch 1, in ONNX
Runtime and OpenVINO. The clock is given (the vendor's, or measured by a chain of dependent instructions); the
bandwidth is that of copying memory here. A ratio is predicted over measured; below 1 the roofline hopes.

`--orin` prints the other table instead: TensorRT's roofline beside MLPerf's published latencies.
"""

from __future__ import annotations

import argparse
import math
import tempfile
import time
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import mean, median

import numpy as np
import torch

from benchmarks.int8.models import MODELS, Logits
from benchmarks.zoo import ENTRIES
from edgeprune import shelf
from edgeprune.devices import Feeds, Load
from edgeprune.devices.local import LocalDevice
from edgeprune.export import export_onnx, to_onnx
from edgeprune.graph import onnxfile
from edgeprune.graph.capture import Captured, capture
from edgeprune.latency.kernel import Workload
from edgeprune.latency.roofline import roofline
from edgeprune.latency.workload import read_workload
from edgeprune.quantize.calibrate import calibrate
from edgeprune.quantize.dialects import TABLE
from edgeprune.quantize.emit import quantise
from edgeprune.records.machine import Figure, Profile
from edgeprune.runtimes import find

SMALL = ("ResNet, basic", "MobileNetV2", "EfficientNet", "DenseNet", "U-Net", "YOLO-like detector", "ViT")
SMALL += ("Segformer", "BERT", "GPT-2", "DS-CNN")
# MLPerf Inference v3.1, closed, NVIDIA, SingleStream, mlperf_log_summary.txt of Orin_TRT and Orin_NX_TRT.
# ResNet-50: the median. BERT: the 99th percentile, where no sequence is shorter than the 384 tokens by much.
ORIN = {
    ("ResNet-50", "jetson-agx-orin"): 0.636,
    ("ResNet-50", "jetson-orin-nx"): 1.078,
    ("BERT-large", "jetson-agx-orin"): 6.487,
    ("BERT-large", "jetson-orin-nx"): 16.809,
}


@dataclass(frozen=True)
class Case:
    name: str
    captured: Captured
    inputs: tuple[torch.Tensor, ...]

    @property
    def feeds(self) -> Feeds:
        pairs = zip(self.captured.input_names, self.inputs, strict=True)
        return {name: tensor[:1].numpy(force=True) for name, tensor in pairs}


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.roofline", description=__doc__)
    parser.add_argument("--clock-ghz", type=float, help="of this processor, under load")
    parser.add_argument("--only", nargs="*", default=[""], metavar="WORD")
    parser.add_argument("--seconds", type=float, default=1.0, help="of each session's queries")
    parser.add_argument("--orin", action="store_true")
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    if options.orin:
        print_orin()
        return
    if options.clock_ghz is None:
        parser.error("--clock-ghz is needed: the clock under load, which a virtual machine does not show")
    machine = this_machine(options.clock_ghz)
    heads = (
        "model",
        "runtime",
        "launches",
        "predicted, ms",
        "measured, ms",
        "ratio",
        "MiB",
        "measured",
        "ratio",
    )
    print(f"| {' | '.join(heads)} |\n|{'---|' * len(heads)}")
    errors: dict[str, list[float]] = {}
    for case in cases(options.only):
        with tempfile.TemporaryDirectory() as folder:
            print_case(case, machine, Path(folder), options.seconds, errors)
    for runtime, logs in errors.items():
        off = math.exp(mean(map(abs, logs)))
        print(f"\n{runtime}: {len(logs)} latencies, off by a factor of {off:.2f} on average, {runs(logs)}")


def runs(logs: list[float]) -> str:
    return f"between {math.exp(min(logs)):.2f} and {math.exp(max(logs)):.2f}"


def this_machine(clock_ghz: float) -> Profile:
    here = shelf.load_profile("local")
    figures = {"clock_max": (clock_ghz, "GHz"), "memory_bandwidth": (copied_gbs(), "GB/s")}
    measured = tuple((name, Figure(value, unit, "measured here")) for name, (value, unit) in figures.items())
    return replace(here, threads=1, figures=measured)


def copied_gbs() -> float:
    """Bytes read and written per second by copying 256 MiB, the best of five, in GB/s."""
    source = np.ones(64 << 20, np.float32)
    target = np.empty_like(source)
    seconds = []
    for _ in range(5):
        begin = time.perf_counter()
        np.copyto(target, source)
        seconds.append(time.perf_counter() - begin)
    return float(2 * source.nbytes / min(seconds) / 1e9)


def cases(words: list[str]) -> Iterator[Case]:
    for name, build in MODELS.items():
        if any(word.lower() in name.lower() for word in words):
            model, data = build()
            yield Case(name, capture(model, data[0]), (data[0],))
    for entry in ENTRIES:
        if entry.name in SMALL and any(word.lower() in entry.name.lower() for word in words):
            captured = capture(*entry.made())
            yield Case(f"{entry.name}, of the zoo", captured, captured.inputs)


def print_case(
    case: Case, machine: Profile, folder: Path, seconds: float, errors: dict[str, list[float]]
) -> None:
    exported = to_onnx(case.captured)
    floating = onnxfile.save(exported, folder / "float.onnx")
    ranges = calibrate(case.captured, [case.inputs], "minmax")
    for runtime, dialect in (("onnxruntime", "onnxruntime-x86"), ("openvino", "openvino")):
        model = quantise(exported, ranges, TABLE[dialect]).model
        integer = onnxfile.save(model, folder / f"{runtime}.onnx")
        for title, path in ((case.name, floating), (f"{case.name}, INT8", integer)):
            roof, workload = roofline(machine, find(runtime), "CPU"), read_workload(path, 1)
            with LocalDevice().start(Load(runtime, path, 1)) as session:
                session.warm_up(case.feeds, 0.2)
                ms = median(session.time(case.feeds, runs=10, seconds=seconds).ms)
                mib = session.memory().process_mib
            predicted_ms, predicted_mib = roof.latency_ms(workload), roof.memory_mib(workload)
            errors.setdefault(runtime, []).append(math.log(predicted_ms / ms))
            latency = f"{predicted_ms:.3f} | {ms:.3f} | {predicted_ms / ms:.2f}"
            memory = f"{predicted_mib:.0f} | {mib:.0f} | {predicted_mib / mib:.2f}"
            print(f"| {title} | {runtime} | {len(workload.kernels)} | {latency} | {memory} |", flush=True)


def print_orin() -> None:
    """MLPerf's BERT is INT8 throughout: a quarter of the float file's traffic, and four of its 24 layers."""
    print("| model | machine | predicted, ms | MLPerf, ms | ratio |\n|---|---|---|---|---|")
    model, data = MODELS["ResNet-50, 224x224"]()
    captured = capture(model, data[0])
    with tempfile.TemporaryDirectory() as folder:
        ranges = calibrate(captured, [(each,) for each in data[:2]], "minmax")
        model = quantise(to_onnx(captured), ranges, TABLE["tensorrt"]).model
        integer = onnxfile.save(model, Path(folder) / "int8.onnx")
        workloads = {"ResNet-50": (read_workload(integer, 1), 1), "BERT-large": (bert_large(Path(folder)), 6)}
    for (name, machine), ms in ORIN.items():
        workload, times = workloads[name]
        roof = roofline(shelf.load_profile(machine), find("tensorrt"), "GPU")
        predicted_ms = times * roof.latency_ms(workload)
        print(f"| {name} | {machine} | {predicted_ms:.3f} | {ms:.3f} | {predicted_ms / ms:.2f} |")


def bert_large(folder: Path) -> Workload:
    import transformers

    config = transformers.BertConfig(
        hidden_size=1024, num_hidden_layers=4, num_attention_heads=16, intermediate_size=4096
    )
    model = Logits(transformers.BertForQuestionAnswering(config), "input_ids").eval()
    captured = capture(model, torch.randint(0, 30_000, (1, 384)))
    found = read_workload(export_onnx(captured, folder / "bert.onnx"), 1)
    kernels = (replace(each, numbers="int8", traffic=each.traffic // 4) for each in found.kernels)
    return replace(found, kernels=tuple(kernels))


if __name__ == "__main__":
    main()

"""`python -m benchmarks.int8.sizes`: files of ResNet-18 (1000 classes), float and INT8, by dialect."""

from __future__ import annotations

import tempfile
import warnings
from pathlib import Path

import torch

from benchmarks.int8.models import image_model
from edgeprune.devices.artefact import artefact_size_mib
from edgeprune.export import to_onnx
from edgeprune.graph import onnxfile
from edgeprune.graph.capture import capture
from edgeprune.ir import write_ir
from edgeprune.quantize.calibrate import calibrate
from edgeprune.quantize.emit import quantise

DIALECTS = ("onnxruntime-x86", "onnxruntime-arm", "openvino", "tensorrt")


def main() -> None:
    warnings.simplefilter("ignore")
    torch.manual_seed(0)
    model, batches = image_model(
        "ResNetForImageClassification",
        "ResNetConfig",
        layer_type="basic",
        hidden_sizes=[64, 128, 256, 512],
        depths=[2, 2, 2, 2],
        num_labels=1000,
    )()
    captured = capture(model, batches[0])
    ranges = calibrate(captured, [(batch,) for batch in batches], "minmax")
    print("| dialect | file | float, MiB | INT8, MiB | INT8 / FP32 ONNX |\n|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        exported = to_onnx(captured)
        float_file = onnxfile.save(exported, folder / "float.onnx")
        whole = artefact_size_mib(float_file)
        for dialect in DIALECTS:
            model = quantise(exported, ranges, dialect).model
            made, floating = onnxfile.save(model, folder / f"{dialect}.onnx"), float_file
            if dialect == "openvino":
                feeds = {captured.input_names[0]: batches[0].numpy()}
                made = write_ir(model, folder / "int8.xml", feeds, float_model=exported)
                floating = write_ir(exported, folder / "float.xml", feeds)
            before, after = artefact_size_mib(floating), artefact_size_mib(made)
            kind = made.suffix.lstrip(".").replace("xml", "xml + bin")
            print(f"| {dialect} | {kind} | {before:.2f} | {after:.2f} | {after / whole:.1%} |")


if __name__ == "__main__":
    main()

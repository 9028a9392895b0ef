"""`python -m benchmarks.int8.language`: forms of INT8 and INT4 for models of matrix products.

Static and dynamic ranges, and weight-only forms, beside float: latency, file size and error. All sessions of
a row take turns in one process, batch 1, one thread; a ratio is of medians. The error is the distance of the
outputs to the float outputs, as a share of their length. Random weights: a hard case for 4 bits, where no
direction matters less than another.
"""

from __future__ import annotations

import argparse
import tempfile
import warnings
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from benchmarks.int8.__main__ import in_turn, session
from benchmarks.int8.models import MODELS
from edgeprune.devices.artefact import artefact_size_mib
from edgeprune.export import export_onnx
from edgeprune.graph import onnxfile
from edgeprune.graph.capture import Captured, capture
from edgeprune.ir import write_ir
from edgeprune.quantize.calibrate import calibrate
from edgeprune.quantize.dialects import TABLE
from edgeprune.quantize.dynamic import quantise_dynamic
from edgeprune.quantize.emit import quantise
from edgeprune.quantize.simulate.bias_correction import correct_means
from edgeprune.quantize.weight_only import compress_weights

WORDS = 16_000
FORMS = ("float", "static", "dynamic", "int8-weights", "int4-weights")
DIALECTS = {"ort": "onnxruntime-x86", "ov": "openvino"}


class Logits(nn.Module):
    """A language model that returns its logits alone, without a cache."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.model(input_ids=x, use_cache=False)[0]


def llama(tokens: int) -> tuple[nn.Module, list[torch.Tensor]]:
    import transformers

    config = transformers.LlamaConfig(
        hidden_size=768,
        intermediate_size=2048,
        num_hidden_layers=8,
        num_attention_heads=12,
        num_key_value_heads=4,
        vocab_size=WORDS,
    )
    words = [torch.randint(0, WORDS, (1, tokens)) for _ in range(8)]
    return Logits(transformers.LlamaForCausalLM(config)).eval(), words


ROWS: Mapping[str, Callable[[], tuple[nn.Module, list[torch.Tensor]]]] = {
    "ViT-S, 224x224": MODELS["ViT-S, 224x224"],
    "BERT-base, 128 tokens": MODELS["BERT-base, 128 tokens"],
    "Llama-like, 75 M, 1 token": partial(llama, 1),
    "Llama-like, 75 M, 16 tokens": partial(llama, 16),
    "Llama-like, 75 M, 128 tokens": partial(llama, 128),
}


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.int8.language", description=__doc__)
    parser.add_argument("--only", nargs="*", default=[""], metavar="WORD")
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    print("latency / float latency, size / size of the float ONNX file, error\n")
    heads = ("model", "runtime", "float, ms", *FORMS)
    print(f"| {' | '.join(heads)} |\n|{'---|' * len(heads)}")
    for name in ROWS:
        if any(word.lower() in name.lower() for word in options.only):
            with tempfile.TemporaryDirectory() as folder:
                for row in rows(name, Path(folder)):
                    print(f"| {' | '.join(row)} |", flush=True)


def rows(name: str, folder: Path) -> list[list[str]]:
    torch.manual_seed(0)
    model, batches = ROWS[name]()
    captured = capture(model, batches[0])
    exported = export_onnx(captured, folder / "float.onnx")
    float_mib = artefact_size_mib(exported)
    feeds = [{captured.input_names[0]: batch.numpy()} for batch in batches]
    found = []
    for runtime in DIALECTS:
        files = artefacts(captured, batches, exported, runtime, folder)
        runs = {form: session(runtime, path) for form, path in files.items()}
        outputs = {form: np.concatenate([run(feed) for feed in feeds]) for form, run in runs.items()}
        times = in_turn(runs, feeds[0])
        cells = [name, runtime, f"{times['float']:.1f}"]
        for form in FORMS:
            if form not in files:
                cells.append("")
                continue
            error = np.linalg.norm(outputs[form] - outputs["float"]) / np.linalg.norm(outputs["float"])
            size = artefact_size_mib(files[form]) / float_mib
            cells.append(f"{times[form] / times['float']:.3f}, {size:.3f}, {error:.3f}")
        found.append(cells)
    return found


def artefacts(
    captured: Captured, batches: list[torch.Tensor], exported: Path, runtime: str, folder: Path
) -> dict[str, Path]:
    """One file of each form, in the runtime's format; dynamic ranges are ONNX Runtime's."""
    given, dialect = [(batch,) for batch in batches], TABLE[DIALECTS[runtime]]
    ranges = correct_means(captured, calibrate(captured, given, "minmax"), dialect, given)
    model = onnxfile.load(exported)
    made = {
        "static": quantise(model, ranges, dialect).model,
        "int8-weights": compress_weights(model, "int8-weights").model,
        "int4-weights": compress_weights(model, "int4-weights").model,
    }
    if dialect.dynamic:
        made["dynamic"] = quantise_dynamic(model).model
    if runtime == "ort":
        files = {form: onnxfile.save(each, folder / f"{form}.onnx") for form, each in made.items()}
        return {"float": exported, **files}
    feeds: dict[str, Any] = {captured.input_names[0]: batches[0].numpy()}
    return {
        form: write_ir(each, folder / f"{form}.xml", feeds, float_model=model)
        for form, each in {"float": model, **made}.items()
    }


if __name__ == "__main__":
    main()

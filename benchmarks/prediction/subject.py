"""A model whose operators are timed: its file at any widths, its candidates, its form in each precision."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from torch import nn

from benchmarks.int8 import models
from benchmarks.int8.models import CALIBRATION, Logits, image_model
from edgeprune.export import to_onnx
from edgeprune.graph import onnxfile
from edgeprune.graph.capture import capture
from edgeprune.graph.coupling import Coupling, analyse
from edgeprune.graph.resize import Resizable, Widths, resizable
from edgeprune.graph.surgery import cut
from edgeprune.latency.measured import Emit
from edgeprune.quantize.calibrate import calibrate
from edgeprune.quantize.emit import quantise

MULTIPLE = 8
DIALECTS = {"onnxruntime": "onnxruntime-x86", "openvino": "openvino"}  # by runtime
PRECISIONS = ("float32", "int8")


def _bert() -> tuple[nn.Module, list[torch.Tensor]]:
    import transformers

    config = transformers.BertConfig(
        hidden_size=256, num_hidden_layers=4, num_attention_heads=8, intermediate_size=1024
    )
    words = [torch.randint(0, 30_000, (1, 128)) for _ in range(CALIBRATION)]
    return Logits(transformers.BertForSequenceClassification(config).eval(), "input_ids"), words


_SHARED = ("ResNet-18, 224x224", "MobileNetV2, 224x224", "ResNet-50, 224x224")
MODELS: Mapping[str, Callable[[], tuple[nn.Module, list[torch.Tensor]]]] = {
    **{name: models.MODELS[name] for name in _SHARED},
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


class Subject:
    """One model of `MODELS`. exporting: cut and export candidates; resized files have equal shapes."""

    def __init__(self, name: str, folder: Path, exporting: bool) -> None:
        torch.manual_seed(0)
        model, batches = MODELS[name]()
        # Biases that are all zero are stored once for all layers, which a trained model's are not.
        with torch.no_grad():
            for parameter in model.parameters():
                if parameter.dim() == 1:
                    parameter += 0.01 * torch.randn_like(parameter)
        self._folder, self._exporting = folder, exporting
        self._captured = capture(model, batches[0])
        self.coupling: Coupling = analyse(self._captured)
        self._ranges = calibrate(self._captured, [(batch,) for batch in batches], "minmax")
        self.feed: Mapping[str, Any] = {self._captured.input_names[0]: batches[0].numpy()}

    @cached_property
    def resizable(self) -> Resizable:
        return self._learnt[0]

    @cached_property
    def learning_seconds(self) -> float:
        return self._learnt[1]

    @cached_property
    def _learnt(self) -> tuple[Resizable, float]:
        started = time.monotonic()
        found = resizable(self.coupling, self._exported)
        return found, time.monotonic() - started

    def drawn(self, seed: int) -> dict[str, int]:
        """Every group at a legal width of its own, from an eighth of its units up to all of them."""
        rng = np.random.default_rng(seed)
        found = {}
        for group in self.coupling.groups:
            step = MULTIPLE if group.units >= 2 * MULTIPLE else 1
            legal = [width for width in range(step, group.units + 1, step) if 8 * width >= group.units]
            found[group.name] = max(group.least, int(rng.choice(legal)))
        return found

    def emitter(self, runtime: str, precision: str) -> Emit:
        """A way from the float model to the one that is served."""
        if precision == "float32":
            return lambda exported: exported
        return lambda exported: quantise(exported, self._ranges, DIALECTS[runtime]).model

    def artefact(self, widths: Widths, name: str, emit: Emit) -> Path:
        exported = self._exported(widths) if self._exporting else self.resizable.at(widths)
        return onnxfile.save(emit(exported), self._folder / f"{name}.onnx")

    def _exported(self, widths: Widths) -> onnx.ModelProto:
        kept = {group: range(units) for group, units in widths.items()}
        return to_onnx(cut(self._captured, self.coupling, kept), prove=False)

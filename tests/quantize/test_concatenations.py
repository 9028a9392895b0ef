"""Integers beside concatenations: a DenseNet in the runtimes installed here, as a device serves it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from benchmarks.zoo.vision import Dense
from edgeprune.devices import Load
from edgeprune.devices.local import LocalDevice
from edgeprune.export import export_onnx
from edgeprune.graph.capture import capture
from edgeprune.quantize.calibrate import calibrate
from tests.support.int8_files import quantise


@pytest.mark.parametrize(
    ("runtime", "dialect"), [("onnxruntime", "onnxruntime-x86"), ("openvino", "openvino")]
)
def test_a_densenet_in_int8_answers_as_in_float(runtime: str, dialect: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    x = torch.randn(8, 3, 32, 32)
    captured = capture(Dense().eval(), x[:1])
    exported = export_onnx(captured, tmp_path / "float.onnx")
    # 7-bit weights: exact without VNNI, too.
    int8 = quantise(
        exported, calibrate(captured, [(x,)], "minmax"), dialect, tmp_path / "int8.onnx", reduce_range=True
    )
    assert len(int8.layers_int8) > len(int8.layers_float)
    feed = {captured.input_names[0]: x[:1].numpy()}
    answers = []
    for path in (exported, int8.path):
        with LocalDevice().start(Load(runtime, path, 1)) as session:
            answers.append(session.predict(feed)[0])
    exact, found = answers
    assert 0 < np.abs(found - exact).max() < 0.2 * np.abs(exact).max()

"""Residual blocks of matrix products, on which OpenVINO's compiler dies when it has one thread."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgeprune.devices import agent

openvino = pytest.importorskip("openvino")
opset = pytest.importorskip("openvino.opset13")


def weight(*shape: int) -> Any:
    return opset.constant(np.random.default_rng(0).normal(0, 0.1, shape).astype(np.float32))


def sequence(x: Any, hidden: int) -> Any:
    """down(relu(up(x)))"""
    width = x.get_output_shape(0)[1]
    up = opset.relu(opset.matmul(x, weight(hidden, width), False, True))
    return opset.add(opset.matmul(up, weight(width, hidden), False, True), weight(1, width))


def block(x: Any, hidden: int = 64, join: str = "add") -> Any:
    return getattr(opset, join)(x, sequence(x, hidden))


def normed(x: Any) -> Any:
    """A block as transformers have it."""
    return opset.add(x, sequence(opset.mvn(x, np.array([1]), True, 1e-5, "INSIDE_SQRT"), 64))


def gated(x: Any) -> Any:
    """A product with one matrix and its own sigmoid."""
    y = opset.matmul(x, weight(64, 64), False, True)
    return opset.multiply(y, opset.sigmoid(y))


@dataclass(frozen=True)
class Case:
    name: str
    net: Callable[[Any], Any]
    dies: bool  # OpenVINO 2026.4, with its own settings and one thread
    rows: int = 1
    width: int = 64


CASES = (
    Case("two blocks", lambda x: block(block(x)), True),
    Case("two blocks for a batch", lambda x: block(block(x)), True, rows=8),
    Case("two blocks that multiply", lambda x: block(block(x, join="multiply"), join="multiply"), True),
    Case("two normed blocks", lambda x: normed(normed(x)), True),
    Case("one block", lambda x: sequence(block(x), 64), False),
    Case("sequences beside one another", lambda x: opset.add(sequence(x, 64), sequence(x, 32)), False),
    Case("gated products", lambda x: gated(gated(gated(gated(x)))), False),
    Case("two wide blocks", lambda x: block(block(x)), False, width=512),
    Case("two blocks for many rows", lambda x: block(block(x)), False, rows=64),
)

PROGRAM = """
import sys
import numpy as np
from edgeprune.devices import agent
path, threads = sys.argv[1:]
runner = agent.load_session("openvino").Runner(path, int(threads))
np.save(path + ".npy", runner.run({"x": np.load(path + ".x.npy")})[0])
print(runner.settings().get("SNIPPETS_MODE", ""))
"""


def served(path: Path, threads: int) -> str:
    """The mode of Snippets in which the model was served, by a process of its own."""
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(path), str(threads)], capture_output=True, text=True
    )
    assert done.returncode == 0, f"status {done.returncode}: {done.stderr[-2000:]}"
    return done.stdout.strip()


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_one_thread_serves(case: Case, tmp_path: Path) -> None:
    x = opset.parameter([case.rows, case.width], np.float32, name="x")
    x.output(0).get_tensor().set_names({"x"})
    model = openvino.Model([case.net(x)], [x])
    path = tmp_path / "model.xml"
    openvino.save_model(model, str(path), compress_to_fp16=False)
    feed = np.random.default_rng(1).standard_normal((case.rows, case.width)).astype(np.float32)
    np.save(f"{path}.x.npy", feed)
    assert served(path, 1) == ("DISABLE" if case.dies else "")
    found = np.load(f"{path}.npy")
    model.reshape([-1, case.width])  # not compiled into one kernel, see edgeprune.ir
    full = {"INFERENCE_PRECISION_HINT": "f32"}  # a processor with bf16 would answer in it, unasked
    reference = openvino.Core().compile_model(model, "CPU", full)({"x": feed})[0]
    np.testing.assert_allclose(found, reference, rtol=1e-3, atol=1e-4)


def test_more_threads_keep_the_fused_kernels(tmp_path: Path) -> None:
    if agent.load_session("openvino")._processors() < 2:
        pytest.skip("needs two processors")
    x = opset.parameter([1, 64], np.float32, name="x")
    x.output(0).get_tensor().set_names({"x"})
    path = tmp_path / "model.xml"
    openvino.save_model(openvino.Model([block(block(x))], [x]), str(path), compress_to_fp16=False)
    np.save(f"{path}.x.npy", np.ones((1, 64), np.float32))
    assert served(path, 2) == ""

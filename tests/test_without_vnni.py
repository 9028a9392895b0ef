"""On kernels without VNNI, which sum 8-bit products in 16 bits: what saturates, and what does not.

On a processor with VNNI they run behind a CPUID that hides it (benchmarks/without_vnni).
"""

from __future__ import annotations

import importlib
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[1]

# Large activations meet large weights of one sign: two products exceed 16 bits, as in a trained network's
# strongest channels.
SCRIPT = """
import json, sys, warnings
from pathlib import Path
warnings.simplefilter("ignore")
import torch
from torch import nn
from edgeprune.export import to_onnx
from edgeprune.graph import onnxfile
from edgeprune.graph.capture import capture
from edgeprune.quantize.calibrate import calibrate
from edgeprune.quantize.emit import quantise
from edgeprune.quantize.simulate.written import fake_quantised
from edgeprune.runtimes import ort
from edgeprune.search.agreement import relative_error

torch.manual_seed(0)
net = nn.Sequential(nn.Conv2d(16, 16, 3), nn.ReLU(), nn.Conv2d(16, 16, 3)).eval()
with torch.no_grad():
    for layer in (net[0], net[2]):
        layer.weight.copy_(layer.weight.abs() + 0.1)
data = torch.rand(8, 16, 10, 10) + 1
captured = capture(net, data[:1])
folder = Path(sys.argv[1])
exported = to_onnx(captured)
ranges = calibrate(captured, [(data,)], "minmax")
found = {}
for bits, narrow in (("8", False), ("7", True)):
    model = quantise(exported, ranges, "onnxruntime-x86", reduce_range=narrow).model
    reference = fake_quantised(captured, model, (data,))
    for word, exact in (("served", False), ("exact", True)):
        runner = ort.Runner(onnxfile.content(model), 1, exact=exact)
        answers = runner.run({captured.input_names[0]: data.numpy()})
        found[f"{bits} {word}"] = relative_error(answers, reference)
print(json.dumps(found))
"""


@pytest.fixture(scope="module")
def errors(tmp_path_factory: pytest.TempPathFactory) -> dict[str, float]:
    """Relative error to the fake-quantised graph, by bits of the weights and arithmetic."""
    if str(ROOT) not in sys.path:
        sys.path.append(str(ROOT))
    hider: Any = importlib.import_module("benchmarks.without_vnni.__main__")
    if hider.missing() is not None:
        pytest.skip(f"VNNI cannot be hidden here: {hider.missing()}")
    folder = tmp_path_factory.mktemp("without_vnni")
    (folder / "script.py").write_text(SCRIPT)
    done = subprocess.run(
        [
            *(sys.executable, "-m", "benchmarks.without_vnni"),
            *(sys.executable, str(folder / "script.py"), str(folder)),
        ],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found


def test_eight_bit_weights_saturate(errors: dict[str, float]) -> None:
    assert errors["8 served"] > 0.05


def test_exact_arithmetic_does_not(errors: dict[str, float]) -> None:
    assert errors["8 exact"] < 1e-3


def test_seven_bit_weights_never_saturate(errors: dict[str, float]) -> None:
    assert errors["7 served"] < 1e-3
    assert errors["7 exact"] < 1e-3

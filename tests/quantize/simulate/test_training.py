"""Quantisation-aware training computes what the artefact computes, and trains it."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType

import onnx
import pytest
import torch

from edgeprune.export import export_onnx
from edgeprune.graph.capture import Captured, capture
from edgeprune.quantize.calibrate import calibrate
from edgeprune.quantize.dialects import TABLE
from edgeprune.quantize.simulate.training import Emit, QuantisationAware
from edgeprune.quantize.simulate.written import fake_quantised, relative_error
from tests.support.int8_files import quantise

pytestmark = pytest.mark.usefixtures("exports_once")


def emitter(
    captured: Captured,
    calibration: list[tuple[torch.Tensor, ...]],
    folder: Path,
    dialect: str,
    reduce_range: bool = False,
    float_layers: tuple[str, ...] = (),
) -> Emit:
    """Writes the Q/DQ file of `captured` as it was here, with the ranges that it has when it is asked."""
    exported = export_onnx(captured, folder / "float.onnx")
    return lambda now: quantise(
        exported,
        calibrate(now, calibration, "minmax"),
        dialect,
        folder / "int8.onnx",
        reduce_range=reduce_range,
        float_layers=float_layers,
    )


@pytest.fixture
def captured(tiny: ModuleType) -> Captured:
    return capture(tiny.task().model, tiny.task().example)


@pytest.fixture
def calibration(tiny: ModuleType) -> list[tuple[torch.Tensor, ...]]:
    return [(batch,) for batch in tiny.task().calibration]


@pytest.mark.parametrize("dialect", TABLE)
@pytest.mark.parametrize("reduce_range", [False, True], ids=["8 bit", "7 bit"])
@pytest.mark.parametrize("float_layers", [(), ("conv1",)], ids=["all", "one in float"])
def test_the_graph_in_training_computes_what_its_artefact_says(
    captured: Captured,
    calibration: list[tuple[torch.Tensor, ...]],
    tmp_path: Path,
    dialect: str,
    reduce_range: bool,
    float_layers: tuple[str, ...],
) -> None:
    emit = emitter(captured, calibration, tmp_path, dialect, reduce_range, float_layers)
    aware = QuantisationAware(captured, TABLE[dialect], emit, reduce_range=reduce_range)
    inputs = calibration[0]
    with torch.no_grad():
        found = [tensor.numpy() for tensor in aware.run(*inputs)]
        exact = [tensor.numpy() for tensor in captured.run(*inputs)]
    expected = fake_quantised(captured, onnx.load(tmp_path / "int8.onnx"), inputs)
    # A float16 artefact has its scales in float16, training has not: values on an edge fall to either side.
    share = 0.9 if TABLE[dialect].half else 0.2
    assert relative_error(found, expected) < share * relative_error(exact, expected)


def test_every_weight_gets_a_gradient(
    captured: Captured, calibration: list[tuple[torch.Tensor, ...]], tmp_path: Path
) -> None:
    dialect = "onnxruntime-x86"
    aware = QuantisationAware(
        captured, TABLE[dialect], emitter(captured, calibration, tmp_path, dialect), reduce_range=False
    )
    for parameter in captured.module.parameters():
        parameter.requires_grad_(True)
    aware.run(*calibration[0])[0].square().sum().backward()
    for name, parameter in captured.module.named_parameters():
        assert parameter.grad is not None, name
        assert float(parameter.grad.abs().sum()) > 0, name


def test_ranges_follow_the_weights(
    captured: Captured, calibration: list[tuple[torch.Tensor, ...]], tmp_path: Path
) -> None:
    """A layer that writes values ten times as large is not clipped at its old range."""
    dialect = "onnxruntime-x86"
    aware = QuantisationAware(
        captured, TABLE[dialect], emitter(captured, calibration, tmp_path, dialect), reduce_range=False
    )
    with torch.no_grad():
        captured.module.get_parameter("conv2.weight").mul_(10)
        captured.module.get_parameter("conv2.bias").mul_(10)
        exact = [tensor.numpy() for tensor in captured.run(*calibration[0])]
        stale = relative_error([tensor.numpy() for tensor in aware.run(*calibration[0])], exact)
        aware.refresh()
        fresh = relative_error([tensor.numpy() for tensor in aware.run(*calibration[0])], exact)
    assert fresh < 0.05 < stale


def test_rows_one_by_one_train_as_a_whole_batch(captured: Captured, tmp_path: Path) -> None:
    """A graph with the number of its rows in it takes one at a time; answers and gradients are the same."""

    class Counted(torch.nn.Module):
        def __init__(self, fixed: bool) -> None:
            super().__init__()
            self.net, self.fixed = captured.module, fixed

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            rows = len(x) if self.fixed else x.shape[0]
            return self.net(x).view(rows, 10)

    x = torch.rand(6, 1, 8, 8)
    found = []
    for name in ("whole", "single"):
        graph = capture(Counted(name == "single"), x, rows=1)
        assert bool(graph.fixed_batch) is (name == "single")
        (tmp_path / name).mkdir()
        emit = emitter(graph, [(x,)], tmp_path / name, "onnxruntime-x86")
        aware = QuantisationAware(graph, TABLE["onnxruntime-x86"], emit, reduce_range=False)
        (outputs,) = aware.run(x)
        graph.module.zero_grad()
        outputs.square().mean().backward()
        gradients = [
            parameter.grad.clone() for parameter in graph.module.parameters() if parameter.grad is not None
        ]
        found.append((outputs.detach(), gradients))
    (whole, wanted), (single, given) = found
    assert torch.allclose(single, whole, atol=1e-4)
    assert len(wanted) == len(given) > 4
    for one, other in zip(given, wanted, strict=True):
        assert torch.allclose(one, other, atol=1e-3 * float(other.abs().max()) + 1e-7)

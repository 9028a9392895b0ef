"""Fits in which something else than widths is the best choice, on a device whose times a test writes down."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import onnx
import pytest
import torch

import edgeprune
from edgeprune.devices import Operator
from edgeprune.errors import DeviceError
from edgeprune.records.trial import FitResult

Speed = Callable[[str, bool], float]  # (weight, is it INT8?) -> times the float time


def device(scripted: ModuleType, speed: Speed, before: Any = None) -> Any:
    """Every layer takes time by its weights; nothing else does."""

    def operators(artefact: Path) -> tuple[Operator, ...]:
        model = onnx.load(artefact)
        stored = {tensor.name: (tensor.name, tuple(tensor.dims), False) for tensor in model.graph.initializer}
        found = []
        for node in model.graph.node:
            if node.op_type == "DequantizeLinear" and node.input[0] in stored:
                name, shape, _ = stored[node.input[0]]
                stored[node.output[0]] = name, shape, True
            if node.op_type in ("Conv", "Gemm"):
                name, shape, integer = stored[node.input[1]]
                ms = 1e-3 + 1e-4 * float(np.prod(shape)) * speed(name, integer)
                found.append(Operator(node.name, node.op_type, ms, (), (), ()))
        return tuple(found)

    def latency_ms(artefact: Path) -> float:
        return 0.02 + sum(operator.ms for operator in operators(artefact))

    return scripted.ScriptedDevice(latency_ms, operators=operators, before=before)


def even(weight: str, integer: bool) -> float:
    return 0.8 if integer else 1.0


def uneven(weight: str, integer: bool) -> float:
    """INT8 is five times as quick in one half of the model, and slower than float in the other."""
    if not integer:
        return 1.0
    return 1.3 if weight.startswith("conv1") else 0.2


@pytest.fixture
def idle(tiny: ModuleType) -> edgeprune.Task:
    """The digits network with a residual branch that hardly says anything."""
    net = copy.deepcopy(tiny.task().model)
    with torch.no_grad():
        net.conv2.weight *= 1e-4
        net.conv2.bias *= 1e-4
    task = tiny.task(model=net)

    def evaluate(predict: Any) -> float:
        """Agreement with the network as it is."""
        with torch.no_grad():
            own = net(task.train.images[:200]).argmax(1).numpy()
        return float((predict(task.train.images[:200].numpy()).argmax(axis=1) == own).mean())

    return tiny.task(model=net, evaluate=evaluate)


def test_a_branch_that_says_nothing_is_dropped_before_anything_is_narrowed(
    scripted: ModuleType, idle: edgeprune.Task, tmp_path: Path
) -> None:
    result = edgeprune.fit(
        idle,
        speedup=6.0,
        max_drop=0.1,
        recover="reconstruct",
        device=device(scripted, even),
        out=tmp_path / "run",
    )
    assert result.verdict.kind == "fits"
    kept = dict(result.chosen.kept)
    assert dict(result.chosen.candidate.kept)["branch:conv2"] == ()
    assert (kept["branch:conv2"], kept["conv1"], kept["stem"]) == (0, 0, 16)
    assert result.chosen.metric >= 0.99 * result.baseline.metric
    assert result.chosen.params == sum(
        parameter.numel()
        for name, parameter in idle.model.named_parameters()
        if not name.startswith(("conv1", "conv2"))
    )


def _fit_uneven(scripted: ModuleType, tiny: ModuleType, out: Path, **options: Any) -> FitResult:
    before = options.pop("before", None)
    return edgeprune.fit(
        tiny.task(),
        speedup=2.5,
        max_drop=0.5,
        recover="reconstruct",
        device=device(scripted, uneven, before),
        out=out,
        **options,
    )


@pytest.fixture(scope="module")
def chosen(scripted: ModuleType, tiny: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> FitResult:
    return _fit_uneven(scripted, tiny, tmp_path_factory.mktemp("uneven") / "run")


def test_a_layer_that_int8_slows_down_stays_float(chosen: FitResult) -> None:
    assert chosen.verdict.kind == "fits"
    assert chosen.chosen.candidate.precision == "int8"
    assert chosen.chosen.candidate.slow_layers == ("conv1",)
    assert chosen.chosen.candidate.float_layers == ()
    assert chosen.chosen.layers_float == 1


def test_a_run_that_lost_its_device_goes_on_to_the_same_candidate(
    chosen: FitResult, scripted: ModuleType, tiny: ModuleType, tmp_path: Path
) -> None:
    def vanish(request: str, artefact: Path) -> None:
        if artefact.parent.name == "trial-01":
            raise DeviceError("The device is gone.", "Look for it.")

    with pytest.raises(DeviceError, match="gone"):
        _fit_uneven(scripted, tiny, tmp_path / "run", before=vanish)
    resumed = _fit_uneven(scripted, tiny, tmp_path / "run", resume=True)
    assert resumed.chosen.candidate == chosen.chosen.candidate
    assert resumed.chosen.metric == chosen.chosen.metric

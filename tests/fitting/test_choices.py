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
from edgeprune.bundle import open_bundle
from edgeprune.devices import Operator
from edgeprune.errors import DeviceError, InputError
from edgeprune.records.bundle import PACE
from edgeprune.records.trial import FitResult
from edgeprune.report import document, table

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


def test_without_a_latency_budget_room_alone_decides_and_no_operator_is_timed(
    tiny: ModuleType, scripted: ModuleType, tmp_path: Path
) -> None:
    """INT8 is slower here; the widths that keep most for their bytes are chosen without a table."""
    hand = device(scripted, lambda weight, integer: 2.0 if integer else 1.0)
    options: dict[str, Any] = {"latency_ms": "none", "device": hand, "max_drop": 0.3, "epochs": 2}
    dense = edgeprune.fit(tiny.quick(), out=tmp_path / "dense", **options).baseline.measurement
    limit = 0.3 * dense.size_mib
    result = edgeprune.fit(tiny.quick(), size_mib=limit, out=tmp_path / "run", **options)
    chosen = result.chosen
    assert result.verdict.kind == "fits"
    assert (result.budget.latency_ms, result.budget.speedup) == (None, None)
    assert 0.8 * limit <= chosen.measurement.size_mib <= limit, "as near as steps of 8 units come"
    assert chosen.candidate.precision == "int8"
    assert chosen.measurement.latency.p50_ms > 0
    assert not [name for name, _, _ in hand.log if name == "operators"]


def test_a_batch_is_timed_served_packed_and_resumed_as_one_query(
    tiny: ModuleType, scripted: ModuleType, tmp_path: Path
) -> None:
    seen: set[int] = set()

    class Watched(scripted.ScriptedSession):
        def time(self, feeds: Any, *, runs: int, seconds: float) -> list[float]:
            if self._load.artefact.name != PACE:  # the tiny model of a bundle, whose batch is its own
                seen.update(len(array) for array in feeds.values())
            found: list[float] = super().time(feeds, runs=runs, seconds=seconds)
            return found

    class Device(scripted.ScriptedDevice):
        def start(self, load: Any, *, sensors: Any = ()) -> Any:
            session = Watched(self, load, len(self.sensors))
            self.sensors.append(tuple(sensors))
            loads.append((load.batch, load.threads))
            return session

    loads: list[tuple[int, int]] = []
    options: dict[str, Any] = {"latency_ms": 50.0, "batch": 4, "threads": 2, "out": tmp_path / "run"}
    result = edgeprune.fit(tiny.quick(), device=Device(tiny.latency_ms), **options)
    measured = result.chosen.measurement
    assert (measured.batch, measured.threads, seen) == (4, 2, {4})
    assert set(loads) == {(4, 2)}
    told = document(result)
    assert (told["batch"], told["threads"]) == (4, 2)
    assert "latencies of a query of 4 rows in ms" in str(table(result).caption)
    assert result.bundle is not None
    with open_bundle(Path(result.bundle)) as verified:
        manifest = verified.manifest
        assert (manifest.batch, manifest.threads, manifest.inputs[0].shape[0]) == (4, 2, 4)
    with pytest.raises(InputError, match="batch"):
        edgeprune.fit(tiny.quick(), device=Device(), resume=True, **{**options, "batch": 8})
    with pytest.raises(InputError, match="threads"):
        edgeprune.fit(tiny.quick(), device=Device(), resume=True, **{**options, "threads": 1})

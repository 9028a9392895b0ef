"""Layers that a device is slower at in INT8 stay float, by what it measured, and the result says so."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import onnx
import pytest

import edgeprune
from edgeprune.devices import Load, Operator
from edgeprune.errors import DeviceError
from edgeprune.export import export_onnx
from edgeprune.graph import onnxfile
from edgeprune.graph.capture import capture
from edgeprune.latency.float_layers import Mixing, Mixture
from edgeprune.latency.layers import Parts
from edgeprune.make.builder import Builder
from edgeprune.quantize.dialects import TABLE
from edgeprune.records.trial import Candidate, FitResult
from edgeprune.report import document, verdict_lines
from tests.support.yardsticks import yardstick_of

FLOAT_MS = {"stem": 0.2, "conv1": 1.0, "conv2": 1.0, "head": 0.1}
INT8_MS = {"stem": 0.1, "conv1": 0.4, "conv2": 1.6, "head": 0.05}  # of conv2 the device has no good kernel
CONVERSION_MS = 0.01
PLAIN = Candidate((), "int8", "minmax")


def operators(artefact: Path, conversion_ms: float = CONVERSION_MS) -> tuple[Operator, ...]:
    """Every layer as its weight's type has it, and every conversion of an activation."""
    model = onnx.load(artefact)
    integer = {node.output[0] for node in model.graph.node if node.op_type == "DequantizeLinear"}
    found = []
    for node in model.graph.node:
        ms = (INT8_MS if len(node.input) > 1 and node.input[1] in integer else FLOAT_MS).get(node.name)
        ms = conversion_ms if node.op_type == "QuantizeLinear" else ms
        if ms is not None:
            found.append(Operator(node.name, node.op_type, ms, (), (), ()))
    return tuple(found)


def latency_ms(artefact: Path) -> float:
    """Of all layers; a model without any, such as the tiny one of a bundle, takes a conversion's time."""
    return sum(operator.ms for operator in operators(artefact)) or CONVERSION_MS


def fitted(tiny: ModuleType, device: Any, out: Path, **options: Any) -> FitResult:
    return edgeprune.fit(
        tiny.task(), latency_ms=1.9, max_drop=0.02, recover="none", device=device, out=out, **options
    )


def test_a_layer_that_is_slower_in_int8_stays_float_and_the_result_says_why(
    tiny: ModuleType, scripted: ModuleType, tmp_path: Path
) -> None:
    """With all layers in INT8 the budget is missed by a fifth, and that form is not even evaluated."""
    result = fitted(tiny, scripted.ScriptedDevice(latency_ms, operators=operators), tmp_path / "run")
    assert result.verdict.kind == "fits"
    assert result.chosen.name.startswith("dense-int8-mixed")
    assert result.chosen.candidate.slow_layers == ("conv2",)
    assert result.chosen.candidate.float_layers == ()
    assert (result.chosen.layers_int8, result.chosen.layers_float) == (3, 1)
    assert all(trial.candidate.slow_layers for trial in result.trials if trial.name != "dense")
    assert "  left in float, where this device is no quicker in INT8: conv2" in verdict_lines(result)
    assert document(result)["chosen"]["given_back"] == [{"layer": "conv2", "reason": "slower"}]


def test_a_resumed_run_times_no_layer_again_and_gives_the_same_answer(
    tiny: ModuleType, scripted: ModuleType, tmp_path: Path
) -> None:
    whole = fitted(tiny, scripted.ScriptedDevice(latency_ms, operators=operators), tmp_path / "whole")

    def lost(request: str, artefact: Path) -> None:
        if request == "time" and artefact.parent.name.startswith("dense-int8-mixed"):
            raise DeviceError("The device is gone.", "Look for it.")

    with pytest.raises(DeviceError, match="gone"):
        fitted(
            tiny,
            scripted.ScriptedDevice(latency_ms, operators=operators, before=lost),
            tmp_path / "run",
        )
    again = scripted.ScriptedDevice(latency_ms)  # it cannot time operators any more
    resumed = fitted(tiny, again, tmp_path / "run", resume=True)
    assert resumed.chosen.candidate == whole.chosen.candidate
    asked = [request for request, _, _ in again.log].count("operators")
    assert asked <= len({resumed.baseline.name, resumed.chosen.name}), "for the report, not for the search"


def test_a_mixture_that_is_not_quicker_end_to_end_is_not_taken(
    tiny: ModuleType, scripted: ModuleType, tmp_path: Path
) -> None:
    """The operators promise a third less; between them a device may lose what they gain."""

    def loses(artefact: Path) -> float:
        kinds = [operator.ms for operator in operators(artefact)]
        mixed = INT8_MS["conv1"] in kinds and FLOAT_MS["conv2"] in kinds
        return latency_ms(artefact) + mixed

    result = fitted(tiny, scripted.ScriptedDevice(loses, operators=operators), tmp_path / "run")
    assert any(trial.name.startswith("dense-int8") for trial in result.trials)
    assert not any(trial.candidate.slow_layers for trial in result.trials)


def test_a_device_that_times_no_operators_mixes_nothing_and_says_so(
    tiny: ModuleType, scripted: ModuleType, tmp_path: Path
) -> None:
    told: list[str] = []
    device = scripted.ScriptedDevice(latency_ms)
    result = fitted(tiny, device, tmp_path / "run", listen=lambda event: told.append(event.doing))
    assert not any(trial.candidate.slow_layers for trial in result.trials)
    assert any("could not be timed" in sentence for sentence in told)


def mixture(
    tiny: ModuleType, scripted: ModuleType, tmp_path: Path, timed: Callable[[Path], tuple[Operator, ...]]
) -> Mixture:
    task = tiny.task()
    captured = capture(task.model, task.example)
    exported = export_onnx(captured, tmp_path / "float.onnx", prove=False)
    dialect = TABLE["onnxruntime-x86"]
    yards = yardstick_of(captured)
    data = [(rows,) for rows in task.calibration]
    builder = Builder(captured, data, dialect, "onnxruntime", yardstick=lambda: yards)
    device = scripted.ScriptedDevice(lambda path: sum(each.ms for each in timed(path)), operators=timed)
    feeds = {captured.input_names[0]: task.example.numpy()}
    served = Load("onnxruntime", exported, 1)
    return Mixing(device, served, dialect, builder.emitter, onnxfile.load(exported), feeds).quickest(PLAIN)


def test_conversions_are_learnt_from_the_mixture_that_has_them(
    tiny: ModuleType, scripted: ModuleType, tmp_path: Path
) -> None:
    cheap = mixture(tiny, scripted, tmp_path, operators)
    assert cheap.slow_layers == ("conv2",)
    assert cheap.ms < cheap.int8_ms < cheap.float_ms

    def dear(artefact: Path) -> tuple[Operator, ...]:
        return operators(artefact, conversion_ms=0.5)

    found = mixture(tiny, scripted, tmp_path, dear)
    assert found.ms <= found.int8_ms


def test_milliseconds_of_layers_are_those_of_both_profiles(tiny: ModuleType, tmp_path: Path) -> None:
    task = tiny.task()
    captured = capture(task.model, task.example)
    exported = export_onnx(captured, tmp_path / "float.onnx", prove=False)
    yards = yardstick_of(captured)
    data = [(rows,) for rows in task.calibration]
    builder = Builder(captured, data, TABLE["openvino"], "openvino", yardstick=lambda: yards)
    model = onnxfile.load(exported)
    in_int8 = onnxfile.save(builder.emitter(PLAIN)(model), tmp_path / "int8.onnx")
    parts = Parts(model, TABLE["openvino"])
    assert parts.layers == ("stem", "conv1", "conv2", "head")
    shares = [parts.shares(operators(path)) for path in (exported, in_int8)]
    times = parts.times(*shares)
    for layer in parts.layers:
        assert times[layer].float_ms == pytest.approx(FLOAT_MS[layer])
        behind = times[layer].int8_ms - INT8_MS[layer]  # conversions of what it writes
        assert 0 <= behind <= 3 * CONVERSION_MS + 1e-9
    values = parts.values(*shares, ms_per_element=1.0)
    assert any(value.maker == "conv1" and value.readers == ("conv2",) for value in values)
    assert Mixture(("conv2",)).of(PLAIN) == replace(PLAIN, slow_layers=("conv2",))

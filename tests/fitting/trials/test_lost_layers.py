"""Layers that an engine built on the device runs in float go back to float: the file, the record, the bundle.

The device is scripted; where it is said, it is an agent of its own whose Python has the scripted TensorRT.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import onnx
import pytest

import edgeprune
from edgeprune.devices import Load
from edgeprune.devices.local import LocalDevice
from edgeprune.errors import DeviceError, InputError, LostInt8
from edgeprune.fitting.order import Order, resolve_orders, served
from edgeprune.fitting.trials.lost_layers import lost_in
from edgeprune.make import Workshop
from edgeprune.measure import Effort
from edgeprune.options import FitOptions
from edgeprune.quantize.dialects import dialect_for
from edgeprune.quantize.tensorrt.refusals import check_types
from edgeprune.records.trial import Candidate, FitResult
from edgeprune.report import document, verdict_lines
from edgeprune.validating import validate

SUPPORT = Path(__file__).parents[2] / "support"
INT8 = Candidate((), "int8", "minmax")

pytestmark = pytest.mark.skipif(
    edgeprune.runtimes.version("tensorrt-rtx") is None, reason="fitting for TensorRT needs tensorrt-rtx"
)


@pytest.fixture
def device(scripted: ModuleType) -> Callable[..., Any]:
    """A device whose engines run the layers `loses` in float; `dies` before its k-th session."""

    class Engines(scripted.ScriptedDevice):  # type: ignore[misc,name-defined]
        def start(self, load: Load, *, sensors: Any = ()) -> Any:
            # onnxruntime fuses Q/DQ of float16 wrongly, so it plays an engine in exact arithmetic.
            return super().start(replace(load, exact=True), sensors=sensors)

    def make(tiny: ModuleType, loses: tuple[str, ...] = (), dies: int | None = None) -> Any:
        starts: list[Path] = []

        def before(name: str, artefact: Path) -> None:
            if name != "start":
                return
            starts.append(artefact)
            if len(starts) == dies:
                raise DeviceError("Device scripted was unplugged.", "Plug it in.")
            int8 = check_types(onnx.load(artefact), artefact.name).values()
            lost = [layer for layer in loses if layer in int8]
            if lost:
                raise LostInt8(tuple(lost), f"the engine runs {lost} in float", "Fit there.")

        made = Engines(tiny.latency_ms, before=before)
        made.starts = starts
        return made

    return make


def fit(tiny: ModuleType, device: Any, out: Path, **options: Any) -> FitResult:
    return edgeprune.fit(
        tiny.task(),
        **{"target": "rtx", "latency_ms": 0.95, "recover": "none", "device": device, "out": out, **options},
    )


def test_layers_that_the_devices_engine_loses_go_back_to_float_and_the_result_says_why(
    tiny: ModuleType, device: Callable[..., Any], tmp_path: Path
) -> None:
    result = fit(tiny, device(tiny, loses=("conv1", "head")), tmp_path / "run")
    chosen = result.chosen
    assert (result.verdict.kind, chosen.name) == ("fits", "dense-int8")
    assert chosen.candidate.engine_layers == ("conv1", "head")
    assert chosen.candidate.float_layers == ()
    assert (chosen.layers_int8, chosen.layers_float) == (2, 2)
    model = onnx.load(tmp_path / "run" / chosen.artefact)
    assert set(check_types(model, "model.onnx").values()) == {"stem", "conv2"}
    found: Any = document(result)
    assert found["chosen"]["given_back"] == [
        {"layer": "conv1", "reason": "engine"},
        {"layer": "head", "reason": "engine"},
    ]
    assert any(
        "the engine ran INT8 in float all the same: conv1, head" in each for each in verdict_lines(result)
    )


def test_a_run_that_ends_between_two_builds_is_resumed_to_the_same_answer(
    tiny: ModuleType, device: Callable[..., Any], tmp_path: Path
) -> None:
    whole = device(tiny, loses=("conv1",))
    undisturbed = fit(tiny, whole, tmp_path / "undisturbed")
    second = next(at for at, path in enumerate(whole.starts, 1) if path.parent.name == "dense-int8") + 1
    with pytest.raises(DeviceError, match="unplugged"):
        fit(tiny, device(tiny, loses=("conv1",), dies=second), tmp_path / "run")
    again = fit(tiny, device(tiny, loses=("conv1",)), tmp_path / "run", resume=True)
    assert again.chosen == undisturbed.chosen
    assert again.chosen.candidate.engine_layers == ("conv1",)


def test_an_int8_form_of_which_every_layer_is_lost_leaves_the_model_in_float(
    tiny: ModuleType, device: Callable[..., Any], tmp_path: Path
) -> None:
    loses = ("stem", "conv1", "conv2", "head")
    result = fit(tiny, device(tiny, loses=loses), tmp_path / "run", latency_ms=1e3)
    assert result.chosen.name == "dense"
    result = fit(tiny, device(tiny, loses=loses), tmp_path / "tight", latency_ms=1e-3)
    assert {trial.candidate.precision for trial in result.trials} == {"float32"}


def test_a_model_that_tensorrt_would_refuse_never_reaches_the_device(
    tiny: ModuleType, device: Callable[..., Any], tmp_path: Path
) -> None:
    import torch

    class Unpooled(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            pooled, places = torch.nn.functional.max_pool2d(x, 2, return_indices=True)
            return pooled.flatten(1) + 0 * places.flatten(1).float()

    made = device(tiny)
    with pytest.raises(InputError, match="asks for the indices of a MaxPool"):
        edgeprune.fit(
            tiny.task(model=Unpooled().eval(), train=None),
            target="rtx",
            latency_ms=1.0,
            device=made,
            out=tmp_path / "run",
        )
    assert made.starts == []


@pytest.fixture
def jetson(tmp_path: Path) -> Callable[..., LocalDevice]:
    """This machine, its Python one that has the scripted TensorRT and driver; `environment` scripts them."""

    def make(**environment: str) -> LocalDevice:
        folder = tmp_path / f"python {len(list(tmp_path.glob('python *')))}"
        folder.mkdir()
        known = {
            "PYTHONPATH": f"{SUPPORT / 'fake_jetson'}:{SUPPORT / 'fake_tensorrt'}",
            "EDGEPRUNE_ENGINES": str(tmp_path / "engines"),
            **environment,
        }
        script = folder / "python3"
        lines = [f"export {name}='{value}'" for name, value in known.items()]
        script.write_text("\n".join(["#!/bin/sh", *lines, f'exec {sys.executable} "$@"', ""]))
        script.chmod(0o755)
        return LocalDevice(script)

    return make


def order_for(device: LocalDevice) -> Order:
    orders, _ = resolve_orders(FitOptions(target="rtx", device=device, runtime="tensorrt", epochs=0))
    return orders[0]


def built_on(device: LocalDevice, tiny: ModuleType, folder: Path) -> Any:
    task = tiny.task()
    shop = Workshop(
        task, dialect_for("tensorrt", "x86_64"), runtime="tensorrt", lost_in=lost_in(order_for(device))
    )
    return shop.builder.build(INT8, shop.dense, folder, shop.dense.inputs)


def test_an_agent_on_the_device_builds_reads_and_names_what_is_lost_round_by_round(
    jetson: Callable[..., LocalDevice], tiny: ModuleType, tmp_path: Path
) -> None:
    """The second engine loses conv2, because conv1 before it is float."""
    device = jetson(FAKE_TENSORRT_FLOAT="conv1,conv1>conv2")
    built = built_on(device, tiny, tmp_path / "built")
    assert built.engine_layers == ("conv1", "conv2")
    assert (built.layers_int8, built.layers_float) == (("stem", "head"), ("conv1", "conv2"))
    assert [path.name for path in built.artefact.parent.iterdir()] == ["model.onnx"]
    with device.start(served(order_for(device), built.artefact)) as session:
        state = session.state()
    assert state["setting:engine"] == "from the cache", "the engine that was checked is the one that serves"
    assert state["setting:int8_layers"] == "2, seen in the engine inspector"


def test_an_engine_that_cannot_be_read_ends_the_fit_with_a_sentence_and_gives_nothing_back(
    jetson: Callable[..., LocalDevice], tiny: ModuleType, tmp_path: Path
) -> None:
    with pytest.raises(
        DeviceError, match="the engine inspector tells no more of a layer than its name"
    ) as caught:
        built_on(jetson(FAKE_TENSORRT_SILENT="1"), tiny, tmp_path / "built")
    assert not isinstance(caught.value, LostInt8)
    assert caught.value.exit_code == 1


def test_validate_refuses_an_engine_that_lost_int8_and_names_the_layers(
    jetson: Callable[..., LocalDevice], tiny: ModuleType, device: Callable[..., Any], tmp_path: Path
) -> None:
    result = fit(tiny, device(tiny), tmp_path / "run", runtime="tensorrt")
    assert result.chosen.layers_int8 == 4
    assert result.bundle is not None
    where = jetson(FAKE_TENSORRT_FLOAT="conv1")
    found = validate(Path(result.bundle), where, effort=Effort(runs=64, seconds=0.1, interleaved=True))
    outcomes = {check.number: check for check in found.checks}
    assert outcomes[8].outcome == "failed"
    assert "of 4 INT8 layers the engine runs 1 in float: conv1" in outcomes[8].detail
    assert (outcomes[9].outcome, outcomes[10].outcome, found.verdict) == ("skipped", "skipped", None)


def test_a_session_that_crashes_is_a_device_error_and_the_run_can_be_resumed(
    jetson: Callable[..., LocalDevice], tiny: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As OpenVINO 2026.4 did when it compiled a DenseNet in INT8 on a machine with AVX-512."""
    quick = Effort(runs=8, seconds=0.05, interleaved=True)
    monkeypatch.setattr("edgeprune.fitting.trials.sessions.SEARCH_EFFORT", quick)
    options: dict[str, Any] = {"runtime": "tensorrt", "latency_ms": 1e-6}
    with pytest.raises(
        DeviceError, match=r"The agent on device local died during 'load' with signal 6"
    ) as caught:
        fit(tiny, jetson(FAKE_TENSORRT_ABORT="conv1"), tmp_path / "run", **options)
    assert "The runtime crashed" in caught.value.hint
    assert caught.value.exit_code == 1
    ledger = tmp_path / "run" / "ledger.jsonl"
    recorded = ledger.read_text()
    assert '"dense"' in recorded
    options |= {"resume": True, "latency_ms": 1e-6}
    with pytest.raises(DeviceError, match="died during 'load'"):
        fit(tiny, jetson(FAKE_TENSORRT_ABORT="conv1"), tmp_path / "run", **options)
    assert ledger.read_text() == recorded, (
        "the dense model is not measured again, nothing half-made is recorded"
    )

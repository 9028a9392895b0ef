"""The fixed cost of an operator is what a longer model of the smallest operators takes more, per operator."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType

import pytest

pytest.importorskip("onnx")

from edgeprune.devices import Load
from edgeprune.graph import onnxfile
from edgeprune.latency.operator_cost import operator_ms


def by_operators(artefact: Path) -> float:
    """Made-up milliseconds: 0.05 for a query, 0.002 for each of its operators."""
    return 0.05 + 0.002 * len(onnxfile.load(artefact).graph.node)


def load(tmp_path: Path) -> Load:
    return Load("onnxruntime", tmp_path / "model.onnx", 1)


def test_a_querys_own_cost_is_left_out(scripted: ModuleType, tmp_path: Path) -> None:
    assert operator_ms(scripted.ScriptedDevice(by_operators), load(tmp_path)) == pytest.approx(0.002)


def test_a_device_that_is_not_slower_for_more_operators_tells_nothing(
    scripted: ModuleType, tmp_path: Path
) -> None:
    assert operator_ms(scripted.ScriptedDevice(lambda artefact: 0.1), load(tmp_path)) is None


def test_a_device_that_waited_all_the_time_tells_nothing(scripted: ModuleType, tmp_path: Path) -> None:
    busy = scripted.ScriptedDevice(by_operators, waited=lambda block: 0.9)
    assert operator_ms(busy, load(tmp_path)) is None


def test_the_models_run_in_the_runtime(scripted: ModuleType, tmp_path: Path) -> None:
    answers = []

    def asked(name: str, artefact: Path) -> None:
        if name == "start":
            runner = pytest.importorskip("edgeprune.runtimes.ort").Runner(str(artefact), 1)
            answers.extend(runner.run({"input": [[1.0] * 8]})[0].tolist())

    operator_ms(scripted.ScriptedDevice(by_operators, before=asked), load(tmp_path))
    assert answers == [[1.0] * 8] * 2

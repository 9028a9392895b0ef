"""Latency tables, measured on a device whose operators' times a test writes down."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import onnx
import pytest

from edgeprune.devices import Load
from edgeprune.errors import DeviceBusy
from edgeprune.latency.curves import LatencyTable
from edgeprune.latency.measured import Prediction, designs, legal, measure_table, prediction
from edgeprune.make import Workshop
from edgeprune.quantize.dialects import TABLE as DIALECTS


@pytest.fixture(scope="module")
def workshop(tiny: ModuleType) -> Workshop:
    return Workshop(tiny.task(), DIALECTS["onnxruntime-x86"])


def table_of(workshop: Workshop, device: Any, dense: Path) -> LatencyTable:
    return measure_table(
        device,
        Load("onnxruntime", dense, 1),
        workshop.resizable,
        lambda exported: exported,
        {"x": np.zeros((1, 1, 8, 8), np.float32)},
        designs(workshop.coupling, 1),
    )


@pytest.fixture(scope="module")
def dense(workshop: Workshop, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("dense") / "model.onnx"
    onnx.save(workshop.resizable.at({group.name: group.units for group in workshop.coupling.groups}), path)
    return path


@pytest.fixture(scope="module")
def predicted(workshop: Workshop, tiny: ModuleType, scripted: ModuleType, dense: Path) -> Prediction:
    device = scripted.ScriptedDevice(tiny.summed_ms, operators=tiny.operators)
    return prediction(workshop.resizable, table_of(workshop, device, dense))


def drawn(workshop: Workshop, numbers: np.random.Generator) -> dict[str, int]:
    """Widths from a tenth of every group to all of it."""
    return {
        group.name: int(numbers.integers(max(1, group.units // 10), group.units + 1))
        for group in workshop.coupling.groups
    }


def test_widths_that_were_not_measured_are_predicted(
    workshop: Workshop, predicted: Prediction, tiny: ModuleType
) -> None:
    numbers = np.random.default_rng(3)
    for _ in range(20):
        widths = drawn(workshop, numbers)
        stem, middle = widths["stem"], widths["conv1"]
        layers = ((stem, 1, 3, 3), (middle, stem, 3, 3), (stem, middle, 3, 3), (10, stem))
        truth = 1.1 * (0.02 + sum(tiny.weight_ms(shape, quantised=False) for shape in layers))
        assert predicted.ms(widths) == pytest.approx(truth, rel=0.05)


def test_a_machine_that_slows_down_between_two_sets_of_widths_changes_no_share_of_the_whole_model(
    workshop: Workshop, tiny: ModuleType, scripted: ModuleType, dense: Path, predicted: Prediction
) -> None:
    slower = scripted.ScriptedDevice(
        tiny.summed_ms, operators=tiny.operators, speed=lambda block: 1.0 if block < 30 else 1.4
    )
    found = prediction(workshop.resizable, table_of(workshop, slower, dense))
    whole = {group.name: group.units for group in workshop.coupling.groups}
    numbers = np.random.default_rng(4)
    for _ in range(20):
        widths = drawn(workshop, numbers)
        share = predicted.ms(widths) / predicted.ms(whole)
        assert found.ms(widths) / found.ms(whole) == pytest.approx(share, rel=0.05)


def test_tables_that_were_measured_at_different_speeds_are_held_against_each_other_at_one(
    workshop: Workshop, tiny: ModuleType, scripted: ModuleType, dense: Path
) -> None:
    usual, slow = (
        table_of(
            workshop,
            scripted.ScriptedDevice(tiny.summed_ms, operators=tiny.operators, speed=lambda block, by=by: by),
            dense,
        )
        for by in (1.0, 1.4)
    )
    assert slow.reference_ms == pytest.approx(1.4 * usual.reference_ms)
    assert slow.wholes[0].ms == pytest.approx(1.4 * usual.wholes[0].ms)
    at_one = slow.at(usual.reference_ms)
    assert [row.ms for row in at_one.rows] == pytest.approx([row.ms for row in usual.rows])
    assert [whole.ms for whole in at_one.wholes] == pytest.approx([whole.ms for whole in usual.wholes])


def test_designs_visit_all_parts_of_every_range_and_are_repeatable(workshop: Workshop) -> None:
    wanted = designs(workshop.coupling, 1, count=8)
    assert wanted == designs(workshop.coupling, 1, count=8)
    assert wanted[0] == {group.name: group.units for group in workshop.coupling.groups}
    for group in workshop.coupling.groups:
        seen = sorted(widths[group.name] for widths in wanted[1:])
        assert seen[0] <= 0.3 * group.units
        assert seen[-1] >= 0.8 * group.units


@pytest.mark.parametrize(("wanted", "expected"), [(3.0, 8), (12.1, 16), (30.0, 32), (63.9, 64), (64.0, 64)])
def test_a_legal_width_is_the_nearest_multiple(wanted: float, expected: int) -> None:
    assert legal(wanted, 64, 8) == expected
    assert legal(wanted / 16, 4, 8) == max(1, round(wanted / 16))


def test_operators_are_timed_by_what_did_not_wait_and_by_nothing_where_all_did(
    workshop: Workshop, tiny: ModuleType, scripted: ModuleType, dense: Path, predicted: Prediction
) -> None:
    def beside(waits: Any) -> LatencyTable:
        device = scripted.ScriptedDevice(
            tiny.summed_ms,
            operators=tiny.operators,
            speed=lambda block: 1.6 if waits(block) else 1.0,
            waited=lambda block: 0.375 if waits(block) else 0.0,
        )
        return table_of(workshop, device, dense)

    assert beside(lambda block: block % 5 in (1, 2)).wholes == predicted.table.wholes
    with pytest.raises(DeviceBusy, match="other work took"):
        beside(lambda block: True)

"""Allocating by a latency table, on a device whose operators' times a test writes down."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import onnx
import pytest

import edgeprune
from edgeprune.devices import Load, Operator
from edgeprune.fitting.landing import limits
from edgeprune.fitting.space.space import BYTES, LATENCY, Space
from edgeprune.latency.curves import LatencyTable
from edgeprune.latency.measured import designs, legal, measure_table, prediction
from edgeprune.latency.operators import START, Nodes
from edgeprune.make import Workshop
from edgeprune.quantize.dialects import TABLE as DIALECTS
from edgeprune.search.ranking import Choice


@pytest.fixture(scope="module")
def workshop(tiny: ModuleType) -> Workshop:
    return Workshop(tiny.task(), DIALECTS["onnxruntime-x86"])


def table_of(workshop: Workshop, device: Any, dense: Path) -> LatencyTable:
    return measure_table(
        device,
        Load("onnxruntime", dense, 1),
        workshop.resizable,
        lambda source, path: source,
        {"x": np.zeros((1, 1, 8, 8), np.float32)},
        designs(workshop.coupling, 1),
    )


@pytest.fixture(scope="module")
def dense(workshop: Workshop, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("dense") / "model.onnx"
    onnx.save(workshop.resizable.at({group.name: group.units for group in workshop.coupling.groups}), path)
    return path


@pytest.fixture(scope="module")
def space(workshop: Workshop, tiny: ModuleType, scripted: ModuleType, dense: Path) -> Space:
    device = scripted.ScriptedDevice(tiny.summed_ms, operators=tiny.operators)
    table = table_of(workshop, device, dense)
    choices = tuple(Choice(group.name, workshop.scores[group.name], 1) for group in workshop.coupling.groups)
    return Space(workshop.coupling, workshop.cost, choices, prediction(workshop.resizable, table))


def test_every_millisecond_belongs_to_a_node(workshop: Workshop) -> None:
    nodes = Nodes(workshop.resizable)
    conv = next(node for node in workshop.resizable.model.graph.node if node.op_type == "Conv")
    shares = nodes.shares(
        [
            Operator("copied_in", "Reorder", 0.5, (), (), ()),
            Operator(f"{conv.output[0]}_nchwc", "Conv", 1.0, (), (), ()),
            Operator("copied_out", "Reorder", 0.25, (), (), ()),
            Operator("fused", "Convolution brg", 2.0, (), (), (f"{conv.name}/WithoutBiases",)),
        ]
    )
    assert shares == {START: 0.5, conv.name: 3.25}


def test_an_operator_named_after_an_activation_is_the_layer_in_front_of_it(workshop: Workshop) -> None:
    graph = workshop.resizable.model.graph
    relu = next(node for node in graph.node if node.op_type == "Relu")
    (conv,) = (node for node in graph.node if relu.input[0] in node.output)
    shares = Nodes(workshop.resizable).shares([Operator(f"{relu.output[0]}_nchwc", "Conv", 1.0, (), (), ())])
    assert shares == {conv.name: 1.0}


def test_widths_that_were_not_measured_are_predicted(space: Space, tiny: ModuleType) -> None:
    numbers = np.random.default_rng(3)
    for _ in range(20):
        widths = {name: int(numbers.choice(options)) for name, options in space.options.items()}
        export = space.prediction.nodes  # the model's layers, by name
        assert export
        stem, middle = widths["stem"], widths["conv1"]
        layers = ((stem, 1, 3, 3), (middle, stem, 3, 3), (stem, middle, 3, 3), (10, stem))
        truth = 1.1 * (0.02 + sum(tiny.weight_ms(shape, quantised=False) for shape in layers))
        assert space.prediction.ms(widths) == pytest.approx(truth, rel=0.05)


def test_a_machine_that_slows_down_between_two_sets_of_widths_changes_no_share_of_the_whole_model(
    workshop: Workshop, tiny: ModuleType, scripted: ModuleType, dense: Path, space: Space
) -> None:
    slower = scripted.ScriptedDevice(
        tiny.summed_ms, operators=tiny.operators, speed=lambda block: 1.0 if block < 30 else 1.4
    )
    found = prediction(workshop.resizable, table_of(workshop, slower, dense))
    whole = {name: options[-1] for name, options in space.options.items()}
    numbers = np.random.default_rng(4)
    for _ in range(20):
        widths = {name: int(numbers.choice(options)) for name, options in space.options.items()}
        share = space.prediction.ms(widths) / space.prediction.ms(whole)
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


def test_the_problem_costs_what_the_prediction_and_the_parameters_say(space: Space) -> None:
    problem = space.problem
    numbers = np.random.default_rng(0)
    for _ in range(10):
        chosen = {name: int(numbers.integers(len(widths))) for name, widths in space.options.items()}
        kept = {name: tuple(range(space.options[name][at])) for name, at in chosen.items()}
        costs = space.costs(kept)
        assert problem.cost(chosen, LATENCY) == pytest.approx(costs[LATENCY])
        assert problem.cost(chosen, BYTES) == pytest.approx(costs[BYTES])


def test_what_is_kept_is_within_the_limits_and_is_the_most_important(space: Space) -> None:
    whole = space.costs({})
    plan = space.keep({LATENCY: 0.5 * whole[LATENCY]})
    kept = plan.kept
    assert plan.allocation.feasible
    assert 0.4 * whole[LATENCY] <= space.costs(kept)[LATENCY] <= 0.5 * whole[LATENCY]
    for choice in space.choices:
        left = np.setdiff1d(np.arange(len(choice.scores)), kept[choice.name])
        assert left.size == 0 or choice.scores[left].max() <= choice.scores[list(kept[choice.name])].min()
    fewer = space.keep({LATENCY: whole[LATENCY], BYTES: 0.3 * whole[BYTES]}).kept
    assert space.costs(fewer)[BYTES] <= 0.3 * whole[BYTES]
    least = space.keep({LATENCY: 1e-6})
    assert not least.allocation.feasible
    assert {name: len(units) for name, units in least.kept.items()} == {
        name: widths[0] for name, widths in space.options.items()
    }


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


def test_each_line_of_the_budget_is_used_to_the_aim() -> None:
    found = limits(
        {LATENCY: 2.0, BYTES: 100.0}, {"latency_ms": 1.5, "size_mib": 2.0, "memory_mib": 0.5}, 0.985
    )
    assert found == {LATENCY: pytest.approx(2.0 * 0.985 / 1.5), BYTES: pytest.approx(100 * 0.985 / 2.0)}


def test_memory_that_no_width_changes_is_told_by_a_second_model() -> None:
    def measured(bytes_: float) -> tuple[dict[str, float], dict[str, float]]:
        """A budget of 20 MiB, of which the runtime takes 10."""
        return {LATENCY: 1.0, BYTES: bytes_}, {"memory_mib": (10 + bytes_) / 20, "latency_ms": 0.5}

    found = limits(*measured(30.0), 0.985, [measured(22.0)])
    assert found[BYTES] == pytest.approx(0.985 * 20 - 10)
    assert found[LATENCY] == pytest.approx(0.985 / 0.5)
    assert limits(*measured(30.0), 0.985, [measured(30.1)])[BYTES] == pytest.approx(30 * 0.985 / 2)


def test_a_budget_that_the_rest_alone_exceeds_leaves_a_limit_that_nothing_meets() -> None:
    def known(params: float) -> tuple[dict[str, float], dict[str, float]]:
        return {LATENCY: params / 50, BYTES: params}, {"memory_mib": 1.2 + params / 1000}

    found = limits(*known(90.0), 0.985, [known(150.0)])
    assert 0 < found[BYTES] < 1


def test_a_fit_lands_by_the_table_in_few_builds(
    scripted: ModuleType, tiny: ModuleType, tmp_path: Path
) -> None:
    told: list[Any] = []
    result = edgeprune.fit(
        tiny.quick(),
        speedup=2.0,
        max_drop=0.1,
        device=scripted.ScriptedDevice(tiny.summed_ms, operators=tiny.operators),
        out=tmp_path / "run",
        epochs=2,
        listen=told.append,
    )
    assert result.verdict.kind == "fits"
    bound = result.chosen.measurement.latency.bound_ms
    assert bound is not None
    assert result.budget.latency_ms is not None
    assert 0.8 * result.budget.latency_ms <= bound  # the next wider form, by a multiple of 8, is over it
    assert bound <= result.budget.latency_ms
    assert len([report for report in result.trials if report.name.startswith("trial")]) == 1
    assert any(event.doing == "measuring operators" for event in told)
    drafts = {event.stage for event in told if event.stage.startswith("draft")}
    assert drafts, "where it lands is found by drafts"
    assert not [report for report in result.trials if report.name in drafts]
    assert not [path for path in (tmp_path / "run").iterdir() if path.name in drafts]


def test_a_machine_that_has_become_slower_is_landed_on_as_it_is(
    scripted: ModuleType, tiny: ModuleType, tmp_path: Path
) -> None:
    """By a fifth, for good, once a speed-up has become milliseconds: proofs will see it so, too."""
    device = scripted.ScriptedDevice(tiny.summed_ms, operators=tiny.operators)

    def note(request: str, artefact: Path) -> None:
        if artefact.parent.name == "dense-int8":
            device.factor = 1.2

    device.factor, device.before = 1.0, note
    device.speed = lambda block: device.factor
    result = edgeprune.fit(
        tiny.quick(), speedup=2.0, max_drop=0.1, device=device, out=tmp_path / "run", epochs=2
    )
    built = [report.verdict.kind for report in result.trials if report.name.startswith("trial")]
    assert built == ["fits"] * len(built), "none is over the budget when it is proven"
    assert result.verdict.kind == "fits"


def test_a_device_without_a_profile_is_searched_by_shares_and_says_so(
    scripted: ModuleType, tiny: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))  # no table of another test
    told: list[Any] = []
    result = edgeprune.fit(
        replace(tiny.quick(), train=None),
        speedup=2.0,
        max_drop=0.5,
        recover="none",
        device=scripted.ScriptedDevice(tiny.latency_ms),
        out=tmp_path / "run",
        listen=told.append,
    )
    assert any(report.name.startswith("trial") for report in result.trials)
    assert any("so widths are chosen by their share of the work" in event.doing for event in told)

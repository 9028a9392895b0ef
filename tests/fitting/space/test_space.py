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
from edgeprune.devices import Load
from edgeprune.fitting.landing import limits
from edgeprune.fitting.space.space import BYTES, LATENCY, Space
from edgeprune.latency.measured import designs, measure_table, prediction
from edgeprune.make import Workshop
from edgeprune.quantize.dialects import TABLE as DIALECTS
from edgeprune.search.ranking import Choice


@pytest.fixture(scope="module")
def workshop(tiny: ModuleType) -> Workshop:
    return Workshop(tiny.task(), DIALECTS["onnxruntime-x86"])


@pytest.fixture(scope="module")
def dense(workshop: Workshop, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("dense") / "model.onnx"
    onnx.save(workshop.resizable.at({group.name: group.units for group in workshop.coupling.groups}), path)
    return path


@pytest.fixture(scope="module")
def space(workshop: Workshop, tiny: ModuleType, scripted: ModuleType, dense: Path) -> Space:
    device = scripted.ScriptedDevice(tiny.summed_ms, operators=tiny.operators)
    model = workshop.resizable
    table = measure_table(
        device,
        Load("onnxruntime", dense, 1),
        model,
        lambda exported: exported,
        {"x": np.zeros((1, 1, 8, 8), np.float32)},
        designs(workshop.coupling, 1),
    )
    choices = tuple(Choice(group.name, workshop.scores[group.name], 1) for group in workshop.coupling.groups)
    return Space(workshop.coupling, workshop.cost, choices, prediction(model, table))


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

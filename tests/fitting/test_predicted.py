"""Fits without a device: to the end on a roofline, never more than `predicted`, and settled by `validate`."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from click.testing import CliRunner

import edgeprune
from edgeprune.bundle import open_bundle
from edgeprune.cli import main
from edgeprune.records.trial import FitResult
from edgeprune.report import document, table, verdict_lines
from edgeprune.results import load_result
from edgeprune.runtimes import TABLE as RUNTIMES
from edgeprune.shelf import load_target, names
from edgeprune.validating import validate

TARGETS = [
    pytest.param(
        name,
        marks=pytest.mark.skipif(
            load_target(name).runtime not in RUNTIMES, reason=f"{load_target(name).runtime} has no row"
        ),
    )
    for name in names("targets")
    if name != "local"
]


@pytest.fixture
def fit(tiny: ModuleType, tmp_path: Path) -> Callable[..., FitResult]:
    def run(target: str = "arm", **options: Any) -> FitResult:
        options = {"out": tmp_path / target, "epochs": 0, **options}
        return edgeprune.fit(options.pop("task", None) or tiny.quick(), target=target, **options)

    return run


@pytest.fixture(scope="module")
def pruned(tiny: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> FitResult:
    """One fit that prunes, because the file must be smaller than that of the dense INT8 model."""
    folder = tmp_path_factory.mktemp("predicted")
    dense = edgeprune.fit(tiny.quick(), target="arm", out=folder / "dense").baseline.measurement
    limit = 0.3 * dense.size_mib
    out = folder / "run"
    return edgeprune.fit(tiny.quick(), target="arm", size_mib=limit, max_drop=0.2, epochs=1, out=out)


@pytest.mark.parametrize("target", TARGETS)
def test_every_target_is_fitted_without_its_device(fit: Callable[..., FitResult], target: str) -> None:
    result = fit(target)
    measured = result.chosen.measurement
    assert (result.verdict.kind, result.runtime) == ("predicted", load_target(target).runtime)
    assert (measured.predicted, measured.latency.runs, measured.latency.bound_ms) == (True, 0, None)
    assert any("exact integer arithmetic, not on the device" in line for line in measured.assumptions)
    assert result.bundle is not None
    assert load_result(Path(result.out)) == result


def test_a_prediction_that_breaks_the_budget_misses_by_so_much(fit: Callable[..., FitResult]) -> None:
    result = fit(latency_ms=1e-6, max_drop=0.5)
    breach = next(each for each in result.verdict.breaches if each.line == "latency_ms")
    assert result.verdict.kind == "misses"
    assert breach.value == result.chosen.measurement.latency.p50_ms
    assert result.bundle is None
    assert "nothing is predicted to fit" in verdict_lines(result)[0]


def test_the_search_is_the_same_and_lands_inside_the_budget(pruned: FitResult) -> None:
    assert pruned.verdict.kind == "predicted"
    assert pruned.chosen.name.startswith("final")
    limit = pruned.budget.size_mib
    assert limit is not None
    assert 0.7 * limit < pruned.chosen.measurement.size_mib <= limit
    assert {report.verdict.kind for report in pruned.trials} <= {"predicted", "misses"}


def test_less_work_is_predicted_to_be_quicker_and_smaller(pruned: FitResult) -> None:
    dense, chosen = pruned.baseline.measurement, pruned.chosen.measurement
    assert chosen.latency.p50_ms < dense.latency.p50_ms
    assert chosen.memory_mib < dense.memory_mib
    assert chosen.size_mib < dense.size_mib


def test_the_report_says_predicted_and_prints_every_assumption(pruned: FitResult) -> None:
    lines = verdict_lines(pruned)
    assert lines[0].startswith("predicted: ")
    assert "fits" not in lines[0]
    for assumption in pruned.chosen.measurement.assumptions:
        assert f"  {assumption}" in lines
    assert f"edgeprune validate {pruned.bundle} --device" in lines[-1]
    made = table(pruned)
    assert "predicted" in str(made.caption)
    spread = [list(column.cells) for column in made.columns if str(column.header) in ("p90", "p99")]
    assert {cell for cells in spread for cell in cells} == {"-"}


def test_json_has_the_assumptions_and_no_percentile_that_nobody_measured(pruned: FitResult) -> None:
    found: Any = document(pruned)
    assert found["verdict"] == "predicted"
    assert found["assumptions"] == list(pruned.chosen.measurement.assumptions)
    latency = found["chosen"]["latency_ms"]
    assert latency["p50"] > 0
    assert (latency["p90"], latency["p99"], latency["bound"], latency["runs"]) == (None, None, None, 0)
    assert set(found["baseline"]["latency_ms"]) == set(latency)


def test_a_measured_result_has_no_assumptions(make_run: Callable[..., Any]) -> None:
    found: Any = document(make_run().result)
    assert found["assumptions"] == []
    assert found["chosen"]["latency_ms"]["p90"] is not None


def test_the_manifest_says_that_the_host_computed_the_golden_outputs_exactly(pruned: FitResult) -> None:
    assert pruned.bundle is not None
    with open_bundle(Path(pruned.bundle)) as verified:
        claim = verified.manifest.claim
        assert (claim.verdict, claim.arithmetic) == ("predicted", "exact")
        assert claim.measurement.assumptions == pruned.chosen.measurement.assumptions
        assert verified.manifest.threads == pruned.profile.threads


@pytest.mark.parametrize(("factor", "kind"), [(0.5, "fits"), (2.0, "misses")], ids=lambda value: str(value))
def test_validate_on_the_device_turns_predicted_into_fits_or_misses(
    pruned: FitResult, scripted: ModuleType, factor: float, kind: str
) -> None:
    assert pruned.bundle is not None
    limit = pruned.budget.latency_ms
    assert limit is not None
    device = scripted.ScriptedDevice(lambda artefact: factor * limit)
    validation = validate(Path(pruned.bundle), device)
    assert validation.verdict is not None
    assert validation.verdict.kind == kind
    details = {check.number: check.detail for check in validation.checks}
    assert "the claim was predicted" in details[7]
    assert "in exact arithmetic" in details[8]
    assert "ms was predicted" in details[10]


def test_predicted_and_measured_runs_are_not_resumed_as_each_other(
    fit: Callable[..., FitResult], scripted: ModuleType, tiny: ModuleType
) -> None:
    fit("x86")
    device = scripted.ScriptedDevice(tiny.latency_ms)
    with pytest.raises(edgeprune.EdgepruneError, match="device"):
        fit("x86", device=device, resume=True)


def test_another_tier_of_a_predicted_run_is_served_in_exact_arithmetic_too(
    pruned: FitResult, tmp_path: Path
) -> None:
    from edgeprune.bundle import write_bundle

    other = next(
        each for each in pruned.trials if each.verdict.kind == "predicted" and each.name != pruned.chosen.name
    )
    path = write_bundle(pruned, Path(pruned.out), tmp_path / "other.edgeprune.zip", chosen=other)
    with open_bundle(path) as verified:
        assert verified.manifest.claim.arithmetic == "exact"


def test_the_program_ends_with_0_for_predicted_and_3_for_a_predicted_miss(tmp_path: Path) -> None:
    task = tmp_path / "mytask.py"
    task.write_text(
        "import torch\nimport edgeprune\n\n\ndef task():\n"
        "    net = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 4))\n"
        "    data = torch.randn(32, 1, 8, 8)\n"
        "    return edgeprune.Task(model=net.eval(), example=data[:1], calibration=[data],\n"
        "        evaluate=lambda predict: float(predict(data.numpy()).std() > 0))\n"
    )
    for ms, code, verdict in (("50", 0, "predicted"), ("0.000001", 3, "misses")):
        options = [
            "--target",
            "arm",
            "--latency-ms",
            ms,
            "--epochs",
            "0",
            "--out",
            str(tmp_path / ms),
            "--json",
        ]
        result = CliRunner().invoke(main, ["fit", str(task), *options])
        found = json.loads(result.stdout)
        assert (result.exit_code, found["verdict"]) == (code, verdict)
        assert found["assumptions"]

"""`edgeprune why RUN` says what holds each layer of a finished run, as tables or as one document."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from edgeprune.cli import main
from edgeprune.records.trial import FitResult, LayerTimes
from edgeprune.results import save_result
from tests.support.html_runs import facts, tiers

V0 = Path(__file__).parents[1] / "fixtures" / "v0" / "measured"


def why(*arguments: object) -> Result:
    return CliRunner().invoke(main, ["why", *map(str, arguments)])


@pytest.fixture
def run(make_run: Callable[..., Any]) -> Callable[[Callable[[FitResult], FitResult]], Path]:
    """Folder of a run whose chosen model has one layer, once it was changed."""
    made = make_run()

    def changed(change: Callable[[FitResult], FitResult]) -> Path:
        times = LayerTimes(made.result.chosen.name, (("[b]conv1", 2.0),), (facts("[b]conv1"),), 0.004)
        save_result(change(replace(made.result, layers=(times,))), made.folder)
        return Path(made.folder)

    return changed


def test_a_layer_is_told_with_its_cause(run: Callable[..., Path]) -> None:
    done = why(run(lambda result: result))
    assert done.exit_code == 0
    assert "[b]conv1" in done.stdout
    assert "narrowest" in done.stdout
    assert "could come from:" in done.stdout
    assert done.stderr == ""


def test_the_document_has_what_the_table_has(run: Callable[..., Path]) -> None:
    done = why(run(lambda result: result), "--json")
    told = json.loads(done.stdout)
    assert done.exit_code == 0
    assert (told["schema"], told["trial"]) == (1, "trial-01")
    assert told["next_ms"] == pytest.approx(0.1 * told["p50_ms"])
    (layer,) = told["layers"]
    assert (layer["layer"], layer["ms"], layer["share"], layer["cause"]) == (
        "[b]conv1",
        2.0,
        1.0,
        "narrowest",
    )
    assert [(each["cause"], each["layers"]) for each in told["causes"]] == [
        ("narrowest", ["[b]conv1"]),
        ("conversions", ["[b]conv1"]),
    ]


def test_each_tier_is_told_and_another_is_refused(run: Callable[..., Path]) -> None:
    folder = run(tiers)
    told = [json.loads(why(folder, "--tier", tier, "--json").stdout)["trial"] for tier in (1, 2, 3)]
    assert told == ["dense-int8", "final-01", "trial-02"]
    done = why(folder, "--tier", 4)
    assert (done.exit_code, done.stdout) == (2, "")
    assert "error: There is no tier 4: the run has 3." in done.stderr


def test_a_run_of_an_earlier_version_says_how_to_get_its_times() -> None:
    done = why(V0)
    assert done.exit_code == 0
    assert "--resume" in done.stdout


def test_a_folder_without_a_run_is_refused_as_by_report(tmp_path: Path) -> None:
    done = why(tmp_path)
    report = CliRunner().invoke(main, ["report", str(tmp_path)])
    assert (done.exit_code, done.stderr) == (report.exit_code, report.stderr)
    assert done.exit_code == 2

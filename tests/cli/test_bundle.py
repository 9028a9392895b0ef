"""`edgeprune bundle` and `edgeprune report`: what a run folder still tells after fit is gone."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from edgeprune.bundle import open_bundle
from edgeprune.cli import main
from edgeprune.records.trial import Breach, TierResult, Verdict
from edgeprune.results import load_result, save_result


def edgeprune(*arguments: object) -> Result:
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


@pytest.fixture
def run(make_run: Callable[..., Any]) -> Path:
    folder: Path = make_run().folder
    return folder


def test_bundle_prints_where_it_wrote(run: Path) -> None:
    done = edgeprune("bundle", run)
    assert done.exit_code == 0, done.output
    assert done.stdout == f"{run / 'tiny.edgeprune.zip'}\n"
    with open_bundle(run / "tiny.edgeprune.zip") as opened:
        assert opened.manifest.candidate == "trial-01"
        assert opened.manifest.profile == "local"


def test_a_tier_goes_where_it_is_asked_to(run: Path, tmp_path: Path) -> None:
    done = edgeprune("bundle", run, "--tier", 2, "-o", tmp_path / "small.zip")
    assert done.exit_code == 0, done.output
    with open_bundle(tmp_path / "small.zip") as opened:
        assert opened.manifest.candidate == "trial-02"


def test_a_tier_that_is_not_there_exits_2(run: Path) -> None:
    done = edgeprune("bundle", run, "--tier", 3)
    assert done.exit_code == 2
    assert "has 2 tiers, and --tier is 3" in done.stderr
    assert "edgeprune report" in done.stderr


@pytest.fixture
def family(make_run: Callable[..., Any]) -> Path:
    """A run of two budgets: trial-01 fits the larger one, trial-02 misses the smaller."""
    made = make_run()
    result = made.result
    small = replace(result.budget, latency_ms=2.0)
    missed = replace(result.frontier[1], verdict=Verdict("misses", (Breach("latency_ms", 2.1, 2.0),)))
    tiers = tuple(
        TierResult(name, chosen.verdict, budget, result.baseline, chosen, None, result.profile)
        for name, budget, chosen in (("1000 ms", result.budget, result.chosen), ("2 ms", small, missed))
    )
    whole = replace(
        result, verdict=missed.verdict, budget=small, chosen=missed, tiers=tiers, no_cascade="one model fits"
    )
    save_result(whole, made.folder)
    folder: Path = made.folder
    return folder


def test_of_several_budgets_a_tier_is_the_answer_to_one(family: Path) -> None:
    done = edgeprune("bundle", family, "--tier", 1)
    assert done.exit_code == 0, done.output
    assert done.stdout == f"{family / 'tiny-tier1.edgeprune.zip'}\n"
    with open_bundle(family / "tiny-tier1.edgeprune.zip") as opened:
        assert (opened.manifest.candidate, opened.manifest.budget.latency_ms) == ("trial-01", 1000.0)
    done = edgeprune("bundle", family, "--tier", 3)
    assert done.exit_code == 2
    assert "answers 2 budgets, and --tier is 3" in done.stderr


@pytest.mark.parametrize("flags", [["--tier", 2], []], ids=["by its number", "the one the verdict is about"])
def test_a_tier_that_misses_its_budget_is_not_packed(family: Path, flags: list[object]) -> None:
    done = edgeprune("bundle", family, *flags)
    assert done.exit_code == 2
    assert "trial-02 misses its budget: latency_ms is 2.1 where 2 is allowed" in done.stderr
    assert "--tier" in done.stderr


def test_report_shows_tiers_and_why_there_is_no_cascade(family: Path) -> None:
    shown = edgeprune("report", family).stdout
    for words in (
        "1000 ms: trial-01",
        "2 ms, missed: trial-02",
        "misses: nothing fits 2 ms.",
        "no cascade: one model",
    ):
        assert words in shown
    assert "tier 1: trial-01" not in shown, "the frontier is not numbered like the tiers"


@pytest.mark.parametrize("verb", ["bundle", "report"])
def test_a_folder_without_a_result_exits_2_and_says_what_it_may_be(verb: str, tmp_path: Path) -> None:
    done = edgeprune(verb, tmp_path)
    assert done.exit_code == 2
    assert "result.json cannot be read" in done.stderr
    (tmp_path / "ledger.jsonl").write_text("{}\n")
    assert "--resume" in edgeprune(verb, tmp_path).stderr


@pytest.mark.parametrize("damage", ["", "{}", '{"verdict": 1}', "nonsense"])
def test_a_damaged_result_exits_2_and_is_named(run: Path, damage: str) -> None:
    (run / "result.json").write_text(damage)
    done = edgeprune("report", run)
    assert done.exit_code == 2
    assert "result.json" in done.stderr.splitlines()[0]


def test_a_result_comes_back_as_it_was_saved(run: Path, tmp_path: Path) -> None:
    result = load_result(run)
    save_result(result, tmp_path)
    assert load_result(tmp_path) == result


def test_report_shows_result_trials_frontier_and_verdict(run: Path) -> None:
    done = edgeprune("report", run)
    assert done.exit_code == 0, done.output
    for words in (
        "chosen: trial-01",
        "dense INT8",
        "trial-02: fits",
        "tier 2: trial-02",
        "fits: trial-01 is",
    ):
        assert words in done.stdout
    assert done.stderr == ""


def test_report_gives_the_document_of_fit(run: Path) -> None:
    document = json.loads(edgeprune("report", run, "--json").stdout)
    assert document["verdict"] == "fits"
    assert document["chosen"]["name"] == "trial-01"


def test_a_run_with_a_profile_of_one_s_own_is_packed_without_the_file(
    make_run: Callable[..., Any], tmp_path: Path
) -> None:
    made = make_run()
    own = replace(made.result.profile, name="press-7", title="The machine at press 7")
    save_result(replace(made.result, profile=own), made.folder)
    done = edgeprune("bundle", made.folder, "-o", tmp_path / "own.edgeprune.zip")
    assert done.exit_code == 0, done.output
    with open_bundle(tmp_path / "own.edgeprune.zip") as verified:
        assert verified.manifest.profile == "press-7"

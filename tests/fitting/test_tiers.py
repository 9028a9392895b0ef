"""Several budgets in one fit, on a scripted device: what they share, what each has of its own."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

import edgeprune
from edgeprune.bundle import open_bundle, write_bundle
from edgeprune.errors import InputError
from edgeprune.records.progress import Event
from edgeprune.records.trial import FitResult, Report
from edgeprune.report import document, frontier_table, table, verdict_lines
from edgeprune.results import load_result

SPEEDUPS = (1.15, 1.5, 2.4)
OPTIONS: dict[str, Any] = {"max_drop": 0.05, "epochs": 2}


def sampled(tiny: ModuleType) -> edgeprune.Task:
    """The tiny task, its samples scored one by one."""
    found: edgeprune.Task = tiny.quick(evaluate_samples=tiny.scores)
    return found


@pytest.fixture(scope="module")
def three(tiny: ModuleType, scripted: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> FitResult:
    """One fit to three speed-ups that several tests look at."""
    device = scripted.ScriptedDevice(tiny.latency_ms)
    out = tmp_path_factory.mktemp("tiers") / "run"
    return edgeprune.fit(sampled(tiny), speedup=SPEEDUPS, device=device, out=out, **OPTIONS)


def steps(out: str | Path) -> list[str]:
    ledger = Path(out) / "ledger.jsonl"
    lines = ledger.read_text().splitlines() if ledger.exists() else []
    return [json.loads(line)["key"] for line in lines[1:] if line.endswith("}")]


def test_every_budget_is_proven_from_the_largest_to_the_smallest(three: FitResult) -> None:
    assert [(tier.name, tier.verdict.kind) for tier in three.tiers] == [
        (f"{speedup:g}x", "fits") for speedup in SPEEDUPS
    ]
    dense = three.baseline.measurement.latency.bound_ms
    for tier, speedup in zip(three.tiers, SPEEDUPS, strict=True):
        bound = tier.chosen.measurement.latency.bound_ms
        assert dense is not None
        assert bound is not None
        assert tier.budget.latency_ms == pytest.approx(dense / speedup)
        assert bound <= tier.budget.latency_ms
        assert tier.chosen.measurement.latency.runs >= 662
        assert tier.chosen.metric >= three.baseline.metric - tier.budget.max_drop
    params = [tier.chosen.params for tier in three.tiers]
    assert params == sorted(params, reverse=True)
    assert three.tiers[0].chosen.name.startswith("dense-int8")


def test_what_the_search_learns_is_learnt_once(three: FitResult) -> None:
    """The dense model, its INT8 form and every candidate are built and measured once for all budgets."""
    done = steps(three.out)
    assert len(done) == len(set(done))
    assert done.count("dense") == 1
    assert len({trial.name for trial in three.trials}) == len(three.trials)


def test_a_smaller_tier_is_offered_the_weights_of_the_larger_one(three: FitResult) -> None:
    larger, smaller = three.tiers[1].chosen, three.tiers[2].chosen
    assert larger.candidate.warm_start is None
    assert smaller.candidate.warm_start == larger.name
    (offered,) = [rung for rung in smaller.recovered if rung[0] == "descend"]
    _, before, after, kept = offered
    assert kept == (after < before)
    assert after != before, "the trained weights are others than the original's"


def test_the_top_of_the_result_is_about_the_tier_that_decides(three: FitResult) -> None:
    assert three.verdict.kind == "fits"
    assert three.chosen == three.tiers[0].chosen
    assert three.bundle == three.tiers[0].bundle
    assert three.of_tier(2).chosen == three.tiers[1].chosen
    assert load_result(Path(three.out)) == three


def test_every_tier_has_a_bundle_that_opens_and_is_about_its_own_budget(three: FitResult) -> None:
    paths = [Path(tier.bundle or "") for tier in three.tiers]
    assert [path.name for path in paths] == [f"run-tier{at}.edgeprune.zip" for at in (1, 2, 3)]
    for path, tier in zip(paths, three.tiers, strict=True):
        with open_bundle(path) as verified:
            assert verified.manifest.candidate == tier.chosen.name
            assert verified.manifest.budget == tier.budget


def test_packing_a_tier_again_gives_the_same_bytes(three: FitResult, tmp_path: Path) -> None:
    result, out = load_result(Path(three.out)), Path(three.out)
    again = write_bundle(result.of_tier(3), out, tmp_path / "again.zip")
    assert again.read_bytes() == Path(three.tiers[2].bundle or "").read_bytes()


def test_the_frontier_is_of_all_trials_of_all_tiers(three: FitResult) -> None:
    def costs(report: Report) -> tuple[float, ...]:
        found = report.measurement
        latency = found.latency.bound_ms or found.latency.max_ms
        return (-report.metric, latency, found.memory_mib, found.size_mib)

    def beats(one: Report, other: Report) -> bool:
        pairs = zip(costs(one), costs(other), strict=True)
        return costs(one) != costs(other) and all(ours <= theirs for ours, theirs in pairs)

    trials = three.trials
    unbeaten = {one.name for one in trials if not any(beats(other, one) for other in trials)}
    assert {report.name for report in three.frontier} == unbeaten
    assert {tier.chosen.name for tier in three.tiers} <= {report.name for report in trials}


def test_a_cascade_comes_with_tiers_whose_samples_are_scored(three: FitResult) -> None:
    found = three.cascade
    assert found is not None
    assert three.no_cascade is None
    assert found.tiers == tuple(tier.name for tier in reversed(three.tiers))
    assert sum(found.shares) == pytest.approx(1)
    costs = [tier.chosen.measurement.latency.p50_ms for tier in reversed(three.tiers)]
    spent = np.cumsum(costs)
    assert found.cost_ms == pytest.approx(float(np.dot(found.shares, spent)))
    assert found.cost_alone_ms == costs[-1]
    assert found.calibrated_on + found.drop.samples == 300


def test_the_document_has_the_tiers_and_the_cascade_beside_its_usual_keys(
    three: FitResult, make_run: Callable[..., Any]
) -> None:
    found: Any = json.loads(json.dumps(document(three), allow_nan=False))
    assert [tier["name"] for tier in found["tiers"]] == ["1.15x", "1.5x", "2.4x"]
    assert found["tiers"][0]["chosen"] == found["chosen"]
    for key in ("verdict", "breaches", "budget", "baseline", "chosen", "bundle", "profile", "assumptions"):
        assert key in found["tiers"][1]
        assert key in found
    stages = found["cascade"]["stages"]
    assert [stage["tier"] for stage in stages] == ["2.4x", "1.5x", "1.15x"]
    assert stages[-1]["threshold"] == 0.0
    assert found["cascade"]["saving"] == pytest.approx(
        1 - found["cascade"]["latency_ms"] / found["cascade"]["latency_ms_alone"]
    )
    alone = document(make_run().result)
    assert not {"tiers", "cascade", "no_cascade"} & set(alone), "one budget has neither"


def test_the_report_has_a_row_and_a_verdict_for_each_tier_and_the_cascade(three: FitResult) -> None:
    rows = [str(cell) for cell in next(iter(table(three).columns)).cells]
    assert [rows[0], rows[1].removesuffix("-7bit")] == ["dense", "dense INT8"]
    assert rows[2:] == [f"{tier.name}: {tier.chosen.name}" for tier in three.tiers]
    lines = verdict_lines(three)
    assert lines[0] == "fits: all 3 budgets are met."
    for at, tier in enumerate(three.tiers, 1):
        assert (
            f"tier {at}, {tier.name}: fits: {tier.chosen.name} is proven inside its budget on this device."
            in lines
        )
        assert f"  bundle: {tier.bundle}" in lines
    assert any(line.startswith("cascade: 2.4x answers ") for line in lines)
    titles = [str(cell) for cell in next(iter(frontier_table(three).columns)).cells]
    assert not any(title.startswith("tier") for title in titles), "tiers are budgets here"


def test_one_budget_that_nothing_meets_decides_and_the_others_keep_their_bundles(
    tiny: ModuleType, scripted: ModuleType, tmp_path: Path
) -> None:
    device = scripted.ScriptedDevice(tiny.latency_ms)
    result = edgeprune.fit(
        tiny.quick(), latency_ms=(0.05, 50), device=device, out=tmp_path / "run", max_drop=0.05, epochs=0
    )
    assert [tier.verdict.kind for tier in result.tiers] == ["fits", "misses"]
    assert (result.verdict.kind, result.budget.latency_ms) == ("misses", 0.05)
    assert (result.bundle, result.tiers[1].bundle) == (None, None)
    assert result.tiers[0].bundle is not None
    assert result.no_cascade == "the task has no evaluate_samples to tell which samples are right"
    assert verdict_lines(result)[0] == "misses: nothing fits 0.05 ms."
    with pytest.raises(InputError, match="misses its budget"):
        write_bundle(result.of_tier(2), Path(result.out), tmp_path / "no.zip")


def test_a_miss_weighs_more_than_what_stayed_open(three: FitResult) -> None:
    from edgeprune.fitting.answer import _deciding
    from edgeprune.records.trial import Verdict

    def tiers(*kinds: Any) -> list[Any]:
        return [replace(three.tiers[0], verdict=Verdict(kind)) for kind in kinds]

    assert _deciding(tiers("fits", "inconclusive", "misses", "misses")) == 2
    assert _deciding(tiers("fits", "inconclusive", "fits")) == 1
    assert _deciding(tiers("predicted", "predicted")) == 0


def test_what_was_given_twice_or_out_of_order_is_told(
    tiny: ModuleType, scripted: ModuleType, tmp_path: Path
) -> None:
    heard: list[Event] = []
    result = edgeprune.fit(
        tiny.quick(),
        latency_ms=[40, 50, 40],
        device=scripted.ScriptedDevice(tiny.latency_ms),
        out=tmp_path / "run",
        listen=heard.append,
    )
    assert [tier.name for tier in result.tiers] == ["50 ms", "40 ms"]
    told = [event.doing for event in heard if event.lasting]
    assert told == [
        "The budget 40 ms was given more than once; it is answered once.",
        "Budgets are answered from the largest to the smallest: 50 ms, 40 ms.",
    ]
    assert {tier.chosen.name for tier in result.tiers} == {"dense"}
    assert [key for key in steps(result.out) if key.startswith("dense-proof")] == [
        "dense-proof",
        "dense-proof-2",
    ]


KILLED = """
import importlib.util, os, signal, sys

def load(path):
    spec = importlib.util.spec_from_file_location(os.path.basename(path)[:-3], path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module

import edgeprune

tiny, scripted, out = load(sys.argv[1]), load(sys.argv[2]), sys.argv[3]
finals = set()

def die(request, artefact):
    finals.add(artefact.parent.name) if artefact.parent.name.startswith("final") else None
    if len(finals) == 2:
        os.kill(os.getpid(), signal.SIGKILL)

task = tiny.quick(evaluate_samples=tiny.scores)
device = scripted.ScriptedDevice(tiny.latency_ms, before=die)
edgeprune.fit(task, speedup=(1.15, 1.5, 2.4), max_drop=0.05, epochs=2, device=device, out=out)
"""


def test_a_run_that_was_killed_in_a_later_tier_goes_on_and_gives_the_same_answer(
    three: FitResult, tiny: ModuleType, scripted: ModuleType, tmp_path: Path
) -> None:
    """Killed when the second trained candidate, that of the third tier, is first run."""
    child = subprocess.run(
        [sys.executable, "-c", KILLED, tiny.__file__, scripted.__file__, str(tmp_path / "run")], check=False
    )
    assert child.returncode == -signal.SIGKILL
    done = steps(tmp_path / "run")
    assert any(key.startswith("final") for key in done), "the second tier was finished"
    device = scripted.ScriptedDevice(tiny.latency_ms)
    again = edgeprune.fit(
        sampled(tiny), speedup=SPEEDUPS, device=device, out=tmp_path / "run", resume=True, **OPTIONS
    )
    assert steps(tmp_path / "run")[: len(done)] == done
    assert [tier.chosen.candidate for tier in again.tiers] == [tier.chosen.candidate for tier in three.tiers]
    assert [tier.chosen.recovered for tier in again.tiers] == [tier.chosen.recovered for tier in three.tiers]
    assert again.cascade == three.cascade
    assert again.verdict == three.verdict


def test_other_budgets_are_not_resumed(tiny: ModuleType, scripted: ModuleType, tmp_path: Path) -> None:
    options: dict[str, Any] = {"device": scripted.ScriptedDevice(tiny.latency_ms), "out": tmp_path / "run"}
    edgeprune.fit(tiny.quick(), latency_ms=(50, 40), **options)
    with pytest.raises(InputError, match=r"budget 2\.budget\.latency_ms was 40\.0, is now 30\.0"):
        edgeprune.fit(tiny.quick(), latency_ms=(50, 30), resume=True, **options)


def profile(folder: Path, name: str, **lines: Any) -> Path:
    facts = {"title": '"A machine"', "architecture": '"x86_64"', "threads": 1, "isa": '["avx2"]', **lines}
    budget = facts.pop("budget", "latency_ms = 50")
    written = "\n".join(f"{key} = {value}" for key, value in facts.items())
    path = folder / f"{name}.toml"
    path.write_text(f'{written}\nsources = ["a test"]\n\n[budget]\n{budget}\n')
    return path


def test_several_profiles_of_one_kind_are_answered_on_one_device(
    tiny: ModuleType, scripted: ModuleType, tmp_path: Path
) -> None:
    tight = profile(tmp_path, "gate", budget="speedup = 1.15")
    loose = profile(tmp_path, "press", budget="latency_ms = 50\nmemory_mib = 4000")
    result = edgeprune.fit(
        tiny.quick(),
        profile=[tight, loose],
        device=scripted.ScriptedDevice(tiny.latency_ms),
        out=tmp_path / "run",
    )
    assert [tier.profile.name for tier in result.tiers] == ["press", "gate"]
    assert [tier.name for tier in result.tiers] == ["press", "gate"]
    assert result.tiers[0].chosen.name == "dense"
    assert result.tiers[1].chosen.name.startswith("dense-int8")
    assert result.verdict.kind == "fits"


@pytest.mark.parametrize(
    ("first", "second", "sentence"),
    [
        ({}, {"architecture": '"aarch64"'}, "architecture is x86_64 in the first and aarch64 in the second"),
        ({}, {"threads": 2}, "threads is 1 in the first and 2 in the second"),
        ({}, {"batch": 4}, "batch is 1 in the first and 4"),
        ({}, {"budget": "latency_ms = 50\npercentile = 99"}, "percentile is 90 in the first and 99"),
    ],
    ids=["architecture", "threads", "batch", "percentile"],
)
def test_profiles_that_one_search_cannot_answer_are_refused(
    tiny: ModuleType,
    scripted: ModuleType,
    tmp_path: Path,
    first: dict[str, Any],
    second: dict[str, Any],
    sentence: str,
) -> None:
    profiles = [profile(tmp_path, "one", **first), profile(tmp_path, "two", **second)]
    with pytest.raises(InputError, match=sentence):
        edgeprune.fit(
            tiny.quick(),
            profile=profiles,
            device=scripted.ScriptedDevice(tiny.latency_ms),
            out=tmp_path / "run",
        )
    assert not (tmp_path / "run").exists()


def test_a_profile_that_is_measured_and_one_that_is_predicted_are_refused(
    tiny: ModuleType, tmp_path: Path
) -> None:
    with pytest.raises(InputError, match="the latency is measured in the first and predicted in the second"):
        edgeprune.fit(tiny.quick(), target="x86", profile=["local", "intel-n100"], out=tmp_path / "run")


def test_several_machines_are_predicted_each_on_its_own_roofline(tiny: ModuleType, tmp_path: Path) -> None:
    names = ["intel-core-ultra", "intel-n100"]
    result = edgeprune.fit(
        tiny.quick(), target="intel", profile=names, runtime="onnxruntime", out=tmp_path / "run", epochs=0
    )
    assert {tier.profile.name: tier.verdict.kind for tier in result.tiers} == dict.fromkeys(
        names, "predicted"
    )
    dense = {tier.profile.name: tier.baseline.measurement.latency.p50_ms for tier in result.tiers}
    assert dense["intel-n100"] > dense["intel-core-ultra"]
    assert len({report.measurement.latency.p50_ms for report in result.trials if report.name == "dense"}) == 1
    rows = [str(cell) for cell in next(iter(table(result).columns)).cells]
    assert {row.split(":")[0] for row in rows} == set(names), "each has its own dense row"
    assert verdict_lines(result)[0].startswith("predicted: all 2 budgets should be met")

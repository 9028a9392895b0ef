"""Every answer says what was asked, of whom and by what; a budget that binds nothing is told."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from edgeprune.records.codec import from_json, to_json
from edgeprune.records.machine import Budget
from edgeprune.records.trial import (
    Breach,
    ErrorBar,
    FitResult,
    Occasion,
    ProjectUse,
    TierResult,
    Verdict,
)
from edgeprune.report import document, table, verdict_lines
from edgeprune.report.asked import asked_lines, unbound

OCCASION = Occasion(
    "ssh://pi@board",
    "Cortex-A76, aarch64, 4 cores, 8000 MiB",
    "2026-11-30T12:00:00+00:00",
    "edgeprune fit m.py",
)
SOURCES = (
    ("latency_ms", "flag"),
    ("memory_mib", "profile"),
    ("percentile", "default"),
    ("max_drop", "default"),
)


@pytest.fixture
def result(make_run: Callable[..., Any]) -> FitResult:
    found: FitResult = make_run(budget=Budget(latency_ms=20.0, memory_mib=64.0)).result
    return replace(found, sources=SOURCES, occasion=OCCASION)


def test_the_answer_says_what_was_asked_of_whom_and_by_what(result: FitResult) -> None:
    assert asked_lines(result) == [
        "asked: p90 latency of 20 ms (--latency-ms), peak memory of 64 MiB (profile local), "
        "top-1 at most 0.01 below the dense model's (default)",
        "of: target local, profile local, on ssh://pi@board (Cortex-A76, aarch64, 4 cores, 8000 MiB); "
        "onnxruntime 1.32.0, 1 thread, batch 1; 62 s, 2026-11-30T12:00:00+00:00",
        "by: edgeprune fit m.py",
    ]
    assert verdict_lines(result)[-3:] == asked_lines(result)


def test_the_answer_says_on_what_it_was_trained(result: FitResult) -> None:
    trained = replace(OCCASION, trained_on="cuda:0 (NVIDIA L4), bfloat16")
    told = asked_lines(replace(result, occasion=trained))
    assert told[-2:] == ["trained on: cuda:0 (NVIDIA L4), bfloat16", "by: edgeprune fit m.py"]


def test_the_answer_says_what_is_of_the_project_file(result: FitResult) -> None:
    keys = (("model", '"m.py"'), ("latency_ms", "20"))
    use = ProjectUse("edgeprune.toml", keys, (("device", "--target"),))
    sources = (("latency_ms", "project"), *SOURCES[1:])
    found = replace(result, sources=sources, occasion=replace(OCCASION, project=use))
    told = asked_lines(found)
    assert told[0].startswith("asked: p90 latency of 20 ms (edgeprune.toml), peak memory")
    assert told[-1] == (
        'with: edgeprune.toml (model = "m.py", latency_ms = 20; device set aside for --target)'
    )
    stored: Any = document(found)
    assert stored["sources"]["latency_ms"] == "project"
    assert stored["occasion"]["project"] == {
        "file": "edgeprune.toml",
        "keys": dict(keys),
        "set_aside": {"device": "--target"},
    }
    assert from_json(FitResult, to_json(found)) == found


def test_relative_lines_are_told_as_they_were_asked_and_what_they_come_to(result: FitResult) -> None:
    budget = Budget(latency_ms=3.6, speedup=2.0, max_drop=0.0006, max_drop_percent=2.0)
    sources = (("latency_ms", "flag"), ("speedup", "flag"), ("max_drop_percent", "flag"))
    told = asked_lines(replace(result, budget=budget, sources=sources, metric="MSE", lower_is_better=True))[0]
    assert told == (
        "asked: p90 latency of 3.6 ms, 2x the dense model's speed (--speedup), "
        "MSE at most 2%, 0.0006 above the dense model's (--max-drop)"
    )


def test_a_result_of_an_earlier_version_says_what_it_knows(result: FitResult) -> None:
    lines = asked_lines(replace(result, sources=(), occasion=None))
    assert len(lines) == 2
    assert "(" not in lines[0]
    assert "on this device" in lines[1]


def test_every_tier_says_its_own_budget(result: FitResult) -> None:
    def tier(ms: float) -> TierResult:
        return TierResult(
            name=f"{ms:g} ms",
            verdict=result.verdict,
            budget=replace(result.budget, latency_ms=ms),
            baseline=result.baseline,
            chosen=result.chosen,
            bundle=None,
            profile=result.profile,
            sources=SOURCES,
        )

    several = replace(result, tiers=(tier(20.0), tier(5.0)))
    asked = [line for line in verdict_lines(several) if line.startswith("asked:")]
    assert ["20 ms" in asked[0], "5 ms" in asked[1]] == [True, True]
    told: Any = document(several)
    assert told["tier"] == "20 ms"
    missed = Verdict("misses", (Breach("latency_ms", 6.0, 5.0),))
    broken = replace(several, verdict=missed, tiers=(tier(20.0), replace(tier(5.0), verdict=missed)))
    assert [str(cell) for cell in table(broken).columns[0].cells][-2:] == [
        "20 ms: trial-01",
        "5 ms, missed: trial-01",
    ]
    of_broken: Any = document(broken)
    assert (of_broken["tier"], of_broken["answer"]) == ("5 ms", None)
    assert [one["answer"] for one in of_broken["tiers"]] == ["trial-01", None]
    assert [(one["answer"], one["sources"]["latency_ms"]) for one in told["tiers"]] == [
        ("trial-01", "flag")
    ] * 2


def test_the_document_has_it_all_with_a_schema_number(result: FitResult) -> None:
    told: Any = document(result)
    assert told["schema"] == 1
    assert told["sources"] == dict(SOURCES)
    assert told["occasion"] == {
        "device": OCCASION.device,
        "machine": OCCASION.machine,
        "date": OCCASION.date,
        "command": OCCASION.command,
        "trained_on": OCCASION.trained_on,
        "versions": [],
        "seed": None,
        "project": None,
    }
    assert (told["runtime_version"], told["threads"], told["batch"]) == ("onnxruntime 1.32.0", 1, 1)
    assert document(replace(result, occasion=None))["occasion"] is None


def test_a_budget_that_the_dense_model_holds_binds_nothing(result: FitResult) -> None:
    dense = replace(result, chosen=replace(result.baseline, verdict=Verdict("fits")))
    assert unbound(dense) == (
        "the bound of p90 is 42.0% of the budget of 20 ms (--latency-ms): nothing binds; "
        "ask with --latency-ms or --speedup"
    )
    assert f"  {unbound(dense)}" in verdict_lines(dense)
    assert document(dense)["unbound"] == unbound(dense)
    assert unbound(result) is None, "something was given up for it"


def test_of_a_prediction_the_one_figure_that_there_is_is_told(result: FitResult) -> None:
    measured = result.baseline.measurement
    latency = replace(measured.latency, runs=0, bound_ms=None, max_ms=0.137)
    chosen = replace(
        result.baseline, measurement=replace(measured, latency=latency, assumptions=("a roofline",))
    )
    found = replace(
        result,
        chosen=chosen,
        verdict=Verdict("predicted"),
        budget=Budget(latency_ms=33.3),
        sources=(("latency_ms", "profile"),),
        profile=replace(result.profile, name="jetson-orin-nano"),
    )
    assert unbound(found) == (
        "p50 is 0.4% of the budget of 33.3 ms (profile jetson-orin-nano): nothing binds; "
        "ask with --latency-ms or --speedup"
    )


def predicted(result: FitResult, limit_ms: float, kind: Any) -> FitResult:
    """2 ms, of a budget of `limit_ms`."""
    measured = result.chosen.measurement
    latency = replace(measured.latency, p50_ms=2.0, runs=0, bound_ms=None, max_ms=2.0)
    bar = ErrorBar((1.25, 4.0), (8.0, 16.0))
    chosen = replace(
        result.chosen,
        measurement=replace(measured, latency=latency, assumptions=("a roofline",), error_bar=bar),
    )
    budget = Budget(latency_ms=limit_ms)
    return replace(result, chosen=chosen, verdict=Verdict(kind), budget=budget, bundle="b.zip")


@pytest.mark.parametrize(
    ("limit_ms", "kind", "word", "sentence"),
    [
        (5.0, "predicted", "should fit", None),
        (3.0, "predicted", "may fit", "it may miss: latency of 1.25 to 4 ms, and the budget is 3 ms"),
        (1.5, "misses", "nothing is predicted to fit", "it may fit: latency of 1.25 to 4 ms"),
        (1.0, "misses", "nothing is predicted to fit", None),
    ],
    ids=["above the bar", "within it, above the figure", "within it, below the figure", "below the bar"],
)
def test_a_prediction_is_held_against_the_budget_by_its_error_bar(
    result: FitResult, limit_ms: float, kind: str, word: str, sentence: str | None
) -> None:
    found = predicted(result, limit_ms, kind)
    lines = verdict_lines(found)
    assert word in lines[0]
    assert any("p50 is predicted to be 2 ms, and lies between 1.25 and 4 ms" in line for line in lines)
    told = [line.strip() for line in lines if "it may" in line]
    assert len(told) == (sentence is not None)
    assert all(sentence in line for line in told if sentence is not None)
    document_of: Any = document(found)
    assert document_of["open_lines"] == ["latency_ms"] * (sentence is not None)
    assert document_of["chosen"]["error_bar"] == {"latency_ms": [1.25, 4.0], "memory_mib": [8.0, 16.0]}


def test_what_was_measured_has_no_error_bar(result: FitResult) -> None:
    assert not any("as far off" in line for line in verdict_lines(result))
    told: Any = document(result)
    assert (told["chosen"]["error_bar"], told["open_lines"]) == (None, [])


def test_the_line_that_is_used_most_is_told_with_its_own_flag(result: FitResult) -> None:
    dense = replace(result, chosen=replace(result.baseline, verdict=Verdict("fits")))
    tight = replace(dense, budget=Budget(latency_ms=100.0, memory_mib=15.0))
    told = unbound(tight)
    assert told is not None
    assert told.startswith("peak memory is 83.3% of the budget of 15 MiB")
    assert told.endswith("ask with --memory-mib")
    assert unbound(replace(dense, budget=Budget())) is None

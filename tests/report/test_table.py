"""What a fit prints: the table, the sentences, the JSON document."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from rich.console import Console
from rich.table import Table

from edgeprune.records.trial import Breach, Drop, FitResult, Verdict
from edgeprune.report import document, frontier_table, table, trials_table, verdict_lines
from edgeprune.report.document import DOCUMENT_SCHEMA


@pytest.fixture
def result(make_run: Callable[..., Any]) -> FitResult:
    found: FitResult = make_run().result
    return found


def shown(made: Table) -> list[list[str]]:
    """The cells of each row, as a reader of plain text sees them."""
    out = io.StringIO()
    Console(file=out, width=200).print(made)
    return [
        [cell.strip() for cell in line.split("  ") if cell.strip()] for line in out.getvalue().splitlines()
    ]


def test_the_table_has_dense_dense_int8_and_chosen(result: FitResult) -> None:
    rows = [row for row in shown(table(result)) if len(row) == 11]
    assert [row[0] for row in rows] == ["dense", "dense INT8", "chosen: trial-01"]
    assert rows[0][1:] == [
        "0.9650",
        "7.200",
        "8.000",
        "9.600",
        "8.400",
        "12.5 (+12.5)",
        "0.000",
        "1 k",
        "100 k",
        "0/2",
    ]


def test_recurrent_layers_are_told_with_the_reason_why_they_stay_float(result: FitResult) -> None:
    assert "LSTM" not in str(table(result).caption)
    chosen = replace(result.chosen, layers_float=3, layers_recurrent=2)
    caption = str(table(replace(result, chosen=chosen)).caption)
    assert "2 are LSTM or GRU, which stay float: ONNX has no form of them on integers" in caption


def test_what_was_missed_is_not_called_chosen(result: FitResult) -> None:
    breach = Breach("latency_ms", 6.0, 5.0)
    missed = Verdict("misses", (breach,))
    chosen = replace(result.chosen, verdict=missed)
    alone = replace(result, verdict=missed, chosen=chosen)
    assert [row[0] for row in shown(table(alone)) if len(row) == 11][-1] == "closest: trial-01"
    assert document(alone)["answer"] is None
    still_open = replace(result, verdict=Verdict("inconclusive"))
    assert [row[0] for row in shown(table(still_open)) if len(row) == 11][-1] == "best so far: trial-01"
    assert document(still_open)["answer"] is None
    assert document(result)["answer"] == "trial-01"


def test_the_header_names_metric_and_percentile(result: FitResult) -> None:
    other = replace(result, metric="mAP [0.5]", budget=replace(result.budget, percentile=99))
    (header,) = [row for row in shown(table(other)) if "p50" in row]
    assert header[0] == "mAP [0.5]"
    assert "p99 bound" in header


def test_a_dense_model_that_fits_has_one_row(result: FitResult) -> None:
    made = table(replace(result, chosen=result.baseline, trials=()))
    assert [row[0] for row in shown(made) if len(row) == 11] == ["chosen: dense"]


def test_of_several_calibrations_the_last_is_shown(result: FitResult) -> None:
    again = replace(result.trials[0], name="dense-int8-kl")
    rows = [row[0] for row in shown(table(replace(result, trials=(*result.trials, again)))) if len(row) == 11]
    assert rows == ["dense", "dense INT8-kl", "chosen: trial-01"]


def test_tiers_are_numbered_as_bundle_counts_them(result: FitResult) -> None:
    rows = [row[0] for row in shown(frontier_table(result)) if len(row) == 11]
    assert rows == ["tier 1: trial-01", "tier 2: trial-02"]


def test_each_trial_shows_its_verdict(result: FitResult) -> None:
    rows = [row[0] for row in shown(trials_table(result)) if len(row) == 11]
    assert rows == ["dense-int8: fits", "trial-01: fits", "trial-02: fits"]


def test_a_latency_without_a_bound_shows_a_dash(result: FitResult) -> None:
    latency = replace(result.chosen.measurement.latency, bound_ms=None)
    chosen = replace(result.chosen, measurement=replace(result.chosen.measurement, latency=latency))
    rows = {row[0]: row for row in shown(table(replace(result, chosen=chosen))) if len(row) == 11}
    assert rows["chosen: trial-01"][5] == "-"
    assert rows["dense"][5] == "8.400"


def test_what_fits_says_what_was_gained_and_where_the_bundle_is(result: FitResult) -> None:
    lines = verdict_lines(replace(result, bundle="runs/tiny.edgeprune.zip"))
    assert lines[0] == "fits: trial-01 is proven inside its budget on this device."
    assert lines[1].strip() == "3.00x the speed of the dense model at p90, 100% of its size, top-1 +0.0000"
    assert lines[-1] == "bundle: runs/tiny.edgeprune.zip"


def test_what_misses_says_which_line_broke_and_by_how_much(result: FitResult) -> None:
    breaches = (
        Breach("latency_ms", 6.0, 5.0),
        Breach("memory_mib", 150.0, 100.0),
        Breach("size_mib", 2.0, 1.5),
        Breach("metric", 0.93, 0.955),
    )
    lines = verdict_lines(replace(result, verdict=Verdict("misses", breaches)))
    assert lines[:5] == [
        "misses: nothing fits. Closest is trial-01, not trained:",
        "  p90 latency is 6 ms, 1 ms (20.0%) over the budget of 5 ms",
        "  peak memory is 150 MiB, 50 MiB (50.0%) over the budget of 100 MiB",
        "  file size is 2 MiB, 0.5 MiB (33.3%) over the budget of 1.5 MiB",
        "  top-1 is 0.9300, 0.0250 below the floor of 0.9550 (dense 0.9650, max_drop 0.01)",
    ]


def test_an_error_is_shown_in_its_own_sign(result: FitResult) -> None:
    """What rises is a drop: the ceiling that broke, and the change as people read it."""
    chosen = replace(result.chosen, metric=0.07, drop=Drop(0.02, -0.01, 0.05, 297, 0.95))
    baseline = replace(result.baseline, metric=0.05)
    error = replace(result, metric="MSE", lower_is_better=True, baseline=baseline, chosen=chosen)
    fits = verdict_lines(error)
    assert fits[1].endswith("MSE +0.0200")
    assert "MSE changed by -0.0100 to +0.0500" in fits[2]
    breach = Breach("metric", 0.07, 0.06)
    missed = replace(error, verdict=Verdict("misses", (breach,)))
    assert "  MSE is 0.0700, 0.0100 above the ceiling of 0.0600 (dense 0.0500, max_drop 0.01)" in (
        verdict_lines(missed)
    )
    told: Any = document(missed)
    assert told["lower_is_better"] is True
    assert told["chosen"]["metric"] == 0.07
    assert told["breaches"][0] == {"line": "metric", "value": 0.07, "limit": 0.06, "excess": breach.excess}


def test_a_small_error_is_shown_with_the_digits_that_count(result: FitResult) -> None:
    """An MSE of 3e-5 is not 0.0000, and its share of 2% neither."""
    small = replace(
        result,
        metric="MSE",
        lower_is_better=True,
        baseline=replace(result.baseline, metric=3.25e-5),
        chosen=replace(result.chosen, metric=4.5e-5),
        budget=replace(result.budget, max_drop=6.5e-7, max_drop_percent=2.0),
    )
    verdict = Verdict("misses", (Breach("metric", 4.5e-5, 3.315e-5),))
    assert verdict_lines(small)[1].endswith("MSE +1.25e-05")
    (broken,) = [line for line in verdict_lines(replace(small, verdict=verdict)) if "ceiling" in line]
    assert broken.endswith("of 3.315e-05 (dense 3.25e-05, max_drop 2%, 6.5e-07)")
    assert {row[0]: row[1] for row in shown(table(small)) if len(row) == 11}["dense"] == "3.25e-05"
    assert document(small)["budget"]["max_drop_percent"] == 2.0


def test_layers_that_went_back_to_float_are_named_with_the_reason(result: FitResult) -> None:
    candidate = replace(result.chosen.candidate, float_layers=("stem", "head"), slow_layers=("depthwise",))
    changed = replace(result, chosen=replace(result.chosen, candidate=candidate))
    lines = verdict_lines(changed)
    assert "  given back to float, where INT8 harmed top-1 most for its work: stem, head" in lines
    assert "  left in float, where this device is no quicker in INT8: depthwise" in lines
    assert document(changed)["chosen"]["float_layers"] == ["stem", "head"]
    assert document(changed)["chosen"]["given_back"] == [
        {"layer": "stem", "reason": "metric"},
        {"layer": "head", "reason": "metric"},
        {"layer": "depthwise", "reason": "slower"},
    ]


def test_how_sure_a_drop_is_is_said_and_written(result: FitResult) -> None:
    assert not any("sample by sample" in line for line in verdict_lines(result))
    assert "drop" not in document(result)["chosen"]
    drop = Drop(0.01, -0.002, 0.025, samples=297, confidence=0.95, p=0.25)
    compared = replace(result, chosen=replace(result.chosen, drop=drop))
    assert (
        "  compared sample by sample (297), top-1 changed by -0.0250 to +0.0020 with 95% confidence"
        in verdict_lines(compared)
    )
    assert document(compared)["chosen"]["drop"] == {
        "value": 0.01,
        "low": -0.002,
        "high": 0.025,
        "samples": 297,
        "confidence": 0.95,
        "p": 0.25,
    }


@pytest.mark.parametrize("kind", ["predicted", "inconclusive"])
def test_every_verdict_has_a_sentence(result: FitResult, kind: Any) -> None:
    assert verdict_lines(replace(result, verdict=Verdict(kind)))[0].startswith(f"{kind}: ")


def test_the_json_document_keeps_its_contract(result: FitResult) -> None:
    found = json.loads(json.dumps(document(replace(result, bundle="b.zip")), allow_nan=False))
    contract = {
        "verdict",
        "budget",
        "baseline",
        "chosen",
        "frontier",
        "trials",
        "seconds",
        "bundle",
        "profile",
    }
    assert contract | {"runtime"} <= set(found)
    assert found["schema"] == DOCUMENT_SCHEMA
    assert found["verdict"] == "fits"
    assert found["budget"]["latency_ms"] == 1000.0
    measured = {"metric", "latency_ms", "memory_mib", "memory_added_mib", "size_mib", "params", "macs"}
    assert measured <= set(found["baseline"])
    assert measured | {"precision", "calibrator", "kept", "recover"} <= set(found["chosen"])
    assert set(found["chosen"]["latency_ms"]) == {"p50", "p90", "p99", "bound", "runs"}
    assert found["chosen"]["precision"] == {"int8": 2, "float": 0}
    assert found["chosen"]["calibrator"] == "minmax"
    assert found["chosen"]["kept"] == {"conv1": 3}
    assert found["chosen"]["recover"] == [
        {"rung": "reconstruct", "before": 0.93, "after": 0.965, "kept": True}
    ]
    assert [trial["name"] for trial in found["trials"]] == ["dense-int8", "trial-01", "trial-02"]
    assert len(found["frontier"]) == 2


def test_a_budget_that_nothing_meets_is_told_with_one_that_would_be_met(result: FitResult) -> None:
    budget = replace(result.budget, latency_ms=1.0)
    missed = replace(result, budget=budget, verdict=Verdict("misses", (Breach("latency_ms", 2.1, 1.0),)))
    (line,) = [line for line in verdict_lines(missed) if "would fit" in line]
    assert "trial-02, would fit a budget of latency 2.165 ms" in line
    found = document(missed)["feasible"]
    assert isinstance(found, dict)
    assert found["name"] == "trial-02"
    assert document(result)["feasible"] is None

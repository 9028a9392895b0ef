"""A miss says what came nearest to each line, whether it was trained, and what more training may do."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from edgeprune.records.codec import to_json
from edgeprune.records.trial import Breach, DraftReport, FitResult, Report, Training, Verdict
from edgeprune.report import document, verdict_lines
from edgeprune.report.missed import is_trained

METRIC = Verdict("misses", (Breach("metric", 0.93, 0.955),))
LATENCY = Verdict("misses", (Breach("latency_ms", 6.0, 5.0),))


@pytest.fixture
def missed(make_run: Callable[..., Any]) -> FitResult:
    """trial-01 is closest; dense is more accurate, trial-02 quicker."""
    found: FitResult = make_run().result
    baseline = replace(found.baseline, metric=0.97)
    return replace(found, baseline=baseline, verdict=METRIC, chosen=replace(found.chosen, verdict=METRIC))


def trained(report: Report, rung: str = "finetune", falling: bool = True, steps: int = 24) -> Report:
    training = (Training(rung, 3, steps, falling),)
    return replace(report, recovered=((rung, 1.0, 0.5, True),), training=training)


def test_the_best_of_each_line_is_named_with_its_figure(missed: FitResult) -> None:
    (line,) = [line for line in verdict_lines(missed) if "best of each line" in line]
    assert (
        "latency 2.1 ms (trial-02, not trained)" in line or "latency 2.8 ms (trial-02, not trained)" in line
    )
    assert line.endswith("top-1 0.9700 (dense)")
    best: Any = document(missed)["best_of_lines"]
    assert [one["line"] for one in best] == ["latency_ms", "memory_mib", "size_mib", "metric"]
    assert (best[-1]["name"], best[-1]["value"], best[-1]["limit"]) == ("dense", 0.97, pytest.approx(0.96))
    assert [one["trained"] for one in best] == [False] * 4


def test_of_an_error_the_lowest_is_the_best(missed: FitResult) -> None:
    error = replace(missed, lower_is_better=True, metric="MSE")
    best: Any = document(error)["best_of_lines"]
    assert (best[-1]["name"], best[-1]["limit"]) == ("trial-02", pytest.approx(0.98))


def test_what_fits_has_no_best_of_lines(missed: FitResult) -> None:
    fits = replace(missed, verdict=Verdict("fits"))
    assert document(fits)["best_of_lines"] == []
    assert not any("best of each line" in line for line in verdict_lines(fits))


def test_a_candidate_that_was_not_trained_is_told_so_with_what_to_try(missed: FitResult) -> None:
    lines = verdict_lines(missed)
    assert lines[0].endswith("Closest is trial-01, not trained:")
    assert "  it was not trained: try --recover distill or finetune, --epochs 3 or more" in lines
    assert not any("it was not trained" in line for line in verdict_lines(replace(missed, verdict=LATENCY)))


def test_a_candidate_that_breaks_other_lines_too_was_not_worth_training(missed: FitResult) -> None:
    both = replace(missed, verdict=Verdict("misses", (*LATENCY.breaches, *METRIC.breaches)))
    told = [line for line in verdict_lines(both) if "it was not trained" in line]
    assert told == ["  it was not trained: that comes once a candidate holds all lines but the metric's"]


@pytest.mark.parametrize(
    ("falling", "sentence"),
    [
        (
            True,
            "trained (finetune) for 3 epochs, 24 steps, and its error was still falling: try --epochs 12",
        ),
        (False, "and its error fell no more: more --epochs promise little"),
    ],
)
def test_a_missed_metric_says_how_long_was_trained_and_whether_that_had_ended(
    missed: FitResult, falling: bool, sentence: str
) -> None:
    chosen = trained(missed.chosen, falling=falling)
    found = replace(missed, chosen=chosen)
    lines = verdict_lines(found)
    assert lines[0].endswith("Closest is trial-01:")
    assert any(sentence in line for line in lines)
    told: Any = document(found)
    assert told["chosen"]["trained"] is True
    assert told["chosen"]["training"] == [to_json(Training("finetune", 3, 24, falling))]


def test_a_single_epoch_and_step_are_counted_in_words(missed: FitResult) -> None:
    once = replace(missed.chosen, training=(Training("distill", 1, 1, True),))
    assert any("for 1 epoch, 1 step, and" in line for line in verdict_lines(replace(missed, chosen=once)))


def test_a_whole_model_is_neither_trained_nor_called_untrained(missed: FitResult) -> None:
    chosen = replace(missed.chosen, candidate=replace(missed.chosen.candidate, kept=()))
    assert "not trained" not in verdict_lines(replace(missed, chosen=chosen))[0]


def test_a_result_of_an_earlier_version_knows_its_training_by_the_rungs(missed: FitResult) -> None:
    """It has no record of it."""
    assert not is_trained(missed.chosen)
    assert is_trained(replace(missed.chosen, recovered=(("distill", 1.0, 0.5, False),)))
    assert is_trained(replace(missed.chosen, candidate=replace(missed.chosen.candidate, qat=True)))


def drafted(missed: FitResult, p90_ms: float) -> FitResult:
    """With a draft that takes so long; trial-02 takes 2.1 ms at its bound, and 2 are allowed."""
    quick = next(report for report in missed.trials if report.name == "trial-02")
    latency = replace(quick.measurement.latency, p90_ms=p90_ms, bound_ms=p90_ms)
    draft = DraftReport("draft-07", replace(quick.measurement, latency=latency))
    budget = replace(missed.budget, latency_ms=2.0)
    return replace(missed, verdict=LATENCY, budget=budget, chosen=quick, drafts=(draft,))


def test_a_draft_that_is_within_the_budget_is_told_beside_the_closest_candidate(missed: FitResult) -> None:
    told = verdict_lines(drafted(missed, 1.5))
    (line,) = [line for line in told if "it was not built" in line]
    assert line.startswith("  draft-07, by its shapes alone, comes nearer: latency 1.5 of 2 ms, ")
    assert line.endswith("so nobody knows its top-1")
    assert any("latency 1.5 ms (draft-07, by its shapes alone)" in line for line in told)
    assert not any("the smallest candidate" in line for line in told), "no wider budget is called for"
    found: Any = document(drafted(missed, 1.5))
    assert (found["best_of_lines"][0]["name"], found["best_of_lines"][0]["draft"]) == ("draft-07", True)
    assert [draft["name"] for draft in found["drafts"]] == ["draft-07"]
    assert "metric" not in found["drafts"][0]


def test_the_smallest_is_the_smallest_of_all_that_was_measured(missed: FitResult) -> None:
    (line,) = [line for line in verdict_lines(drafted(missed, 2.05)) if "the smallest candidate" in line]
    assert "the smallest candidate, draft-07, by its shapes alone, would fit a budget of latency" in line
    (line,) = [line for line in verdict_lines(drafted(missed, 3.0)) if "the smallest candidate" in line]
    assert "the smallest candidate, trial-02, would fit" in line
    assert not any("it was not built" in line for line in verdict_lines(drafted(missed, 3.0)))

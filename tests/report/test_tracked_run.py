"""A finished fit as a tracker's entry: what was asked, measured and answered, in names that MLflow takes."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from edgeprune.records.trial import FitResult
from edgeprune.records.whole_query import PartTimes, WholeQueries
from edgeprune.report import verdict_lines
from edgeprune.report.tracked_run import TrackedRun, tracked_run
from edgeprune.results import RESULT
from tests.support import html_runs

Make = Callable[..., Any]
ACCEPTED = re.compile(r"[\w.\- ]{1,250}")  # no slash, which makes folders


@pytest.fixture
def entry(make_run: Make) -> Callable[[Callable[[FitResult], FitResult]], tuple[FitResult, TrackedRun]]:
    """Result of a kind of run, and the entry about it."""
    made = make_run()

    def of(kind: Callable[[FitResult], FitResult]) -> tuple[FitResult, TrackedRun]:
        result = kind(made.result)
        return result, tracked_run(result, made.folder)

    return of


Entry = Callable[..., tuple[FitResult, TrackedRun]]


@pytest.mark.parametrize("kind", html_runs.KINDS, ids=lambda kind: kind.__name__)
def test_every_kind_of_run_has_names_that_are_accepted_and_finite_numbers(
    kind: Callable[[FitResult], FitResult], entry: Entry
) -> None:
    result, found = entry(kind)
    names = [*found.params, *found.metrics, *found.tags]
    assert [name for name in names if not ACCEPTED.fullmatch(name)] == []
    assert all(math.isfinite(value) for value in found.metrics.values())
    assert all(found.tags.values())
    assert len(found.params) <= 100
    assert len(found.tags) < 100  # MLflow takes no more at once; one is the description
    assert found.tags["edgeprune.verdict"].startswith(result.verdict.kind)
    assert found.description.startswith(verdict_lines(result)[0])


def test_what_was_asked_stands_beside_what_was_measured(entry: Entry) -> None:
    result, found = entry(html_runs.whole)
    assert found.params["budget.latency_ms"] == "2.5"
    assert found.params["budget.latency_ms.source"] == "flag"
    assert found.params["budget.percentile"] == "90"
    assert "budget.speedup" not in found.params
    assert found.params["command"] == "edgeprune fit task.py --target arm"
    assert found.params["seed"] == "7"
    latency, dense = result.chosen.measurement.latency, result.baseline.measurement.latency
    assert found.metrics["latency_p50_ms"] == latency.p50_ms
    assert found.metrics["latency_p90_bound_ms"] == latency.bound_ms
    assert found.metrics["dense.latency_p90_bound_ms"] == dense.bound_ms
    assert found.metrics["metric.top-1"] == 0.965
    assert found.metrics["dense.metric.top-1"] == 0.97
    assert found.metrics["memory_mib"] == result.chosen.measurement.memory_mib
    assert found.metrics["drop_high"] == 0.012
    assert found.tags["edgeprune.runtime"] == "onnxruntime 1.32.0"
    assert found.tags["edgeprune.version.torch"] == "2.13.0"
    assert found.tags["edgeprune.device"] == "ssh://pi@board"
    assert (found.name, found.ended_ms) == ("tiny", 1796040000000 + 61500)


def test_whole_queries_stand_beside_the_models_own(entry: Entry) -> None:
    parts = PartTimes(3.0, 4.0)
    queries = WholeQueries("final-01", None, parts, None, PartTimes(5.0, 6.0), 90, 6.5, 2.0, 700)

    def served(result: FitResult) -> FitResult:
        found = html_runs.whole(result)
        return replace(found, whole=(queries,), budget=replace(found.budget, whole_ms=8.0))

    _, found = entry(served)
    told = {name: value for name, value in found.metrics.items() if "whole" in name}
    assert told == {"whole_p50_ms": 5.0, "whole_p90_ms": 6.0, "whole_p90_bound_ms": 6.5}
    assert found.params["budget.whole_ms"] == "8"


def test_a_prediction_has_no_distribution(entry: Entry) -> None:
    _, found = entry(html_runs.predicted)
    assert found.metrics["latency_p50_ms"] == 2.0
    assert not [name for name in found.metrics if "p90" in name or "p99" in name or "max" in name]
    assert found.tags["edgeprune.measured"] == "predicted"


def test_each_of_several_budgets_has_its_figures_and_its_verdict(entry: Entry) -> None:
    result, found = entry(html_runs.tiers)
    bounds = [found.metrics[f"tier {number}.latency_p90_bound_ms"] for number in (1, 2, 3)]
    assert bounds == [tier.chosen.measurement.latency.bound_ms for tier in result.tiers]
    assert found.tags["edgeprune.tier 2"] == "2.5 ms: fits, final-01"
    assert found.tags["edgeprune.tier 3"] == "1.2 ms: misses (latency_ms), trial-02"


def test_a_metrics_own_name_is_spelt_as_it_may_be(entry: Entry) -> None:
    _, found = entry(lambda result: replace(result, metric="F1/macro (%)"))
    assert found.metrics["metric.F1_macro ___"] == 0.965
    assert found.params["metric"] == "F1/macro (%)"


def test_files_that_lie_in_the_folder_are_taken_wherever_the_run_was_made(make_run: Make) -> None:
    made = make_run()
    bundle = made.bundle()
    (made.folder / "report.html").write_text("<p>")
    elsewhere = replace(made.result, bundle=f"/somewhere/else/{bundle.name}")
    assert tracked_run(elsewhere, made.folder).files == (
        made.folder / RESULT,
        made.folder / "report.html",
        bundle,
    )
    (made.folder / "report.html").unlink()
    assert tracked_run(made.result, made.folder).files == (made.folder / RESULT,)


def test_of_an_earlier_version_neither_its_time_nor_its_device_is_known(entry: Entry) -> None:
    _, found = entry(html_runs.earlier)
    assert (found.began_ms, found.ended_ms) == (None, None)
    assert "command" not in found.params
    assert "edgeprune.device" not in found.tags

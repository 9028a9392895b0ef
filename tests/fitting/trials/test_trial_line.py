"""A finished trial is one line: what is kept, the metric, what is measured of each limit, the seconds."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from edgeprune.fitting.trials.trial_line import trial_line
from edgeprune.records.machine import Budget
from edgeprune.records.trial import Report, Verdict

BUDGET = Budget(latency_ms=20.0)


@pytest.fixture
def report(make_run: Callable[..., Any]) -> Report:
    chosen: Report = make_run().result.chosen
    return replace(chosen, macs=310, layers_int8=3, layers_float=1, metric=0.75, verdict=Verdict("fits"))


def line(report: Report, budget: Budget = BUDGET, *, proven: bool = False, dense_macs: int = 500) -> str:
    return trial_line(report, dense_macs, budget, "top-1", proven, 41.4)


def test_a_trial_of_a_search_promises_nothing(report: Report) -> None:
    bound = report.measurement.latency.bound_ms
    assert line(report) == (
        "finished, 62.0% of the work, 3 of 4 layers in integers, top-1 0.75, "
        f"bound of p90 {bound:.4g} of 20 ms, 41 s"
    )


def test_a_proof_has_its_verdict(report: Report) -> None:
    assert line(report, proven=True).startswith("proof says fits, 62.0% of the work, ")


def test_every_limit_is_told_and_without_one_the_median(report: Report) -> None:
    room = Budget(latency_ms=20.0, memory_mib=200.0, size_mib=3.0)
    measured = report.measurement
    files = f"{measured.size_mib:.4g} of 3 MiB of files"
    assert f" of 20 ms, {measured.memory_mib:.4g} of 200 MiB of memory, {files}, 41 s" in line(report, room)
    assert f", p50 {measured.latency.p50_ms:.4g} ms, 41 s" in line(report, Budget())


def test_without_a_bound_the_slowest_run_is_told(report: Report) -> None:
    measured = report.measurement
    latency = replace(measured.latency, bound_ms=None)
    told = line(replace(report, measurement=replace(measured, latency=latency)))
    assert f", slowest run {latency.max_ms:.4g} of 20 ms, 41 s" in told


def test_a_prediction_is_called_one_and_never_a_proof(report: Report) -> None:
    measured = replace(report.measurement, assumptions=("a roofline",))
    told = line(replace(report, measurement=measured), proven=True)
    assert told.startswith("finished, ")
    assert " of 20 ms, predicted, 41 s" in told


def test_a_model_without_products_has_no_work(report: Report) -> None:
    assert line(report, dense_macs=0).startswith("finished, no work, ")

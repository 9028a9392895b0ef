"""A budget above, within and below the error bar of a prediction."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from edgeprune.records.machine import Budget
from edgeprune.records.trial import ErrorBar, Measurement
from edgeprune.search.error_bar import open_lines


@pytest.fixture
def predicted(make_run: Callable[..., Any]) -> Measurement:
    """2 ms and 10 MiB."""
    measured: Measurement = make_run().result.chosen.measurement
    return replace(measured, assumptions=("a roofline",), error_bar=ErrorBar((1.25, 4.0), (8.0, 16.0)))


@pytest.mark.parametrize(
    ("budget", "lines"),
    [
        pytest.param(Budget(latency_ms=4.0, memory_mib=16.0), [], id="at the upper ends"),
        pytest.param(Budget(latency_ms=3.9, memory_mib=20.0), ["latency_ms"], id="latency may miss"),
        pytest.param(
            Budget(latency_ms=1.25, memory_mib=9.0), ["latency_ms", "memory_mib"], id="both may fit"
        ),
        pytest.param(Budget(latency_ms=1.2, memory_mib=7.9), [], id="below both"),
        pytest.param(Budget(), [], id="no limit"),
    ],
)
def test_lines_whose_limit_lies_within_the_bar_are_open(
    predicted: Measurement, budget: Budget, lines: list[str]
) -> None:
    assert list(open_lines(predicted, budget)) == lines


def test_an_open_line_tells_its_ends_and_its_limit(predicted: Measurement) -> None:
    assert open_lines(predicted, Budget(latency_ms=2.0)) == {"latency_ms": ((1.25, 4.0), 2.0)}


def test_what_was_measured_has_no_error_bar(predicted: Measurement) -> None:
    measured = replace(predicted, assumptions=(), error_bar=None)
    assert open_lines(measured, Budget(latency_ms=2.0)) == {}

"""Domain of the values of stored records: what their types allow and no run can have measured.

Every problem is a phrase that begins with the path of the value, "budget.percentile is 100, expected ...".
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from edgeprune.records.machine import Budget
from edgeprune.records.trial import CascadeResult, FitResult, Measurement
from edgeprune.records.whole_query import WholeQueries

MOST_FIGURE = 1e12  # of anything in ms or MiB
LEAST_FIGURE = 1e-12  # of what others are divided by
MOST_RUNS = 1 << 62
_SHA256 = re.compile(r"[0-9a-f]{64}")


def budget_problems(where: str, budget: Budget) -> Iterator[str]:
    """Phrases about lines of a budget that nobody can have asked for."""
    yield from whole(f"{where}.percentile", budget.percentile, 1, 99)
    for name in ("latency_ms", "speedup", "memory_mib", "size_mib", "whole_ms"):
        yield from positive(f"{where}.{name}", getattr(budget, name))
    yield from _figure(f"{where}.max_drop", budget.max_drop)
    yield from _figure(f"{where}.max_drop_percent", budget.max_drop_percent)


def measurement_problems(where: str, measured: Measurement) -> Iterator[str]:
    """Phrases about figures of a measurement that no device has."""
    latency = measured.latency
    yield from whole(f"{where}.latency.percentile", latency.percentile, 1, 99)
    yield from whole(f"{where}.latency.runs", latency.runs, 0, MOST_RUNS)
    for name in ("p50_ms", "p90_ms", "p99_ms", "max_ms", "bound_ms", "percentile_ms"):
        yield from positive(f"{where}.latency.{name}", getattr(latency, name))
    yield from _figure(f"{where}.latency.seconds", latency.seconds)
    yield from positive(f"{where}.size_mib", measured.size_mib)
    yield from _figure(f"{where}.added_mib", measured.added_mib)
    yield from _figure(f"{where}.process_mib", measured.process_mib)
    yield from _figure(f"{where}.reference_ms", measured.reference_ms)
    if measured.error_bar is not None:
        for name in ("latency_ms", "memory_mib"):
            for end in getattr(measured.error_bar, name):
                yield from _figure(f"{where}.error_bar.{name}", end)
    yield from positive(f"{where}.dense_percentile_ms", measured.dense_percentile_ms)
    yield from positive(f"{where}.dense_low_ms", measured.dense_low_ms)
    yield from hash_problems(f"{where}.artefact_sha256", measured.artefact_sha256)
    if measured.whole is not None:
        yield from _whole_query_problems(f"{where}.whole", measured.whole)


def result_problems(result: FitResult) -> Iterator[str]:
    """Phrases about values of a fit's result that no fit can have."""
    yield from budget_problems("budget", result.budget)
    reports = [
        ("baseline", result.baseline),
        ("chosen", result.chosen),
        *((f"frontier[{at}]", report) for at, report in enumerate(result.frontier)),
        *((f"trials[{at}]", report) for at, report in enumerate(result.trials)),
    ]
    for at, tier in enumerate(result.tiers):
        yield from budget_problems(f"tiers[{at}].budget", tier.budget)
        reports += [(f"tiers[{at}].baseline", tier.baseline), (f"tiers[{at}].chosen", tier.chosen)]
    for where, report in reports:
        yield from measurement_problems(f"{where}.measurement", report.measurement)
    for at, queries in enumerate(result.whole):
        yield from _whole_query_problems(f"whole[{at}]", queries)
    if result.cascade is not None:
        yield from _cascade_problems(result.cascade)


def whole(where: str, value: int, least: int, most: int) -> Iterator[str]:
    """Phrase about a whole number that is not from `least` to `most`."""
    if not least <= value <= most:
        yield f"{where} is {_shown(value)}, expected a whole number, {least} to {most}"


def hash_problems(where: str, value: str) -> Iterator[str]:
    """Phrase about a text that is no SHA-256."""
    if not _SHA256.fullmatch(value):
        yield f"{where} is not 64 hexadecimal digits"


def _whole_query_problems(where: str, queries: WholeQueries) -> Iterator[str]:
    yield from whole(f"{where}.percentile", queries.percentile, 1, 99)
    yield from whole(f"{where}.runs", queries.runs, 1, MOST_RUNS)
    yield from positive(f"{where}.bound_ms", queries.bound_ms)
    yield from _figure(f"{where}.beside_ms", queries.beside_ms)
    for part in ("before", "model", "after", "whole"):
        times = getattr(queries, part)
        for name in () if times is None else ("p50_ms", "p90_ms"):
            yield from _figure(f"{where}.{part}.{name}", getattr(times, name))


def _cascade_problems(cascade: CascadeResult) -> Iterator[str]:
    tiers = len(cascade.tiers)
    if not tiers or (len(cascade.thresholds), len(cascade.shares)) != (tiers - 1, tiers):
        yield f"cascade has {tiers} tiers, {len(cascade.thresholds)} thresholds, {len(cascade.shares)} shares"
    yield from positive("cascade.cost_alone_ms", cascade.cost_alone_ms)
    yield from _figure("cascade.cost_ms", cascade.cost_ms)


def positive(where: str, value: float | None) -> Iterator[str]:
    if value is not None and not LEAST_FIGURE <= value <= MOST_FIGURE:
        yield f"{where} is {_shown(value)}, expected more than 0: {LEAST_FIGURE:g} to {MOST_FIGURE:g}"


def _figure(where: str, value: float | None) -> Iterator[str]:
    if value is not None and not 0 <= value <= MOST_FIGURE:
        yield f"{where} is {_shown(value)}, expected 0 to {MOST_FIGURE:g}"


def _shown(value: float) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)

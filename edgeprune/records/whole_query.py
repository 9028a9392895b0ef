"""Whole queries: what comes before the model, the model, and what comes after it, timed together."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class PartTimes:
    """Latency of one part of whole queries, or of their sum: two percentiles, in ms."""

    p50_ms: float
    p90_ms: float


@dataclass(frozen=True)
class WholeQueries:
    """Latency of a trial's whole queries, its parts timed one after the other on the host.

    before, after: of `Task.before` and `Task.after`, the user's Python; None where the task has none.
    model: of the artefact, asked for one query between the two, so that it may find colder caches than a
        measurement's queries, which follow each other.
    whole: of the sums, query by query; no percentile of a part adds up to it.
    bound_ms: upper confidence bound of `percentile` of the sums, in their slowest third when they did not
        keep their speed; None when the runs are too few for one.
    beside_ms: bound of `percentile` of before and after together.
    conclusive: whether `bound_ms` may be held against a budget (`search.judge.session_bound`).
    code: identity of the user's two functions.
    """

    name: str  # of the trial
    before: PartTimes | None
    model: PartTimes
    after: PartTimes | None
    whole: PartTimes
    percentile: int
    bound_ms: float | None
    beside_ms: float
    runs: int
    conclusive: bool = True
    code: str = ""

"""The frontier holds whoever is not beaten on everything at once."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from edgeprune.records.direction import Direction
from edgeprune.records.trial import Candidate, DeviceState, Latency, Measurement, Report, Verdict
from edgeprune.search.frontier import frontier


def report(
    name: str,
    metric: float,
    latency_ms: float,
    memory_mib: float = 20,
    size_mib: float = 2,
    bound: bool = True,
) -> Report:
    """A report with these four numbers; without `bound` the runs were too few for one."""
    return Report(
        name=name,
        candidate=Candidate((), "float32"),
        metric=metric,
        measurement=Measurement(
            latency=Latency(
                p50_ms=0.0,
                p90_ms=0.0,
                p99_ms=0.0,
                max_ms=100.0 if bound else latency_ms,
                percentile=90,
                bound_ms=latency_ms if bound else None,
                runs=64 if bound else 10,
                seconds=1.0,
            ),
            added_mib=memory_mib,
            process_mib=memory_mib,
            size_mib=size_mib,
            artefact_sha256="0" * 64,
            runtime="onnxruntime 1.0",
            threads=1,
            batch=1,
            drift=None,
            conclusive=True,
            state=DeviceState((), (), (), ()),
        ),
        params=0,
        macs=0,
        kept=(),
        layers_int8=0,
        layers_float=0,
        recovered=(),
        artefact="",
        verdict=Verdict("fits"),
    )


def names(reports: tuple[Report, ...]) -> list[str]:
    return [one.name for one in reports]


def test_a_report_that_is_worse_in_everything_is_left_out() -> None:
    reports = [report("dense", 0.90, 10), report("pruned", 0.89, 5), report("worse", 0.88, 6)]
    assert names(frontier(reports)) == ["pruned", "dense"]


def test_an_error_is_better_when_it_is_lower() -> None:
    reports = [report("dense", 0.10, 10), report("pruned", 0.11, 5), report("worse", 0.12, 6)]
    assert names(frontier(reports, Direction(lower_is_better=True))) == ["pruned", "dense"]


def test_being_better_in_one_thing_is_enough_to_stay() -> None:
    reports = [
        report("fast", 0.8, 1, 30, 3),
        report("accurate", 0.9, 2, 30, 3),
        report("lean", 0.8, 2, 20, 3),
        report("small", 0.8, 2, 30, 2),
        report("none of it", 0.8, 2, 30, 3),
    ]
    assert set(names(frontier(reports))) == {"fast", "accurate", "lean", "small"}


def test_equals_stay_together() -> None:
    assert names(frontier([report("one", 0.9, 1), report("other", 0.9, 1)])) == ["one", "other"]


def test_without_a_bound_the_slowest_run_counts() -> None:
    bounded, unbounded = report("bounded", 0.9, 3), report("unbounded", 0.9, 2, bound=False)
    assert names(frontier([bounded, unbounded])) == ["unbounded"]


def test_a_bound_of_zero_is_a_bound() -> None:
    assert names(frontier([report("zero", 0.9, 0.0), report("one", 0.9, 1)])) == ["zero"]


def test_no_reports_have_no_frontier() -> None:
    assert frontier([]) == ()


LEVELS = st.integers(1, 4).map(float)


@settings(deadline=None)
@given(st.lists(st.tuples(LEVELS, LEVELS, LEVELS, LEVELS), min_size=1, max_size=12))
def test_the_frontier_is_what_nobody_beats_fastest_first(rows: list[tuple[float, ...]]) -> None:
    reports = [report(str(place), *row) for place, row in enumerate(rows)]
    found = frontier(reports)
    costs = {one.name: (-row[0], *row[1:]) for one, row in zip(reports, rows, strict=True)}

    def beats(one: str, other: str) -> bool:
        pairs = list(zip(costs[one], costs[other], strict=True))
        return all(a <= b for a, b in pairs) and any(a < b for a, b in pairs)

    on, off = set(names(found)), set(costs) - set(names(found))
    assert all(any(beats(one, name) for one in on) for name in off)
    assert not any(beats(one, name) for one in costs for name in on)
    latencies = [costs[name][1] for name in names(found)]
    assert latencies == sorted(latencies)

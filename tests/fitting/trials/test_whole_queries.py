"""Whole queries are timed part by part, and a budget of them is held by their own bound."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

import edgeprune
from edgeprune.bundle import open_bundle
from edgeprune.errors import InputError
from edgeprune.fitting.trials.whole_queries import proof_effort, time_whole
from edgeprune.measure import PROOF, Effort
from edgeprune.records.cpu_time import TimedBlock
from edgeprune.records.trial import LEAST_LEFT, FitResult, left_ms, limited_lines
from edgeprune.records.whole_query import WholeQueries
from edgeprune.report import document
from edgeprune.search.judge import early_stopping_rank, unsettled

BEFORE_MS, MODEL_MS, AFTER_MS = 3.0, 5.0, 2.0


class Parts:
    """Parts of so many milliseconds, query by query."""

    def __init__(self, before: Callable[[int], float], task: edgeprune.Task, queries: int = 1) -> None:
        self.before, self.task, self.queries = before, task, range(queries)
        self.asked: list[int] = []

    def ahead(self, number: int) -> tuple[dict[str, NDArray[Any]], float]:
        self.asked.append(number)
        return {"x": np.zeros(1, np.float32)}, self.before(len(self.asked))

    def behind(self, outputs: Any) -> float:
        return AFTER_MS


class Asked:
    """A session of one model, which takes MODEL_MS and waits for a share of it."""

    input_names = ("x",)

    def __init__(self, block: Callable[..., TimedBlock], waited: float = 0.0) -> None:
        self._block, self._waited = block, waited

    def warm_up(self, feeds: Any, min_seconds: float) -> int:
        return 1

    def predict(self, feeds: Any) -> list[NDArray[Any]]:
        return [np.zeros(1, np.float32)]

    def time(self, feeds: Any, *, runs: int, seconds: float) -> TimedBlock:
        assert (runs, seconds) == (1, 0.0)
        return self._block((MODEL_MS,), self._waited)


@pytest.fixture
def timed(scripted: ModuleType, tiny: ModuleType) -> Callable[..., WholeQueries]:
    def run(
        before: Callable[[int], float] = lambda run: BEFORE_MS,
        *,
        whole_ms: float | None = None,
        waited: float = 0.0,
        **parts: Any,
    ) -> WholeQueries:
        task = tiny.task(before=len, after=len, queries=["a query"])
        session: Any = Asked(scripted.timed_block, waited)
        made: Any = Parts(before, task, **parts)
        effort = Effort(runs=600, seconds=0.0)
        return time_whole("dense", session, made, percentile=90, effort=effort, whole_ms=whole_ms)

    return run


def test_parts_and_their_sum_are_of_the_same_queries(timed: Callable[..., WholeQueries]) -> None:
    found = timed()
    assert (found.before.p50_ms, found.model.p50_ms, found.after.p50_ms) == (BEFORE_MS, MODEL_MS, AFTER_MS)
    assert found.whole.p90_ms == found.bound_ms == BEFORE_MS + MODEL_MS + AFTER_MS
    assert found.beside_ms == BEFORE_MS + AFTER_MS
    assert (found.runs, found.conclusive) == (600, True)


def test_percentiles_of_the_sum_are_not_sums_of_percentiles(timed: Callable[..., WholeQueries]) -> None:
    found = timed(lambda run: BEFORE_MS if run % 20 else 30.0)
    assert found.before.p90_ms == BEFORE_MS
    assert found.bound_ms == BEFORE_MS + MODEL_MS + AFTER_MS
    assert timed(lambda run: BEFORE_MS if run % 5 else 30.0).bound_ms == 30.0 + MODEL_MS + AFTER_MS


def test_a_third_that_is_slower_is_the_bound_and_proves_no_miss(timed: Callable[..., WholeQueries]) -> None:
    def slower(run: int) -> float:
        return BEFORE_MS if run <= 400 else 2 * BEFORE_MS

    slow_ms = 2 * BEFORE_MS + MODEL_MS + AFTER_MS
    fits, open_ = timed(slower, whole_ms=slow_ms), timed(slower, whole_ms=slow_ms - 0.5)
    assert (fits.bound_ms, fits.conclusive) == (slow_ms, True)
    assert (open_.bound_ms, open_.conclusive) == (slow_ms, False)


def test_a_session_that_waited_proves_no_miss(timed: Callable[..., WholeQueries]) -> None:
    whole_ms = BEFORE_MS + MODEL_MS + AFTER_MS
    assert timed(whole_ms=whole_ms - 1).conclusive
    assert not timed(whole_ms=whole_ms - 1, waited=0.1).conclusive
    assert timed(whole_ms=whole_ms, waited=0.1).conclusive


def test_queries_take_turns(timed: Callable[..., WholeQueries], tiny: ModuleType) -> None:
    by_turn = timed(lambda run: 1.0 if run % 3 else 9.0, queries=3)
    assert (by_turn.before.p50_ms, by_turn.before.p90_ms) == (1.0, 9.0)


@pytest.mark.parametrize("percentile", [50, 90, 99])
def test_each_third_of_a_proof_has_a_bound(percentile: int) -> None:
    effort = proof_effort(percentile)
    assert effort.runs >= PROOF.runs
    assert early_stopping_rank(effort.runs // 3, percentile, 1 - 0.01 / 3) is not None


# -- in a fit ----------------------------------------------------------------------------------------


class Clock:
    """Seconds that pass only in the task's parts."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def fit(
    scripted: ModuleType, tiny: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., FitResult]:
    clock = Clock()
    monkeypatch.setattr("edgeprune.tasks.query_parts.perf_counter", clock)

    def before(query: bytes) -> NDArray[np.float32]:
        clock.now += 1e-3
        return np.frombuffer(query, np.uint8).reshape(1, 1, 8, 8).astype(np.float32) / 16

    def after(scores: NDArray[np.float32]) -> int:
        clock.now += 0.5e-3
        return int(scores.argmax())

    def slow(query: bytes) -> NDArray[np.float32]:
        clock.now += 2e-3
        return before(query)

    def run(device_name: str = "local", slower: bool = False, **options: Any) -> FitResult:
        task = tiny.quick(
            before=slow if slower else before, after=after, queries=[bytes(64), bytes(range(0, 128, 2))]
        )
        device = scripted.ScriptedDevice(tiny.latency_ms)
        device.name = device_name
        given = {"out": tmp_path / "run", "epochs": 0, "max_drop": 0.5, **options}
        return edgeprune.fit(task, device=device, **given)

    return run


def test_a_fit_shows_the_parts_and_limits_the_model_alone(fit: Callable[..., FitResult]) -> None:
    result = fit(latency_ms=2.0)
    dense, *_ = result.whole
    assert (result.chosen.name, result.verdict.kind) == ("dense", "fits")
    assert dense.whole.p50_ms == pytest.approx(1.5 + dense.model.p50_ms)
    assert dense.whole.p50_ms > 2.0 > dense.model.p50_ms
    assert result.budget.whole_ms is None
    told = document(result)["whole"]
    assert isinstance(told, list)
    assert told[0]["before"]["p50_ms"] == pytest.approx(1.0)  # type: ignore[index, call-overload]


def test_a_budget_of_whole_queries_leaves_the_model_the_rest(fit: Callable[..., FitResult]) -> None:
    result = fit(latency_ms=2.3, whole=True)
    measured = result.chosen.measurement
    assert result.verdict.kind == "fits"
    assert result.chosen.name != "dense"
    assert measured.whole is not None
    assert measured.whole.bound_ms <= 2.3
    assert result.budget.whole_ms == 2.3
    assert result.budget.latency_ms == pytest.approx(0.8)
    assert {each.name for each in result.whole} == {"dense", result.chosen.name}
    assert result.bundle is not None
    with open_bundle(Path(result.bundle)) as bundle:
        assert bundle.manifest.budget == result.budget


def test_parts_that_have_changed_are_timed_again_by_a_resumed_fit(fit: Callable[..., FitResult]) -> None:
    found = [
        fit(latency_ms=2.0, resume=resume, slower=slower).whole[0].before
        for resume, slower in ((False, False), (True, False), (True, True))
    ]
    assert [round(each.p50_ms, 6) for each in found if each is not None] == [1.0, 1.0, 3.0]


def test_what_the_parts_take_whole_is_told_before_a_search(fit: Callable[..., FitResult]) -> None:
    with pytest.raises(InputError, match=r"takes up to 1.5 ms \(p90\), and the budget .* is 1.4 ms"):
        fit(latency_ms=1.4, whole=True)


REFUSED = {
    "a speed-up": ({"speedup": 2.0}, "--whole limits the milliseconds"),
    "no limit": ({"latency_ms": "none", "size_mib": 3.0}, "no latency is limited"),
    "another machine": ({"latency_ms": 2.0, "device_name": "robot"}, "the model is on robot"),
}


@pytest.mark.parametrize(("options", "sentence"), REFUSED.values(), ids=REFUSED.keys())
def test_whole_queries_are_of_this_machine_and_in_milliseconds(
    fit: Callable[..., FitResult], options: dict[str, Any], sentence: str
) -> None:
    with pytest.raises(InputError, match=sentence):
        fit(whole=True, **options)


def test_parts_are_not_added_to_another_machines_model(fit: Callable[..., FitResult]) -> None:
    result = fit("robot", latency_ms=2.0)
    assert result.whole == ()
    assert any("were not timed: the model runs on robot" in remark for remark in result.remarks)


def test_a_task_without_parts_has_no_whole_queries(
    scripted: ModuleType, tiny: ModuleType, tmp_path: Path
) -> None:
    device = scripted.ScriptedDevice(tiny.latency_ms)
    device.name = "local"
    with pytest.raises(InputError, match="the task has neither"):
        edgeprune.fit(tiny.quick(), device=device, out=tmp_path / "run", latency_ms=2.0, whole=True)


# -- in a verdict ------------------------------------------------------------------------------------


def test_the_model_keeps_what_is_left_exactly_where_both_bounds_keep_the_budget(
    make_run: Callable[..., Any], timed: Callable[..., WholeQueries]
) -> None:
    run = make_run().result
    alone_ms = run.chosen.measurement.latency.bound_ms
    for bound_ms in (alone_ms / 2, alone_ms, 3 * alone_ms):
        measured = replace(run.chosen.measurement, whole=replace(timed(), bound_ms=bound_ms))
        for whole_ms in (alone_ms / 2, 1.5 * alone_ms, 4 * alone_ms):
            value, limit = limited_lines(measured, replace(run.budget, whole_ms=whole_ms))["latency_ms"]
            assert (value <= limit) == (max(bound_ms, alone_ms) <= whole_ms)
            assert limit >= LEAST_LEFT * whole_ms
    assert left_ms(None, measured) is None


def test_whole_queries_that_drifted_are_told(
    make_run: Callable[..., Any], timed: Callable[..., WholeQueries]
) -> None:
    measured = make_run().result.chosen.measurement
    whole = replace(timed(), conclusive=False)
    assert unsettled(replace(measured, whole=whole, conclusive=False)).startswith("its whole queries did not")

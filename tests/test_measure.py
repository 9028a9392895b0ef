"""Sessions, blocks in turn, drift and repetition, on a device whose latencies are written down."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from edgeprune.devices import Load, open_device
from edgeprune.errors import DeviceError, InputError
from edgeprune.measure import (
    BLOCK_SECONDS,
    PATIENCE,
    PROOF,
    SEARCH,
    Effort,
    Progress,
    measure,
    prove,
)
from edgeprune.records.machine import Budget
from edgeprune.records.trial import Measurement
from edgeprune.search.judge import PROOF_SESSIONS, judge
from edgeprune.search.waiting import MOST_WAITED, taken

FEEDS = [{"x": np.full((2, 8), at, np.float32)} for at in range(3)]


@pytest.fixture
def load(tmp_path: Path) -> Load:
    (tmp_path / "a.onnx").write_bytes(b"artefact" * 1024)
    return Load("onnxruntime", tmp_path / "a.onnx", threads=2)


@pytest.fixture
def other(tmp_path: Path) -> Load:
    (tmp_path / "dense.onnx").write_bytes(b"reference" * 1024)
    return Load("onnxruntime", tmp_path / "dense.onnx", threads=2)


def timed(device: Any) -> list[tuple[str, int]]:
    return [(file, number) for request, file, number in device.log if request == "time"]


def test_a_search_session_times_at_least_64_runs_of_one_fresh_process(
    scripted: ModuleType, load: Load
) -> None:
    device = scripted.ScriptedDevice(latency_ms=lambda path: 100.0, memory_mib=lambda path: 33.0)
    got = measure(device, load, FEEDS, percentile=90)
    assert got.latency.runs >= SEARCH.runs == 64
    assert got.latency.p90_ms == got.latency.bound_ms == 100.0
    assert got.latency.seconds == pytest.approx(got.latency.runs * 0.1)
    assert (got.memory_mib, got.size_mib) == (33.0, 8 * 1024 / 2**20)
    assert (got.runtime, got.threads, got.batch) == ("onnxruntime scripted", 2, 2)
    assert got.drift is None
    assert got.conclusive
    assert {number for _, number in timed(device)} == {0}
    assert device.open == 0


def test_a_proof_takes_both_the_runs_and_the_seconds(scripted: ModuleType, load: Load) -> None:
    fast = measure(
        scripted.ScriptedDevice(latency_ms=lambda path: 0.5), load, FEEDS, percentile=90, effort=PROOF
    )
    assert fast.latency.seconds >= 10.0
    slow = measure(
        scripted.ScriptedDevice(latency_ms=lambda path: 50.0), load, FEEDS, percentile=99, effort=PROOF
    )
    assert slow.latency.runs >= 662
    assert slow.latency.bound_ms == 50.0


def test_a_proof_interleaves_the_artefact_with_its_reference(
    scripted: ModuleType, load: Load, other: Load
) -> None:
    device = scripted.ScriptedDevice(noise=0.01)
    got = measure(device, load, FEEDS, percentile=90, effort=PROOF, reference=other)
    order = [file for file, _ in timed(device)]
    assert order == ["a.onnx", *(["dense.onnx", "a.onnx"] * (len(order) // 2))]
    assert got.drift is not None
    assert got.conclusive


def test_without_a_reference_a_proof_takes_a_second_process_of_the_same_artefact(
    scripted: ModuleType, load: Load
) -> None:
    device = scripted.ScriptedDevice()
    measure(device, load, FEEDS, percentile=90, effort=PROOF)
    assert {file for file, _ in timed(device)} == {"a.onnx"}
    assert {number for _, number in timed(device)} == {0, 1}


def test_every_process_is_warmed_up_before_anything_is_timed(
    scripted: ModuleType, load: Load, other: Load
) -> None:
    device = scripted.ScriptedDevice()
    measure(device, load, FEEDS, percentile=90, effort=PROOF, reference=other)
    requests = [request for request, _, _ in device.log]
    assert requests.count("warm_up") == 2
    assert "warm_up" not in requests[requests.index("time") :]


def test_memory_is_read_of_the_artefact_and_after_its_runs(
    scripted: ModuleType, load: Load, other: Load
) -> None:
    device = scripted.ScriptedDevice(memory_mib=lambda path: {"a.onnx": 5.0, "dense.onnx": 50.0}[path.name])
    assert measure(device, load, FEEDS, percentile=90, effort=PROOF, reference=other).memory_mib == 5.0
    requests = [request for request, _, _ in device.log]
    assert requests.index("memory") > len(requests) - 1 - requests[::-1].index("time")


def test_a_reference_that_drifts_makes_the_session_inconclusive(scripted: ModuleType, load: Load) -> None:
    device = scripted.ScriptedDevice(speed=lambda block: 1.0 + 0.001 * block, noise=0.005)
    got = measure(device, load, FEEDS, percentile=90, effort=PROOF)
    assert got.drift is not None
    assert got.drift > 0.02
    assert not got.conclusive


def test_the_machine_is_as_quick_as_the_reference_at_a_low_percentile(
    scripted: ModuleType, load: Load
) -> None:
    def session(percentile: int) -> Measurement:
        # Blocks alternate between the artefact and its reference: two of three of the latter are disturbed.
        device = scripted.ScriptedDevice(
            latency_ms=lambda path: 1.0, speed=lambda block: 1.6 if block % 6 in (1, 3) else 1.0
        )
        return measure(device, load, FEEDS, percentile=percentile, effort=PROOF)

    assert session(10).reference_ms == 1.0
    assert session(50).reference_ms == session(90).reference_ms == 1.6


def test_a_session_that_drifted_proves_a_fit_by_its_slowest_third(scripted: ModuleType, load: Load) -> None:
    def session(latency_ms: float | None) -> Measurement:
        # Blocks alternate between the artefact and its reference: both get 10 % slower in the last third.
        device = scripted.ScriptedDevice(speed=lambda block: 1.1 if block >= 34 else 1.0)
        return measure(device, load, FEEDS, percentile=90, effort=PROOF, latency_ms=latency_ms)

    assert session(1.1).latency.bound_ms == 1.1
    assert session(1.1).conclusive
    assert not session(1.05).conclusive, "it must not prove a miss: the machine may be to blame"
    assert not session(None).conclusive


def test_a_drifting_session_too_short_for_three_bounds_has_none(scripted: ModuleType, load: Load) -> None:
    device = scripted.ScriptedDevice(latency_ms=lambda path: 50.0, speed=lambda block: 1.0 + 0.01 * block)
    effort = Effort(runs=64, seconds=1.0, interleaved=True)
    got = measure(device, load, FEEDS, percentile=90, effort=effort, latency_ms=1e9)
    assert got.latency.runs >= 64
    assert got.latency.bound_ms is None
    assert not got.conclusive


def load_on_a_core(first: int, blocks: int, slower: float = 1.6) -> Callable[[int], float]:
    """Another process takes its share of a core from one block on, for some blocks of the device's life."""
    return lambda block: slower if first <= block < first + blocks else 1.0


BLOCKS = 51  # of a proof of a model of 1 ms: 26 of the artefact, 25 of its reference


def verdict(measurement: Measurement, latency_ms: float) -> str:
    return judge(measurement, 1.0, 1.0, Budget(latency_ms=latency_ms, percentile=90)).kind


@pytest.mark.parametrize("blocks", [1, 2, 4, 8, 16, 25])
def test_under_a_planted_disturbance_a_model_that_fits_is_never_said_to_miss(
    scripted: ModuleType, load: Load, blocks: int
) -> None:
    for first in range(0, BLOCKS - blocks + 1, 5):
        device = scripted.ScriptedDevice(speed=load_on_a_core(first, blocks), noise=0.01)
        proof = prove(device, load, FEEDS, percentile=90, latency_ms=1.05)
        kinds = [verdict(tried, 1.05) for tried in proof.tried]
        assert kinds[-1] == "fits", "the disturbance is over by the second session"
        assert kinds[:-1] in ([], ["inconclusive"])
        if blocks >= 8:  # long enough for the percentile
            assert kinds == ["inconclusive", "fits"]


@pytest.mark.parametrize("blocks", [1, 2, 4, 8, 16, 25, 40])
@pytest.mark.parametrize("slower", [0.97, 1.0, 1.05, 1.6])
def test_under_a_planted_disturbance_a_model_that_misses_never_fits_by_luck(
    scripted: ModuleType, load: Load, blocks: int, slower: float
) -> None:
    for first in range(0, BLOCKS - blocks + 1, 5):
        device = scripted.ScriptedDevice(speed=load_on_a_core(first, blocks, slower), noise=0.01)
        proof = prove(device, load, FEEDS, percentile=90, latency_ms=1.0)
        assert all(verdict(tried, 1.0) != "fits" for tried in proof.tried)
        if slower == 1.0:
            assert [verdict(tried, 1.0) for tried in proof.tried] == ["misses"]


def test_a_disturbance_that_does_not_end_is_never_a_verdict(scripted: ModuleType, load: Load) -> None:
    device = scripted.ScriptedDevice(speed=lambda block: 1.6 if block // 9 % 2 else 1.0, noise=0.01)
    proof = prove(device, load, FEEDS, percentile=90, latency_ms=1.05)
    assert [verdict(tried, 1.05) for tried in proof.tried] == ["inconclusive"] * PROOF_SESSIONS


def test_a_load_that_no_counter_shows_makes_a_model_slow_and_is_not_told_apart(
    scripted: ModuleType, load: Load
) -> None:
    device = scripted.ScriptedDevice(speed=lambda block: 1.6, noise=0.01)
    proof = prove(device, load, FEEDS, percentile=90, latency_ms=1.05)
    assert [verdict(tried, 1.05) for tried in proof.tried] == ["misses"]


def test_a_model_that_slows_down_by_itself_fits_only_as_slow_as_it_became(
    scripted: ModuleType, load: Load, other: Load
) -> None:
    slow: list[str] = []

    def latency_ms(path: Path) -> float:
        if path == load.artefact:
            slow.append(path.name)
        return 1.1 if path == load.artefact and len(slow) > 15 else 1.0

    def session(budget_ms: float | None) -> Measurement:
        slow.clear()
        device = scripted.ScriptedDevice(latency_ms=latency_ms)
        return measure(
            device, load, FEEDS, percentile=90, effort=PROOF, latency_ms=budget_ms, reference=other
        )

    assert session(1.2).drift == 0.0
    assert session(1.2).latency.bound_ms == 1.1
    assert verdict(session(1.2), 1.2) == "fits"
    assert verdict(session(1.05), 1.05) == "inconclusive"
    assert session(None).conclusive, "without a budget nothing is promised"


def test_a_throttle_flag_that_moved_is_not_excused_by_a_low_latency(scripted: ModuleType, load: Load) -> None:
    device = scripted.ScriptedDevice(state=lambda reading: {"flag": str(reading)})
    got = measure(device, load, FEEDS, percentile=90, effort=PROOF, latency_ms=1e9, throttle=("flag",))
    assert not got.conclusive


def test_a_proof_is_repeated_and_its_last_session_counts_alone(scripted: ModuleType, load: Load) -> None:
    sessions = 2  # processes per session: the artefact and its reference
    device = scripted.ScriptedDevice()
    device.speed = lambda block: 1.0 + 0.01 * block if len(device.sensors) <= 2 * sessions else 1.0
    heard: list[Progress] = []
    proof = prove(device, load, FEEDS, percentile=90, listen=heard.append)
    assert [tried.conclusive for tried in proof.tried] == [False, False, True]
    assert proof.measurement is proof.tried[-1]
    assert proof.measurement.latency.max_ms == 1.0
    assert len(device.sensors) == 3 * sessions
    assert [progress.share for progress in heard].count(1.0) == 3


def test_a_proof_that_stays_inconclusive_ends_and_says_so(scripted: ModuleType, load: Load) -> None:
    device = scripted.ScriptedDevice(speed=lambda block: 1.0 + 0.01 * (block % 50))
    proof = prove(device, load, FEEDS, percentile=90, tries=2)
    assert [tried.conclusive for tried in proof.tried] == [False, False]
    assert not proof.measurement.conclusive


def test_a_throttle_flag_that_moved_marks_the_session(scripted: ModuleType, load: Load) -> None:
    def state(reading: int) -> Mapping[str, str]:
        return {"/sys/cpu0/throttle_count": str(min(reading, 1)), "/sys/zone0/temp": str(40000 + reading)}

    device = scripted.ScriptedDevice(state=state)
    got = measure(
        device,
        load,
        FEEDS,
        percentile=90,
        sensors=("/sys/zone*/temp",),
        throttle=("/sys/cpu*/throttle_count",),
    )
    assert device.sensors[0] == ("/sys/zone*/temp", "/sys/cpu*/throttle_count")
    assert got.state.moved == ("/sys/cpu0/throttle_count",)
    assert not got.conclusive
    assert dict(got.state.before)["/sys/zone0/temp"] == "40000"
    assert dict(got.state.after)["/sys/zone0/temp"] == "40001"


def test_a_flag_that_appears_or_goes_away_counts_as_moved(scripted: ModuleType, load: Load) -> None:
    device = scripted.ScriptedDevice(state=lambda reading: {"flag": "1"} if reading else {})
    assert measure(device, load, FEEDS, percentile=90, throttle=("flag",)).state.moved == ("flag",)


def test_a_search_counts_runs_at_the_usual_speed_of_the_machine(
    scripted: ModuleType, load: Load, other: Load
) -> None:
    """In slow spells of eight blocks the artefact takes 1.6 times as long: nothing of them is seen."""

    def session(usual_ms: float | None, percentile: int = 10) -> Measurement:
        device = scripted.ScriptedDevice(
            lambda path: 2.0 if path.stem == "dense" else 1.0,
            speed=lambda block: 1.6 if block // 8 % 2 else 1.0,
        )
        effort = Effort(runs=64, seconds=2.0, interleaved=True)
        found = measure(
            *(device, load, FEEDS),
            percentile=percentile,
            effort=effort,
            reference=other,
            usual_ms=usual_ms,
            searching=True,
        )
        assert found.latency.seconds >= effort.seconds
        return found

    seen = session(2.0)
    assert (seen.latency.max_ms, seen.latency.bound_ms, seen.reference_ms, seen.drift) == (1.0, 1.0, 2.0, 0.0)
    assert session(None).latency.max_ms == 1.6
    assert session(2.0, 90).latency.max_ms == 1.6, (
        "a proof counts slow spells: a search must not land too wide"
    )


@pytest.mark.parametrize("slow", [0.5, 1.0], ids=["most of the time", "all the time"])
def test_a_search_on_a_machine_that_is_slow_has_patience_and_an_end(
    scripted: ModuleType, load: Load, other: Load, slow: float
) -> None:
    """The first two blocks are quick, which is less than half of the effort."""
    device = scripted.ScriptedDevice(speed=lambda block: 1.6 if block > 2 or slow == 1.0 else 1.0)
    effort = Effort(runs=64, seconds=2.0, interleaved=True)
    seen = measure(
        *(device, load, FEEDS), percentile=10, effort=effort, reference=other, usual_ms=1.0, searching=True
    )
    assert PATIENCE * effort.seconds <= seen.latency.seconds < PATIENCE * effort.seconds + BLOCK_SECONDS
    assert seen.latency.p50_ms == seen.reference_ms == 1.6, "all runs count, and show how slow it was"


WAITING = 0.27  # of a block's time


def waiting_blocks(
    scripted: ModuleType, waits: Callable[[int], bool], told: float | None = WAITING, **options: Any
) -> Any:
    """A device on which some blocks wait for other processes, and take as much longer; told: what it says."""
    return scripted.ScriptedDevice(
        speed=lambda block: 1 / (1 - WAITING) if waits(block) else 1.0,
        waited=None if told is None else lambda block: told if waits(block) else 0.0,
        **options,
    )


def test_a_proof_that_waited_for_other_processes_is_no_miss_and_says_who_took_its_time(
    scripted: ModuleType, load: Load
) -> None:
    proof = prove(waiting_blocks(scripted, lambda block: True), load, FEEDS, percentile=90, latency_ms=1.05)
    assert [verdict(tried, 1.05) for tried in proof.tried] == ["inconclusive"] * PROOF_SESSIONS
    assert proof.measurement.drift == 0.0, "nothing moved: the load was there all the time"
    assert taken(proof.measurement.waiting).words == "other processes took 27 % of its time"


def test_a_proof_that_waited_and_kept_its_budget_all_the_same_fits(scripted: ModuleType, load: Load) -> None:
    proof = prove(waiting_blocks(scripted, lambda block: True), load, FEEDS, percentile=90, latency_ms=1.4)
    assert [verdict(tried, 1.4) for tried in proof.tried] == ["fits"]


def test_what_was_waited_less_than_the_stated_share_is_taken_off_before_a_miss(
    scripted: ModuleType, load: Load
) -> None:
    """Each run waited for 1.5 % of its time, as runs do that are longer than a scheduler's slice."""

    def proven(latency_ms: float) -> str:
        device = scripted.ScriptedDevice(lambda path: 1.015, waited=lambda block: 0.015)
        return verdict(
            prove(device, load, FEEDS, percentile=90, latency_ms=latency_ms).measurement, latency_ms
        )

    assert MOST_WAITED > 0.015
    assert [proven(limit) for limit in (0.99, 1.01, 1.02)] == ["misses", "inconclusive", "fits"]


def test_a_proof_beside_a_reference_that_is_slower_than_it_is_known_to_be_is_no_miss(
    scripted: ModuleType, load: Load, other: Load
) -> None:
    def proven(usual_ms: float | None) -> str:
        device = scripted.ScriptedDevice(speed=lambda block: 1.3)
        found = prove(
            *(device, load, FEEDS), percentile=90, latency_ms=1.05, reference=other, usual_ms=usual_ms
        )
        return verdict(found.measurement, 1.05)

    assert [proven(None), proven(1.3), proven(1.0)] == ["misses", "misses", "inconclusive"]


def test_a_search_sets_runs_that_waited_aside(scripted: ModuleType, load: Load, other: Load) -> None:
    effort = Effort(runs=64, seconds=2.0, interleaved=True)

    def searched(told: float | None) -> Measurement:
        device = waiting_blocks(scripted, lambda block: block % 8 in (2, 3, 4), told)
        return measure(device, load, FEEDS, percentile=90, effort=effort, reference=other, searching=True)

    seen = searched(WAITING)
    assert (seen.latency.max_ms, seen.reference_ms, seen.drift) == (1.0, 1.0, 0.0)
    assert seen.latency.seconds >= effort.seconds
    assert 0.2 < seen.set_aside < 0.6
    assert seen.waiting is not None
    assert seen.waiting.seconds > seen.latency.seconds
    unknown = searched(None)
    assert (unknown.set_aside, taken(unknown.waiting).others) == (0.0, None)
    assert unknown.latency.max_ms > 1.3, "what is not counted cannot be set aside"


def test_a_search_that_always_waits_has_an_end_and_shows_that_it_waited(
    scripted: ModuleType, load: Load, other: Load
) -> None:
    effort = Effort(runs=64, seconds=2.0, interleaved=True)
    device = waiting_blocks(scripted, lambda block: True)
    seen = measure(device, load, FEEDS, percentile=90, effort=effort, reference=other, searching=True)
    assert PATIENCE * effort.seconds <= seen.latency.seconds < PATIENCE * effort.seconds + BLOCK_SECONDS
    assert seen.set_aside == 0.0
    assert taken(seen.waiting).much


def test_feeds_take_turns(scripted: ModuleType, load: Load, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[float] = []
    plain = scripted.ScriptedSession.time

    def time(self: Any, feeds: Any, *, runs: int, seconds: float) -> Any:
        seen.append(float(feeds["x"][0, 0]))
        return plain(self, feeds, runs=runs, seconds=seconds)

    monkeypatch.setattr(scripted.ScriptedSession, "time", time)
    measure(scripted.ScriptedDevice(), load, FEEDS, percentile=90, effort=Effort(1, 2.0))
    assert seen == [0.0, 1.0, 2.0, 0.0, 1.0]


def test_a_device_that_fails_in_the_middle_leaves_no_session_open(scripted: ModuleType, load: Load) -> None:
    calls: list[str] = []

    def before(request: str, artefact: Path) -> None:
        calls.append(request)
        if calls.count("time") == 4:
            raise DeviceError("The board was unplugged.", "Plug it in.")

    device = scripted.ScriptedDevice(before=before)
    with pytest.raises(DeviceError, match="unplugged"):
        measure(device, load, FEEDS, percentile=90, effort=PROOF)
    assert device.open == 0


def test_no_feeds_is_an_input_error(scripted: ModuleType, load: Load) -> None:
    with pytest.raises(InputError, match="no inputs to time"):
        measure(scripted.ScriptedDevice(), load, [], percentile=90)


def test_a_real_artefact_is_measured_in_a_process_of_its_own(small_onnx: ModuleType, tmp_path: Path) -> None:
    path = small_onnx.linear(tmp_path / "m.onnx")
    feeds = [{"x": np.ones((1, 8), np.float32)}]
    effort = Effort(runs=64, seconds=0.05, interleaved=True)
    got = measure(open_device("local"), Load("onnxruntime", path, 1), feeds, percentile=90, effort=effort)
    assert got.latency.runs >= 64
    assert 0 < got.latency.p50_ms <= got.latency.p90_ms <= got.latency.max_ms
    assert got.memory_mib > 0
    assert dict(got.state.before)["setting:intra_op_num_threads"] == "1"


@pytest.mark.parametrize(
    ("candidate_ms", "speed", "kind"),
    [(1.6, 1.0, "misses"), (0.9, 1.0, "fits"), (0.9, 2.0, "fits"), (1.6, 2.0, "inconclusive")],
    ids=["a wide budget", "twice as fast", "on a machine half as fast", "too slow on it"],
)
def test_a_speed_up_is_proven_as_a_ratio_in_one_session(
    scripted: ModuleType, load: Load, other: Load, candidate_ms: float, speed: float, kind: str
) -> None:
    """The dense model takes 2 ms; the budget of 2 ms was made when its percentile was 4."""
    device = scripted.ScriptedDevice(
        lambda path: 2.0 if path.stem == "dense" else candidate_ms, speed=lambda block: speed
    )
    asked = {"percentile": 90, "latency_ms": 2.0, "reference": other, "usual_ms": 2.0}
    got = prove(device, load, FEEDS, speedup=2.0, **asked).measurement  # type: ignore[arg-type]
    assert (got.dense_percentile_ms, got.dense_low_ms) == (2.0 * speed, 2.0 * speed)
    verdict = judge(got, 1.0, 1.0, Budget(latency_ms=2.0, speedup=2.0))
    assert verdict.kind == kind
    assert [breach.limit for breach in verdict.breaches] == [1.0] * (kind == "misses")
    plain = prove(device, load, FEEDS, **asked).measurement  # type: ignore[arg-type]
    assert judge(plain, 1.0, 1.0, Budget(latency_ms=2.0)).kind != "misses", "milliseconds are as they are"


def test_a_validation_and_a_search_have_no_dense_model_to_hold_a_speed_up_against(
    scripted: ModuleType, load: Load, other: Load
) -> None:
    alone = prove(scripted.ScriptedDevice(), load, FEEDS, percentile=90, latency_ms=2.0).measurement
    searched = measure(scripted.ScriptedDevice(), load, FEEDS, percentile=90, reference=other, searching=True)
    assert [each.dense_low_ms for each in (alone, searched)] == [None, None]

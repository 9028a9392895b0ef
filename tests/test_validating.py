"""Validation: the numbered checks (7) to (10) on devices that behave, and on devices that do not."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from edgeprune.bundle import write_golden
from edgeprune.devices import described
from edgeprune.devices.local import LocalDevice
from edgeprune.errors import BundleError, DeviceError
from edgeprune.measure import Effort
from edgeprune.records.bundle import PACE, Validation
from edgeprune.records.machine import Budget
from edgeprune.records.trial import Pace, Report
from edgeprune.shelf import load_target
from edgeprune.validating import TITLES, validate

QUICK = Effort(runs=64, seconds=0.1, interleaved=True)
BUDGET = Budget(latency_ms=5.0, percentile=90, memory_mib=100.0, size_mib=1.0)


@pytest.fixture
def bundle(make_run: Callable[..., Any]) -> Path:
    path: Path = make_run(budget=BUDGET).bundle()
    return path


def outcomes(validation: Validation) -> dict[int, str]:
    return {check.number: check.outcome for check in validation.checks}


def detail(validation: Validation, number: int) -> str:
    return next(check.detail for check in validation.checks if check.number == number)


GOOD_BUNDLE = {1: "passed", 2: "passed", 3: "passed", 4: "passed", 5: "passed", 6: "skipped"}


def test_a_device_that_is_fast_enough_fits(bundle: Path, scripted: ModuleType) -> None:
    device = scripted.ScriptedDevice(latency_ms=lambda artefact: 2.0, noise=0.05)
    validation = validate(bundle, device)
    assert outcomes(validation) == GOOD_BUNDLE | {7: "passed", 8: "passed", 9: "passed", 10: "passed"}
    assert validation.verdict is not None
    assert validation.verdict.kind == "fits"
    assert validation.measurement is not None
    assert validation.measurement.latency.runs >= 662
    assert validation.metric == 0.965
    assert device.open == 0
    assert "top-1 0.965 is carried over" in detail(validation, 8)
    assert "claim was measured with onnxruntime 1.32.0" in detail(validation, 7)


def test_a_device_that_is_too_slow_misses_and_says_by_how_much(bundle: Path, scripted: ModuleType) -> None:
    validation = validate(bundle, scripted.ScriptedDevice(latency_ms=lambda artefact: 6.0))
    assert outcomes(validation) == GOOD_BUNDLE | {7: "passed", 8: "passed", 9: "passed", 10: "failed"}
    assert validation.verdict is not None
    (breach,) = validation.verdict.breaches
    assert (breach.line, breach.limit, breach.excess) == ("latency_ms", 5.0, 1.0)
    assert "p90 bound 6 ms of 5 allowed" in detail(validation, 10)


def test_a_device_that_needs_too_much_memory_misses(bundle: Path, scripted: ModuleType) -> None:
    validation = validate(bundle, scripted.ScriptedDevice(memory_mib=lambda artefact: 150.0))
    assert outcomes(validation) == GOOD_BUNDLE | {7: "passed", 8: "passed", 9: "failed", 10: "passed"}
    assert validation.verdict is not None
    assert [breach.line for breach in validation.verdict.breaches] == ["memory_mib"]
    assert "peak memory 150 MiB of 100 allowed" in detail(validation, 9)


def test_memory_is_the_process_s_and_what_the_model_adds_is_told(bundle: Path, scripted: ModuleType) -> None:
    """100 MiB are allowed; the model adds 14.5 of 115."""
    device = scripted.ScriptedDevice(memory_mib=lambda artefact: 115.0, runtime_mib=100.5)
    validation = validate(bundle, device, effort=QUICK)
    assert outcomes(validation)[9] == "failed"
    assert "peak memory 115 MiB of 100 allowed, of which the model adds 14.5 MiB" in detail(validation, 9)


def test_a_bundle_of_before_is_held_to_the_memory_that_it_claimed(
    make_run: Callable[..., Any], scripted: ModuleType
) -> None:
    """Its budget and its claim were about what the model adds."""
    run = make_run(budget=BUDGET)

    def before(report: Report) -> Report:
        return replace(report, measurement=replace(report.measurement, process_mib=None))

    lists = {name: tuple(map(before, getattr(run.result, name))) for name in ("frontier", "trials")}
    single = {name: before(getattr(run.result, name)) for name in ("baseline", "chosen")}
    old = replace(run, result=replace(run.result, **lists, **single)).bundle()
    for added_mib, outcome in ((14.5, "passed"), (115.0, "failed")):
        device = scripted.ScriptedDevice(memory_mib=lambda path: 300.0, runtime_mib=300.0 - added_mib)
        validation = validate(old, device, effort=QUICK)
        assert outcomes(validation)[9] == outcome
        assert f"as the bundle claims it, {added_mib:g} MiB of 100 allowed" in detail(validation, 9)


@pytest.mark.parametrize(
    ("metric", "kind"), [(0.2, "fits"), (0.974, "fits"), (8.75, "misses")], ids=["falls", "holds", "explodes"]
)
def test_an_error_is_validated_by_its_own_direction(
    make_run: Callable[..., Any], scripted: ModuleType, metric: float, kind: str
) -> None:
    """The dense model's is 0.965."""
    run = make_run(budget=BUDGET)
    error = {"metric": "MSE", "lower_is_better": True, "chosen": replace(run.result.chosen, metric=metric)}
    bundle = replace(run, result=replace(run.result, **error)).bundle()
    validation = validate(bundle, scripted.ScriptedDevice(), effort=QUICK)
    assert validation.verdict is not None
    assert validation.verdict.kind == kind
    assert f"MSE {metric:.4g} is carried over" in detail(validation, 8)
    assert validation.lower_is_better


def test_evidence_of_the_other_direction_is_refused(
    make_run: Callable[..., Any], scripted: ModuleType
) -> None:
    run = make_run(budget=BUDGET)
    folder = run.folder / "unpacked"
    with zipfile.ZipFile(run.bundle()) as archive:
        archive.extractall(folder)
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["claim"]["lower_is_better"] = True
    (folder / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(BundleError, match="about another metric than"):
        validate(folder, scripted.ScriptedDevice(), effort=QUICK)


def test_a_device_whose_speed_drifts_is_inconclusive_and_was_tried_again(
    bundle: Path, scripted: ModuleType
) -> None:
    # 900 ms of the 1000 allowed, and slower all the time: fits at first, not in the slowest third.
    device = scripted.ScriptedDevice(lambda artefact: 900.0, speed=lambda block: 1.0 + 0.001 * block)
    validation = validate(bundle, device, effort=Effort(runs=662, seconds=4.0, interleaved=True))
    assert outcomes(validation)[10] == "inconclusive"
    assert validation.verdict is not None
    assert validation.verdict.kind == "inconclusive"
    assert "in the last of 3 sessions" in detail(validation, 10)


def test_a_device_that_throttles_is_inconclusive(make_run: Callable[..., Any], scripted: ModuleType) -> None:
    run = make_run(budget=BUDGET)
    flag = load_target(run.result.target.name).throttle[0].replace("*", "0")
    device = scripted.ScriptedDevice(state=lambda reading: {flag: str(reading)})
    validation = validate(run.bundle(), device)
    assert outcomes(validation)[10] == "inconclusive"
    assert f"throttling was seen ({flag})" in detail(validation, 10)


def test_a_device_without_the_runtime_is_told_what_to_install(bundle: Path, scripted: ModuleType) -> None:
    bare = replace(scripted.MACHINE, runtimes=(("openvino", "2026.4"),))
    device = scripted.ScriptedDevice(machine=bare)
    validation = validate(bundle, device)
    assert outcomes(validation) == GOOD_BUNDLE | {7: "failed", 8: "skipped", 9: "skipped", 10: "skipped"}
    assert validation.verdict is None
    check = next(check for check in validation.checks if check.number == 7)
    assert "has no onnxruntime" in check.detail
    assert "pip install" in check.hint
    assert device.log == []


def test_a_device_that_computes_otherwise_fails_and_is_not_timed(
    make_run: Callable[..., Any], scripted: ModuleType
) -> None:
    """The golden outputs are moved instead of the device's arithmetic: a tenth where 2 % is allowed."""
    run = make_run(budget=BUDGET)
    golden = np.load(run.folder / "trial-01" / "golden.npz")
    write_golden(
        run.folder / "trial-01" / "golden.npz",
        {"pixels": golden["in.pixels"]},
        {"output": golden["out.output"] * 1.1},
    )
    device = scripted.ScriptedDevice()
    validation = validate(run.bundle(), device)
    assert outcomes(validation) == GOOD_BUNDLE | {7: "passed", 8: "failed", 9: "skipped", 10: "skipped"}
    assert "output differs by 0.091 of its largest value, 0.02 is allowed" in detail(validation, 8)
    assert validation.verdict is None
    assert "time" not in {name for name, _, _ in device.log}


@pytest.mark.parametrize(
    ("request_name", "number"), [("start", 8), ("predict", 8), ("warm_up", 9), ("time", 9)]
)
def test_a_device_that_dies_fails_the_running_check_with_its_own_words(
    bundle: Path, scripted: ModuleType, request_name: str, number: int
) -> None:
    def before(name: str, artefact: Path) -> None:
        if name == request_name:
            raise DeviceError("The agent died with signal 9.", "Free some memory.")

    device = scripted.ScriptedDevice(before=before)
    validation = validate(bundle, device)
    assert outcomes(validation)[number] == "failed"
    assert detail(validation, number) == "The agent died with signal 9."
    assert set(list(outcomes(validation).values())[number:]) <= {"skipped"}
    assert validation.verdict is None


def test_few_cores_and_another_version_are_reported(bundle: Path, scripted: ModuleType) -> None:
    machine = replace(scripted.MACHINE, cores=0, runtimes=(("onnxruntime", "1.22.0"),))
    validation = validate(bundle, scripted.ScriptedDevice(machine=machine), effort=QUICK)
    assert "onnxruntime 1.22.0; the claim was measured with onnxruntime 1.32.0" in detail(validation, 7)
    assert "0 cores for 1 threads" in detail(validation, 7)


def test_the_device_is_asked_as_the_budget_says(make_run: Callable[..., Any], scripted: ModuleType) -> None:
    run = make_run(budget=BUDGET)
    own = load_target(run.result.target.name)
    device = scripted.ScriptedDevice()
    bundle = replace(run, result=replace(run.result, target=own)).bundle()
    validation = validate(bundle, device, effort=QUICK)
    assert (*own.sensors, *own.throttle) in device.sensors
    assert "sensors" not in detail(validation, 10)
    assert validation.measurement is not None
    assert (validation.measurement.threads, validation.measurement.batch) == (1, 1)


def test_sensors_that_a_bundle_names_are_compared_and_neither_read_nor_run(
    make_run: Callable[..., Any], scripted: ModuleType, tmp_path: Path
) -> None:
    run = make_run(budget=BUDGET)
    evil = replace(run.result.target, sensors=("sh -c 'touch ran'",), throttle=("/dev/zero",))
    device = scripted.ScriptedDevice()
    validation = validate(
        replace(run, result=replace(run.result, target=evil)).bundle(), device, effort=QUICK
    )
    asked = {sensor for sensors in device.sensors for sensor in sensors}
    own = load_target(run.result.target.name)
    assert asked == {*own.sensors, *own.throttle}
    assert f"names other sensors than target {run.result.target.name}" in detail(validation, 10)
    assert outcomes(validation)[10] == "passed"


def test_of_a_target_that_the_validator_does_not_have_no_sensors_are_read(
    make_run: Callable[..., Any], scripted: ModuleType
) -> None:
    run = make_run(budget=BUDGET)
    named = replace(run.result.target, name="../../their/target.toml")
    device = scripted.ScriptedDevice()
    bundle = replace(run, result=replace(run.result, target=named)).bundle()
    validation = validate(bundle, device, effort=QUICK)
    assert {*device.sensors} == {()}
    assert "this machine has no target of the bundle's name" in detail(validation, 10)
    own = validate(bundle, device, target="arm", effort=QUICK)
    assert "vcgencmd get_throttled" in device.sensors[-1] + device.sensors[-2]
    assert "names other sensors than target arm" in detail(own, 10)


def test_a_damaged_bundle_never_reaches_the_device(bundle: Path, scripted: ModuleType) -> None:
    content = bytearray(bundle.read_bytes())
    content[len(content) // 2] ^= 1
    bundle.write_bytes(content)
    device = scripted.ScriptedDevice()
    with pytest.raises(BundleError):
        validate(bundle, device)
    assert device.log == []


def test_every_check_has_its_number() -> None:
    assert list(TITLES) == [7, 8, 9, 10]


def test_this_machine_really_serves_a_bundle(make_run: Callable[..., Any]) -> None:
    validation = validate(make_run().bundle(), LocalDevice(), effort=QUICK)
    assert {number: outcomes(validation)[number] for number in (7, 8, 9)} == dict.fromkeys(
        (7, 8, 9), "passed"
    )
    assert validation.measurement is not None
    assert validation.measurement.runtime.startswith("onnxruntime ")


@dataclass(frozen=True)
class Day:
    """Times as long as at the claim that a tiny model and the model itself take, and what is said of it."""

    name: str
    tiny: float
    model: float
    outcome: str
    kind: str
    words: str
    same: bool = True


DAYS = (
    Day("as at the claim", 1.0, 1.0, "passed", "fits", ""),
    Day("a slower day", 2.5, 2.5, "inconclusive", "inconclusive", "the device is slower today: a tiny model"),
    Day(
        "a slower machine", 2.5, 2.5, "failed", "misses", "the device is slower than the claim's", same=False
    ),
    Day(
        "a slower model", 1.0, 2.5, "failed", "misses", "as quick as at the claim: the model is slower, 2.50"
    ),
    Day("both", 1.5, 3.0, "failed", "misses", "so it is slower itself"),
    Day("a slower day that is quick enough", 1.5, 1.5, "passed", "fits", "the device is slower today"),
)


@pytest.mark.parametrize("day", DAYS, ids=lambda day: day.name)
def test_a_device_that_is_slower_today_is_told_from_a_model_that_is_slower(
    day: Day, make_run: Callable[..., Any], scripted: ModuleType
) -> None:
    run = make_run(budget=BUDGET)
    p50_ms = run.result.chosen.measurement.latency.p50_ms
    machine = described(scripted.MACHINE) if day.same else "another processor"
    paced = replace(run, result=replace(run.result, pace=Pace(0.5, machine)))
    device = scripted.ScriptedDevice(lambda path: 0.5 * day.tiny if path.name == PACE else p50_ms * day.model)
    validation = validate(paced.bundle(), device)
    assert outcomes(validation)[10] == day.outcome
    assert validation.verdict is not None
    assert validation.verdict.kind == day.kind
    assert day.words in detail(validation, 10)
    assert ("tiny" in detail(validation, 10)) == (day.tiny > 1)


def test_a_validation_beside_other_processes_is_no_miss_and_says_who_took_the_time(
    bundle: Path, scripted: ModuleType
) -> None:
    device = scripted.ScriptedDevice(lambda artefact: 6.0, waited=lambda block: 0.27)
    validation = validate(bundle, device)
    assert outcomes(validation)[10] == "inconclusive"
    assert validation.verdict is not None
    assert validation.verdict.kind == "inconclusive"
    assert "other processes took 27 % of its time" in detail(validation, 10)

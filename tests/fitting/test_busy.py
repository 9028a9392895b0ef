"""Fits on machines in use: nothing that disturbs a session makes a miss, or makes a fit cut deeper."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

import edgeprune
from benchmarks.load import fits
from edgeprune.errors import DeviceBusy
from edgeprune.fitting.trials.sessions import MOST_SESSIONS, PROOF_ROUNDS
from edgeprune.measure import prove
from edgeprune.records.trial import FitResult

LOST = 0.3  # of a session's time, to other processes
LOADED = 1 / (1 - LOST)


class Busy:
    """A machine that other processes use from time to time, block by block of its life.

    waits: whether they do in a block; told: whether its kernel counts that.
    """

    def __init__(
        self, scripted: ModuleType, latency_ms: Any, waits: Callable[[int], bool], told: bool = True
    ):
        self.waits = waits
        self.artefact = Path()
        self.device = scripted.ScriptedDevice(
            latency_ms,
            speed=lambda block: LOADED if self.waits(block) else 1.0,
            waited=(lambda block: LOST if self.waits(block) else 0.0) if told else None,
            before=self._note,
        )

    def _note(self, request: str, artefact: Path) -> None:
        self.artefact = artefact

    @property
    def on(self) -> str:
        """The trial that was asked for something last."""
        return self.artefact.parent.name


@pytest.fixture
def fit(tiny: ModuleType, tmp_path: Path) -> Callable[..., FitResult]:
    def run(busy: Busy, **options: Any) -> FitResult:
        given = {"out": tmp_path / "run", "epochs": 0, "max_drop": 0.5, **options}
        return edgeprune.fit(tiny.quick(), device=busy.device, **given)

    return run


@pytest.fixture
def machine(scripted: ModuleType, tiny: ModuleType) -> Callable[..., Busy]:
    return lambda waits, **about: Busy(scripted, tiny.latency_ms, waits, **about)


def names(result: FitResult) -> list[str]:
    return [report.name for report in result.trials]


def kept(result: FitResult) -> Any:
    return result.verdict.kind, result.chosen.name, result.chosen.candidate


@pytest.fixture(scope="module")
def quiet(scripted: ModuleType, tiny: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> FitResult:
    """The same fit on a machine that nobody else uses."""
    device = scripted.ScriptedDevice(tiny.latency_ms, waited=lambda block: 0.0)
    out = tmp_path_factory.mktemp("quiet") / "run"
    return edgeprune.fit(tiny.quick(), device=device, speedup=2.0, out=out, epochs=0, max_drop=0.5)


BURSTS = {
    "a burst of twenty blocks": lambda block: block % 100 < 20,
    "most of the time": lambda block: block % 5 > 0,
}


@pytest.mark.parametrize("waits", BURSTS.values(), ids=BURSTS.keys())
def test_a_fit_beside_other_work_finds_what_a_fit_on_a_quiet_machine_finds(
    waits: Callable[[int], bool],
    fit: Callable[..., FitResult],
    machine: Callable[..., Busy],
    quiet: FitResult,
) -> None:
    loaded = fit(machine(waits), speedup=2.0)
    assert quiet.verdict.kind == "fits"
    assert loaded.budget == quiet.budget, "made of runs that did not wait"
    if loaded.verdict.kind == "fits":
        assert kept(loaded) == kept(quiet)
    else:  # the proofs found no quiet ten seconds
        assert (loaded.verdict.kind, loaded.chosen.candidate) == ("inconclusive", quiet.chosen.candidate)
        assert "other processes took" in loaded.unsettled


def test_a_search_that_cannot_measure_ends_open_with_the_best_seen_and_goes_on_when_it_is_resumed(
    fit: Callable[..., FitResult], machine: Callable[..., Busy], quiet: FitResult
) -> None:
    busy = machine(lambda block: False)
    busy.waits = lambda block: busy.on == "trial-01"
    stopped = fit(busy, speedup=2.0)
    assert stopped.verdict.kind == "inconclusive"
    assert stopped.unsettled.startswith("trial-01 cannot be measured: other processes took 30 % of its time")
    assert f"in the last of {MOST_SESSIONS} sessions" in stopped.unsettled
    assert stopped.bundle is None, "nothing that was seen so far keeps the budget"
    nearest = min(stopped.trials, key=lambda report: report.measurement.latency.p50_ms)
    assert stopped.chosen.name == nearest.name
    busy.waits = lambda block: False
    resumed = fit(busy, speedup=2.0, resume=True)
    assert kept(resumed) == kept(quiet)
    assert resumed.baseline.measurement == stopped.baseline.measurement, "what was measured stays"


def test_a_dense_model_that_cannot_be_measured_is_an_error_that_says_how_to_go_on(
    fit: Callable[..., FitResult], machine: Callable[..., Busy]
) -> None:
    with pytest.raises(DeviceBusy, match="dense cannot be measured: other processes took 30 %") as raised:
        fit(machine(lambda block: True), speedup=2.0)
    assert raised.value.exit_code == 1
    assert "--resume" in raised.value.hint


@pytest.fixture
def proofs(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What is asked of `prove`, which is at work while the last one ends in "..."."""
    seen: list[str] = []

    def noted(device: Any, load: Any, *about: Any, **asked: Any) -> Any:
        seen.append(f"{load.artefact.parent.name}...")
        found = prove(device, load, *about, **asked)
        seen[-1] = load.artefact.parent.name
        return found

    monkeypatch.setattr("edgeprune.fitting.trials.sessions.prove", noted)
    return seen


@pytest.mark.parametrize("told", [True, False], ids=["counted", "seen by the reference alone"])
def test_nothing_is_cut_for_a_disturbed_proof_of_what_looked_comfortable(
    told: bool,
    fit: Callable[..., FitResult],
    machine: Callable[..., Busy],
    proofs: list[str],
    tiny: ModuleType,
) -> None:
    """INT8 uses four fifths of the budget, and in a slow spell more than all of it."""
    busy = machine(lambda block: bool(proofs) and proofs[-1].endswith("..."), told=told)
    dense = 0.1 + 1e-4 * sum(p.numel() for p in tiny.quick().model.parameters() if p.dim() > 1)
    opened = fit(busy, latency_ms=0.97 * dense)
    assert (opened.verdict.kind, opened.chosen.name) == ("inconclusive", "dense-int8")
    assert names(opened) == ["dense", "dense-int8"]
    assert proofs == ["dense-int8"] * PROOF_ROUNDS
    assert not opened.verdict.breaches
    why = (
        "other processes took 30 % of its time" if told else "its reference took 1.43 times as long as usual"
    )
    assert why in opened.unsettled
    busy.waits = lambda block: False
    settled = fit(busy, latency_ms=0.97 * dense, resume=True)
    assert (settled.verdict.kind, settled.chosen.name, settled.unsettled) == ("fits", "dense-int8", "")
    assert names(settled) == ["dense", "dense-int8"]
    assert proofs == ["dense-int8"] * (PROOF_ROUNDS + 1), "an open proof is made again, a settled one is not"
    again = fit(busy, latency_ms=0.97 * dense, resume=True)
    assert (again.chosen, len(proofs)) == (settled.chosen, PROOF_ROUNDS + 1)


def test_a_proof_that_stays_open_is_made_again_when_the_machine_has_become_quiet(
    fit: Callable[..., FitResult], machine: Callable[..., Busy], proofs: list[str], tiny: ModuleType
) -> None:
    """A burst that lasts for the first three sessions of the proof, and some time after them."""
    began: list[int] = []

    def waits(block: int) -> bool:
        if proofs and not began:
            began.append(block)
        return bool(began) and block < began[0] + 3 * 51 + 40

    dense = 0.1 + 1e-4 * sum(p.numel() for p in tiny.quick().model.parameters() if p.dim() > 1)
    result = fit(machine(waits), latency_ms=0.97 * dense)
    assert (result.verdict.kind, result.chosen.name) == ("fits", "dense-int8")
    assert proofs == ["dense-int8"] * 2
    assert names(result) == ["dense", "dense-int8"]


def test_a_dense_model_that_was_measured_in_a_slow_spell_is_looked_at_again(
    fit: Callable[..., FitResult], machine: Callable[..., Busy], tiny: ModuleType
) -> None:
    """The spell ends with the dense model's search sessions, and no counter tells of it."""
    busy = machine(lambda block: False, told=False)
    busy.waits = lambda block: not any(path.parent.name != "dense" for path in busy.device.artefacts)
    dense = 0.1 + 1e-4 * sum(p.numel() for p in tiny.quick().model.parameters() if p.dim() > 1)
    result = fit(busy, latency_ms=1.1 * dense)
    assert (result.verdict.kind, result.chosen.name) == ("fits", "dense")


def test_of_simulated_fits_beside_load_none_is_a_false_miss_or_a_false_fit() -> None:
    """A part of what `python -m benchmarks.load` goes through."""
    found = list(fits(35))
    assert {each.kind for each in found} >= {"fits", "misses", "inconclusive"}
    assert not [each for each in found if each.false_miss or each.false_fit]

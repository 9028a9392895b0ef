"""Runs that an earlier edgeprune began are resumed, and none of their finished steps is done again."""

from __future__ import annotations

import importlib.util
import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

import edgeprune
from edgeprune.errors import InputError
from edgeprune.fitting.answer import Paced
from edgeprune.fitting.space.reweighing import Reweighing
from edgeprune.fitting.tier_cascade import Cascaded
from edgeprune.fitting.trials.comparison import Compared
from edgeprune.fitting.trials.drafts import Draft
from edgeprune.fitting.trials.subset import Screened
from edgeprune.fitting.trials.verdict import TrialRecord
from edgeprune.latency.curves import LatencyTable
from edgeprune.latency.float_layers import Mixture
from edgeprune.ledger import Ledger, _Entry, _Header
from edgeprune.pruning.sensitivity import Sensitivity
from edgeprune.records.progress import Event
from edgeprune.records.trial import FitResult, LayerTimes, Measurement
from edgeprune.results import load_result

FIXTURES = Path(__file__).parents[1] / "fixtures"
V0 = FIXTURES / "v0"
# What the steps of a fit record, and the lines around it.
STORED = (
    *(_Header, _Entry, TrialRecord, Screened, Compared, Cascaded, Draft, Measurement),
    *(LatencyTable, Mixture, Sensitivity, Reweighing, Paced, LayerTimes),
)
Resume = Callable[..., FitResult]


def module(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"edgeprune_tests_v0_{name}", V0 / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    found = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(found)
    return found


class StoppedError(Exception):
    """Ends a fit that has shown enough."""


@pytest.fixture
def told() -> list[Event]:
    """What a resumed fit tells."""
    return []


@pytest.fixture
def resume(tmp_path: Path, told: list[Event]) -> Resume:
    """Goes on with a run of the fixtures, in a copy of it, until it tells of the stage `until`."""

    def run(
        name: str,
        until: str | None = None,
        before: Callable[[Path], None] = lambda folder: None,
        **options: Any,
    ) -> FitResult:
        shutil.copytree(V0 / name, tmp_path / name)
        before(tmp_path / name)

        def listen(event: Event) -> None:
            told.append(event)
            if event.stage == until:
                raise StoppedError(until)

        began: dict[str, Any] = {"criterion": "l2", **options}  # the default of then
        found: FitResult = edgeprune.fit(
            module("task").task(), out=tmp_path / name, resume=True, listen=listen, **began
        )
        return found

    return run


def keys(folder: Path) -> list[str]:
    return [json.loads(line)["key"] for line in lines(folder)[1:]]


def lines(folder: Path) -> list[str]:
    return (folder / "ledger.jsonl").read_text("ascii").splitlines()


def check_nothing_again(before: Path, now: Path, told: list[Event]) -> None:
    """Every recorded step was taken as it was: a step that is done again is told, and written again."""
    assert lines(now)[: len(lines(before))] == lines(before)
    assert len(set(keys(now))) == len(keys(now))
    assert not [event.doing for event in told if "again" in event.doing]


def test_a_killed_fit_is_resumed_from_its_old_ledger(
    resume: Resume,
    told: list[Event],
    tiny: ModuleType,
    scripted: ModuleType,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    asked: set[type] = set()
    once = Ledger.once

    def spied(ledger: Ledger, key: str, work: Callable[[], Any], cls: type, **files: Any) -> Any:
        asked.add(cls)
        return once(ledger, key, work, cls, **files)

    monkeypatch.setattr(Ledger, "once", spied)
    monkeypatch.setattr(tiny, "BLOCK", 1)
    device = scripted.ScriptedDevice(tiny.summed_ms, operators=tiny.operators)
    result = resume("killed", **module("make").MEASURED, device=device)
    check_nothing_again(V0 / "killed", tmp_path / "killed", told)
    finished = load_result(V0 / "measured")
    # The finished run called its second budget a miss beside a candidate that fits; this one answers with it.
    assert (finished.verdict.kind, result.verdict.kind) == ("misses", "fits")
    assert replace(result.baseline, verdict=finished.baseline.verdict) == finished.baseline
    recorded = {trial.name: trial.candidate for trial in finished.trials[:3]}
    assert list(recorded) == ["dense", "dense-int8", "trial-01"]
    assert {trial.name: trial.candidate for trial in result.trials[:3]} == recorded
    assert result.trials[3].name == "final-01"
    assert load_result(tmp_path / "killed") == result
    timed = {each.name: dict(each.layers) for each in result.layers}
    assert list(timed) == ["dense", *dict.fromkeys(tier.chosen.name for tier in result.tiers)]
    assert sum(timed["dense"].values()) == pytest.approx(result.baseline.measurement.latency.p50_ms)
    assert asked <= {*STORED, float}, "a step records what is not in the list of stored records"


def test_a_killed_fit_without_a_device_is_resumed_from_its_old_ledger(
    resume: Resume, told: list[Event], tmp_path: Path
) -> None:
    with pytest.raises(StoppedError):
        resume("predicted-killed", until="trial-02", **module("make").PREDICTED)
    check_nothing_again(V0 / "predicted-killed", tmp_path / "predicted-killed", told)
    assert keys(tmp_path / "predicted-killed")[-1] == "trial-01"


def test_another_order_is_refused_as_before(resume: Resume) -> None:
    with pytest.raises(InputError, match=r"budget\.size_mib was 0\.0027, is now 0\.003") as caught:
        resume("predicted-killed", **{**module("make").PREDICTED, "size_mib": 0.003})
    assert caught.value.what.count(" was ") == 1


def test_an_evaluation_that_scores_otherwise_than_when_the_run_began_is_refused(
    resume: Resume, tmp_path: Path
) -> None:
    """The score is put where a run of today records it, in a line without a link."""

    def scored(folder: Path) -> None:
        header, *steps = lines(folder)
        document = json.loads(header)
        document["order"]["evaluation"] = {"value": 0.25}
        (folder / "ledger.jsonl").write_text("\n".join([json.dumps(document), *steps]) + "\n")

    with pytest.raises(InputError, match=r"evaluate gives the dense model 0\.\d+ now, and gave 0\.25 when"):
        resume("predicted-killed", before=scored, **module("make").PREDICTED)
    assert keys(tmp_path / "predicted-killed") == keys(V0 / "predicted-killed")


def test_everything_that_the_ledger_ever_stored_is_still_read(stored: ModuleType) -> None:
    promised = json.loads((FIXTURES / "stored_keys.json").read_text("utf-8"))["records"]
    found = {record.__name__.lstrip("_"): record for record in stored.records(*STORED)}
    assert {
        name: broken
        for name, record in found.items()
        if (broken := stored.broken(record, promised.get(name, {})))
    } == {}

"""Runs that an earlier edgeprune began are resumed, and none of their finished steps is done again."""

from __future__ import annotations

import importlib.util
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

import edgeprune
from edgeprune.errors import InputError
from edgeprune.fitting.tier_cascade import Cascaded
from edgeprune.fitting.trials.comparison import Compared
from edgeprune.fitting.trials.drafts import Draft
from edgeprune.fitting.trials.subset import Screened
from edgeprune.fitting.trials.verdict import TrialRecord
from edgeprune.latency.curves import LatencyTable
from edgeprune.latency.float_layers import Mixture
from edgeprune.ledger import _Entry, _Header
from edgeprune.pruning.sensitivity import Sensitivity
from edgeprune.records.trial import FitResult, Measurement
from edgeprune.results import load_result

FIXTURES = Path(__file__).parents[1] / "fixtures"
V0 = FIXTURES / "v0"
# What the steps of a fit record, and the lines around it.
STORED = (
    *(_Header, _Entry, TrialRecord, Screened, Compared, Cascaded, Draft, Measurement),
    *(LatencyTable, Mixture, Sensitivity),
)
Resume = Callable[..., tuple[Path, FitResult, list[str]]]


def module(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"edgeprune_tests_v0_{name}", V0 / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    found = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(found)
    return found


@pytest.fixture
def resume(tmp_path: Path) -> Resume:
    """Goes on with a run of the fixtures, in a copy of it; the folder, the result, and what was told."""

    def run(name: str, options: dict[str, Any]) -> tuple[Path, FitResult, list[str]]:
        folder, told = tmp_path / name, list[str]()
        if not folder.exists():
            shutil.copytree(V0 / name, folder)
        task = module("task").task()
        result = edgeprune.fit(
            task, out=folder, resume=True, listen=lambda event: told.append(event.doing), **options
        )
        return folder, result, told

    return run


def lines(folder: Path) -> list[str]:
    return (folder / "ledger.jsonl").read_text("ascii").splitlines()


def check_nothing_again(name: str, folder: Path, told: list[str]) -> None:
    """Every recorded step was taken as it was: a step that is done again is written again."""
    before, now = lines(V0 / name), lines(folder)
    assert now[: len(before)] == before
    assert len(now) > len(before)
    keys = [json.loads(line)["key"] for line in now[1:]]
    assert len(set(keys)) == len(keys)
    assert not [sentence for sentence in told if "again" in sentence]


def test_a_killed_fit_is_resumed_from_its_old_ledger(
    resume: Resume, tiny: ModuleType, scripted: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tiny, "BLOCK", 1)
    device = scripted.ScriptedDevice(tiny.summed_ms, operators=tiny.operators)
    folder, result, told = resume("killed", {**module("make").MEASURED, "device": device})
    check_nothing_again("killed", folder, told)
    finished = load_result(V0 / "measured")
    recorded = ("dense", "dense-int8", "trial-01")
    assert [trial.candidate for trial in result.trials[:3]] == [
        trial.candidate for trial in finished.trials if trial.name in recorded
    ]
    assert result.baseline == finished.baseline
    assert [trial.name for trial in result.trials][3] == "final-01"
    assert load_result(folder) == result


def test_a_killed_fit_without_a_device_is_resumed_from_its_old_ledger(resume: Resume) -> None:
    folder, result, told = resume("predicted-killed", module("make").PREDICTED)
    check_nothing_again("predicted-killed", folder, told)
    assert [trial.name for trial in result.trials][:3] == ["dense", "dense-int8", "trial-01"]
    assert result.verdict.kind in ("predicted", "misses")


def test_another_order_is_refused_as_before(resume: Resume) -> None:
    with pytest.raises(InputError, match=r"budget\.size_mib was 0\.0027, is now 0\.003") as caught:
        resume("predicted-killed", {**module("make").PREDICTED, "size_mib": 0.003})
    assert caught.value.what.count(" was ") == 1


def test_everything_that_the_ledger_ever_stored_is_still_read(stored: ModuleType) -> None:
    promised = json.loads((FIXTURES / "stored_keys.json").read_text("utf-8"))["records"]
    found = {record.__name__.lstrip("_"): record for record in stored.records(*STORED)}
    assert {
        name: broken
        for name, record in found.items()
        if (broken := stored.broken(record, promised.get(name, {})))
    } == {}

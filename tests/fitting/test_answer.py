"""The answer to a budget: a miss is one only when every trial breaks a line."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

import edgeprune
from edgeprune.errors import EdgepruneError
from edgeprune.fitting.space.timing import FLOAT
from edgeprune.fitting.trials.runner import Trials


def fitted(tiny: ModuleType, scripted: ModuleType, out: Path) -> Any:
    """A fit in which the second of two trials of the dense model is quick enough."""
    device = scripted.ScriptedDevice(lambda artefact: 1.0 if "twin" in artefact.parent.name else 2.0)
    return edgeprune.fit(tiny.quick(), latency_ms=1.5, device=device, out=out)


def giving_up(trials: Trials, rung: str) -> None:
    """A search that passes over what it has seen."""
    trials.run("twin", FLOAT)


def test_a_trial_that_broke_nothing_is_proven_before_anything_is_called_a_miss(
    tiny: ModuleType, scripted: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("edgeprune.fitting.loop._search", giving_up)
    result = fitted(tiny, scripted, tmp_path / "run")
    assert (result.verdict.kind, result.chosen.name) == ("fits", "twin")


def test_a_miss_beside_a_trial_without_a_breach_is_an_error_that_names_the_trial(
    tiny: ModuleType, scripted: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("edgeprune.fitting.loop._search", giving_up)
    monkeypatch.setattr("edgeprune.fitting.loop._overlooked", lambda trials: None)
    with pytest.raises(EdgepruneError, match="twin breaks no line of the budget"):
        fitted(tiny, scripted, tmp_path / "run")

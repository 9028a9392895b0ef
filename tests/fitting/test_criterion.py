"""A criterion of the user's own, and one that looks at activations, through a whole fit."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

import edgeprune
from edgeprune.errors import InputError
from edgeprune.graph.coupling import Group
from edgeprune.pruning.criteria import Criterion, Evidence, Scores
from edgeprune.records.trial import FitResult


def first(evidence: Evidence, group: Group) -> Scores:
    """Keeps the first units of every group."""
    return np.arange(group.units, 0, -1, dtype=np.float32)


def last(evidence: Evidence, group: Group) -> Scores:
    return np.arange(1, group.units + 1, dtype=np.float32)


def fit(
    tiny: ModuleType,
    scripted: ModuleType,
    out: Path,
    *,
    changes: dict[str, Any] | None = None,
    **options: Any,
) -> FitResult:
    return edgeprune.fit(
        tiny.quick(**(changes or {})),
        device=scripted.ScriptedDevice(tiny.latency_ms),
        out=out,
        max_drop=0.1,
        **options,
    )


def test_a_fit_keeps_the_units_that_a_criterion_of_ones_own_ranks_first(
    tiny: ModuleType, scripted: ModuleType, tmp_path: Path
) -> None:
    result = fit(tiny, scripted, tmp_path / "run", speedup=1.5, criterion=Criterion("first", first))
    assert result.chosen.candidate.kept
    for _, units in result.chosen.candidate.kept:
        assert units == tuple(range(len(units)))


@pytest.mark.parametrize("criterion", ["wanda", "fisher"])
def test_a_fit_is_scored_by_activations_and_by_gradients_of_single_samples(
    criterion: str, tiny: ModuleType, scripted: ModuleType, tmp_path: Path
) -> None:
    result = fit(tiny, scripted, tmp_path / "run", speedup=1.5, criterion=criterion)
    assert result.verdict.kind == "fits"
    assert result.chosen.candidate.kept


def test_a_run_is_resumed_only_with_the_same_function(
    tiny: ModuleType, scripted: ModuleType, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    before = fit(tiny, scripted, run, latency_ms=50.0, criterion=Criterion("mine", first))
    again = fit(tiny, scripted, run, latency_ms=50.0, criterion=Criterion("mine", first), resume=True)
    assert again.chosen == before.chosen
    for other in (Criterion("mine", last), "l2"):
        with pytest.raises(InputError, match="criterion"):
            fit(tiny, scripted, run, latency_ms=50.0, criterion=other, resume=True)


def test_a_criterion_without_its_labels_is_refused_before_anything_is_written(
    tiny: ModuleType, scripted: ModuleType, tmp_path: Path
) -> None:
    supervised = Criterion("supervised", first, needs=frozenset({"gradients", "labels"}))
    with pytest.raises(InputError, match="'supervised' needs labelled data"):
        fit(tiny, scripted, tmp_path / "run", latency_ms=50, criterion=supervised, changes={"train": None})
    assert not (tmp_path / "run").exists()


def test_a_group_that_a_criterion_cannot_score_is_refused_before_anything_is_written(
    tiny: ModuleType, scripted: ModuleType, tmp_path: Path
) -> None:
    with pytest.raises(InputError, match="scales of BatchNorms, and group 'conv1' has none"):
        fit(tiny, scripted, tmp_path / "run", latency_ms=50, criterion="bn-scale")
    assert not (tmp_path / "run").exists()

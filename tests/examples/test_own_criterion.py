"""A criterion of the user's own, as examples/ shows it."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType

import pytest
import torch
from torch import nn

import edgeprune

EXAMPLES = Path(__file__).parents[2] / "examples"
pytest.importorskip("sklearn", reason="the example reads scikit-learn's digits")


@pytest.fixture
def example(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(EXAMPLES))
    import own_criterion

    return own_criterion


def test_a_filter_that_others_repeat_leaves_before_a_small_one(example: ModuleType) -> None:
    """By its weights alone the fourth would leave, the only one that points elsewhere."""
    net = nn.Sequential(nn.Linear(2, 4), nn.ReLU(), nn.Linear(4, 2))
    with torch.no_grad():
        net[0].weight.copy_(torch.tensor([[3.0, 0], [3.1, 0], [3.2, 0], [-0.5, 0]]))
    kept = edgeprune.prune(net, torch.ones(1, 2), 0.5, example.FPGM).kept
    assert set(kept) == {"0"}
    assert kept["0"] == (2, 3)
    assert 3 not in edgeprune.prune(net, torch.ones(1, 2), 0.5, "l2").kept["0"]


def test_a_fit_is_ranked_by_the_examples_criterion(
    example: ModuleType, tiny: ModuleType, scripted: ModuleType, tmp_path: Path
) -> None:
    result = edgeprune.fit(
        tiny.quick(),
        criterion=example.FPGM,
        speedup=1.5,
        max_drop=0.1,
        device=scripted.ScriptedDevice(tiny.latency_ms),
        out=tmp_path / "run",
    )
    assert result.verdict.kind == "fits"
    assert result.chosen.candidate.kept
    assert "fpgm" in (tmp_path / "run" / "ledger.jsonl").read_text("utf-8").splitlines()[0]


def test_every_group_of_the_digits_is_scored_and_cut(example: ModuleType) -> None:
    task = example.digits.task()
    pruned = edgeprune.prune(task.model, task.example, 0.5, example.FPGM)
    assert pruned.params < 0.6 * pruned.dense_params
    assert len(pruned.kept) == len(edgeprune.prune(task.model, task.example, 0.5, "l1").kept)

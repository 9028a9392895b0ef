"""The synthetic transactions as a task, and a prediction that ends with a bundle an eighth of the size."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import edgeprune
from edgeprune.tasks import call_evaluate, check_task, load_task

EXAMPLES = Path(__file__).parents[2] / "examples"
pytest.importorskip("sklearn", reason="the example measures with scikit-learn")


@pytest.fixture(scope="module")
def fraud() -> edgeprune.Task:
    return load_task(str(EXAMPLES / "fraud.py"))


def test_the_scorer_has_learnt_the_rule(fraud: edgeprune.Task) -> None:
    def predict(*inputs):
        with torch.no_grad():
            return fraud.model(*(torch.from_numpy(each) for each in inputs)).numpy()

    check_task(fraud)
    assert call_evaluate(fraud, predict) > 0.9


def test_an_eighth_of_the_size_keeps_99_percent_of_the_auc(fraud: edgeprune.Task, tmp_path: Path) -> None:
    """Predicted for a Raspberry Pi: nothing is timed here."""
    options = {"target": "arm", "profile": "raspberry-pi-5", "batch": 64, "latency_ms": "none", "epochs": 1}
    dense = sum(each.numel() for each in fraud.model.parameters()) * 4 / 2**20
    found = edgeprune.fit(fraud, **options, size_mib=dense / 8, max_drop="1%", out=tmp_path / "run")
    assert found.verdict.kind == "predicted"
    assert found.chosen.measurement.size_mib <= dense / 8
    assert found.chosen.metric >= 0.99 * found.baseline.metric
    assert found.chosen.candidate.kept
    assert found.chosen.candidate.precision == "int8"

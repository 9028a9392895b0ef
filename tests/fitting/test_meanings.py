"""Outputs of any form and kind through a whole fit: understood at the start, judged, trained, resumed."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import edgeprune
from edgeprune.errors import InputError
from edgeprune.records.progress import Event
from edgeprune.records.trial import FitResult


class Measured(nn.Module):
    """A digit's class, and a quantity of the image that a linear layer reads off the logits."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net, self.gauge = net, nn.Linear(10, 1)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        scores = self.net(x)
        return {"gauge": 40 + self.gauge(scores), "scores": scores}


class Pairs:
    """Batches of the tiny task, each with what the model itself gauges."""

    def __init__(self, train: Any, model: nn.Module) -> None:
        self.train, self.model = train, model

    def __iter__(self) -> Any:
        for images, labels in self.train:
            with torch.no_grad():
                yield images, {"scores": labels, "gauge": self.model(images)["gauge"]}


def two_heads(tiny: ModuleType, **changes: Any) -> edgeprune.Task:
    torch.manual_seed(0)
    model = Measured(tiny.task().model).eval()

    def evaluate(predict: Any) -> float:
        return float(tiny.scores(lambda images: predict(images)[1]).mean())

    train = Pairs(tiny.task().train, model)
    return tiny.quick(**{"model": model, "train": train, "evaluate": evaluate, **changes})


def fit(task: edgeprune.Task, scripted: ModuleType, tiny: ModuleType, out: Path, **options: Any) -> FitResult:
    device = scripted.ScriptedDevice(tiny.latency_ms)
    return edgeprune.fit(task, device=device, out=out, max_drop=0.1, epochs=1, **options)


def test_a_dict_of_outputs_is_fitted_and_trained_without_a_loss(
    tiny: ModuleType, scripted: ModuleType, tmp_path: Path
) -> None:
    told: list[str] = []

    def listen(event: Event) -> None:
        told.append(event.doing)

    result = fit(two_heads(tiny), scripted, tiny, tmp_path / "run", speedup=1.5, listen=listen)
    assert result.verdict.kind == "fits"
    assert result.chosen.candidate.recover == "finetune"
    assert [rung for rung, *_ in result.chosen.recovered] == ["reconstruct", "statistics", "finetune"]
    assert not any("every difference" in sentence for sentence in told)
    assert result.bundle is not None


def test_outputs_that_nobody_speaks_of_are_told(
    tiny: ModuleType, scripted: ModuleType, tmp_path: Path
) -> None:
    told: list[str] = []
    task = tiny.quick(train=None)
    fit(
        task, scripted, tiny, tmp_path / "run", latency_ms=50.0, listen=lambda event: told.append(event.doing)
    )
    assert any("every difference from the original counts in the output" in sentence for sentence in told)


def test_a_run_is_resumed_only_with_outputs_of_the_same_meaning(
    tiny: ModuleType, scripted: ModuleType, tmp_path: Path
) -> None:
    def run(folder: str, outputs: str | None, train: bool, **options: Any) -> FitResult:
        task = tiny.quick(outputs=outputs, **({} if train else {"train": None}))
        return fit(task, scripted, tiny, tmp_path / folder, latency_ms=50.0, **options)

    before = run("labelled", None, True)  # class numbers are certain: the word changes nothing
    assert run("labelled", "classes", True, resume=True).chosen == before.chosen
    run("unlabelled", "classes", False)
    run("unlabelled", "classes:1", False, resume=True)
    for other in ("values", None):
        with pytest.raises(InputError, match="outputs"):
            run("unlabelled", other, False, resume=True)


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"loss": lambda output, target: output["scores"].sum(1)}, "not a scalar tensor"),
        ({"loss": lambda output, target: output["logits"]}, "loss raised KeyError: 'logits'"),
        ({"outputs": {"logits": "classes"}}, "'logits' is, and the model returns gauge, scores"),
        ({"train": [(torch.zeros(4, 1, 8, 8), {"scores": [1, 2, 3, 11]})]}, "from 1 to 11, and 0 to 9"),
        ({"train": [(torch.zeros(4, 1, 8, 8), np.float32([[0.1]] * 4))]}, "which of them belong together"),
    ],
    ids=["a vector", "another name", "another output", "a class too many", "one target for two"],
)
def test_what_training_would_stumble_over_is_refused_before_anything_is_written(
    changes: dict[str, Any], sentence: str, tiny: ModuleType, scripted: ModuleType, tmp_path: Path
) -> None:
    with pytest.raises(InputError, match=sentence):
        fit(two_heads(tiny, **changes), scripted, tiny, tmp_path / "run", latency_ms=50.0)
    assert not (tmp_path / "run").exists()

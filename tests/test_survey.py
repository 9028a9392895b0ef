"""The survey's rows: what is green, what is told, and a configuration shrunk by the names of its fields."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import nn

from benchmarks.survey import report
from benchmarks.survey.subject import Built, NotBuilt, Subject
from benchmarks.survey.trial import Row, measure

pytestmark = pytest.mark.filterwarnings("ignore")  # transformers' own


def plain() -> Built:
    return nn.Sequential(nn.Linear(8, 32), nn.ReLU(), nn.Linear(32, 4)).eval(), torch.randn(2, 8)


class Rows(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(8, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.inner(x).view(len(x), 4, 1)


def unbuilt() -> Built:
    raise NotBuilt("needs another library")


def row(name: str, build: Callable[[], Built]) -> Row:
    return measure(Subject(name, "tests", build))


def test_each_step_says_yes_or_its_sentence() -> None:
    good = row("plain", plain)
    assert (good.built, good.exported, good.pruned, good.onnx, good.crash) == ("yes", "yes", "yes", "yes", "")
    assert report.green(good)
    assert good.removed >= 0.3
    refused = row("rows", lambda: (Rows().eval(), torch.randn(2, 8)))
    assert "test_survey.py, line" in refused.exported
    assert not report.green(refused)
    assert row("missing", unbuilt).built == "needs another library"
    rows = [good, refused, row("missing", unbuilt), replace(good, key="tests/crashed", crash="here")]
    found = report.table(rows)
    assert "3 architectures were built, 2 export. Of these 1 are pruned" in found
    assert "- tests/rows: The model does not export" in found
    assert not report.goals(rows)
    assert report.goals([good, refused])
    held = (("output: is an output of the model", 0.3), ("select: a single position is taken", 0.05))
    headless = replace(good, frozen=0.35, held=held)
    assert report.returned(headless), "it returns that width, which is what its user reads"
    assert not report.goals([headless]), "and still counts as frozen"
    assert not report.returned(replace(headless, frozen=0.45, held=(held[0], (held[1][0], 0.15))))


def test_an_architecture_is_shrunk_by_the_names_of_its_fields() -> None:
    pytest.importorskip("transformers")
    from benchmarks.survey.hub import build

    model, example = build("Qwen3ForCausalLM", "Qwen3Config")
    assert sum(parameter.numel() for parameter in model.parameters()) < 200_000
    assert set(example) == {"input_ids", "attention_mask"}

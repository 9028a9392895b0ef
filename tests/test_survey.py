"""The survey's rows: what is green, what is told, and a configuration shrunk by the names of its fields."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import nn

from benchmarks.survey import report, trial
from benchmarks.survey.subject import Built, NotBuilt, Subject
from benchmarks.survey.trial import Row, measure

pytestmark = pytest.mark.filterwarnings("ignore")  # transformers' own


def plain() -> Built:
    return nn.Sequential(nn.Linear(8, 32), nn.ReLU(), nn.Linear(32, 4)).eval(), torch.randn(2, 8)


def normed() -> Built:
    model = nn.Sequential(nn.Linear(8, 32), nn.LayerNorm(32), nn.Softmax(-1), nn.Linear(32, 4))
    return model.eval(), torch.randn(2, 8)


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
    assert "| tests | 3 | 2 | 1 | 50.0% | 2 of 2 | 1 |" in found
    assert "- tests/rows: The model does not export" in found
    assert not report.goals(rows)
    assert report.goals([good, refused])
    held = (("output: is an output of the model", 0.3), ("select: a single position is taken", 0.05))
    headless = replace(good, frozen=0.35, held=held)
    assert report.returned(headless), "it returns that width, which is what its user reads"
    assert not report.goals([headless]), "and still counts as frozen"
    assert not report.returned(replace(headless, frozen=0.45, held=(held[0], (held[1][0], 0.15))))


def test_rounding_is_told_from_a_wrong_cut_in_double_precision(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trial, "EXACT", 1e-12)  # under what float32 resolves
    rounded = measure(Subject("normed", "tests", normed), onnx=False)
    assert rounded.error is not None and rounded.error > 1e-10  # noqa: PT018
    assert rounded.double is not None and rounded.double < 1e-13  # noqa: PT018
    assert "(double)" in report.table([rounded])
    far = replace(rounded, error=2 * report.EXACT)
    assert report.good(far)
    assert not report.good(replace(far, double=1e-6)), "a wrong cut is as wrong in double precision"
    assert not report.good(replace(far, double=None))


def test_a_head_is_surveyed_where_there_is_one_and_what_it_returns() -> None:
    pytest.importorskip("transformers")
    from benchmarks.survey.hub import INNER, build, is_part, other_head

    assert other_head("BridgeTowerConfig") == "BridgeTowerForMaskedLM"
    assert other_head("AltCLIPConfig") == ""
    assert is_part("CLIPTextConfig")
    assert not is_part("CLIPConfig")
    model, example = build("BartForConditionalGeneration", "BartConfig")
    (logits,) = model(**example)
    assert logits.shape == (2, 6, 97)
    assert INNER.fullmatch("encoder_last_hidden_state")
    assert not INNER.fullmatch("text_embeds")


def test_one_model_of_each_family_is_built_small() -> None:
    from benchmarks.survey.vision import build, first_word, one_of_each

    names = ["resnet50", "resnet18", "swin_base", "swin_tiny", "vgg11", "vgg16"]
    assert sorted(one_of_each(names, first_word)) == ["resnet18", "swin_tiny", "vgg11"]

    def made(name: str) -> nn.Module:
        width = {"small": 8, "large": 20_000}[name]
        return nn.Sequential(nn.Flatten(), nn.Linear(3 * 32 * 32, width), nn.Linear(width, 2))

    model, example = build(made, "small")
    assert example.shape == (2, 3, 32, 32), "the first size that it takes"
    assert not model.training
    with pytest.raises(NotBuilt, match="61,500,002 parameters"):
        build(made, "large")
    with pytest.raises(NotBuilt, match="KeyError"):
        build(made, "unknown")


def test_an_architecture_is_shrunk_by_the_names_of_its_fields() -> None:
    pytest.importorskip("transformers")
    from benchmarks.survey.hub import build

    model, example = build("Qwen3ForCausalLM", "Qwen3Config")
    assert sum(parameter.numel() for parameter in model.parameters()) < 200_000
    assert set(example) == {"input_ids", "attention_mask"}

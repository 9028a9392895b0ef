"""A pretrained folder is loaded in float32, without its code and without pickle, or refused in a sentence."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner

from edgeprune.cli import main
from edgeprune.errors import InputError
from edgeprune.tasks.pretrained.loading import go_offline, load_pretrained

go_offline()
transformers = pytest.importorskip("transformers")

from tests.support import pretrained  # noqa: E402


def changed(folder: Path, **settings: Any) -> Path:
    """The folder with other entries in its config.json; None takes one away."""
    path = folder / "config.json"
    found = {**json.loads(path.read_text()), **settings}
    path.write_text(json.dumps({name: value for name, value in found.items() if value is not None}))
    return folder


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return pretrained.text_folder(tmp_path / "model")


def test_logits_are_those_of_transformers(folder: Path) -> None:
    found = load_pretrained(folder)
    model = transformers.BertForSequenceClassification.from_pretrained(folder)
    ids = torch.arange(10)[None] + 5
    with torch.no_grad():
        assert torch.equal(found.module(input_ids=ids), model(ids).logits)
    assert (found.head.reads, found.answers, found.names) == ("text", "classes", pretrained.NAMES)
    assert not found.module.training
    assert found.remarks == ()


@pytest.mark.parametrize("kind", [torch.float16, torch.bfloat16])
def test_half_precision_is_read_as_float32_and_told(kind: torch.dtype, folder: Path) -> None:
    transformers.BertForSequenceClassification.from_pretrained(folder).to(kind).save_pretrained(folder)
    found = load_pretrained(folder)
    assert {each.dtype for each in found.module.parameters()} == {torch.float32}
    name = str(kind).removeprefix("torch.")
    assert found.remarks == (f"The weights are stored as {name} and were read as float32.",)


@pytest.mark.parametrize(
    ("settings", "reads", "answers"),
    [
        ({"num_labels": 1}, "text", "values"),
        ({"problem_type": "multi_label_classification"}, "text", "labels"),
        ({"problem_type": "single_label_classification"}, "text", "classes"),
    ],
)
def test_what_the_outputs_are_follows_from_the_config(
    settings: dict[str, Any], reads: str, answers: str, tmp_path: Path
) -> None:
    names = {} if "num_labels" not in settings else {"id2label": {0: "score"}}
    found = load_pretrained(pretrained.text_folder(tmp_path / "model", **settings, **names))
    assert (found.head.reads, found.answers) == (reads, answers)


@pytest.mark.parametrize(
    "head", ["BertForQuestionAnswering", "BertForMaskedLM", "BertModel", "BertLMHeadModel"]
)
def test_heads_that_answer_otherwise_are_refused_by_name(head: str, tmp_path: Path) -> None:
    with pytest.raises(
        InputError, match=f"holds a {head}, and edgeprune makes no task of that head"
    ) as refused:
        load_pretrained(pretrained.text_folder(tmp_path / "model", head))
    assert "sequence classification, token classification, image classification" in refused.value.hint


def without(name: str) -> Callable[[Path], object]:
    return lambda folder: (folder / name).unlink()


def as_pickle(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    torch.save({}, folder / "pytorch_model.bin")


def as_adapter(folder: Path) -> None:
    (folder / "config.json").rename(folder / "adapter_config.json")


def headless(folder: Path) -> None:
    transformers.BertModel.from_pretrained(folder).save_pretrained(folder)
    changed(folder, architectures=["BertForSequenceClassification"])


REFUSED: tuple[tuple[str, Callable[[Path], object], str], ...] = (
    ("no config", without("config.json"), "has no config.json"),
    ("an adapter", as_adapter, "holds an adapter without its model"),
    ("no weights", without("model.safetensors"), r"has no weights \(\*\.safetensors\)"),
    ("a pickle", as_pickle, "pytorch_model.bin, a pickle, which can run any code"),
    ("a head that was never trained", headless, "lacks 2 weights of its head or body, such as 'classifier"),
    ("quantised", lambda folder: changed(folder, quantization_config={"bits": 4}), "is quantised already"),
    (
        "code of its own",
        lambda folder: changed(folder, model_type="mine", auto_map={"AutoConfig": "mine.Mine"}),
        "is not one that this transformers knows",
    ),
    ("no architecture", lambda folder: changed(folder, architectures=None), "names no architecture"),
    (
        "a class",
        lambda folder: changed(folder, id2label={"0": "A"}, label2id={"A": 0}),
        "classifies into 1 class|lacks 2 weights",
    ),
    (
        "names that are not different",
        lambda folder: changed(folder, id2label={"0": "A", "1": "A"}),
        "does not name labels 0 to 1, each differently",
    ),
    ("no JSON", lambda folder: (folder / "config.json").write_text("{"), "is not JSON"),
    ("no object", lambda folder: (folder / "config.json").write_text("[]"), "is no JSON object"),
    (
        "cut off",
        lambda folder: (folder / "model.safetensors").write_bytes(b"\x08" + bytes(20)),
        "model.safetensors is no safetensors file",
    ),
    (
        "layers without end",
        lambda folder: changed(folder, num_hidden_layers=2**31),
        "num_hidden_layers = 2147483648, and the weights are 41 tensors",
    ),
    ("labels without end", lambda folder: changed(folder, num_labels=2**31), "has num_labels = 2147483648"),
    (
        "a far larger model",
        lambda folder: changed(folder, vocab_size=2**40),
        r"describes a model of \d+ weights, and the files hold \d+",
    ),
)


@pytest.mark.parametrize(("name", "spoil", "told"), REFUSED, ids=[name for name, *_ in REFUSED])
def test_a_folder_that_cannot_be_fitted_is_refused(
    name: str, spoil: Callable[[Path], object], told: str, folder: Path
) -> None:
    spoil(folder)
    with pytest.raises(InputError, match=told) as refused:
        load_pretrained(folder)
    assert refused.value.what.count("\n") == 0
    assert refused.value.hint


def test_a_library_that_is_not_installed_is_named_with_its_extra(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "datasets", None)
    refused = CliRunner().invoke(main, ["inspect", str(folder), "--data", "rows.csv"])
    assert refused.exit_code == 2
    assert "datasets is not installed, and this step needs it." in refused.output
    assert "pip install 'edgeprune[hf]'" in refused.output


def test_no_code_of_a_folder_runs(folder: Path, tmp_path: Path) -> None:
    (folder / "mine.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\n")
    changed(folder, auto_map={"AutoModelForSequenceClassification": "mine.Mine", "AutoConfig": "mine.Mine"})
    load_pretrained(folder)
    assert not (tmp_path / "ran").exists()

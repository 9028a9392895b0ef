"""`edgeprune prune FOLDER -o FOLDER`: with no data, with a text, with labelled rows; and what is refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from edgeprune.cli import main

transformers = pytest.importorskip("transformers")
pytest.importorskip("tokenizers")


def ran(*words: object) -> Result:
    return CliRunner().invoke(main, ["prune", *map(str, words)], env={"COLUMNS": "200"})


@pytest.fixture(scope="module")
def classifier(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from tests.support import pretrained

    return pretrained.text_folder(tmp_path_factory.mktemp("classifier") / "model")


@pytest.fixture(scope="module")
def writer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A causal language model of a few thousand weights with a tokenizer."""
    import torch

    from tests.support import pretrained

    folder = tmp_path_factory.mktemp("writer") / "model"
    folder.mkdir()
    words = len(pretrained.tokenizer(folder))
    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        vocab_size=words,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=64,
    )
    transformers.LlamaForCausalLM(config).save_pretrained(folder)
    return folder


def test_a_text_calibrates_a_language_model(writer: Path, tmp_path: Path) -> None:
    from tests.support import pretrained

    text = tmp_path / "text.txt"
    text.write_text("\n".join(pretrained.sentences(300)[0]), "utf-8")
    small = tmp_path / "small"
    done = ran(writer, "--data", text, "--tokens", 16, "--ratio", 0.3, "-o", small, "--json")
    assert done.exit_code == 0, done.output
    answer = json.loads(done.stdout)
    config = json.loads((small / "config.json").read_text("utf-8"))
    assert answer["config"]
    assert {name: config[name] for name in answer["config"]} == {
        name: each["pruned"] for name, each in answer["config"].items()
    }
    assert (small / "tokenizer.json").is_file()
    again = transformers.AutoModelForCausalLM.from_pretrained(small)
    assert sum(each.numel() for each in again.parameters()) == answer["params"]["pruned"]


def test_without_data_a_classifier_is_cut_by_its_weights(classifier: Path, tmp_path: Path) -> None:
    small = tmp_path / "small"
    done = ran(classifier, "--ratio", 0.3, "-o", small)
    assert done.exit_code == 0, done.output
    assert f"written to {small}" in done.stdout.replace("\n", "")
    assert "hidden_size" in done.stdout or "intermediate_size" in done.stdout


def test_labelled_rows_calibrate_a_classifier(classifier: Path, tmp_path: Path) -> None:
    from tests.support import pretrained

    texts, labels = pretrained.sentences(200)
    rows = tmp_path / "rows.jsonl"
    named = [pretrained.NAMES[label] for label in labels]
    lines = [json.dumps({"text": text, "label": name}) for text, name in zip(texts, named, strict=True)]
    rows.write_text("\n".join(lines), "utf-8")
    done = ran(classifier, "--data", rows, "--ratio", 0.3, "-o", tmp_path / "small")
    assert done.exit_code == 0, done.output
    assert transformers.AutoModelForSequenceClassification.from_pretrained(tmp_path / "small")


def test_a_folder_without_its_tokenizer_or_head_is_refused(writer: Path, tmp_path: Path) -> None:
    import torch

    text = tmp_path / "text.txt"
    text.write_text("the day was bright " * 50, "utf-8")
    bare = tmp_path / "bare"
    transformers.AutoModelForCausalLM.from_pretrained(writer).save_pretrained(bare)
    done = ran(bare, "--data", text, "--ratio", 0.3, "-o", tmp_path / "small")
    assert done.exit_code == 2
    assert "has no tokenizer" in done.stderr or "cannot load the tokenizer" in done.stderr
    torch.manual_seed(0)
    config = transformers.BertConfig(
        vocab_size=20, hidden_size=8, num_hidden_layers=1, num_attention_heads=2, intermediate_size=8
    )
    transformers.BertModel(config).save_pretrained(tmp_path / "body")
    done = ran(tmp_path / "body", "--ratio", 0.3, "-o", tmp_path / "small")
    assert done.exit_code == 2
    assert "a BertModel, a model without a head" in done.stderr
    (tmp_path / "body" / "config.json").write_text('{"architectures": ["utils"]}', "utf-8")
    done = ran(tmp_path / "body", "--ratio", 0.3, "-o", tmp_path / "small")
    assert done.exit_code == 2
    assert "names no architecture of transformers" in done.stderr
    assert not (tmp_path / "small").exists()


def test_a_text_is_refused_by_a_model_that_continues_none(classifier: Path, tmp_path: Path) -> None:
    text = tmp_path / "text.txt"
    text.write_text("the day was bright " * 50, "utf-8")
    done = ran(classifier, "--data", text, "--ratio", 0.3, "-o", tmp_path / "small")
    assert done.exit_code == 2
    assert "holds a BertForSequenceClassification, which continues none" in done.stderr


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("--tokens", 8, "-o", "small"), "--tokens says how data is read, and none was given"),
        (("--metric", "f1", "--data", "short.txt", "-o", "small"), "--metric says how data is read"),
        (("--branches", 1, "-o", "small"), "--branches and --heads inside are not for a folder"),
        (("--layers", 1, "-o", "small.pt2"), "--layers is for a FOLDER that is written as a folder"),
        (("--data", "none.txt", "-o", "small"), "none.txt is no text file"),
        (("--tokens", 500, "--data", "short.txt", "-o", "small"), "--tokens is 500, and the model takes 64"),
        (("--data", "short.txt", "-o", "small"), "tokens, which are no two windows of 64"),
        (("-o", "there"), "is there already"),
    ],
)
def test_what_is_wrong_is_one_sentence_and_nothing_is_written(
    words: tuple[object, ...], told: str, writer: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "there").mkdir()
    (tmp_path / "short.txt").write_text("the day was bright", "utf-8")
    done = ran(writer, "--ratio", 0.3, *words)
    assert done.exit_code == 2
    assert told in " ".join(done.stderr.split())
    assert sorted(path.name for path in tmp_path.iterdir()) == ["short.txt", "there"]

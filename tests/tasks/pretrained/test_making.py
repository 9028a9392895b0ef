"""A task of a pretrained folder: what is read, how it is split, scored and told."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from edgeprune.errors import InputError
from edgeprune.records.task import Task
from edgeprune.tasks import PreparedTask, TaskOptions, check_task, load_task, scored
from edgeprune.tasks.pretrained.loading import go_offline

go_offline()
pytest.importorskip("datasets")
pytest.importorskip("sklearn")
transformers = pytest.importorskip("transformers")

from tests.support import pretrained  # noqa: E402


@pytest.fixture(scope="module")
def classifier(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return pretrained.classifier(tmp_path_factory.mktemp("models") / "classifier")


def predict_of(task: Task) -> Callable[..., Any]:
    """The model of a task as numpy in, numpy out."""
    assert isinstance(task.example, dict)
    names = tuple(task.example)

    def predict(*arrays: Any) -> Any:
        with torch.no_grad():
            inputs = {name: torch.from_numpy(array) for name, array in zip(names, arrays, strict=True)}
            return task.model(**inputs).numpy()

    return predict


def loaded(folder: Path, data: Path, **options: Any) -> PreparedTask:
    task = load_task(str(folder), TaskOptions(data=data, **options))
    assert isinstance(task, PreparedTask)
    check_task(task)
    return task


def texts_of(task: Task) -> list[Any]:
    return [batch["input_ids"].numpy().tobytes() for batch in task.calibration]  # type: ignore[union-attr]


def test_a_classifier_is_scored_on_rows_that_it_is_not_trained_on(classifier: Path, tmp_path: Path) -> None:
    texts, labels = pretrained.sentences(1200)
    data = pretrained.write_csv(tmp_path / "data.csv", text=texts, label=labels)
    task = loaded(classifier, data)
    assert task.remarks == (
        "Of 1200 rows 700 are for calibration and training and 500 for evaluation, split by the seed 0, "
        "every class in the same shares.",
        "Every text has 16 tokens (the 99th percentile of the training texts, rounded up), padded or cut; "
        "0.0% of the evaluation texts are cut. --tokens says another length.",
    )
    assert (task.metric, task.outputs, task.lower_is_better) == ("accuracy", "classes", False)
    predict = predict_of(task)
    score, doubts = scored(task, predict, 0)
    assert score > 0.95
    assert doubts == []
    assert task.evaluate_samples is not None
    assert task.evaluate_samples(predict).mean() == pytest.approx(score)
    assert task.evaluate_subset is None, "500 rows are few"
    rows = [row.numpy().tobytes() for batch, _ in task.train for row in batch["input_ids"]]  # type: ignore[union-attr]
    assert len(rows) == 700


def test_the_tokens_are_those_of_transformers_with_their_mask(classifier: Path, tmp_path: Path) -> None:
    texts, labels = pretrained.sentences(20)
    task = loaded(
        classifier, pretrained.write_csv(tmp_path / "data.csv", text=texts, label=labels), tokens=12
    )
    encode = transformers.AutoTokenizer.from_pretrained(classifier)
    known = encode(texts, padding="max_length", max_length=12, truncation=True, return_tensors="np")
    rows = {ids.tobytes(): at for at, ids in enumerate(known["input_ids"])}
    seen = []
    for batch, target in task.train:  # type: ignore[union-attr, misc]
        for ids, mask, label in zip(batch["input_ids"], batch["attention_mask"], target, strict=True):
            at = rows[ids.numpy().tobytes()]
            assert mask.tolist() == known["attention_mask"][at].tolist()
            seen.append(int(label) == labels[at])
    assert all(seen)
    assert len(seen) == 10
    assert tuple(task.example) == ("input_ids", "token_type_ids", "attention_mask")  # type: ignore[arg-type]


def test_the_seed_decides_the_split(classifier: Path, tmp_path: Path) -> None:
    texts, labels = pretrained.sentences(60)
    data = pretrained.write_csv(tmp_path / "data.csv", text=texts, label=labels)
    first, again, other = (texts_of(loaded(classifier, data, seed=seed, tokens=16)) for seed in (0, 0, 1))
    assert first == again != other


def test_parts_of_a_folder_are_not_mixed(classifier: Path, tmp_path: Path) -> None:
    for name, rows, seed in (("train", 40, 0), ("validation", 24, 1)):
        texts, labels = pretrained.sentences(rows, seed)
        pretrained.write_csv(
            tmp_path / f"{name}.csv", text=texts, label=[pretrained.NAMES[at] for at in labels]
        )
    pretrained.write_csv(tmp_path / "test.csv", text=["unlabelled"] * 9, label=[-1] * 9)
    task = loaded(classifier, tmp_path)
    assert task.remarks[0] == (
        "40 rows of train are for calibration and training, 24 of validation for evaluation; 9 of test are "
        "not read."
    )
    asked: list[int] = []
    task.evaluate(lambda ids, *others: asked.append(len(ids)) or np.zeros((len(ids), 2)))
    assert sum(asked) == 24


def test_labels_in_another_order_than_the_models_raise_a_question(classifier: Path, tmp_path: Path) -> None:
    texts, labels = pretrained.sentences(100)
    data = pretrained.write_csv(tmp_path / "data.csv", text=texts, label=[1 - label for label in labels])
    task = loaded(classifier, data)
    score, doubts = scored(task, predict_of(task), 0)
    assert score < 0.2
    assert any("in the order of config.json (0 = NEGATIVE, 1 = POSITIVE)?" in doubt for doubt in doubts)


def test_a_rare_class_is_seen_by_other_metrics_than_accuracy(classifier: Path, tmp_path: Path) -> None:
    texts, labels = pretrained.sentences(400)
    rare = [at for at, label in enumerate(labels) if label == 0 or at % 20 == 0]
    data = pretrained.write_csv(
        tmp_path / "data.csv", text=[texts[at] for at in rare], label=[labels[at] for at in rare]
    )
    always = np.array([1.0, 0.0])
    for metric, shown in (("f1", "F1"), ("auc", "AUC"), ("matthews", "Matthews")):
        task = loaded(classifier, data, metric=metric)
        assert task.metric == shown
        assert task.evaluate(predict_of(task)) > 0.8
        constant = task.evaluate(lambda ids, *others: np.tile(always, (len(ids), 1)))
        assert constant == pytest.approx(0.5 if metric == "auc" else 0.0)
        assert list(task.doubts(constant))
        assert task.evaluate_samples is None
    task = loaded(classifier, data)
    constant = task.evaluate(lambda ids, *others: np.tile(always, (len(ids), 1)))
    assert constant > 0.8
    assert list(task.doubts(constant)), "accuracy of a constant answer is no merit"


def test_two_texts_are_one_row(tmp_path: Path) -> None:
    folder = pretrained.text_folder(tmp_path / "model")
    texts, labels = pretrained.sentences(20)
    data = pretrained.write_csv(tmp_path / "data.csv", premise=texts, hypothesis=texts[::-1], label=labels)
    task = loaded(folder, data)
    encode = transformers.AutoTokenizer.from_pretrained(folder)
    ids = [tuple(row) for row in encode(texts, texts[::-1])["input_ids"]]
    batch: Any = next(iter(task.calibration))  # type: ignore[arg-type]
    for row, mask in zip(batch["input_ids"], batch["attention_mask"], strict=True):
        assert tuple(row[mask.bool()].tolist()) in ids
    assert set(batch["token_type_ids"].unique().tolist()) == {0, 1}


def test_a_value_is_predicted(tmp_path: Path) -> None:
    folder = pretrained.text_folder(tmp_path / "model", id2label={0: "stars"})
    texts, labels = pretrained.sentences(40)
    data = pretrained.write_jsonl(
        tmp_path / "data.jsonl", text=texts, label=[label + 0.5 for label in labels]
    )
    task = loaded(folder, data)
    assert (task.metric, task.lower_is_better, task.outputs) == ("RMSE", True, "values")
    _, target = next(iter(task.train))  # type: ignore[arg-type]
    assert (target.dtype, target.shape[1:]) == (torch.float32, (1,))
    constant = task.evaluate(lambda ids, *others: np.full((len(ids), 1), 1.0))
    assert constant == pytest.approx(0.5)
    assert list(task.doubts(constant))
    assert not list(task.doubts(0.1))


def test_labels_that_do_not_exclude_each_other(tmp_path: Path) -> None:
    folder = pretrained.text_folder(
        tmp_path / "model", id2label={0: "a", 1: "b", 2: "c"}, problem_type="multi_label_classification"
    )
    texts, labels = pretrained.sentences(40)
    data = pretrained.write_jsonl(
        tmp_path / "data.jsonl", text=texts, labels=[["a", "c"] if label else ["b"] for label in labels]
    )
    task = loaded(folder, data)
    assert (task.metric, task.outputs) == ("F1", "labels")
    _, target = next(iter(task.train))  # type: ignore[arg-type]
    assert {tuple(row) for row in target.tolist()} == {(1.0, 0.0, 1.0), (0.0, 1.0, 0.0)}
    accuracy = loaded(folder, data, metric="accuracy")
    assert accuracy.evaluate(lambda ids, *others: np.full((len(ids), 3), 9.0)) == pytest.approx(0.5, abs=0.2)


def test_the_first_token_of_a_word_has_its_label(tmp_path: Path) -> None:
    folder = pretrained.text_folder(tmp_path / "model", "BertForTokenClassification")
    texts, _ = pretrained.sentences(40)
    words = [text.split() for text in texts]
    tags = [["POSITIVE" if word in pretrained.GOOD else "NEGATIVE" for word in row] for row in words]
    data = pretrained.write_jsonl(tmp_path / "data.jsonl", tokens=words, tags=tags)
    with pytest.raises(InputError, match=r"--tokens 8,16 .* outputs are as long as the text"):
        loaded(folder, data, tokens=(8, 16))
    task = loaded(folder, data)
    inputs, target = next(iter(task.train))  # type: ignore[arg-type]
    encode = transformers.AutoTokenizer.from_pretrained(folder)
    for ids, row in zip(inputs["input_ids"], target, strict=True):
        kept = encode.decode(ids[row != -100]).split()
        wanted = [int(tag) for tag in row[row != -100]]
        assert len(kept) == len(wanted)
        assert (1 in wanted) == any(word in pretrained.GOOD for word in encode.decode(ids).split())
    assert task.outputs == "classes:2"
    right = {"POSITIVE": 1.0, "NEGATIVE": 0.0}
    share = np.mean([right[tag] for row in tags for tag in row])
    always = task.evaluate(lambda ids, *others: np.tile([1.0, 0.0], (*ids.shape, 1)))
    assert always == pytest.approx(1 - share, abs=0.1)
    assert list(task.doubts(always))


def test_images_are_read_as_their_processor_says(tmp_path: Path) -> None:
    pytest.importorskip("PIL")
    folder = pretrained.image_folder(tmp_path / "model")
    task = loaded(folder, pretrained.pictures(tmp_path / "pictures", 60))
    assert {name: tuple(value.shape) for name, value in dict(task.example).items()} == {  # type: ignore[arg-type]
        "pixel_values": (1, 3, 16, 16)
    }
    assert scored(task, predict_of(task), 0) == (1.0, []), "names of folders are names of the model's labels"


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"metric": "rmse"}, "--metric rmse does not score a model of classes"),
        ({"metric": "bleu"}, "--metric bleu is no metric"),
        ({"tokens": 65}, "--tokens is 65, and the model takes 64"),
        ({"tokens": (32, 65)}, "--tokens is 65, and the model takes 64"),
        ({"tokens": (32, 32)}, "--tokens is 32,32"),
        ({"tokens": (1, 32)}, "--tokens is 1"),
        ({"columns": "text=body"}, "has no column 'body'"),
    ],
)
def test_options_that_do_not_fit_are_refused(
    options: dict[str, Any], told: str, classifier: Path, tmp_path: Path
) -> None:
    texts, labels = pretrained.sentences(20)
    data = pretrained.write_csv(tmp_path / "data.csv", text=texts, label=labels)
    with pytest.raises(InputError, match=told):
        load_task(str(classifier), TaskOptions(data=data, **options))


def test_data_that_is_too_little_or_absent_is_refused(classifier: Path, tmp_path: Path) -> None:
    few = pretrained.write_csv(tmp_path / "few.csv", text=["good"] * 7, label=[0] * 7)
    with pytest.raises(InputError, match="has 7 rows, which are too few"):
        load_task(str(classifier), TaskOptions(data=few))
    with pytest.raises(InputError, match="was given without --data"):
        load_task(str(classifier))
    with pytest.raises(InputError, match="FOLDER takes none"):
        load_task(str(classifier), TaskOptions(data=few, outputs="classes"))
    one = pretrained.write_csv(tmp_path / "one.csv", text=["good"] * 20, label=[0] * 20)
    with pytest.raises(InputError, match="AUC needs rows of every class"):
        load_task(str(classifier), TaskOptions(data=one, metric="auc"))


def test_a_prepared_task_stays_one_when_it_is_checked(classifier: Path, tmp_path: Path) -> None:
    texts, labels = pretrained.sentences(20)
    task = loaded(classifier, pretrained.write_csv(tmp_path / "data.csv", text=texts, label=labels))
    checked, remarks = check_task(replace(task, remarks=("A sentence.",)))
    assert isinstance(checked, PreparedTask)
    assert remarks[0] == "A sentence."


LENGTHS = (8, 12)


def test_texts_of_several_lengths_are_in_batches_of_one(classifier: Path, tmp_path: Path) -> None:
    texts, labels = pretrained.sentences(300)
    data = pretrained.write_csv(tmp_path / "data.csv", text=texts, label=labels)
    task = loaded(classifier, data, tokens=(12, 8))
    assert (task.lengths, task.length_dims) == (LENGTHS, 1)
    (told,) = [remark for remark in task.remarks if "tokens" in remark]
    assert told.startswith("Texts have 8 or 12 tokens, padded to the next or cut: of the training texts ")
    assert {name: tuple(tensor.shape) for name, tensor in task.example.items()} == dict.fromkeys(  # type: ignore[union-attr]
        task.example, (1, 12)
    )
    encode = transformers.AutoTokenizer.from_pretrained(classifier)
    seen, order = [], []
    for batch, target in task.train:  # type: ignore[union-attr, misc]
        length = batch["input_ids"].shape[1]
        order.append(length)
        needed = batch["attention_mask"].sum(1)
        assert bool((needed <= length).all())
        assert length == 8 or bool((needed > 8).all()), "a text that fits 8 has 8"
        seen += [
            (encode.decode(ids, skip_special_tokens=True), int(label))
            for ids, label in zip(batch["input_ids"], target, strict=True)
        ]
    assert set(order) == set(LENGTHS)
    assert order != sorted(order) != order[::-1], "training sees both in turn"
    known = dict(zip(texts, labels, strict=True))
    assert all(known[text] == label for text, label in seen if text in known)
    assert len(seen) == 150
    predict = predict_of(task)
    asked: list[int] = []

    def counted(*arrays: Any) -> Any:
        asked.append(arrays[0].shape[1])
        return predict(*arrays)

    assert task.evaluate(counted) > 0.9
    assert asked == sorted(asked), "a session compiles anew for another length"


def test_no_tokenizer_is_made_up(classifier: Path, tmp_path: Path) -> None:
    """Of a BERT without its vocabulary transformers makes a tokenizer that knows no word."""
    bare = tmp_path / "bare"
    transformers.AutoModelForSequenceClassification.from_pretrained(classifier).save_pretrained(bare)
    texts, labels = pretrained.sentences(200)
    data = pretrained.write_csv(tmp_path / "data.csv", text=texts, label=labels)
    with pytest.raises(InputError, match=r"has no tokenizer: none of .*vocab\.txt.* is there"):
        load_task(str(bare), TaskOptions(data=data))

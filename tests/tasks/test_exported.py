from __future__ import annotations

import os
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.export import Dim

from edgeprune import InputError, Task
from edgeprune.graph.capture import capture
from edgeprune.tasks import TaskOptions, call_evaluate, call_evaluate_samples, check_task, load_task

ROWS = 40


class Classifier(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm = torch.nn.BatchNorm1d(3)
        self.head = torch.nn.Linear(3, 4)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return self.head(self.norm(image))


class TwoInputs(torch.nn.Module):
    def forward(self, ids: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
        return ids.float().sum(dim=1, keepdim=True) * scale


def export(model: torch.nn.Module, path: Path, *args: Any, **kwargs: Any) -> Path:
    """Save `model` with a dynamic batch."""
    shapes: Any = tuple({0: Dim.DYNAMIC} for _ in args) or {name: {0: Dim.DYNAMIC} for name in kwargs}
    torch.export.save(torch.export.export(model, args, kwargs, dynamic_shapes=shapes), path)
    return path


@pytest.fixture(scope="module")
def classifier(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("classifier") / "model.pt2"
    return export(Classifier().eval(), path, torch.zeros(2, 3))


@pytest.fixture
def data(tmp_path: Path) -> Callable[..., Path]:
    def data(**arrays: Any) -> Path:
        np.savez(tmp_path / "data.npz", **arrays)
        return tmp_path / "data.npz"

    return data


def images(rows: int = ROWS) -> np.ndarray:
    return np.random.default_rng(1).standard_normal((rows, 3)).astype(np.float32)


def predict_with(task: Task) -> Callable[..., np.ndarray]:
    def predict(*arrays: np.ndarray) -> np.ndarray:
        with torch.no_grad():
            return task.model(*map(torch.from_numpy, arrays)).numpy()

    return predict


def rows_of(batches: Any) -> list[tuple[float, ...]]:
    return [tuple(row.tolist()) for batch in batches for row in batch[0]]


def test_integer_labels_are_scored_by_top_1(classifier: Path, data):
    x = images()
    with torch.no_grad():
        right = torch.export.load(classifier).module()(torch.from_numpy(x)).argmax(dim=1).numpy()
    task = load_task(str(classifier), TaskOptions(data=data(image=x, labels=right.astype(np.uint8))))
    check_task(task)
    assert task.metric == "top-1"
    assert call_evaluate(task, predict_with(task)) == 1.0
    assert call_evaluate(task, lambda image: -predict_with(task)(image)) == 0.0


def test_float_labels_are_scored_by_their_rmse(tmp_path: Path, data):
    model = export(TwoInputs(), tmp_path / "sum.pt2", torch.ones(2, 3, dtype=torch.int64), torch.ones(2, 1))
    ids, scale = np.arange(3 * ROWS).reshape(ROWS, 3), np.full((ROWS, 1), 0.5, np.float32)
    task = load_task(
        str(model), TaskOptions(data=data(ids=ids, scale=scale, labels=ids.sum(axis=1) * 0.5 + 2.0))
    )
    check_task(task)
    assert (task.metric, task.lower_is_better) == ("RMSE", True)
    assert call_evaluate(task, predict_with(task)) == pytest.approx(2.0)
    assert task.outputs == {"": "values"}
    assert task.loss is None


def test_without_labels_what_is_said_to_be_a_classifier_is_scored_by_the_classes_it_keeps(
    classifier: Path, data
):
    task = load_task(str(classifier), TaskOptions(data=data(image=images()), outputs="classes"))
    check_task(task)
    predict = predict_with(task)

    def wrong_on_odd_calls(image: np.ndarray) -> np.ndarray:
        return predict(image) * np.where(np.arange(len(image)) % 2, -1, 1)[:, None]

    assert task.metric == "fidelity"
    assert call_evaluate(task, predict) == 1.0
    assert call_evaluate(task, wrong_on_odd_calls) == 0.5


@pytest.mark.parametrize("labelled", [True, False])
def test_a_score_per_sample_has_the_metric_as_its_mean(labelled: bool, classifier: Path, data):
    rng = np.random.default_rng(0)
    labels = {"labels": rng.integers(0, 3, ROWS)} if labelled else {}
    said = None if labelled else "classes"
    task = load_task(str(classifier), TaskOptions(data=data(image=images(), **labels), outputs=said))
    plain = predict_with(task)

    def sometimes_wrong(image: np.ndarray) -> np.ndarray:
        return plain(image) * np.where(np.arange(len(image)) % 3 == 1, -1, 1)[:, None]

    scores = call_evaluate_samples(task, sometimes_wrong)
    assert set(scores.tolist()) <= {0.0, 1.0}
    assert scores.mean() == call_evaluate(task, sometimes_wrong)


def test_a_score_that_is_no_mean_has_none_per_sample(tmp_path: Path, data):
    model = export(TwoInputs(), tmp_path / "sum.pt2", torch.ones(2, 3, dtype=torch.int64), torch.ones(2, 1))
    ids, scale = np.arange(3 * ROWS).reshape(ROWS, 3), np.full((ROWS, 1), 0.5, np.float32)
    assert load_task(str(model), TaskOptions(data=data(ids=ids, scale=scale))).evaluate_samples is None


def test_without_labels_and_words_what_counts_is_the_share_of_the_outputs_spread_that_is_kept(
    classifier: Path, data
):
    task = load_task(str(classifier), TaskOptions(data=data(image=images())))
    predict = predict_with(task)
    assert call_evaluate(task, predict) == 1.0
    assert call_evaluate(task, lambda image: [predict(image)]) == 1.0

    def shifted(image: np.ndarray) -> np.ndarray:
        return predict(image) + 5.0  # the same classes, for a softmax

    assert call_evaluate(task, shifted) < 0
    outputs = []
    call_evaluate(task, lambda image: outputs.append(predict(image)) or outputs[-1])
    mean = np.concatenate(outputs).mean(axis=0)
    assert call_evaluate(task, lambda image: 0 * predict(image) + mean) == pytest.approx(0, abs=1e-5)


def test_all_outputs_count_for_fidelity(tmp_path: Path, data):
    class Two(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
            return {"near": x, "far": 100 * x}

    model = export(Two(), tmp_path / "two.pt2", torch.zeros(2, 3))
    task = load_task(str(model), TaskOptions(data=data(x=images())))

    def without_the_second(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return x, np.tile(100 * x.mean(axis=0), (len(x), 1))

    assert call_evaluate(task, without_the_second) == pytest.approx(0.5, abs=0.1)
    task = load_task(str(model), TaskOptions(data=data(x=images()), outputs="near=values,far=none"))
    assert call_evaluate(task, without_the_second) == 1.0


def test_labels_of_several_outputs_say_which_one_they_are_about(tmp_path: Path, data):
    class Two(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            return 2 * x, x

    model = export(Two(), tmp_path / "two.pt2", torch.zeros(2, 3))
    path = data(x=images(), labels=images().argmax(1))
    with pytest.raises(InputError, match="which output they are about is not known"):
        load_task(str(model), TaskOptions(data=path))
    task = load_task(str(model), TaskOptions(data=path, outputs="1=classes"))
    assert task.outputs == {"1": "classes"}
    assert call_evaluate(task, lambda x: (-x, x)) == 1.0


def test_classes_of_tokens_are_along_the_last_axis(tmp_path: Path, data):
    class Tagger(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.stack([x, -x], dim=-1)  # [N, 3, 2]

    model = export(Tagger(), tmp_path / "tagger.pt2", torch.zeros(2, 3))
    task = load_task(str(model), TaskOptions(data=data(x=images(), labels=(images() < 0).astype(np.int64))))
    assert call_evaluate(task, predict_with(task)) == 1.0


@pytest.mark.parametrize(
    ("words", "sentence"),
    [("scores", "'scores', which is no kind"), ("classes,values", "2 outputs are, and the model returns 1")],
    ids=["no word", "a word too many"],
)
def test_words_that_do_not_fit_the_model_are_refused(words: str, sentence: str, classifier: Path, data):
    with pytest.raises(InputError, match=sentence):
        load_task(str(classifier), TaskOptions(data=data(image=images()), outputs=words))


def test_words_of_the_command_line_replace_those_of_a_file(tmp_path: Path):
    source = tmp_path / "mine.py"
    source.write_text(
        "import edgeprune, torch\n"
        "def task():\n"
        "    x = torch.zeros(1, 4)\n"
        "    return edgeprune.Task(torch.nn.Linear(4, 3), x, [x], lambda predict: 0.0, outputs='values')\n"
    )
    assert load_task(str(source)).outputs == "values"
    assert load_task(str(source), TaskOptions(outputs="classes:1")).outputs == "classes:1"
    assert load_task(str(source), TaskOptions(outputs="0=classes, 1=none")).outputs == {
        "0": "classes",
        "1": "none",
    }
    assert load_task(str(source), TaskOptions(outputs="classes,none")).outputs == ("classes", "none")


def test_recovery_without_labels_has_no_targets(classifier: Path, data):
    task = load_task(str(classifier), TaskOptions(data=data(image=images())))
    assert [target for _, target in task.train or []] == [None]


def test_evaluation_rows_neither_calibrate_nor_train(classifier: Path, data):
    seen: list[tuple[float, ...]] = []

    def predict(image: np.ndarray) -> np.ndarray:
        seen.extend(map(tuple, image.tolist()))
        return np.zeros((len(image), 4), np.float32)

    x = images(99)
    task = load_task(str(classifier), TaskOptions(data=data(image=x)))
    call_evaluate(task, predict)
    calibration = rows_of(task.calibration)
    train = rows_of(inputs for inputs, _ in task.train or [])
    assert (len(seen), len(calibration), len(train)) == (49, 12, 38)
    assert sorted(seen + calibration + train) == sorted(map(tuple, x.tolist()))


def test_rows_are_shuffled_by_the_seed_and_nothing_else(classifier: Path, data):
    path = data(image=images())
    first, again, other = (
        rows_of(load_task(str(classifier), TaskOptions(data=path, seed=seed)).calibration)
        for seed in (0, 0, 1)
    )
    assert first == again
    assert first != other


def test_the_model_of_a_file_is_captured_and_trained_like_any_other(classifier: Path, data):
    task = load_task(str(classifier), TaskOptions(data=data(image=images())))
    captured = capture(task.model, task.example)
    assert captured.input_names == ("image",)
    assert {name for name, _ in captured.module.named_parameters()} == {
        "norm.weight",
        "norm.bias",
        "head.weight",
        "head.bias",
    }


def test_inputs_by_keyword_stay_keywords(tmp_path: Path, data):
    model = export(
        TwoInputs(), tmp_path / "kw.pt2", scale=torch.ones(2, 1), ids=torch.ones(2, 3, dtype=torch.int64)
    )
    ids, scale = np.ones((ROWS, 3), np.int64), np.full((ROWS, 1), 2, np.float32)
    task = load_task(str(model), TaskOptions(data=data(ids=ids, scale=scale)))
    check_task(task)
    assert isinstance(task.example, dict)
    assert capture(task.model, task.example).input_names == tuple(task.example)
    assert float(task.model(**task.example)) == 6.0


@dataclass(frozen=True)
class Bad:
    why: str
    arrays: dict[str, Any]
    says: str
    hint: str


X = images()
BAD = [
    Bad("a wrong name", {"picture": X}, "has no array 'image'; it has picture.", "np.savez(path, image=..."),
    Bad("an array too many", {"image": X, "mask": X}, "has an array 'mask' that the model does", "`labels`"),
    Bad(
        "a wrong shape",
        {"image": X[:, :2]},
        "array 'image' is float32 [40, 2], and the model takes float32 [N, 3].",
        "Save row i",
    ),
    Bad(
        "a wrong dtype",
        {"image": X.astype(np.float64)},
        "array 'image' is float64 [40, 3], and the model takes float32 [N, 3].",
        "array.astype('float32')",
    ),
    Bad(
        "NaN",
        {"image": np.where(np.arange(ROWS)[:, None] == 7, np.nan, X).astype(np.float32)},
        "array 'image' holds 3 NaN or infinite values, first in row 7.",
        "Clean the data",
    ),
    Bad("no rows", {"image": X[:0]}, "holds 0 rows; at least 8 are needed.", "a few hundred"),
    Bad(
        "labels of another length",
        {"image": X, "labels": np.zeros(39, np.int64)},
        "has unequal numbers of rows: 40 in 'image', 39 in 'labels'.",
        "Row i of every array",
    ),
    Bad(
        "labels that are text",
        {"image": X, "labels": np.array(["cat"] * ROWS)},
        "array 'labels' is <U3 [40].",
        "class numbers",
    ),
    Bad(
        "labels that are NaN",
        {"image": X, "labels": np.full((ROWS, 4), np.nan)},
        "array 'labels' holds 160 NaN or infinite values, first in row 0.",
        "Clean the data",
    ),
    Bad(
        "a class that the model has not",
        {"image": X, "labels": np.arange(ROWS) % 5},
        "labels run from 0 to 4, and the model has classes 0 to 3.",
        "Number the classes",
    ),
    Bad(
        "class numbers of another shape",
        {"image": X, "labels": np.zeros((ROWS, 2), np.int64)},
        "integer labels are [N, 2], the output is [N, 4].",
        "saved as floats",
    ),
    Bad(
        "values of another shape",
        {"image": X, "labels": np.zeros((ROWS, 2))},
        "float labels are [N, 2], the output is [N, 4].",
        "one value for each",
    ),
    Bad(
        "pickled objects",
        {"image": np.array([object()] * ROWS)},
        "array 'image' cannot be read: Object arrays cannot be loaded when allow_pickle=False",
        "plain numeric arrays",
    ),
]


@pytest.mark.parametrize("bad", BAD, ids=lambda bad: bad.why)
def test_bad_data_is_refused_in_one_sentence(bad: Bad, classifier: Path, data):
    path = data(**bad.arrays)
    with pytest.raises(InputError) as refused:
        load_task(str(classifier), TaskOptions(data=path))
    assert str(path) in refused.value.what
    assert bad.says in refused.value.what
    assert bad.hint in refused.value.hint


def test_a_pt2_file_needs_data(classifier: Path):
    with pytest.raises(InputError, match="was given without --data") as refused:
        load_task(str(classifier))
    assert "--data DATA.npz" in refused.value.hint


def test_missing_files_are_named(classifier: Path, tmp_path: Path):
    with pytest.raises(InputError, match=r"nowhere\.pt2 does not exist"):
        load_task(str(tmp_path / "nowhere.pt2"), TaskOptions(data=tmp_path / "data.npz"))
    with pytest.raises(InputError, match=r"nowhere\.npz does not exist"):
        load_task(str(classifier), TaskOptions(data=tmp_path / "nowhere.npz"))


def test_files_of_another_kind_are_refused(classifier: Path, data, tmp_path: Path):
    other = tmp_path / "weights.pt2"
    torch.save(torch.zeros(3), other)
    with pytest.raises(InputError, match=r"weights\.pt2 is not a file that torch.export.load can read"):
        load_task(str(other), TaskOptions(data=data(image=X)))
    (tmp_path / "text.npz").write_text("no arrays")
    with pytest.raises(InputError, match=r"text\.npz is not a \.npz file"):
        load_task(str(classifier), TaskOptions(data=tmp_path / "text.npz"))
    with open(tmp_path / "single.npz", "wb") as file:
        np.save(file, X)
    with pytest.raises(InputError, match=r"single\.npz holds one array without a name"):
        load_task(str(classifier), TaskOptions(data=tmp_path / "single.npz"))


def test_a_fixed_batch_is_refused_with_the_way_to_a_dynamic_one(data, tmp_path: Path):
    program = torch.export.export(Classifier().eval(), (torch.zeros(2, 3),))
    torch.export.save(program, tmp_path / "fixed.pt2")
    with pytest.raises(InputError, match=r"one fixed batch: input `image` is \[2, 3\]") as refused:
        load_task(str(tmp_path / "fixed.pt2"), TaskOptions(data=data(image=X)))
    assert "Dim.DYNAMIC" in refused.value.hint


def test_a_file_for_one_row_answers_several_one_by_one(data, tmp_path: Path):
    model = Classifier().eval()
    torch.export.save(torch.export.export(model, (torch.zeros(1, 3),)), tmp_path / "one.pt2")
    task = load_task(str(tmp_path / "one.pt2"), TaskOptions(data=data(image=X)))
    captured = capture(task.model, task.example, rows=1)
    assert captured.fixed_batch == "it was exported for one row"
    x = torch.randn(5, 3)
    assert torch.allclose(captured.run(x)[0], model(x), atol=1e-6)
    fidelity = call_evaluate(task, lambda x: model(torch.from_numpy(x)).detach().numpy())
    assert fidelity == pytest.approx(1.0)


def test_a_model_exported_in_training_mode_is_refused(data, tmp_path: Path):
    path = export(Classifier().train(), tmp_path / "training.pt2", torch.zeros(2, 3))
    with pytest.raises(InputError, match="was exported in training mode: `batch_norm`") as refused:
        load_task(str(path), TaskOptions(data=data(image=X)))
    assert "model.eval()" in refused.value.hint


def test_nested_inputs_are_refused(data, tmp_path: Path):
    class Nested(torch.nn.Module):
        def forward(self, pair: list[torch.Tensor]) -> torch.Tensor:
            return pair[0] + pair[1]

    x = torch.zeros(2, 3)
    batch = [{0: Dim.DYNAMIC}, {0: Dim.DYNAMIC}]
    torch.export.save(
        torch.export.export(Nested(), ([x, x],), dynamic_shapes=(batch,)), tmp_path / "nested.pt2"
    )
    with pytest.raises(InputError, match="takes nested inputs"):
        load_task(str(tmp_path / "nested.pt2"), TaskOptions(data=data(pair_0=X, pair_1=X)))


class Touch:
    """Makes a file when it is unpickled."""

    def __init__(self, path: str) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return (os.mkdir, (self.path,))


def test_code_inside_a_pt2_file_does_not_run(classifier: Path, data, tmp_path: Path):
    forged, trace = tmp_path / "forged.pt2", tmp_path / "trace"
    payload = tmp_path / "payload"
    torch.save(Touch(str(trace)), payload)
    with zipfile.ZipFile(classifier) as source, zipfile.ZipFile(forged, "w") as target:
        for entry in source.infolist():
            sample = "sample_inputs" in entry.filename
            target.writestr(entry, payload.read_bytes() if sample else source.read(entry))
    with pytest.raises(InputError, match="is not a file that torch"):
        load_task(str(forged), TaskOptions(data=data(image=X)))
    assert not trace.exists()
    assert "TORCH_FORCE_WEIGHTS_ONLY_LOAD" not in os.environ

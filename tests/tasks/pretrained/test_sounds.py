"""Recordings become what the model's feature extractor makes of them, in one length, or a sentence."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from edgeprune.errors import InputError
from edgeprune.tasks import PreparedTask, TaskOptions, check_task, load_task
from edgeprune.tasks.pretrained.loading import go_offline
from edgeprune.tasks.pretrained.sounds import frames_of, recording

go_offline()
pytest.importorskip("datasets")
pytest.importorskip("sklearn")
transformers = pytest.importorskip("transformers")

from tests.support import pretrained  # noqa: E402


@pytest.fixture(scope="module")
def waveform(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return pretrained.waveform_folder(tmp_path_factory.mktemp("models") / "waveform")


@pytest.fixture(scope="module")
def spectrogram(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return pretrained.spectrogram_folder(tmp_path_factory.mktemp("models") / "spectrogram")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return pretrained.recordings(tmp_path_factory.mktemp("data") / "tones", 40)


def loaded(folder: Path, data: Path, **options: Any) -> PreparedTask:
    task = load_task(str(folder), TaskOptions(data=data, **options))
    assert isinstance(task, PreparedTask)
    check_task(task)
    return task


def shape(task: PreparedTask) -> dict[str, tuple[int, ...]]:
    assert isinstance(task.example, dict)
    return {name: tuple(tensor.shape) for name, tensor in task.example.items()}


def test_the_inputs_are_those_of_transformers(spectrogram: Path, data: Path) -> None:
    task = loaded(spectrogram, data)
    assert shape(task) == {"input_values": (1, 48, 32)}
    extractor = transformers.AutoFeatureExtractor.from_pretrained(spectrogram)
    made = {}
    for kind, name in enumerate(pretrained.SOUNDS):
        for at in range(kind, 40, 2):
            sound = pretrained.tone(kind, seed=at) / np.float32(32768)
            features = extractor([sound], sampling_rate=pretrained.RATE, return_tensors="np")["input_values"]
            made[features.tobytes()] = name
    batches = list(task.train)  # type: ignore[union-attr]
    seen = [
        (row.numpy()[None].tobytes(), pretrained.SOUNDS[int(label)])
        for inputs, target in batches
        for row, label in zip(inputs["input_values"], target, strict=True)
    ]
    assert len(seen) == 20
    assert all(made[features] == name for features, name in seen)


def test_a_trained_model_knows_its_classes(spectrogram: Path, data: Path) -> None:
    task = loaded(spectrogram, data)
    names = tuple(task.example)  # type: ignore[arg-type]

    def predict(*arrays: Any) -> Any:
        with torch.no_grad():
            return task.model(**dict(zip(names, map(torch.from_numpy, arrays), strict=True))).numpy()

    assert task.evaluate(predict) > 0.9
    assert (task.metric, task.outputs) == ("accuracy", "classes")
    assert not any("recording" in remark for remark in task.remarks), "the extractor gives the length"


def test_a_length_is_that_of_the_recordings_or_as_asked(waveform: Path, data: Path, tmp_path: Path) -> None:
    task = loaded(waveform, data)
    assert shape(task) == {"input_values": (1, 3200)}
    assert task.remarks[-1] == (
        "Every recording has 0.4 s (the 99th percentile of the training recordings, rounded up), padded or "
        "cut; 0.0% of the evaluation recordings are cut. --seconds says another length."
    )
    short = loaded(waveform, data, seconds=0.25)
    assert shape(short) == {"input_values": (1, 2000)}
    assert "0.25 s (as asked), padded or cut; 100.0% of" in short.remarks[-1]


def test_an_extractor_with_a_mask_gives_it_to_the_model(tmp_path: Path, data: Path) -> None:
    folder = pretrained.waveform_folder(tmp_path / "masked", return_attention_mask=True)
    task = loaded(folder, data, seconds=0.5)
    assert shape(task) == {"input_values": (1, 4000), "attention_mask": (1, 4000)}
    assert isinstance(task.example, dict)
    mask = task.example["attention_mask"]
    assert (mask.dtype, int(mask.sum())) == (torch.int64, 3200)


def test_rows_with_paths_are_read_as_folders_are(waveform: Path, data: Path, tmp_path: Path) -> None:
    paths = sorted(path.relative_to(data) for path in data.rglob("*.wav"))
    rows = {"file": [str(path) for path in paths], "label": [path.parts[0] for path in paths]}
    table = pretrained.write_csv(data / "rows.csv", **rows)
    lines = pretrained.write_jsonl(data / "rows.jsonl", **rows)
    for given in (table, lines):
        task = loaded(waveform, given)
        assert shape(task) == {"input_values": (1, 3200)}
        assert "Of 40 rows" in task.remarks[0]


def test_parts_of_a_folder_are_folders_of_classes(waveform: Path, tmp_path: Path) -> None:
    pretrained.recordings(tmp_path / "data" / "train", 20)
    pretrained.recordings(tmp_path / "data" / "test", 12)
    assert loaded(waveform, tmp_path / "data").remarks[0] == (
        "20 rows of train are for calibration and training, 12 of test for evaluation."
    )


def test_channels_are_averaged(tmp_path: Path) -> None:
    frames = np.array([[100, 300], [-32768, -32768], [0, 1]], "<i2")
    path = pretrained.write_wav(tmp_path / "two.wav", frames, channels=2)
    found = recording("two.wav", tmp_path, pretrained.RATE)
    np.testing.assert_array_equal(found, np.array([200, -32768, 0.5], np.float32) / 32768)
    assert found.dtype == np.float32
    assert frames_of({"bytes": path.read_bytes(), "path": None}, tmp_path, pretrained.RATE) == 3


def wrong_rate(folder: Path) -> Path:
    return pretrained.write_wav(folder / "low" / "odd.wav", pretrained.tone(0), rate=44100)


def wrong_width(folder: Path) -> Path:
    return pretrained.write_wav(folder / "low" / "odd.wav", np.zeros(800, np.uint8), width=1)


def no_wav(folder: Path) -> Path:
    (folder / "low" / "odd.wav").write_bytes(b"ID3 an mp3 by another name")
    return folder


def ends_early(folder: Path) -> Path:
    path = pretrained.write_wav(folder / "low" / "odd.wav", pretrained.tone(0))
    path.write_bytes(path.read_bytes()[:20])
    return path


def silent(folder: Path) -> Path:
    return pretrained.write_wav(folder / "low" / "odd.wav", np.zeros(0, "<i2"))


def loose(folder: Path) -> Path:
    return pretrained.write_wav(folder / "odd.wav", pretrained.tone(0))


BROKEN = {
    "another rate": (wrong_rate, "odd.wav has 16 bits and 44100 Hz, and the model takes 8000 Hz"),
    "another width": (wrong_width, "odd.wav has 8 bits and 8000 Hz"),
    "no WAV file": (no_wav, "odd.wav is no WAV file that can be read: file does not start"),
    "an early end": (ends_early, "odd.wav is no WAV file that can be read"),
    "no sound": (silent, "odd.wav holds no sound"),
    "no class": (loose, "odd.wav lies in no folder of a class"),
}


@pytest.mark.parametrize(("broken", "sentence"), BROKEN.values(), ids=BROKEN.keys())
def test_a_recording_that_cannot_be_read_is_named(
    waveform: Path, tmp_path: Path, broken: Any, sentence: str
) -> None:
    data = pretrained.recordings(tmp_path / "data", 20)
    broken(data)

    def evaluated() -> float:
        task = loaded(waveform, data)
        return task.evaluate(lambda *arrays: np.zeros((len(arrays[0]), 2), np.float32))

    with pytest.raises(InputError, match=sentence):
        evaluated()


def test_a_length_of_something_else_is_refused(waveform: Path, spectrogram: Path, data: Path) -> None:
    with pytest.raises(InputError, match="--tokens 8 was given with a model of recordings"):
        loaded(waveform, data, tokens=8)
    with pytest.raises(InputError, match="--seconds 2 was given, and the feature extractor"):
        loaded(spectrogram, data, seconds=2.0)
    with pytest.raises(InputError, match="--seconds is 0"):
        TaskOptions(seconds=0.0)


def test_a_folder_without_its_extractor_is_refused(tmp_path: Path, data: Path) -> None:
    folder = pretrained.waveform_folder(tmp_path / "model")
    (folder / "preprocessor_config.json").unlink()
    with pytest.raises(InputError, match="transformers cannot load the feature extractor"):
        loaded(folder, data)

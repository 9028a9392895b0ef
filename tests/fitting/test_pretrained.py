"""A pretrained folder and rows go from a fit to a bundle whose own example answers a text and an image."""

from __future__ import annotations

import json
import subprocess
import sys
import zipfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner

import edgeprune
from edgeprune.bundle import open_bundle
from edgeprune.cli import main
from edgeprune.tasks import PreparedTask, TaskOptions, load_task
from edgeprune.tasks.pretrained.carrying import Front
from edgeprune.tasks.pretrained.loading import go_offline
from tests.support import scripted
from tests.support.roads import weights_ms

go_offline()
pytest.importorskip("datasets")
pytest.importorskip("openvino")
pytest.importorskip("sklearn")
transformers = pytest.importorskip("transformers")

from tests.support import pretrained  # noqa: E402


def answered(bundle: Path, folder: Path, *given: str) -> Any:
    """Answer of the bundle's example, run where the bundle was unpacked."""
    with zipfile.ZipFile(bundle) as archive:
        archive.extractall(folder)
    line = [sys.executable, "-B", "example.py", *given]
    done = subprocess.run(line, cwd=folder, capture_output=True, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def classified(folder: Path, rows: int, data: Path) -> PreparedTask:
    """Task of a trained text classifier and synthetic rows."""
    pretrained.classifier(folder)
    texts, labels = pretrained.sentences(rows)
    pretrained.write_csv(data, text=texts, label=labels)
    task = load_task(str(folder), TaskOptions(data=data))
    assert isinstance(task, PreparedTask)
    return task


def shares_of(folder: Path, text: str) -> Any:
    """Shares of the classes by transformers alone."""
    encode = transformers.AutoTokenizer.from_pretrained(folder)
    model = transformers.AutoModelForSequenceClassification.from_pretrained(folder)
    with torch.no_grad():
        return model(**encode(text, return_tensors="pt")).logits.softmax(-1)[0].tolist()


def test_a_text_classifier_is_pruned_and_its_bundle_reads_texts(tmp_path: Path) -> None:
    task = classified(tmp_path / "model", 200, tmp_path / "data.csv")
    told: list[str] = []
    result = edgeprune.fit(
        # Any INT8 form is as good on this subset: the first one is built, and no other.
        replace(task, evaluate_subset=lambda predict: 0.5),
        runtime="openvino",
        speedup=1.5,
        max_drop=0.1,
        epochs=1,
        device=scripted.ScriptedDevice(weights_ms),
        out=tmp_path / "run",
        listen=lambda event: told.append(event.doing),
    )
    assert result.verdict.kind == "fits", told
    assert result.chosen.params < result.baseline.params
    assert set(task.remarks) <= set(told)
    assert set(task.remarks) <= set(result.remarks)
    for text, name in (("the day was bright", "POSITIVE"), ("a very sad story", "NEGATIVE")):
        found = answered(Path(result.bundle or ""), tmp_path / "unpacked", text)
        assert found["answer"] == [name]
        assert found["shares"] == pytest.approx(shares_of(tmp_path / "model", text), abs=0.3)


@pytest.mark.parametrize("alone", [True, False], ids=["by tokenizers", "by transformers"])
def test_an_example_pads_a_text_to_the_shortest_length_that_holds_it(
    alone: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, data = tmp_path / "model", tmp_path / "data.csv"
    classified(folder, 80, data)
    task = load_task(str(folder), TaskOptions(data=data, tokens=(8, 12)))
    if not alone:
        monkeypatch.setattr(Front, "_agrees", lambda self, encode: False)
    device = scripted.ScriptedDevice(weights_ms)
    result = edgeprune.fit(task, latency_ms="none", device=device, out=tmp_path / "run")
    assert result.lengths == (8, 12)
    unpacked = tmp_path / "unpacked"
    for words in ("a bright day", "the people and the very bitter story was in a cold day"):
        found = answered(Path(result.bundle or ""), unpacked, words)
        encode = transformers.AutoTokenizer.from_pretrained(folder)
        cut = encode.decode(encode(words, truncation=True, max_length=12)["input_ids"][1:-1])
        assert found["shares"] == pytest.approx(shares_of(folder, cut), abs=1e-4), "dense, in float"
    text = (unpacked / "example.py").read_text("utf-8")
    assert "length = min(each for each in (8, 12) if" in text
    assert ("from tokenizers import" in text) == alone


def test_an_image_classifier_ends_in_a_bundle_that_reads_images(tmp_path: Path) -> None:
    pytest.importorskip("PIL")
    folder = pretrained.image_folder(tmp_path / "model")
    data = pretrained.pictures(tmp_path / "pictures", 40)
    task = load_task(str(folder), TaskOptions(data=data))
    device = scripted.ScriptedDevice(weights_ms)
    result = edgeprune.fit(task, latency_ms="none", device=device, out=tmp_path / "run")
    picture = str(next((data / "dark").iterdir()))
    assert answered(Path(result.bundle or ""), tmp_path / "unpacked", picture)["answer"] == ["dark"]


@pytest.mark.parametrize("made", [pretrained.spectrogram_folder, pretrained.waveform_folder])
def test_an_audio_classifier_ends_in_a_bundle_that_reads_recordings(tmp_path: Path, made: Any) -> None:
    folder = made(tmp_path / "model")
    data = pretrained.recordings(tmp_path / "tones", 40)
    task = load_task(str(folder), TaskOptions(data=data))
    device = scripted.ScriptedDevice(weights_ms)
    result = edgeprune.fit(task, latency_ms="none", device=device, out=tmp_path / "run", max_drop=0.5)
    packed, recording = Path(result.bundle or ""), data / "low" / "0001.wav"
    found = answered(packed, tmp_path / "unpacked", str(recording))
    extractor = transformers.AutoFeatureExtractor.from_pretrained(folder)
    model = transformers.AutoModelForAudioClassification.from_pretrained(folder)
    sound = pretrained.tone(1, seed=1) / 32768
    inputs = extractor([sound], sampling_rate=pretrained.RATE, return_tensors="pt")
    with torch.no_grad():
        shares = model(**inputs).logits.softmax(-1)[0].tolist()
    assert found["shares"] == pytest.approx(shares, abs=1e-3), "dense, in float"
    other = pretrained.write_wav(tmp_path / "other.wav", pretrained.tone(1), rate=44100)
    line = [sys.executable, "-B", "example.py", str(other)]
    refused = subprocess.run(line, cwd=tmp_path / "unpacked", capture_output=True, text=True, check=False)
    assert "Give a WAV file of 16 bits and 8000 Hz." in refused.stderr


def test_a_bundle_carries_the_tokenizer_however_often_it_is_packed(tmp_path: Path) -> None:
    run, folder = tmp_path / "run", tmp_path / "model"
    task = classified(folder, 60, tmp_path / "data.csv")
    device = scripted.ScriptedDevice(weights_ms)
    result = edgeprune.fit(task, latency_ms="none", device=device, out=run)
    packed = Path(result.bundle or "")
    with open_bundle(packed) as bundle:
        listed = {file.path for file in bundle.manifest.files}
    assert {"example.py", "processor/tokenizer.json", "processor/labels.json"} <= listed
    assert "example.py serves one query of your own" in zipfile.ZipFile(packed).read("README.txt").decode()
    text = "people with a bitter story"
    found = answered(packed, tmp_path / "unpacked", text)
    assert found["shares"] == pytest.approx(shares_of(folder, text), abs=1e-4), "dense, in float"

    again = tmp_path / "again.zip"
    assert CliRunner().invoke(main, ["bundle", str(run), "-o", str(again)]).exit_code == 0
    assert again.read_bytes() == packed.read_bytes()
    example = run / "carried" / "example.py"
    example.write_text("print('another')")
    refused = CliRunner().invoke(main, ["bundle", str(run), "-o", str(again)])
    assert refused.exit_code == 2
    assert "was changed after the run wrote it" in refused.output
    example.unlink()
    example.symlink_to(tmp_path / "data.csv")
    assert CliRunner().invoke(main, ["bundle", str(run), "-o", str(again)]).exit_code == 2

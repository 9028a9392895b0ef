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

import edgeprune
from edgeprune.bundle import open_bundle
from edgeprune.tasks import PreparedTask, TaskOptions, load_task
from edgeprune.tasks.pretrained.loading import go_offline
from tests.support import scripted
from tests.support.roads import weights_ms

go_offline()
pytest.importorskip("datasets")
pytest.importorskip("openvino")
pytest.importorskip("sklearn")
transformers = pytest.importorskip("transformers")

from tests.support import pretrained  # noqa: E402


def fitted(task: PreparedTask, runtime: str, out: Path) -> tuple[Any, list[str]]:
    told: list[str] = []

    def listen(event: Any) -> None:
        told.extend([event.doing] if event.lasting else [])

    result = edgeprune.fit(
        # Any INT8 form is as good on this subset: the first one is built, and no other.
        replace(task, evaluate_subset=lambda predict: 0.5),
        runtime=runtime,
        speedup=1.5,
        max_drop=0.1,
        epochs=1,
        device=scripted.ScriptedDevice(weights_ms),
        out=out,
        listen=listen,
    )
    assert result.verdict.kind == "fits", told
    return result, told


def answered(bundle: Path, folder: Path, *given: str) -> Any:
    """Answer of the bundle's example, run where the bundle was unpacked."""
    with zipfile.ZipFile(bundle) as archive:
        archive.extractall(folder)
    line = [sys.executable, "-B", "example.py", *given]
    done = subprocess.run(line, cwd=folder, capture_output=True, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.parametrize("runtime", ["onnxruntime", "openvino"])
def test_a_text_classifier_ends_in_a_bundle_that_reads_texts(runtime: str, tmp_path: Path) -> None:
    folder = pretrained.classifier(tmp_path / "model")
    texts, labels = pretrained.sentences(200)
    data = pretrained.write_csv(tmp_path / "data.csv", text=texts, label=labels)
    task = load_task(str(folder), TaskOptions(data=data))
    assert isinstance(task, PreparedTask)
    result, told = fitted(task, runtime, tmp_path / "run")
    assert set(task.remarks) <= {*told, *result.remarks}
    assert result.chosen.params < result.baseline.params
    with open_bundle(Path(result.bundle)) as bundle:
        listed = {file.path for file in bundle.manifest.files}
    assert {"example.py", "processor/tokenizer.json", "processor/labels.json"} <= listed
    readme = zipfile.ZipFile(result.bundle).read("README.txt").decode()
    assert "example.py serves one query of your own" in readme
    for text, name in (("the day was bright", "POSITIVE"), ("a very sad story", "NEGATIVE")):
        found = answered(Path(result.bundle), tmp_path / "unpacked", text)
        assert found["answer"] == [name]
        encode = transformers.AutoTokenizer.from_pretrained(folder)
        model = transformers.AutoModelForSequenceClassification.from_pretrained(folder)
        with torch.no_grad():
            shares = model(**encode(text, return_tensors="pt")).logits.softmax(-1)[0].tolist()
        assert found["shares"] == pytest.approx(shares, abs=0.3), "pruned to two thirds of the time"


def test_an_image_classifier_ends_in_a_bundle_that_reads_images(tmp_path: Path) -> None:
    pytest.importorskip("PIL")
    folder = pretrained.image_folder(tmp_path / "model")
    data = pretrained.pictures(tmp_path / "pictures", 120)
    task = load_task(str(folder), TaskOptions(data=data))
    assert isinstance(task, PreparedTask)
    result, _ = fitted(task, "onnxruntime", tmp_path / "run")
    for name in ("light", "dark"):
        picture = next((data / name).iterdir())
        assert answered(Path(result.bundle), tmp_path / "unpacked", str(picture))["answer"] == [name]


def test_a_run_that_is_packed_again_carries_the_same_files(tmp_path: Path) -> None:
    from click.testing import CliRunner

    from edgeprune.cli import main

    folder = pretrained.classifier(tmp_path / "model")
    texts, labels = pretrained.sentences(60)
    task = load_task(
        str(folder),
        TaskOptions(data=pretrained.write_csv(tmp_path / "data.csv", text=texts, label=labels)),
    )
    run = tmp_path / "run"
    result = edgeprune.fit(task, latency_ms="none", device=scripted.ScriptedDevice(weights_ms), out=run)
    first = Path(result.bundle or "").read_bytes()
    again = tmp_path / "again.zip"
    assert CliRunner().invoke(main, ["bundle", str(run), "-o", str(again)]).exit_code == 0
    assert again.read_bytes() == first
    example = run / "carried" / "example.py"
    example.write_text("print('another')")
    refused = CliRunner().invoke(main, ["bundle", str(run), "-o", str(again)])
    assert refused.exit_code == 2
    assert "was changed after the run wrote it" in refused.output
    example.unlink()
    example.symlink_to(tmp_path / "data.csv")
    assert CliRunner().invoke(main, ["bundle", str(run), "-o", str(again)]).exit_code == 2

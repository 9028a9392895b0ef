"""What a bundle states of itself: model card and bill of materials say what was measured, and no more."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgeprune.bundle.stated import stated
from edgeprune.records.machine import Budget
from edgeprune.records.trial import Drop, ErrorBar

BUDGET = Budget(latency_ms=5.0, percentile=90, memory_mib=100.0, size_mib=1.0)


@pytest.fixture
def run(make_run: Callable[..., Any]) -> Any:
    return make_run(budget=BUDGET)


def unpacked(run: Any, folder: Path, **more: Any) -> Path:
    shutil.unpack_archive(run.bundle(**more), folder, "zip")
    return folder


def test_the_card_has_the_figures_their_bounds_and_the_budget(run: Any, tmp_path: Path) -> None:
    card = (unpacked(run, tmp_path / "bundle") / "README.md").read_text()
    rows = {
        cells[1]: cells[2:6]
        for cells in ([cell.strip() for cell in line.split("|")] for line in card.splitlines())
        if len(cells) == 7
    }
    chosen, dense = run.result.chosen, run.result.baseline
    latency = chosen.measurement.latency
    assert rows["latency p90, ms"] == [
        f"{latency.p90_ms:.4g}",
        f"{dense.measurement.latency.p90_ms:.4g}",
        f"to {latency.bound_ms:.4g} (99% confidence)",
        "5",
    ]
    assert rows["latency p50, ms"][2:] == ["", ""]
    assert rows["top-1"][:2] == [f"{chosen.metric:.4g}", f"{dense.metric:.4g}"]
    assert rows["peak memory, MiB"][3] == "100"


@pytest.mark.parametrize("runtime", ["onnxruntime", "openvino"])
def test_the_lines_of_the_card_run_as_they_stand(run: Any, tmp_path: Path, runtime: str) -> None:
    pytest.importorskip(runtime)
    result = replace(run.result, runtime=runtime)
    folder = unpacked(replace(run, result=result), tmp_path / "bundle")
    (code,) = re.findall(r"```python\n(.*?)```", (folder / "README.md").read_text(), flags=re.DOTALL)
    assert len(code.splitlines()) <= 12
    code += "\nnp.save('answer.npy', outputs[0])\n"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=folder, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    golden = np.load(folder / "golden.npz")
    np.testing.assert_allclose(np.load(folder / "answer.npy"), golden["out.output"][:1], rtol=1e-3, atol=1e-4)


def test_the_head_of_the_card_is_metadata(run: Any, tmp_path: Path) -> None:
    hub = pytest.importorskip("huggingface_hub")
    card = hub.ModelCard((unpacked(run, tmp_path / "bundle") / "README.md").read_text())
    assert card.data.library_name == "onnxruntime"
    assert card.data.tags == ["edgeprune", "pruned", "int8"]
    assert card.data.metrics == ["top-1"]


def test_only_the_answer_of_a_fit_is_called_proven(run: Any, tmp_path: Path) -> None:
    def told(folder: str, **options: Any) -> str:
        return (unpacked(run, tmp_path / folder, **options) / "README.md").read_text()

    assert "It was proven inside its budget: profile " in told("chosen")
    (other,) = (each for each in run.result.trials if each.name == "trial-02")
    assert other.verdict.kind == "fits"
    assert "It was measured inside its budget in a search, which is no proof" in told("other", chosen=other)
    inconclusive = replace(run.result.verdict, kind="inconclusive")
    unproven = replace(run, result=replace(run.result, verdict=inconclusive))
    (unproven.folder / "tiny.edgeprune.zip").unlink()
    card = (unpacked(unproven, tmp_path / "unproven") / "README.md").read_text()
    assert "It was measured inside its budget in a search, which is no proof" in card


def test_names_from_outside_are_no_markup(run: Any, tmp_path: Path) -> None:
    result = replace(run.result, metric="<b>|top\n# 1")
    folder = unpacked(replace(run, result=result), tmp_path / "bundle")
    body = (folder / "README.md").read_text().split("---\n", 2)[2]
    assert r"\<b\>\|top \# 1" in body
    assert "<b>" not in body


def test_the_bill_of_materials_is_valid_and_has_the_hashes_of_the_files(run: Any, tmp_path: Path) -> None:
    pytest.importorskip("cyclonedx")
    pytest.importorskip("jsonschema")
    from cyclonedx.schema import SchemaVersion
    from cyclonedx.validation.json import JsonStrictValidator

    folder = unpacked(run, tmp_path / "bundle")
    text = (folder / "bom.json").read_text()
    assert JsonStrictValidator(SchemaVersion.V1_6).validate_str(text) is None
    bom = json.loads(text)
    listed = {
        file["path"]: file["sha256"] for file in json.loads((folder / "manifest.json").read_text())["files"]
    }
    files = [part for part in bom["components"] if part["type"] == "file"]
    assert {part["name"]: part["hashes"][0]["content"] for part in files} == {
        "model.onnx": listed["model.onnx"]
    }
    model = bom["metadata"]["component"]
    assert model["type"] == "machine-learning-model"
    figures = {
        each["type"]: each for each in model["modelCard"]["quantitativeAnalysis"]["performanceMetrics"]
    }
    latency = run.result.chosen.measurement.latency
    assert figures["latency p90, ms"]["value"] == f"{latency.p90_ms:.6g}"
    assert figures["latency p90, ms"]["confidenceInterval"] == {"upperBound": f"{latency.bound_ms:.6g}"}


def test_a_drop_of_the_metric_is_an_interval_of_the_metric(run: Any) -> None:
    chosen = replace(run.result.chosen, drop=Drop(0.01, -0.005, 0.025, 2000, 0.95))
    metric = next(stated(run.result, chosen))
    dense = run.result.baseline.metric
    assert (metric.low, metric.high) == pytest.approx((dense - 0.025, dense + 0.005))
    error = next(stated(replace(run.result, lower_is_better=True), chosen))
    assert (error.low, error.high) == pytest.approx((dense - 0.005, dense + 0.025))
    assert (metric.confidence, metric.bounds.endswith("(95% confidence)")) == (0.95, True)


def test_a_prediction_has_its_error_bar_and_no_confidence(run: Any) -> None:
    measured = run.result.chosen.measurement
    predicted = replace(
        measured,
        latency=replace(measured.latency, bound_ms=None, runs=0),
        assumptions=("a roofline",),
        error_bar=ErrorBar((1.0, 4.0), (50.0, 90.0)),
    )
    figures = {
        each.what: each for each in stated(run.result, replace(run.result.chosen, measurement=predicted))
    }
    p90, memory = figures["latency p90"], figures["peak memory"]
    assert (p90.low, p90.high, p90.confidence) == (1.0, 4.0, None)
    assert (memory.low, memory.high, memory.bounds) == (50.0, 90.0, "from 50 to 90")


def test_another_percentile_of_the_budget_is_a_figure_of_its_own(run: Any) -> None:
    measured = run.result.chosen.measurement
    latency = replace(measured.latency, percentile=95, percentile_ms=2.5, bound_ms=2.75)
    chosen = replace(run.result.chosen, measurement=replace(measured, latency=latency))
    figures = {each.what: each for each in stated(run.result, chosen)}
    assert (figures["latency p95"].value, figures["latency p95"].high) == (2.5, 2.75)
    assert (figures["latency p95"].limit, figures["latency p90"].limit) == (5.0, None)

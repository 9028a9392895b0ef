"""Docstrings by their part of the library, as examples/ has them: rows, folder, and a fit of both."""

from __future__ import annotations

import csv
import sys
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import pytest

import edgeprune
from edgeprune.tasks import TaskOptions, load_task
from edgeprune.tasks.pretrained.loading import go_offline

EXAMPLES = Path(__file__).parents[2] / "examples"

go_offline()
pytest.importorskip("datasets")
pytest.importorskip("sklearn")
pytest.importorskip("transformers")


@pytest.fixture(scope="module")
def example() -> ModuleType:
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(EXAMPLES))
        import docstrings

        return docstrings


@pytest.fixture(scope="module")
def folder(example: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The example's folder, trained for one epoch instead of its usual ones."""
    folder = tmp_path_factory.mktemp("docstrings")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["docstrings.py", "--out", str(folder), "--epochs", "2"])
        example.main()
    return folder


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as stream:
        return list(csv.DictReader(stream))


def test_no_paragraph_is_in_both_files(example: ModuleType, folder: Path) -> None:
    train, held_back = (rows(folder / "rows" / f"{part}.csv") for part in ("train", "validation"))
    texts = [row["text"] for row in (*train, *held_back)]
    assert len(set(texts)) == len(texts)
    assert {row["label"] for row in held_back} == set(example.PARTS)
    assert 0.1 < len(held_back) / len(texts) < 0.3


def test_every_module_that_is_named_has_docstrings(example: ModuleType) -> None:
    for modules in example.PARTS.values():
        assert [each for each in modules.split() if not any(example.docstrings(each))] == []


def test_the_folder_and_its_rows_are_fitted(
    folder: Path, scripted: ModuleType, tiny: ModuleType, tmp_path: Path
) -> None:
    task = load_task(str(folder / "bert"), TaskOptions(data=folder / "rows", tokens=48))
    result = edgeprune.fit(
        # Any INT8 form is as good on this subset: the first one is built, and no other.
        replace(task, evaluate_subset=lambda predict: 0.5),
        speedup=1.5,
        max_drop="5%",
        epochs=0,
        device=scripted.ScriptedDevice(tiny.latency_ms),
        out=tmp_path / "run",
    )
    assert result.baseline.metric > 0.45, "most paragraphs of one part are a third"
    assert result.verdict.kind == "fits"
    assert result.chosen.params < result.baseline.params

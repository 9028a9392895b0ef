"""The documents for people are true: paths that they name exist, and tools run what they say."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import edgeprune
from edgeprune.toml import Table

ROOT = Path(__file__).parents[1]
DOCUMENTS = sorted(
    [*ROOT.glob("docs/**/*.md"), *(ROOT / f"{name}.md" for name in ("README", "CONTRIBUTING", "SECURITY"))]
)
FOLDERS = ("edgeprune", "docs", "tests", "benchmarks", "examples", "profiles", "targets", ".ci")
FILE = r"(?:[\w-]+/)+[\w-]+\.(?:py|md|toml)"  # also below a room: "pruning/criteria.py"
NAMED = re.compile(rf"(?<![\w/.-])(?:(?:{'|'.join(map(re.escape, FOLDERS))})/[\w./-]*\w|{FILE})")

pytestmark = pytest.mark.skipif(not (ROOT / "docs").is_dir(), reason="the docs are not beside the tests")


def is_there(path: str) -> bool:
    """Whether a path that a document names is in the checkout; `docs/decisions/003` is short for its file."""
    place = ROOT / path
    short = place.parent.is_dir() and any(place.parent.glob(f"{place.name}-*.md"))
    return short or any((ROOT / below / path).exists() for below in ("", "edgeprune", "docs"))


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_paths_that_a_document_names_exist(document: Path) -> None:
    named = set(NAMED.findall(document.read_text("utf-8")))
    assert [path for path in sorted(named) if not is_there(path)] == []


def test_a_path_that_is_not_there_is_seen() -> None:
    (found,) = NAMED.findall("the room (edgeprune/attic.py) is new")
    assert found == "edgeprune/attic.py"
    assert not is_there(found)


def recipe(target: str) -> list[str]:
    """The commands of one target of the Makefile."""
    lines = (ROOT / "Makefile").read_text("utf-8").split(f"\n{target}:", 1)[1].split("\n")[1:]
    return [line.strip() for line in lines[: lines.index("")]]


def test_pre_commit_runs_what_make_lint_runs() -> None:
    hooks = (ROOT / ".pre-commit-config.yaml").read_text("utf-8")
    assert re.findall(r"entry: (.*)", hooks) == recipe("lint")
    for option in ("language: system", "pass_filenames: false"):
        assert hooks.count(option) == len(recipe("lint"))


def test_every_page_is_in_the_navigation_once() -> None:
    named = re.findall(r"^ +- ([\w/-]+\.md)$", (ROOT / "mkdocs.yml").read_text("utf-8"), re.M)
    pages = [path.relative_to(ROOT / "docs").as_posix() for path in (ROOT / "docs").rglob("*.md")]
    assert sorted(named) == sorted(pages)


def test_the_reference_has_every_public_name() -> None:
    page = (ROOT / "docs/reference/python.md").read_text("utf-8")
    assert sorted(re.findall(r"^::: edgeprune\.(\w+)$", page, re.M)) == sorted(edgeprune.__all__)


def test_the_task_of_the_first_page_is_one(tmp_path: Path) -> None:
    """What a reader copies is a classifier that has learnt something."""
    pytest.importorskip("sklearn", reason="the page reads scikit-learn's digits")
    pytest.importorskip("torch")
    from edgeprune.make import Workshop
    from edgeprune.quantize.dialects import dialect_for
    from edgeprune.tasks import call_evaluate, load_task

    (code,) = re.findall(
        r'```python title="mytask.py"\n(.*?)```', (ROOT / "docs/start.md").read_text("utf-8"), re.S
    )
    (tmp_path / "mytask.py").write_text(code)
    task = load_task(str(tmp_path / "mytask.py"))
    workshop = Workshop(task, dialect_for("onnxruntime-x86", "x86_64"))
    assert call_evaluate(task, workshop.predict) > 0.9
    assert len(workshop.coupling.groups) == 3


def test_the_pythons_that_stability_promises_are_declared() -> None:
    project = Table.read(ROOT / "pyproject.toml").table("project")
    marked = re.findall(r"Python :: (3\.\d+)", " ".join(project.texts("classifiers")))
    (row,) = re.findall(r"^\| Python of a lab machine.*$", (ROOT / "docs/stability.md").read_text(), re.M)
    assert re.findall(r"3\.\d+", row) == marked
    assert project.text("requires-python") == f">={marked[0]}"

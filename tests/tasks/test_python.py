from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pytest

from edgeprune import InputError
from edgeprune.tasks import TaskOptions, load_task

GOOD = """
import torch
import edgeprune

def task():
    return edgeprune.Task(
        model=torch.nn.Linear(3, 2), example=torch.zeros(1, 3), calibration=[torch.zeros(4, 3)],
        evaluate=lambda predict: 1.0, metric="FROM_TASK",
    )

other = edgeprune.Task(
    model=torch.nn.Linear(3, 2), example=torch.zeros(1, 3), calibration=[torch.zeros(4, 3)],
    evaluate=lambda predict: 1.0, metric="FROM_OTHER",
)
"""


@pytest.fixture
def write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Write a file into a folder that leaves sys.path with the test."""
    monkeypatch.syspath_prepend(str(tmp_path))

    def write(text: str, name: str = "mytask.py") -> Path:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        return path

    return write


def test_a_file_is_asked_for_its_task(write):
    assert load_task(str(write(GOOD))).metric == "FROM_TASK"


def test_a_name_behind_the_file_may_be_a_task_itself(write):
    assert load_task(f"{write(GOOD)}:other").metric == "FROM_OTHER"


def test_a_module_and_a_name_work_as_well(write):
    write("", "pack_of_tasks/__init__.py")
    write(GOOD, "pack_of_tasks/digits.py")
    assert load_task("pack_of_tasks.digits:other").metric == "FROM_OTHER"


def test_a_task_file_imports_its_neighbours(write):
    write("NAME = 'from beside'", "neighbour_of_task.py")
    path = write("from neighbour_of_task import NAME\n" + GOOD.replace('"FROM_TASK"', "NAME"))
    assert load_task(str(path)).metric == "from beside"


def test_a_task_file_does_not_replace_a_module_of_its_name(write):
    import json

    load_task(str(write(GOOD, "json.py")))
    import json as again

    assert again is json
    assert json.loads("1") == 1


@dataclass(frozen=True)
class Bad:
    why: str
    text: str
    says: str  # `{path}` stands for the file
    hint: str
    name: str = ""


BAD = [
    Bad(
        "no such name",
        "def make_task(): ...\nclass Net: ...\nimport os",
        "{path} does not define 'task'; it defines make_task, Net.",
        "{path}:make_task",
    ),
    Bad(
        "task raises",
        "def task():\n    return helper()\n\ndef helper():\n    raise ValueError('no weights here')",
        "task() in {path} raised ValueError: no weights here ({path}, line 5).",
        "Correct the line",
    ),
    Bad(
        "file raises",
        "x = 1\ny = x / 0",
        "{path} raised ZeroDivisionError: division by zero ({path}, line 2).",
        "Correct the line",
    ),
    Bad(
        "a library is missing",
        "import no_such_library_anywhere",
        "{path} raised ModuleNotFoundError: No module named 'no_such_library_anywhere' ({path}, line 1).",
        "Install no_such_library_anywhere",
    ),
    Bad(
        "task returns something else",
        "def task():\n    return {}",
        "task() in {path} returned dict, not an edgeprune.Task.",
        "edgeprune.Task(",
    ),
    Bad(
        "task is something else",
        "task = 3",
        "'task' in {path} is int, neither an edgeprune.Task nor a function.",
        "def task()",
    ),
    Bad(
        "task needs arguments",
        "def task(folder, size=3): ...",
        "task() in {path} needs arguments (folder), and edgeprune calls it without.",
        "default values",
    ),
    Bad(
        "syntax", "def task(:\n    pass", "{path}, line 1: invalid syntax: `def task(:`.", "Correct that line"
    ),
    Bad(
        "the file runs as a script",
        "import sys\nsys.exit(2)",
        "{path} ended the program: SystemExit: 2 ({path}, line 2).",
        "__main__",
    ),
    Bad(
        "the task is made of unusable parts",
        "import edgeprune\ndef task():\n    return edgeprune.Task(\n        model=1, example=None, "
        "calibration=[], evaluate=print)",
        "Task.model is int, which cannot be called. ({path}, line 3)",
        "nn.Module",
    ),
    Bad("the name is no name", GOOD, "'a-b' in '{path}:a-b' is not a name", "FILE.py[:NAME]", name=":a-b"),
]


@pytest.mark.parametrize("bad", BAD, ids=lambda bad: bad.why)
def test_a_bad_file_is_refused_in_one_sentence(bad: Bad, write):
    path = write(bad.text)
    with pytest.raises(InputError) as refused:
        load_task(f"{path}{bad.name}")
    assert bad.says.format(path=path) in refused.value.what
    assert "\n" not in refused.value.what
    assert bad.hint.format(path=path) in refused.value.hint


def test_a_message_of_many_lines_is_cut_and_keeps_its_place(write):
    path = write("def task():\n    raise KeyError('first word', 'words ' * 1000, 'last word')")
    with pytest.raises(InputError, match="first word") as refused:
        load_task(str(path))
    assert len(refused.value.what) < 500 + 2 * len(str(path))
    assert "last word" not in refused.value.what
    assert refused.value.what.endswith(f" ... ({path}, line 2).")


def test_a_missing_file_is_named(tmp_path: Path):
    with pytest.raises(InputError, match=r"nowhere\.py does not exist"):
        load_task(str(tmp_path / "nowhere.py"))


def test_a_folder_is_not_a_file(tmp_path: Path):
    (tmp_path / "folder.py").mkdir()
    with pytest.raises(InputError, match=r"folder\.py is a folder"):
        load_task(str(tmp_path / "folder.py"))


def test_a_missing_module_is_named():
    with pytest.raises(InputError, match="There is no module 'no_such_package_here'") as refused:
        load_task("no_such_package_here.tasks:task")
    assert "Install it" in refused.value.hint


def test_data_goes_with_a_pt2_file_only(write):
    with pytest.raises(InputError, match=r"--data x.npz was given with .*mytask.py") as refused:
        load_task(str(write(GOOD)), TaskOptions(data=Path("x.npz")))
    assert "Leave --data out" in refused.value.hint


@pytest.mark.parametrize(
    ("model", "hint"),
    [
        ("resnet.pth", "torch.export.save"),
        ("package.module", "package.module:NAME"),
        ("", "FILE.py"),
    ],
)
def test_other_kinds_of_model_are_told_what_to_give(model: str, hint: str):
    with pytest.raises(InputError, match="is not a MODEL that edgeprune can read") as refused:
        load_task(model)
    assert hint in refused.value.hint

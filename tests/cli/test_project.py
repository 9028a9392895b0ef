"""The project file is found from the working folder upwards and read strictly; paths begin at its folder."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import click
import pytest

from edgeprune.cli import project
from edgeprune.cli.fit import command
from edgeprune.cli.project import find_project, is_module, model_identity, project_keys
from edgeprune.errors import InputError
from edgeprune.options import FitOptions


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working folder, two below that of the project."""
    folder = tmp_path / "project" / "src" / "deep"
    folder.mkdir(parents=True)
    monkeypatch.chdir(folder)
    return folder


def write(folder: Path, text: str, name: str = "edgeprune.toml") -> Path:
    (folder / name).write_text(text)
    return folder / name


def values(here: Path, text: str) -> dict[str, Any]:
    write(here, text)
    found = find_project(here)
    assert found is not None
    return dict(found.values)


def test_the_keys_are_what_fit_can_be_asked_for() -> None:
    options = set(FitOptions.__dataclass_fields__)
    assert options - project_keys().keys() == {"resume", "listen", "project"}
    assert {"model", "data", "outputs", "lab"} <= project_keys().keys()


def test_a_new_flag_of_fit_is_a_key_by_itself(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    columns = click.Option(["--columns"], multiple=True)
    tokens = click.Option(["--tokens"], type=click.IntRange(1, 512))
    words = click.Option(["--words"], type=click.Path(path_type=Path))
    monkeypatch.setattr(command, "params", [*command.params, columns, tokens, words])
    found = values(here.parents[1], 'columns = ["a", "b"]\ntokens = 128\nwords = "words.txt"')
    assert found == {"columns": ("a", "b"), "tokens": 128, "words": here.parents[1] / "words.txt"}
    write(here, "tokens = 1000")
    with pytest.raises(InputError, match=r"edgeprune\.toml: tokens is 1000"):
        find_project(here)


def test_tokens_are_one_number_or_several(here: Path) -> None:
    assert values(here, "tokens = 128") == {"tokens": 128}
    assert values(here, "tokens = [32, 128]") == {"tokens": (32, 128)}
    write(here, "tokens = 32.5")
    with pytest.raises(InputError, match=r"edgeprune\.toml: tokens is 32\.5"):
        find_project(here)


def test_the_nearest_file_above_is_the_project(here: Path) -> None:
    top = write(here.parents[1], "epochs = 1")
    found = find_project(here)
    assert found is not None
    assert (found.path, found.values, found.folder) == (top, {"epochs": 1}, here.parents[1])
    write(here.parent, "[tool.edgeprune]\nepochs = 2", "pyproject.toml")
    assert getattr(find_project(here), "values", None) == {"epochs": 2}
    write(here, "epochs = 3")
    assert getattr(find_project(here), "values", None) == {"epochs": 3}


@pytest.mark.parametrize(
    "text",
    ["", "[tool.ruff]\nline-length = 1", "# edgeprune\n[tool.ruff]", "{{ template }}", "\0", "tool = 3"],
)
def test_a_pyproject_without_the_table_is_passed_over(here: Path, text: str) -> None:
    write(here.parents[1], "epochs = 1")
    write(here, text, "pyproject.toml")
    assert getattr(find_project(here), "values", None) == {"epochs": 1}


def test_a_pyproject_that_names_edgeprune_and_cannot_be_read_is_refused(here: Path) -> None:
    write(here, "[tool.edgeprune\n", "pyproject.toml")
    with pytest.raises(InputError, match=r"pyproject\.toml is not TOML"):
        find_project(here)


def test_two_project_files_in_one_folder_are_refused(here: Path) -> None:
    write(here, "")
    write(here, "[tool.edgeprune]", "pyproject.toml")
    with pytest.raises(InputError, match=r"edgeprune\.toml stands beside pyproject\.toml"):
        find_project(here)


def test_without_a_file_there_is_no_project(here: Path) -> None:
    (here / "edgeprune.toml").mkdir()
    assert find_project(here) is None


def test_a_file_of_somebody_else_above_is_passed_over(
    here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """In a folder that everybody may write, a stranger's file would name code that runs."""
    top = write(here.parents[1], "epochs = 1")
    nobody = os.stat(top).st_uid + 1
    stat = Path.stat

    def owned(path: Path, **options: Any) -> Any:
        found = list(stat(path, **options))
        return os.stat_result([*found[:4], nobody if path == top else 0, *found[5:]])

    monkeypatch.setattr(Path, "stat", owned)
    monkeypatch.setattr(project.os, "geteuid", lambda: 0)  # type: ignore[attr-defined]
    assert find_project(here) is None
    assert capsys.readouterr().err == f"{top} belongs to another user, and is passed over\n"
    monkeypatch.setattr(project.os, "geteuid", lambda: nobody)  # type: ignore[attr-defined]
    assert find_project(here) is not None


def test_paths_start_at_the_folder_of_the_file(here: Path) -> None:
    top = here.parents[1]
    text = 'model = "a/task.py:make"\ndata = "../d.npz"\nlab = "/etc/lab.toml"\nout = "runs/x"\n'
    found = values(top, text + 'target = "./my.toml"\nprofile = ["arm", "p/own.toml"]')
    assert found == {
        "model": f"{top}/a/task.py:make",
        "data": top / "../d.npz",
        "lab": Path("/etc/lab.toml"),
        "out": top / "runs/x",
        "target": f"{top}/my.toml",
        "profile": ("arm", f"{top}/p/own.toml"),
    }


def test_paths_of_a_file_in_the_working_folder_stay_as_they_are_written(here: Path) -> None:
    found = values(here, 'model = "task.py"\ndata = "d/x.npz"\ntarget = "jetson"\nprofile = "own.toml"')
    assert found == {
        "model": "task.py",
        "data": Path("d/x.npz"),
        "target": "jetson",
        "profile": ("own.toml",),
    }


@pytest.mark.parametrize("model", ["package.module:task", "task:make"])
def test_the_name_of_a_module_is_no_path(here: Path, model: str) -> None:
    assert values(here.parents[1], f'model = "{model}"') == {"model": model}


def test_a_model_of_any_other_kind_is_a_path(here: Path) -> None:
    top = here.parents[1]
    assert values(top, 'model = "net.pt2"') == {"model": f"{top}/net.pt2"}
    assert values(top, 'model = "checkpoints/bert"') == {"model": f"{top}/checkpoints/bert"}


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("task.py", "./task.py:task", True),
        ("task.py", "task.py:make", False),
        ("a/../net.pt2", "net.pt2", True),
        ("package.module:task", "package.module:task", True),
        ("package.module:task", "package.module:make", False),
    ],
)
def test_two_spellings_of_a_model_are_one(one: str, other: str, same: bool) -> None:
    assert (model_identity(one) == model_identity(other)) is same


@pytest.mark.parametrize(
    "model", ["task.py", "a.b/task.py:make", "task.py:make", "a.b:make", "a:b", "net.pt2", "a:b.pt2", "bert"]
)
def test_a_model_is_a_module_where_its_form_is(model: str) -> None:
    pytest.importorskip("torch", reason="the table of the forms of MODEL is beside what loads them")
    from edgeprune.tasks.forms import TABLE

    form = next((form.spelling for form in TABLE.values() if form.reads(model)), "")
    assert is_module(model) is (form == "package.module:NAME")


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("latency_ms = 5", (5.0,)),
        ("latency_ms = [20, 10.5]", (20.0, 10.5)),
        ('latency_ms = "none"', "none"),
        ("speedup = [2, 4]", (2.0, 4.0)),
        ("max_drop = 0", 0.0),
        ('max_drop = "2%"', "2%"),
        ("memory_mib = 64", 64.0),
        ("minutes = 0.5", 0.5),
        ("batch = 8", 8),
        ('recover = "distill"', "distill"),
        ('outputs = "classes,none"', "classes,none"),
        ('device = "ssh://pi@10.0.0.7"', "ssh://pi@10.0.0.7"),
        ('train_device = "cuda:1"', "cuda:1"),
        ("profile = []", ()),
    ],
)
def test_a_value_is_what_the_flag_would_bring(here: Path, text: str, value: object) -> None:
    (found,) = values(here, text).values()
    assert found == value
    assert type(found) is type(value)


@pytest.mark.parametrize(
    ("text", "says", "hint"),
    [
        ("epoch = 3", "edgeprune.toml: epoch is not a known key.", 'Did you mean "epochs"?'),
        ("latency-ms = 3", "latency-ms is not a known key.", 'Did you mean "latency_ms"?'),
        ("model = 3", "edgeprune.toml: model is 3, expected a text.", "Correct"),
        ('epochs = "3"', 'epochs is "3", expected a whole number.', "Correct"),
        ("epochs = 2.5", "epochs is 2.5, expected a whole number.", "Correct"),
        ("epochs = true", "epochs is true, expected a whole number.", "Correct"),
        ("epochs = 20000", "epochs is 20000, which no fit can be asked for.", "from 0 to 10000"),
        ("minutes = 1e9", "minutes is 1000000000, which no fit can be asked for.", "at most 100000"),
        ("seed = -1", "seed is -1, expected a whole number, 0 or more.", "Correct"),
        ('speedup = "2"', 'speedup is "2", expected a number.', "Correct"),
        ('latency_ms = "5"', 'latency_ms is "5".', "Valid: none"),
        ("latency_ms = []", "latency_ms is an empty array.", "a number or more"),
        ("latency_ms = [5, -1]", "latency_ms[1] is -1, expected a positive number.", "Correct"),
        ('latency_ms = [5, "x"]', 'latency_ms[1] is "x", expected a number.', "Correct"),
        ("memory_mib = 0", "memory_mib is 0, expected a positive number.", "Correct"),
        ("memory_mib = nan", "memory_mib is nan, expected a positive number.", "Correct"),
        ('max_drop = "two"', 'max_drop is "two", expected a number of 0 or more, or a text', "Correct"),
        ("max_drop = [1]", "max_drop is [1], expected a number.", "Correct"),
        ('recover = "prayer"', 'recover is "prayer".', "Did you mean"),
        ('train_device = "gpu"', 'train_device is "gpu", which no fit can be asked for.', "cuda:N"),
        ('device = " "', "device is an empty text.", "leave the key out"),
        ("profile = [1]", "profile[0] is 1, expected a text.", "Correct"),
        ("data = {}", "data is {}, expected a text.", "Correct"),
        ("resume = true", "resume is no key: it says how one call runs.", "Say --resume"),
        ("json = true", "json is no key: it says how one call runs.", "Say --json"),
        ("latency_ms = 5\nspeedup = 2", "speedup stands beside latency_ms", "Keep one"),
        ("epochs = 5\nminutes = 2", "minutes stands beside epochs", "Keep one"),
        ("epochs = ", "edgeprune.toml is not TOML", "that place"),
    ],
)
def test_what_is_no_value_is_refused_with_file_and_key(here: Path, text: str, says: str, hint: str) -> None:
    write(here, text)
    with pytest.raises(InputError) as refused:
        find_project(here)
    assert says in refused.value.what
    assert hint in refused.value.hint
    assert refused.value.what.startswith("edgeprune.toml")
    assert refused.value.exit_code == 2


def test_a_key_of_a_pyproject_is_told_with_its_table(here: Path) -> None:
    write(here, "[tool.edgeprune]\nepoch = 3", "pyproject.toml")
    with pytest.raises(InputError, match=r"pyproject\.toml: tool\.edgeprune\.epoch is not a known key"):
        find_project(here)

"""What the command line says counts before the project file, and sets aside what it contradicts."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner, Result

from edgeprune.cli import main
from edgeprune.cli.fit import command as fit
from edgeprune.cli.settled import current, model_folder, settle, with_project
from edgeprune.errors import InputError

FILE = """
model = "task.py"
data = "d.npz"
outputs = "classes"
target = "jetson"
profile = "jetson-orin-nano"
device = "bench"
lab = "lab.toml"
threads = 2
batch = 4
latency_ms = [20, 10]
max_drop = 0.5
epochs = 5
out = "runs/mine"
"""


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "edgeprune.toml").write_text(FILE)
    return tmp_path


def run(*arguments: str) -> Result:
    return CliRunner().invoke(main, list(arguments))


def aside(**said: Any) -> dict[str, str]:
    """Keys that are set aside, and for which flag; nothing that was said or set aside is taken."""
    settled = settle(said)
    assert settled.use is not None
    found = dict(settled.use.set_aside)
    assert {name: settled.given[name] for name in said} == said
    assert not {name for name, _ in settled.use.keys} & {*found, *said}
    assert not found.keys() & settled.given.keys()
    return found


@pytest.mark.usefixtures("here")
def test_without_flags_everything_is_the_files() -> None:
    settled = settle({})
    assert settled.use is not None
    assert settled.given["latency_ms"] == (20.0, 10.0)
    assert dict(settled.use.keys) == {
        "model": '"task.py"',
        "data": '"d.npz"',
        "outputs": '"classes"',
        "target": '"jetson"',
        "profile": '"jetson-orin-nano"',
        "device": '"bench"',
        "lab": '"lab.toml"',
        "threads": "2",
        "batch": "4",
        "latency_ms": "[20, 10]",
        "max_drop": "0.5",
        "epochs": "5",
        "out": '"runs/mine"',
    }
    assert settled.use.set_aside == ()
    assert settled.use.file == "edgeprune.toml"


@pytest.mark.usefixtures("here")
@pytest.mark.parametrize(
    "said",
    [
        *({"epochs": 3}, {"latency_ms": (5.0,)}, {"batch": 1}, {"out": Path("x")}, {"seed": 3}),
        *({"device": "local"}, {"runtime": "onnxruntime"}, {"threads": 1}, {"max_drop": "2%"}),
        *({"target": "jetson"}, {"profile": ("jetson-orin-nano",)}, {"model": "./task.py:task"}),
    ],
    ids=lambda said: next(iter(said)),
)
def test_a_flag_replaces_its_own_key_alone(said: dict[str, Any]) -> None:
    assert aside(**said) == {}


@pytest.mark.usefixtures("here")
def test_of_two_keys_that_exclude_each_other_the_flag_s_counts() -> None:
    assert aside(speedup=(2.0,)) == {"latency_ms": "--speedup"}
    assert aside(minutes=2.0) == {"epochs": "--minutes"}


def test_they_do_so_in_both_directions(here: Path) -> None:
    (here / "edgeprune.toml").write_text("speedup = 2\nminutes = 30")
    assert aside(latency_ms=(5.0,)) == {"speedup": "--latency-ms"}
    assert aside(latency_ms="none") == {"speedup": "--latency-ms"}
    assert aside(epochs=3) == {"minutes": "--epochs"}


@pytest.mark.usefixtures("here")
def test_another_target_is_another_machine() -> None:
    """Else a Jetson's budget would be proven on whatever machine the file names."""
    assert aside(target="arm") == dict.fromkeys(("profile", "device", "threads"), "--target")


@pytest.mark.usefixtures("here")
def test_another_profile_is_another_machine() -> None:
    assert aside(profile=("raspberry-pi-5",)) == dict.fromkeys(("target", "device", "threads"), "--profile")
    assert aside(profile=("raspberry-pi-5",), device="local") == dict.fromkeys(
        ("target", "threads"), "--profile"
    )


def test_a_device_without_a_target_beside_it_stays(here: Path) -> None:
    (here / "edgeprune.toml").write_text('device = "ssh://me@robot"\nthreads = 2')
    assert aside(target="jetson") == {}


def test_a_target_of_the_user_s_own_is_the_same_by_any_path(here: Path) -> None:
    (here / "edgeprune.toml").write_text('target = "./own.toml"\ndevice = "local"')
    assert aside(target="own.toml") == {}
    assert aside(target="other.toml") == {"device": "--target"}


@pytest.mark.usefixtures("here")
def test_another_model_has_its_own_data_run_folder_and_metric() -> None:
    of_task = dict.fromkeys(("data", "outputs", "out", "max_drop"), "MODEL")
    assert aside(model="other.py") == of_task
    assert aside(model="task.py:make") == of_task
    assert aside(model="other.py", data=Path("o.npz")) == {
        name: flag for name, flag in of_task.items() if name != "data"
    }


def test_a_file_without_a_model_is_for_any(here: Path) -> None:
    (here / "edgeprune.toml").write_text('outputs = "classes"\nmax_drop = 0.5')
    assert aside(model="other.py") == {}


def test_a_file_with_a_model_alone_changes_nothing_of_another(here: Path) -> None:
    (here / "edgeprune.toml").write_text('model = "task.py"')
    assert settle({"model": "other.py"}).use is None
    assert settle({"model": "task.py"}).use is None


@pytest.mark.usefixtures("here")
def test_a_verb_gets_the_keys_that_it_takes() -> None:
    settled = settle({"data": Path("x.npz")}, ("model", "data"))
    assert settled.given == {"model": "task.py", "data": Path("x.npz")}
    assert settled.use is not None
    assert settled.use.keys == (("model", '"task.py"'),)


def verb(*arguments: str, told: list[Any]) -> Result:
    """`fit` without the fit."""

    @with_project
    @click.command("fit", params=list(fit.params))
    def command(model: str, **options: Any) -> None:
        told.append((model, options, current(), model_folder()))

    return CliRunner().invoke(command, list(arguments))


def test_the_verb_is_told_where_its_values_are_from(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[Any] = []
    result = verb("--minutes", "2", told=told)
    ((model, options, settled, folder),) = told
    assert (model, options["minutes"], options["epochs"]) == ("task.py", 2.0, 3)
    assert (options["profile"], options["resume"], folder) == (("jetson-orin-nano",), False, Path())
    assert dict(settled.use.keys).keys() == settled.project.values.keys() - {"epochs"}
    assert 'with edgeprune.toml (model = "task.py", data = "d.npz"' in result.stderr
    assert result.stderr.endswith("epochs set aside for --minutes)\n")
    (here / "deep").mkdir()
    monkeypatch.chdir(here / "deep")
    verb(told=told)
    assert told[1][0] == f"{here}/task.py"
    assert told[1][3] == here
    verb("mine.py", told=told)
    assert told[2][3] == Path()


def test_one_of_several_processes_tells(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert here.is_dir()
    monkeypatch.setenv("RANK", "1")
    assert verb(told=[]).stderr == ""


def test_modules_of_the_project_are_imported_from_its_folder(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (here / "edgeprune.toml").write_text('model = "package.module:task"')
    (here / "deep").mkdir()
    monkeypatch.chdir(here / "deep")
    monkeypatch.setattr(sys, "path", ["/elsewhere"])
    settle({"model": "package.module:task"})
    assert sys.path == ["/elsewhere"]
    settle({})
    assert sys.path == [str(here), str(here / "deep"), "/elsewhere"]


@pytest.mark.parametrize("arguments", [["fit"], ["inspect"], ["prune", "--ratio", "0.5", "-o", "x.pt2"]])
def test_without_a_model_anywhere_one_sentence_says_what_to_write(
    arguments: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    result = run(*arguments)
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr == (
        "error: No MODEL was given, and there is no project file in this folder or above it.\n"
        "hint: Give one, as in `edgeprune fit mytask.py`, or have a project file written: edgeprune init.\n"
    )
    (tmp_path / "edgeprune.toml").write_text("epochs = 3")
    result = run(*arguments)
    assert result.exit_code == 2
    assert "error: No MODEL was given, and edgeprune.toml names none.\n" in result.stderr
    assert "edgeprune init" in result.stderr
    assert list(tmp_path.iterdir()) == [tmp_path / "edgeprune.toml"]


@pytest.mark.usefixtures("here")
@pytest.mark.parametrize("arguments", [["inspect"], ["prune", "--ratio", "0.5", "-o", "x.pt2"]])
def test_other_verbs_take_the_model_and_say_so(arguments: list[str]) -> None:
    pytest.importorskip("torch", reason="a task is loaded")
    result = run(*arguments)
    assert result.exit_code == 2
    assert result.stderr.startswith('with edgeprune.toml (model = "task.py", data = "d.npz"')
    assert "--data d.npz was given with task.py" in result.stderr


def test_a_project_file_that_is_wrong_ends_every_verb_that_reads_it(here: Path) -> None:
    (here / "edgeprune.toml").write_text("epoch = 3")
    for arguments in (["fit", "task.py"], ["inspect", "task.py"], ["report"], ["validate", "b.zip", "bench"]):
        (here / "b.zip").touch()
        result = run(*arguments)
        assert result.exit_code == 2
        assert "error: edgeprune.toml: epoch is not a known key." in result.stderr


@pytest.mark.usefixtures("here")
def test_report_shows_the_run_of_the_project() -> None:
    result = run("report")
    assert result.exit_code == 2
    assert "runs/mine/result.json cannot be read" in result.stderr
    Path("edgeprune.toml").write_text('model = "net.py:make"')
    assert "runs/net/result.json cannot be read" in run("report").stderr
    Path("edgeprune.toml").write_text("")
    assert "No RUN was given, and no project file" in run("report").stderr
    assert "elsewhere/result.json cannot be read" in run("report", "elsewhere").stderr


def test_a_refusal_is_an_input_error(here: Path) -> None:
    (here / "edgeprune.toml").write_text("epochs = -1")
    with pytest.raises(InputError):
        settle({})

"""`edgeprune init` writes a project file that is read back as it was asked for, and overwrites nothing."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from hypothesis import given, settings
from hypothesis import strategies as st

from edgeprune.cli import init, main
from edgeprune.cli.init import EXAMPLES, project_file
from edgeprune.cli.project import EXCLUSIVE, find_project, project_keys, project_values
from edgeprune.errors import InputError
from edgeprune.options import FitOptions
from edgeprune.toml import Table, literal

FILLED = {
    "load_model": "torch.manual_seed(0)\n    return torch.nn.Sequential(torch.nn.Conv2d(1, 4, 3), "
    "torch.nn.ReLU(), torch.nn.Flatten(), torch.nn.Linear(144, 3))",
    "load_data": "return torch.randn(64, 1, 8, 8), torch.arange(64) % 3",
}


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run(*arguments: str, text: str | None = None) -> Result:
    return CliRunner().invoke(main, ["init", *arguments], input=text)


def values(here: Path) -> dict[str, Any]:
    found = find_project(here)
    assert found is not None
    return dict(found.values)


def files(here: Path) -> set[str]:
    return {path.name for path in here.iterdir()}


def test_a_project_file_and_a_task_are_written(here: Path) -> None:
    result = run()
    assert (result.exit_code, result.stderr) == (0, "")
    assert result.stdout == (
        "written: task.py\nwritten: edgeprune.toml\nnext: fill in task.py, then edgeprune fit\n"
    )
    assert values(here) == {"model": "task.py"}
    assert files(here) == {"task.py", "edgeprune.toml"}


def test_every_key_is_there_with_an_explanation(here: Path) -> None:
    run()
    text = (here / "edgeprune.toml").read_text()
    for name in project_keys():
        assert re.search(rf"^# .+\n#?{name} = .+$", text, re.MULTILINE), name
    assert {field for field in FitOptions.__dataclass_fields__ if f"\n#{field} = " in text} == {
        *FitOptions.__dataclass_fields__
    } - {"resume", "listen", "project"}
    assert not re.search("--[a-z]", text), "a key's name, not a flag's"
    assert max(map(len, text.splitlines())) <= 110


def test_every_comment_is_a_key_that_can_be_set() -> None:
    lines = project_file({}).splitlines()
    keys = [line for line in lines if re.match(r"#\w+ = ", line)]
    assert len(keys) == len(project_keys())
    for key in keys:
        assert len(project_values(Table.parse(Path("x"), key[1:].encode()), Path())) == 1


def test_an_example_is_of_a_key_without_a_default() -> None:
    defaults = {name: getattr(FitOptions(), name, None) for name in project_keys()}
    assert EXAMPLES.keys() <= {name for name, value in defaults.items() if value is None} | {"out"}
    assert EXAMPLES.keys() >= {"target", "profile", "latency_ms", "speedup", "max_drop"}


def test_what_is_given_is_set(here: Path) -> None:
    (here / "net.py").touch()
    flags = ["--target", "jetson", "--profile", "jetson-orin-nano", "--latency-ms", "20,7.5"]
    flags += ["--max-drop", "2%", "--minutes", "30", "--train-device", "cpu", "--device", "ssh://pi@10.0.0.7"]
    result = run("net.py:make", *flags)
    assert result.stdout == "written: edgeprune.toml\nnext: edgeprune fit\n"
    assert values(here) == {
        "model": "net.py:make",
        "target": "jetson",
        "profile": ("jetson-orin-nano",),
        "latency_ms": (20.0, 7.5),
        "max_drop": "2%",
        "device": "ssh://pi@10.0.0.7",
        "minutes": 30.0,
        "train_device": "cpu",
    }
    assert files(here) == {"net.py", "edgeprune.toml"}


@pytest.mark.parametrize("there", ["edgeprune.toml", "task.py"])
@pytest.mark.parametrize("as_link", [False, True])
def test_nothing_is_overwritten_and_nothing_is_written_beside_it(
    here: Path, there: str, as_link: bool
) -> None:
    path = here / there
    path.symlink_to("nowhere") if as_link else path.write_text("mine")
    result = run()
    assert (result.exit_code, result.stdout) == (2, "")
    assert f"error: {there} is there already, and is not overwritten." in result.stderr
    assert files(here) == {there}
    assert as_link or path.read_text() == "mine"


def test_a_file_that_comes_meanwhile_is_not_overwritten_either(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    create = init.create

    def late(path: Path, content: bytes) -> None:
        if path.name == "edgeprune.toml":
            path.write_text("mine")
        create(path, content)

    monkeypatch.setattr(init, "create", late)
    assert run().exit_code == 2
    assert files(here) == {"edgeprune.toml"}
    assert (here / "edgeprune.toml").read_text() == "mine"


def test_a_second_project_file_is_refused(here: Path) -> None:
    (here / "pyproject.toml").write_text("[tool.edgeprune]\nepochs = 3")
    result = run()
    assert "pyproject.toml has a table [tool.edgeprune] already" in result.stderr
    assert (result.exit_code, files(here)) == (2, {"pyproject.toml"})
    (here / "pyproject.toml").write_text("[tool.ruff]")
    assert run().exit_code == 0


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["absent.py"], "absent.py does not exist."),
        (["absent.py:make"], "absent.py does not exist."),
        (["--target", "jetsn"], 'There is no target "jetsn".'),
        (["--profile", "jetson-orin-nana"], 'There is no profile "jetson-orin-nana".'),
        (["--latency-ms", "5", "--speedup", "2"], "edgeprune.toml: speedup stands beside latency_ms"),
        (["--epochs", "-1"], "edgeprune.toml: epochs is -1"),
        (["--memory-mib", "-1"], "edgeprune.toml: memory_mib is -1"),
        (["--recover", "prayer"], "'prayer' is not one of"),
    ],
)
def test_what_no_fit_can_be_asked_for_is_not_written(here: Path, arguments: list[str], says: str) -> None:
    result = run(*arguments)
    assert (result.exit_code, result.stdout) == (2, "")
    assert says in result.stderr
    assert files(here) == set()


def test_a_module_is_not_looked_for(here: Path) -> None:
    assert run("package.module:task").exit_code == 0
    assert values(here) == {"model": "package.module:task"}


class Terminal:
    """In the place of a standard input that is a terminal."""

    def __init__(self, stream: Any) -> None:
        self._stream = stream

    def isatty(self) -> bool:
        return True

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    free = init._check_free

    def check(path: Path) -> None:
        free(path)
        monkeypatch.setattr(init.sys, "stdin", Terminal(init.sys.stdin))  # type: ignore[attr-defined]

    monkeypatch.setattr(init, "_check_free", check)


@pytest.mark.usefixtures("terminal")
def test_on_a_terminal_model_and_target_are_asked_for(here: Path) -> None:
    (here / "net.py").touch()
    result = run(text="net.py\njetsn\njetson\n")
    assert values(here) == {"model": "net.py", "target": "jetson"}
    assert result.stdout == "written: edgeprune.toml\nnext: edgeprune fit\n"
    assert 'There is no target "jetsn"' in result.stderr


@pytest.mark.usefixtures("terminal")
def test_on_a_terminal_two_returns_take_the_defaults(here: Path) -> None:
    assert run(text="\n\n").exit_code == 0
    assert values(here) == {"model": "task.py", "target": "local"}
    assert files(here) == {"task.py", "edgeprune.toml"}


@pytest.mark.usefixtures("terminal")
def test_what_is_given_is_not_asked_for(here: Path) -> None:
    (here / "net.py").touch()
    assert run("net.py", "--profile", "raspberry-pi-5", text="").exit_code == 0
    assert values(here) == {"model": "net.py", "profile": ("raspberry-pi-5",)}


def test_the_skeleton_says_what_to_fill_in_and_works_when_that_is_done(here: Path) -> None:
    pytest.importorskip("torch", reason="a task is loaded")
    run()
    for function in ("load_model", "load_data"):
        result = CliRunner().invoke(main, ["inspect"])
        assert result.exit_code == 2
        assert f"error: {function}() has no" in result.stderr
        assert "task.py, line " in result.stderr
        path = here / "task.py"
        text = path.read_text()
        at = text.index("    raise", text.index(f"def {function}("))
        end = text.index("\n\n\n", at)
        path.write_text(f"{text[:at]}    {FILLED[function]}{text[end:]}")
    done = CliRunner().invoke(main, ["inspect", "--json"])
    assert json.loads(done.stdout)["groups"][0]["units"] == 4
    from edgeprune.tasks import check_task, load_task

    task, _ = check_task(load_task("task.py"))
    assert task.evaluate(lambda x: task.model(__import__("torch").from_numpy(x)).detach().numpy()) > 0


TEXTS = st.text(st.characters(exclude_categories=["Cs"]), min_size=1).filter(str.strip)


@settings(max_examples=50)
@given(TEXTS, st.floats(1e-300, 1e300), st.lists(st.floats(1e-9, 1e9), min_size=2))
def test_what_was_given_is_read_back(text: str, number: float, several: list[float]) -> None:
    wanted = {"device": text, "memory_mib": number, "speedup": tuple(several), "seed": 7}
    content = project_file(wanted).encode()
    assert project_values(Table.parse(Path("x"), content), Path()) == wanted


def test_a_name_that_is_no_text_is_refused() -> None:
    with pytest.raises(InputError, match="cannot be written in TOML"):
        literal("caf\udce9.py")


def test_pairs_that_exclude_each_other_are_keys() -> None:
    assert {key for pair in EXCLUSIVE for key in pair} <= project_keys().keys()

"""The log: where `--verbose` and `--log-file` put it, and that nothing foreign is in it raw."""

from __future__ import annotations

import ast
import json
import logging
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import click
import pytest
from click.testing import CliRunner, Result

import edgeprune
from edgeprune import cli
from edgeprune.cli.logs import log_options
from edgeprune.devices import Device

PACKAGE = Path(edgeprune.__file__).parent
LOGGER = logging.getLogger("edgeprune")


def run(*arguments: object) -> Result:
    return CliRunner().invoke(cli.main, [*map(str, arguments)])


@pytest.fixture(autouse=True)
def _verb_that_logs(monkeypatch: pytest.MonkeyPatch) -> None:
    """In the place of the verb `report`: one record of each level, and a result on stdout."""

    @click.command("report")
    @log_options
    def command() -> None:
        room = logging.getLogger("edgeprune.room")
        room.debug("a session on %r", "board\n2")
        room.info("a trial of %s", "net\x1b[31m\nforged")
        room.warning("a loss")
        click.echo("answer")

    module = ModuleType("edgeprune.cli.report")
    module.command = command  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "edgeprune.cli.report", module)


def test_nothing_is_shown_unless_it_is_asked_for() -> None:
    result = run("report")
    assert (result.stdout, result.stderr) == ("answer\n", "")


@pytest.mark.parametrize("arguments", [("-v", "report"), ("report", "--verbose"), ("-v", "report", "-v")])
def test_verbose_shows_on_stderr_what_happens_once(arguments: tuple[str, ...]) -> None:
    result = run(*arguments)
    assert result.stdout == "answer\n"
    assert [line.split("edgeprune.room: ")[1] for line in result.stderr.splitlines()] == [
        r"a trial of net\x1b[31m\nforged",
        "a loss",
    ]


def test_a_log_file_is_appended_to_and_holds_sessions_too(tmp_path: Path) -> None:
    path = tmp_path / "log.txt"
    for arguments in (("--log-file", path, "report"), ("report", "--log-file", path, "-v")):
        assert run(*arguments).exit_code == 0
    lines = path.read_text("utf-8").splitlines()
    assert f"edgeprune {edgeprune.__version__}, Python 3" in lines[0]
    assert [line.split(" edgeprune.room: ")[1] for line in lines if "edgeprune.room" in line] == [
        r"a session on 'board\n2'",
        r"a trial of net\x1b[31m\nforged",
        "a loss",
    ] * 2


def test_a_command_leaves_the_logger_as_it_was(tmp_path: Path) -> None:
    before = (LOGGER.level, list(LOGGER.handlers))
    run("-v", "--log-file", tmp_path / "log.txt", "report", "-v")
    assert (LOGGER.level, LOGGER.handlers) == before


def test_a_log_file_that_cannot_be_written_is_a_usage_error(tmp_path: Path) -> None:
    result = run("--log-file", tmp_path / "absent" / "log.txt", "report")
    assert result.exit_code == 2
    assert "cannot be written: No such file or directory" in result.stderr


def test_a_library_is_silent_where_nobody_configured_logging() -> None:
    assert any(isinstance(each, logging.NullHandler) for each in LOGGER.handlers)


@pytest.mark.parametrize("verb", ["fit", "validate"])
def test_the_verbs_that_take_long_have_the_options(verb: str) -> None:
    shown = run(verb, "--help").stdout
    assert "--verbose" in shown
    assert "--log-file" in shown


def test_validating_logs_its_checks_and_sessions(
    make_run: Callable[..., Any], scripted: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def opened(name: str, lab: Path | None = None) -> Device:
        device: Device = scripted.ScriptedDevice()
        return device

    monkeypatch.setattr("edgeprune.devices.open_device", opened)
    path = tmp_path / "log.txt"
    result = run("validate", make_run().bundle(), "--json", "--log-file", path)
    assert json.loads(result.stdout)["verdict"] == "fits"
    assert result.stderr == ""
    told = path.read_text("utf-8")
    assert [f"check ({number}) " in told for number in range(1, 11)] == [True] * 10
    assert "edgeprune.measure: 'bundle/model.onnx' on 'scripted': p50 " in told


def test_modules_log_under_their_own_names_and_no_file_of_the_device_does() -> None:
    for path in sorted(PACKAGE.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "_log":
                assert ast.unparse(node.value) == "logging.getLogger(__name__)", path
    from edgeprune.devices.ssh import _agent_files

    assert not [path for path in _agent_files() if "logging" in path.read_text("utf-8")]

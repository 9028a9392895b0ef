"""`edgeprune targets` shows every target, and what it watches on the device."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from edgeprune import shelf
from edgeprune.cli import main


def run(*arguments: str) -> Result:
    return CliRunner().invoke(main, ["targets", *arguments], env={"COLUMNS": "300"})


def test_the_table_lists_every_target_with_runtime_and_default_profile() -> None:
    result = run()
    assert (result.exit_code, result.stderr) == (0, "")
    rows = {line.split()[0]: line for line in result.stdout.splitlines() if line.strip()}
    for name in shelf.names("targets"):
        target = shelf.load_target(name)
        assert rows[name].split()[-3:] == [target.runtime, target.dialect, target.profile]


@pytest.mark.parametrize("name", shelf.names("targets"))
def test_the_details_name_every_sensor_and_throttle_flag(name: str) -> None:
    result = run(name)
    assert result.exit_code == 0
    target = shelf.load_target(name)
    assert all(each in result.stdout for each in (*target.sensors, *target.throttle, target.title))


def test_json_of_all_is_one_document() -> None:
    document = json.loads(run("--json").stdout)
    assert [each["name"] for each in document["targets"]] == list(shelf.names("targets"))


def test_json_of_one_has_the_keys_of_the_record() -> None:
    document = json.loads(run("local", "--json").stdout)
    assert document["runtime"] == "onnxruntime"
    assert document["dialect"] == "auto"
    assert document["profile"] == "local"
    assert set(document) == {
        *("name", "title", "runtime", "dialect", "profile"),
        *("channel_multiple", "sensors", "throttle", "device"),
    }


def test_an_unknown_name_exits_2_with_the_nearest() -> None:
    result = run("jeston")
    assert (result.exit_code, result.stdout) == (2, "")
    assert 'error: There is no target "jeston".' in result.stderr
    assert 'hint: Did you mean "jetson"?' in result.stderr


def test_a_broken_file_of_the_users_own_exits_2_and_names_the_key(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text('title = "Mine"\nruntime = "onnxruntim"\n')
    result = run(str(path))
    assert result.exit_code == 2
    assert "error:" in result.stderr
    assert "profile is missing" in result.stderr

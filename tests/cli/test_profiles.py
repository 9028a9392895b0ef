"""`edgeprune profiles` shows every profile, and the source of every figure."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from edgeprune import shelf
from edgeprune.cli import main


def run(*arguments: str) -> Result:
    return CliRunner().invoke(main, ["profiles", *arguments], env={"COLUMNS": "300"})


def test_the_table_lists_every_profile_with_its_budget() -> None:
    result = run()
    assert (result.exit_code, result.stderr) == (0, "")
    rows = {line.split()[0]: line for line in result.stdout.splitlines() if line.strip()}
    assert set(shelf.names("profiles")) <= rows.keys()
    assert "p90 100 ms" in rows["raspberry-pi-4"]
    assert "512 MiB" in rows["raspberry-pi-4"]
    assert "p90 2x faster" in rows["local"]


@pytest.mark.parametrize("name", shelf.names("profiles"))
def test_the_details_give_every_figure_with_its_source(name: str) -> None:
    result = run(name)
    assert result.exit_code == 0
    profile = shelf.load_profile(name)
    for figure_name, figure in profile.figures:
        row = next(line for line in result.stdout.splitlines() if line.split()[:1] == [figure_name])
        assert row.split()[1:3] == [f"{figure.value:g}", figure.unit]
        assert figure.source in row
    assert all(source in result.stdout for source in profile.sources)


def test_json_of_all_is_one_document() -> None:
    document = json.loads(run("--json").stdout)
    assert [each["name"] for each in document["profiles"]] == list(shelf.names("profiles"))


def test_json_of_one_carries_budget_and_sourced_figures() -> None:
    document = json.loads(run("jetson-orin-nano", "--json").stdout)
    assert document["budget"] == {
        "latency_ms": 33.3,
        "speedup": None,
        "percentile": 90,
        "memory_mib": 2048,
        "size_mib": None,
        "max_drop": 0.01,
        "max_drop_percent": None,
        "whole_ms": None,
    }
    assert document["figures"]["int8_dense"]["value"] == 20
    assert all(set(figure) == {"value", "unit", "source"} for figure in document["figures"].values())


def test_json_says_whether_int8_saturates() -> None:
    assert "saturate" in json.loads(run("x86-server", "--json").stdout)["int8"]
    assert "exact" in json.loads(run("xeon", "--json").stdout)["int8"]


def test_an_unknown_name_exits_2_with_the_nearest() -> None:
    result = run("raspbery-pi-5")
    assert (result.exit_code, result.stdout) == (2, "")
    assert 'error: There is no profile "raspbery-pi-5".' in result.stderr
    assert 'hint: Did you mean "raspberry-pi-5"?' in result.stderr


def test_a_file_of_the_users_own_is_shown_with_its_brackets(tmp_path: Path) -> None:
    path = tmp_path / "bench.toml"
    path.write_text('title = "Board [rev 2]"\ndetect = true\n[budget]\nlatency_ms = 5\n')
    result = run(str(path))
    assert result.exit_code == 0
    assert "Board [rev 2]" in result.stdout
    assert "p90 5 ms" in result.stdout

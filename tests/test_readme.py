"""The README is true: what it prints is what the program prints, and its commands exist."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from edgeprune.cli import VERBS, main

ROOT = Path(__file__).parents[1]
README = ROOT / "README.md"

pytestmark = pytest.mark.skipif(not README.is_file(), reason="README.md is not beside the tests")


def printed_rows() -> dict[str, list[str]]:
    """The rows of the table that the README shows, by their first column."""
    block = README.read_text().split("```", 2)[1]
    rows = {}
    for line in block.splitlines():
        cells = re.split(r"\s{2,}", line.strip())
        if len(cells) == 11:
            rows[cells[0]] = cells[1:]
        elif len(cells) == 10 and cells[0] == "top-1":
            rows["head"] = cells
    return rows


def test_the_table_has_the_columns_and_rows_that_fit_prints(make_run: Callable[..., Any]) -> None:
    from edgeprune.report import table

    result = make_run().result
    head = [str(column.header) for column in table(result).columns][1:]
    rows = printed_rows()
    assert rows["head"][1:] == head[1:]  # the first is the metric's name
    assert [name.split(":")[0] for name in rows if name != "head"] == ["dense", "dense INT8", "chosen"]


def test_figures_that_do_not_depend_on_the_machine_are_those_of_the_example(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "examples"))
    import digits
    import torch

    from edgeprune.graph.inspect import inspect

    task = digits.task()
    with torch.no_grad():
        accuracy = task.evaluate(lambda images: task.model(torch.from_numpy(images)).numpy())
    found = inspect(task.model, task.example)
    rows = printed_rows()
    columns = dict(zip(rows["head"], rows["dense"], strict=True))
    assert float(columns["top-1"]) == pytest.approx(accuracy, abs=5e-5)
    assert columns["params"] == f"{found.params / 1e3:.0f} k"
    assert columns["MACs"] == f"{found.macs / 1e6:.0f} M"


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_answers_help(verb: str) -> None:
    assert CliRunner().invoke(main, [verb, "--help"]).exit_code == 0


def test_flags_that_the_readme_uses_exist() -> None:
    for verb, rest in re.findall(r"^ {4}edgeprune (\w+) (.*)$", README.read_text(), re.MULTILINE):
        known = CliRunner().invoke(main, [verb, "--help"]).output
        for flag in re.findall(r"--[a-z-]+", rest.split("#")[0]):
            assert flag in known, f"{verb} {flag}"


def test_make_knows_the_commands_of_the_readme() -> None:
    targets = re.findall(r"^(\w[\w-]*):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert set(re.findall(r"^ {4}make (\w+)", README.read_text(), re.MULTILINE)) <= set(targets)

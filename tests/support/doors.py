"""What the tests of the doors share: a fresh `--help`, and the tables of docs/doors.md."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from pathlib import Path

import pytest
from click.testing import CliRunner

from edgeprune.cli import main

DOCUMENT = Path(__file__).parents[2] / "docs" / "doors.md"


def help_of(verb: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """`edgeprune VERB --help` of a process that starts with the tables as they are now, on one line."""
    monkeypatch.delitem(sys.modules, f"edgeprune.cli.{verb}", raising=False)
    return " ".join(CliRunner().invoke(main, [verb, "--help"]).output.split())


def undocumented(rows: Iterable[tuple[str, ...]]) -> list[str]:
    """The lines that docs/doors.md lacks: of each row a name in backticks, then its other columns."""
    lines = DOCUMENT.read_text("utf-8").splitlines()
    wanted = [f"| `{name}` | {' | '.join(columns)} |" for name, *columns in rows]
    return [line for line in wanted if line not in lines]


def documented(heading: str) -> list[str]:
    """The names in the table below a heading of docs/doors.md, in their order."""
    text = DOCUMENT.read_text("utf-8").partition(f"## {heading}\n")[2].partition("\n## ")[0]
    return [line.split("`")[1] for line in text.splitlines() if line.startswith("| `")]

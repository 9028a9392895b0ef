"""The page beside a run is drawn by another process, whose end changes nothing but a line."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from edgeprune.cli import drawing
from edgeprune.cli.drawing import PAGE, draw_beside

pytest.importorskip("matplotlib")
pytest.importorskip("jinja2")


def test_a_page_is_drawn_into_the_run_folder(
    make_run: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = make_run().folder
    monkeypatch.chdir(tmp_path)
    relative = folder.relative_to(tmp_path)
    assert draw_beside(relative) == f"report: {relative / PAGE}"
    assert (folder / PAGE).read_text("utf-8").startswith("<!DOCTYPE html>")


def test_a_failure_to_draw_is_a_line(make_run: Callable[..., Any]) -> None:
    folder = make_run().folder
    (folder / "result.json").write_text("{")
    told = draw_beside(folder)
    assert told.startswith(f"note: {folder / PAGE} was not drawn: ")
    assert "result.json is not JSON" in told
    assert not (folder / PAGE).exists()


def test_a_crash_of_the_drawing_is_a_line(
    make_run: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = tmp_path / "python"
    program.write_text("#!/bin/sh\nkill -SEGV $$\n")
    program.chmod(0o755)
    monkeypatch.setattr(drawing.sys, "executable", str(program))
    assert "was not drawn: exit code -11" in draw_beside(make_run().folder)


def test_a_drawing_that_takes_too_long_is_a_line(
    make_run: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(drawing, "DRAWING_SECONDS", 0.0)
    folder = make_run().folder
    told = f"note: {folder / PAGE} was not drawn within 0 s; edgeprune report draws it later"
    assert draw_beside(folder) == told


def test_without_the_extra_a_line_of_the_log_says_what_installs_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(drawing, "find_spec", lambda module: None)
    with caplog.at_level(logging.INFO, "edgeprune"):
        assert draw_beside(tmp_path) == ""
    assert caplog.messages == [
        "report.html is not drawn: jinja2 is not installed; pip install 'edgeprune[report]'"
    ]

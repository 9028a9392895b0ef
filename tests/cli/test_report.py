"""`edgeprune report RUN --html FILE`: a page is written whole, or a sentence says why it is not."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from edgeprune.cli import main
from edgeprune.report import document


def run(*arguments: str) -> Result:
    return CliRunner().invoke(main, ["report", *arguments])


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> None:
    """A page of one line instead of a drawing."""
    html = pytest.importorskip("edgeprune.report.html")
    monkeypatch.setattr(html, "page", lambda result: f"<p>{result.verdict.kind} \u00e9")


def test_a_page_is_written_and_its_place_told(
    make_run: Callable[..., Any], drawn: None, tmp_path: Path
) -> None:
    place = tmp_path / "page.html"
    result = run(str(make_run().folder), "--html", str(place))
    assert (result.exit_code, result.stdout) == (0, f"report: {place}\n")
    assert place.read_text("utf-8") == "<p>fits \u00e9"


def test_the_document_is_alone_on_stdout_beside_a_page(
    make_run: Callable[..., Any], drawn: None, tmp_path: Path
) -> None:
    made = make_run()
    result = run(str(made.folder), "--json", "--html", str(tmp_path / "page.html"))
    assert json.loads(result.stdout) == json.loads(json.dumps(document(made.result)))
    assert (tmp_path / "page.html").is_file()


@pytest.mark.parametrize("library", ["matplotlib", "jinja2"])
def test_a_missing_library_comes_with_the_line_that_installs_it(
    library: str, make_run: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in [each for each in sys.modules if each.partition(".")[0] == library]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, library, None)
    result = run(str(make_run().folder), "--html", str(tmp_path / "page.html"))
    assert result.exit_code == 2
    assert f"error: {library} is not installed, and this step needs it." in result.stderr
    assert "hint: Run: pip install 'edgeprune[report]'" in result.stderr
    assert not (tmp_path / "page.html").exists()


def test_a_place_that_takes_no_file_is_refused_before_the_run_is_read(tmp_path: Path) -> None:
    for place, word in ((tmp_path, "is a folder"), (tmp_path / "absent" / "page.html", "which is no folder")):
        result = run(str(tmp_path / "no run"), "--html", str(place))
        assert result.exit_code == 2
        assert f"--html {place}" in result.stderr
        assert word in result.stderr

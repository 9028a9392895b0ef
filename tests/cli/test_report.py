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
from edgeprune.report import document, mlflow_log


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


def test_a_run_is_logged_in_mlflow_and_its_place_told(
    make_run: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[tuple[str, str, str]] = []

    def log_run(entry: Any, uri: str, experiment: str) -> Any:
        print("an address of MLflow's")
        seen.append((entry.name, uri, experiment))
        return mlflow_log.Logged("0a1b", experiment)

    monkeypatch.setattr(mlflow_log, "log_run", log_run)
    folder = str(make_run().folder)
    done = run(folder, "--mlflow", "http://host:5000")
    assert (done.exit_code, done.stdout) == (0, "mlflow: run 0a1b of experiment edgeprune\n")
    done = run(folder, "--mlflow", "http://host:5000", "--mlflow-experiment", "robots", "--json")
    assert json.loads(done.stdout)["verdict"] == "fits"
    assert seen == [("tiny", "http://host:5000", "edgeprune"), ("tiny", "http://host:5000", "robots")]


def test_without_the_extra_mlflow_the_line_that_installs_it_is_told(
    make_run: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in [each for each in sys.modules if each.partition(".")[0] == "mlflow"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "mlflow", None)
    done = run(str(make_run().folder), "--mlflow", "http://host:5000")
    assert (done.exit_code, done.stdout) == (2, "")
    assert "error: mlflow is not installed, and this step needs it." in done.stderr
    assert "hint: Run: pip install 'edgeprune[mlflow]'" in done.stderr


def test_an_experiment_without_mlflow_is_refused(make_run: Callable[..., Any]) -> None:
    done = run(str(make_run().folder), "--mlflow-experiment", "robots")
    assert (done.exit_code, done.stdout) == (2, "")
    assert "no --mlflow was given" in done.stderr


def test_a_blank_address_of_mlflow_is_refused(make_run: Callable[..., Any]) -> None:
    done = run(str(make_run().folder), "--mlflow", " ")
    assert (done.exit_code, done.stdout) == (2, "")
    assert "--mlflow is blank" in done.stderr

"""Result on disk: its figures are those that the ledger of its run recorded."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from edgeprune.cli import main
from edgeprune.errors import InputError
from edgeprune.ledger import Ledger
from edgeprune.results import RESULT, load_result, save_result


@pytest.fixture
def run(make_run: Callable[..., Any], tmp_path: Path) -> Path:
    """A finished run with its ledger."""
    made = make_run()
    folder = tmp_path / "run"
    with Ledger.open(folder, {}, False) as ledger:
        shutil.copytree(made.folder, folder, dirs_exist_ok=True)
        save_result(made.result, folder, ledger)
    return folder


def edgeprune(*arguments: object) -> Result:
    return CliRunner().invoke(main, [*map(str, arguments)])


def test_what_a_run_answered_is_reported_and_packed(run: Path) -> None:
    assert edgeprune("report", run).exit_code == 0
    assert edgeprune("bundle", run).exit_code == 0


@pytest.mark.parametrize("verb", ["report", "bundle"])
def test_an_edited_result_is_refused(run: Path, verb: str) -> None:
    document = json.loads((run / RESULT).read_text())
    document["chosen"]["metric"] = 0.999
    (run / RESULT).write_text(json.dumps(document))
    done = edgeprune(verb, run)
    assert done.exit_code == 2
    assert "result.json is not what the run answered: it was edited" in done.stderr
    assert "--resume" in done.stderr


def test_golden_vectors_that_were_changed_are_not_packed(run: Path) -> None:
    with (run / "trial-01" / "golden.npz").open("ab") as stream:
        stream.write(b"\0")
    done = edgeprune("bundle", run)
    assert done.exit_code == 2
    assert "golden.npz was changed after the run wrote it" in done.stderr


def test_an_edited_ledger_is_told_by_its_line(run: Path) -> None:
    ledger = run / "ledger.jsonl"
    ledger.write_bytes(ledger.read_bytes().replace(b'"files"', b'"files" ', 1))
    with pytest.raises(InputError, match="line 2 was edited"):
        load_result(run)


def test_a_run_that_is_resumed_at_its_end_has_the_same_answer(run: Path) -> None:
    result, before = load_result(run), (run / "ledger.jsonl").read_bytes()
    with Ledger.open(run, {}, True) as ledger:
        save_result(replace(result, seconds=result.seconds + 1), run, ledger)
        assert (run / "ledger.jsonl").read_bytes() == before
        better = replace(result, metric="top-5")
        save_result(better, run, ledger)
    assert load_result(run) == better

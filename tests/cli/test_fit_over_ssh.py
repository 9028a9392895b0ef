"""`edgeprune fit` on a device behind an sshd of our own, which vanishes in the middle of a proof."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from click.testing import CliRunner

from edgeprune.cli import fit as verb
from edgeprune.cli import main

TASK = """
import torch
import edgeprune

def task():
    torch.manual_seed(0)
    data = torch.randn(32, 1, 8, 8)
    layers = torch.nn.Conv2d(1, 4, 3), torch.nn.ReLU(), torch.nn.Flatten(), torch.nn.Linear(144, 4)
    return edgeprune.Task(
        model=torch.nn.Sequential(*layers).eval(),
        example=data[:1],
        calibration=[data],
        evaluate=lambda predict: float(predict(data.numpy()).std()),
    )
"""


@pytest.fixture
def sshd(tmp_path: Path, throwaway_sshd: ModuleType) -> Iterator[Any]:
    if throwaway_sshd.path() is None:
        pytest.skip("sshd is not installed")
    (tmp_path / "sshd").mkdir()
    with throwaway_sshd.serve(tmp_path / "sshd") as server:
        yield server


def listening(heard: Callable[[Any], None]) -> Callable[[], Any]:
    @contextmanager
    def progress() -> Iterator[Callable[[Any], None]]:
        yield heard

    return progress


def test_a_device_that_vanishes_in_a_proof_is_said_in_a_sentence_and_the_run_goes_on_when_it_is_back(
    sshd: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "mytask.py").write_text(TASK)
    (tmp_path / "lab.toml").write_text(
        f'[devices.bench]\naddress = "{sshd.address}"\npython = "{sys.executable}"\n'
        f'workdir = "{tmp_path / "work"}"\nssh_config = "{sshd.config}"\n'
    )
    out = tmp_path / "run"
    order = ["fit", str(tmp_path / "mytask.py"), "--latency-ms", "1e4", "--device", "bench"]
    order += ["--lab", str(tmp_path / "lab.toml"), "--out", str(out), "--json"]

    def cut(event: Any) -> None:
        if event.doing.startswith("proving"):
            sshd.vanish()

    monkeypatch.setattr(verb, "_progress", listening(cut))
    gone = CliRunner().invoke(main, order)
    assert gone.exit_code == 1, gone.stderr
    assert gone.stdout == ""
    error, hint = gone.stderr.splitlines()
    assert error.startswith("error: The connection to device bench was lost during 'time'")
    assert hint.endswith(f"Finished trials are kept: add --resume --out {out} to go on.")
    known = (out / "ledger.jsonl").read_bytes()
    (dense,) = (json.loads(line) for line in known.splitlines()[1:])
    assert dense["key"] == "dense"

    monkeypatch.setattr(verb, "_progress", listening(lambda event: None))
    still = CliRunner().invoke(main, [*order, "--resume"])
    assert still.exit_code == 1
    assert "device bench" in still.stderr.lower()
    assert (out / "ledger.jsonl").read_bytes() == known

    sshd.start()
    back = CliRunner().invoke(main, [*order, "--resume"])
    assert back.exit_code == 0, back.stderr
    document = json.loads(back.stdout)
    assert (document["verdict"], document["chosen"]["name"]) == ("fits", "dense")
    assert document["chosen"]["metric"] == dense["record"]["metric"]
    assert (out / "ledger.jsonl").read_bytes().startswith(known), "what was finished was not done again"

"""Nothing leaves the machine: no look-up of a host in a fit and a validation, on host and device."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from edgeprune import telemetry
from edgeprune.devices import agent

ROOT = Path(__file__).parents[1]
SOURCE = ROOT / "tests" / "support" / "lookups.c"
Recorded = Callable[..., list[str]]


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> Recorded:
    """Runs a command, and returns the look-ups and connections that it and its children made."""
    compiler = shutil.which("cc")
    if compiler is None:
        pytest.skip("there is no C compiler (cc) to record look-ups with")
    folder = tmp_path_factory.mktemp("lookups")
    library, log, home = folder / "lookups.so", folder / "log", folder / "home"
    subprocess.run([compiler, "-O1", "-shared", "-fPIC", "-o", library, SOURCE, "-ldl"], check=True)
    home.mkdir()

    def run(*command: str) -> list[str]:
        log.unlink(missing_ok=True)
        plain = {name: value for name, value in os.environ.items() if name not in telemetry.OFF}
        for name in ("XDG_CACHE_HOME", "XDG_CONFIG_HOME", "XDG_DATA_HOME"):
            plain.pop(name, None)
        recording = {"LD_PRELOAD": str(library), "LOOKUPS": str(log), "HOME": str(home)}
        subprocess.run(command, check=True, env={**plain, **recording}, cwd=ROOT, capture_output=True)
        kept = [path for path in home.rglob("*") if path.is_file() and "edgeprune" not in path.parts]
        return [*(log.read_text().splitlines() if log.exists() else ()), *map(str, kept)]

    return run


def test_the_recorder_sees_look_ups_and_connections(recorded: Recorded) -> None:
    look_up = "import socket; socket.getaddrinfo('localhost', 80)"
    connect = "import socket\ntry: socket.create_connection(('127.0.0.1', 9), 1)\nexcept OSError: pass"
    assert recorded(sys.executable, "-c", look_up) == ["getaddrinfo localhost"]
    assert "connect " in recorded(sys.executable, "-c", connect)


def test_a_fit_and_a_validation_look_nothing_up_and_keep_nothing_elsewhere(
    recorded: Recorded, tmp_path: Path
) -> None:
    run = str(tmp_path / "run")
    verbs = [sys.executable, "-m", "tests.support.haste"]
    task = f"{ROOT / 'tests' / 'support' / 'tiny.py'}:task"
    options = ["--latency-ms", "1000", "--max-drop", "1", "--epochs", "0", "--out", run]
    assert recorded(*verbs, "fit", task, *options) == []
    (bundle,) = Path(run).glob("*.edgeprune.zip")
    assert recorded(*verbs, "validate", str(bundle)) == []


def test_every_process_of_ours_switches_telemetry_off_before_it_imports_a_runtime(recorded: Recorded) -> None:
    told = f"; import os; assert all(os.environ[name] == '1' for name in {agent.TELEMETRY}), os.environ"
    assert recorded(sys.executable, "-c", "import edgeprune" + told) == []
    beside = f"import sys; sys.path.insert(0, {str(Path(agent.__file__).parent)!r}); import agent"
    assert recorded(sys.executable, "-c", beside + told) == []
    assert set(agent.TELEMETRY) <= set(telemetry.OFF)
    assert agent.TELEMETRY_PACKAGES == telemetry.PACKAGES


def test_what_the_user_has_set_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DO_NOT_TRACK", "0")
    telemetry.switch_off()
    assert os.environ["DO_NOT_TRACK"] == "0"


def test_a_run_that_is_logged_in_mlflow_goes_to_the_named_store_alone(
    recorded: Recorded, make_run: Callable[..., Any], tmp_path: Path
) -> None:
    pytest.importorskip("mlflow", reason="the extra mlflow is not installed")
    report = [sys.executable, "-m", "edgeprune", "report", str(make_run().folder)]
    line = shlex.join([*report, "--mlflow", f"sqlite:///{tmp_path / 'mlflow.db'}"])
    # MLflow puts the files of such a store into the folder that it is called in. Where these are set it takes
    # itself for tested, and is quiet anyway.
    tested = "env -u PYTEST_CURRENT_TEST -u CI -u GITHUB_ACTIONS"
    assert recorded("sh", "-c", f"cd {shlex.quote(str(tmp_path))} && exec {tested} {line}") == []
    assert [path.name for path in (tmp_path / "mlruns").rglob("result.json")] == ["result.json"]

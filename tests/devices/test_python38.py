"""The files that a device gets run on Python 3.8.

With a Python 3.8 that has numpy and ONNX Runtime, named by $EDGEPRUNE_PYTHON38 or found as `python3.8`, the
agent really serves on it; without one, these tests skip by name.
"""

from __future__ import annotations

import ast
import json
import os
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgeprune.bundle import open_bundle
from edgeprune.devices import Device, Load, open_device
from edgeprune.devices.ssh import _agent_files
from edgeprune.measure import Effort
from edgeprune.validating import validate

QUICK = Effort(runs=64, seconds=0.1, interleaved=True)
LATER = ("removeprefix", "removesuffix", "is_relative_to", "hardlink_to", "lcm", "pairwise", "bit_count")


@pytest.fixture(scope="module")
def python38() -> str:
    python = os.environ.get("EDGEPRUNE_PYTHON38", "python3.8")
    asked = "import sys, numpy, onnxruntime; sys.exit(sys.version_info[:2] != (3, 8))"
    try:
        done = subprocess.run([python, "-c", asked], capture_output=True, timeout=60, check=False)
    except FileNotFoundError:
        pytest.skip(f"python38: there is no {python} (set EDGEPRUNE_PYTHON38)")
    if done.returncode:
        pytest.skip(f"python38: {python} is not 3.8 with numpy and onnxruntime (set EDGEPRUNE_PYTHON38)")
    return python


@pytest.fixture
def device(python38: str, tmp_path: Path) -> Device:
    """This machine, as a lab file that names the interpreter has it."""
    lab = tmp_path / "lab.toml"
    lab.write_text(f'[devices.old]\naddress = "local"\npython = "{python38}"\n')
    return open_device("old", lab=lab)


@pytest.mark.parametrize("file", _agent_files(), ids=lambda path: path.name)
def test_a_device_file_is_python_38(file: Path) -> None:
    tree = ast.parse(file.read_text("utf-8"), feature_version=(3, 8))
    imported = {node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    assert "__future__" in imported  # list[int] and X | None are annotations alone
    used = {node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
    assert used.isdisjoint(LATER)


def test_newer_syntax_is_seen() -> None:
    with pytest.raises(SyntaxError):
        ast.parse("match x:\n    case 1: pass", feature_version=(3, 8))


def test_a_session_on_python_38_measures(device: Device, make_run: Callable[..., Any]) -> None:
    assert device.machine().python.startswith("3.8.")
    run = make_run()
    feeds = {"pixels": np.ones((1, 8), np.float32)}
    with device.start(Load("onnxruntime", run.folder / "trial-01" / "model.onnx", threads=1)) as session:
        assert session.predict(feeds)[0].shape == (1, 3)
        assert session.warm_up(feeds, 0.01) > 0
        assert len(session.time(feeds, runs=64, seconds=0.0).ms) == 64
        assert session.memory().added_mib > 0
        assert "loadavg" in session.state()
    with device.start(
        Load("onnxruntime", run.folder / "trial-01" / "model.onnx", threads=1, profile=True)
    ) as session:
        assert [each.kind for each in session.operators(feeds, runs=8)] == ["MatMul"]


def test_a_bundle_is_validated_on_python_38(device: Device, make_run: Callable[..., Any]) -> None:
    checks = validate(make_run().bundle(), device, effort=QUICK).checks
    assert [check.outcome for check in checks if check.number >= 7][:3] == ["passed"] * 3


def test_the_runner_of_a_bundle_runs_on_python_38(python38: str, make_run: Callable[..., Any]) -> None:
    with open_bundle(make_run().bundle()) as verified:
        done = subprocess.run(
            [python38, "-B", "run.py", "--artefact", "model.onnx", "--golden", "golden.npz"],
            cwd=verified.folder,
            capture_output=True,
            text=True,
            timeout=60,
            check=True,
        )
    assert json.loads(done.stdout)["ok"] is True

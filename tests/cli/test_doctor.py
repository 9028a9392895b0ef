"""`edgeprune doctor` tries what is there, survives what crashes, and repairs what is missing."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from edgeprune import detect
from edgeprune.cli import doctor, main, runtime_probe
from edgeprune.cli.runtime_probe import Finding

WORKS = Finding("works", "1.2.3", "runs")
MISSING = Finding("missing", None, "x is not installed")
IMPORTS = Finding("imports", "11.0", "imports; needs a GPU to run")


def run(*arguments: str) -> Result:
    return CliRunner().invoke(main, ["doctor", *arguments], env={"COLUMNS": "300"})


def given(monkeypatch: pytest.MonkeyPatch, **findings: Finding) -> None:
    """Let the probes find this; what is not named is missing."""
    monkeypatch.setattr(doctor, "examine", lambda name: findings.get(name.replace("-", "_"), MISSING))


def stand_in(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, script: str) -> None:
    """Put a shell script in the place of the interpreter that runs the probes."""
    path = tmp_path / "python"
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(path))


def test_one_working_runtime_is_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    given(monkeypatch, openvino=WORKS)
    result = run()
    assert result.exit_code == 0
    assert "pip install 'edgeprune[ort]'" in result.stdout
    assert "pip install 'edgeprune[openvino]'" not in result.stdout


def test_no_working_runtime_exits_1_and_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    given(monkeypatch, fit=WORKS, tensorrt_rtx=IMPORTS)
    result = run()
    assert result.exit_code == 1
    assert "No runtime works here" in result.stdout
    assert "needs a GPU to run" in result.stdout
    assert "edgeprune[rtx]" not in result.stdout


def test_json_has_versions_states_and_repairs(monkeypatch: pytest.MonkeyPatch) -> None:
    given(monkeypatch, onnxruntime=WORKS)
    result = run("--json")
    document = json.loads(result.stdout)
    assert document["works"] is True
    assert document["machine"]["cores"] == detect.cores()
    found = {each["name"]: each for each in (*document["runtimes"], *document["others"])}
    assert list(found) == [
        "onnxruntime",
        "openvino",
        "tensorrt",
        "tensorrt-rtx",
        "fit",
        "hf",
        "report",
        "ssh",
    ]
    assert found["onnxruntime"] == {
        "name": "onnxruntime",
        "state": "works",
        "version": "1.2.3",
        "detail": "runs",
        "repair": None,
    }
    assert found["fit"]["repair"] == "pip install 'edgeprune[fit]'"


def test_a_missing_ssh_is_found(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    given(monkeypatch, onnxruntime=WORKS)
    monkeypatch.setenv("PATH", str(tmp_path))
    ssh = json.loads(run("--json").stdout)["others"][-1]
    assert (ssh["name"], ssh["state"]) == ("ssh", "missing")
    assert "openssh-client" in ssh["repair"]


@pytest.mark.parametrize("name", ["onnxruntime", "openvino"])
def test_a_runtime_that_is_installed_runs_a_model_in_a_fresh_process(name: str) -> None:
    finding = doctor.examine(name)
    expected = "works" if importlib.util.find_spec(name) else "missing"
    assert finding.state == expected, finding
    assert (finding.version is not None) == (expected == "works")


def test_onnxruntime_shows_whether_int8_saturates_on_this_processor() -> None:
    pytest.importorskip("onnxruntime")
    saturates = detect.saturates(detect.host().isa or ())
    assert ("saturate" in doctor.examine("onnxruntime").detail) == saturates


def test_a_library_that_is_not_installed_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tensorrt", None)
    assert runtime_probe.look("tensorrt") == Finding("missing", None, "tensorrt is not installed")


def test_what_a_library_raises_is_a_finding(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(name: str) -> Finding:
        raise OSError("libcuda.so.1: cannot open shared object file\nand more")

    monkeypatch.setattr(runtime_probe, "probe_runtime", broken)
    assert runtime_probe.look("tensorrt").detail == "OSError: libcuda.so.1: cannot open shared object file"


def test_a_crash_is_a_finding(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    stand_in(monkeypatch, tmp_path, "kill -ILL $$")
    assert doctor.examine("onnxruntime") == Finding("fails", None, "crashed with SIGILL")


def test_a_hang_is_a_finding(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    stand_in(monkeypatch, tmp_path, "exec tail -f /dev/null")
    assert doctor.examine("openvino", timeout=0.1) == Finding("fails", None, "did not answer within 0.1 s")


def test_an_interpreter_that_fails_is_quoted(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    stand_in(monkeypatch, tmp_path, "echo one >&2; echo 'no numpy here' >&2; exit 3")
    assert doctor.examine("onnxruntime").detail == "ended with exit code 3: no numpy here"


def test_chatter_before_the_answer_is_ignored(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    stand_in(
        monkeypatch, tmp_path, """echo hello; echo '{"state": "works", "version": "1", "detail": "d"}'"""
    )
    assert doctor.examine("onnxruntime") == Finding("works", "1", "d")


def test_saturated_products_are_told_from_exact_ones() -> None:
    assert runtime_probe.int8_verdict(64 * 255 * 127) == "INT8 products are exact"
    # VPMADDUBSW clips each pair of products at 2**15 - 1.
    assert "saturate (1048544 instead of 2072640)" in runtime_probe.int8_verdict(32 * (2**15 - 1))


def test_the_models_written_by_hand_are_valid_onnx() -> None:
    onnx = pytest.importorskip("onnx")
    factors = (("a", runtime_probe.ONNX_UINT8, (1, 300)), ("b", runtime_probe.ONNX_INT8, (300, 16)))
    content = runtime_probe.onnx_model("MatMulInteger", factors, ("y", runtime_probe.ONNX_INT32, (1, 16)))
    onnx.checker.check_model(content, full_check=True)
    model = onnx.load_from_string(content)
    assert [dim.dim_value for dim in model.graph.input[0].type.tensor_type.shape.dim] == [1, 300]

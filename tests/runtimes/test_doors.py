"""A runtime is one row: a toy runtime is offered, diagnosed and documented, and copies of a row agree."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import pytest
from click.testing import CliRunner

from edgeprune import runtimes
from edgeprune.cli import doctor, extras, main, runtime_probe
from edgeprune.cli.runtime_probe import Finding
from edgeprune.devices import agent
from edgeprune.devices.artefact import written_files
from edgeprune.errors import InputError
from edgeprune.runtimes import Runtime
from edgeprune.shelf import load_target
from edgeprune.toml import Table

ROOT = Path(__file__).parents[2]
# Extras of pyproject.toml that install no runtime.
OTHERS = {"fit", "report", "mlflow", "train", "examples", "hf", "docs", "dev", "bench"}
TOY = replace(
    runtimes.find("onnxruntime"),
    name="abacus",
    says="Counts beads.",
    suffix=".beads",
    companions=(".frame", ".rods"),
    exact=False,
    remark="",
    attained=None,
)
TARGET = """\
title = "A platform"
runtime = "abacus"
dialect = "onnxruntime-x86"
profile = "raspberry-pi-5"
channel_multiple = 8
"""


@pytest.fixture
def toy(monkeypatch: pytest.MonkeyPatch) -> Runtime:
    monkeypatch.setitem(runtimes.TABLE, TOY.name, TOY)  # type: ignore[arg-type]
    return TOY


def look_here(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the doctor look for the toy alone, in this process: another one has no toy."""
    absent = Finding("missing", None, "")
    monkeypatch.setattr(
        doctor, "examine", lambda name: runtime_probe.look(name) if name == TOY.name else absent
    )


def test_a_toy_runtime_is_offered_by_the_command_line(
    toy: Runtime, doors: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert "tensorrt-rtx, abacus." in doors.help_of("fit", monkeypatch)


def test_a_toy_runtime_is_diagnosed(toy: Runtime, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("onnxruntime")
    look_here(monkeypatch)
    document = json.loads(CliRunner().invoke(main, ["doctor", "--json"]).stdout)
    found = document["runtimes"][-1]
    assert (found["name"], found["state"], found["detail"]) == ("abacus", "works", "runs")
    assert found["version"] == runtimes.version("onnxruntime")


def test_a_missing_toy_runtime_is_repaired_by_its_row(monkeypatch: pytest.MonkeyPatch) -> None:
    absent = replace(TOY, imports="abacus_of_wood", extra="wood", elsewhere="or carve it")
    monkeypatch.setitem(runtimes.TABLE, TOY.name, absent)  # type: ignore[arg-type]
    look_here(monkeypatch)
    found = json.loads(CliRunner().invoke(main, ["doctor", "--json"]).stdout)["runtimes"][-1]
    assert (found["state"], found["detail"]) == ("missing", "abacus_of_wood is not installed")
    assert found["repair"] == "pip install 'edgeprune[wood]' (or carve it)"
    told = extras.missing(ModuleNotFoundError("", name="abacus_of_wood.beads"))
    assert told is not None
    assert told.hint == "Run: pip install 'edgeprune[wood]'"


def test_an_unknown_runtime_is_refused_with_every_row(toy: Runtime) -> None:
    with pytest.raises(InputError, match="no runtime 'fingers'") as refused:
        runtimes.find("fingers")
    assert refused.value.hint.endswith("tensorrt-rtx, abacus.")


def test_a_target_may_name_a_toy_runtime(toy: Runtime, tmp_path: Path) -> None:
    path = tmp_path / "wood.toml"
    path.write_text(TARGET)
    assert load_target(path).runtime == "abacus"


def test_the_dialect_of_a_target_is_one_that_its_runtime_has_kernels_for(
    toy: Runtime, tmp_path: Path
) -> None:
    path = tmp_path / "wood.toml"
    path.write_text(TARGET.replace("onnxruntime-x86", "openvino"))
    with pytest.raises(InputError, match="which abacus has no kernels for") as refused:
        load_target(path)
    assert refused.value.hint.endswith("auto, onnxruntime-x86, onnxruntime-arm.")


def test_the_files_of_an_artefact_are_those_of_its_row(toy: Runtime) -> None:
    assert [path.name for path in written_files(Path("model.beads"))] == [
        "model.beads",
        "model.frame",
        "model.rods",
    ]


def test_the_document_tells_every_runtime(doors: ModuleType) -> None:
    assert doors.undocumented(_columns()) == []
    assert doors.documented("Runtimes") == list(runtimes.TABLE)


def test_a_toy_runtime_is_missed_in_the_document(toy: Runtime, doors: ModuleType) -> None:
    assert doors.undocumented(_columns()) == ["| `abacus` | `edgeprune[ort]` | Counts beads. |"]


def _columns() -> list[tuple[str, ...]]:
    return [(row.name, f"`edgeprune[{row.extra}]`", row.says) for row in runtimes.TABLE.values()]


# What a row says twice ---------------------------------------------------------------------------------


def test_the_agent_has_a_copy_of_each_row() -> None:
    assert _copies() == (agent.SESSIONS, set(agent.BUILDERS))


def test_a_toy_runtime_is_missed_in_the_agent(toy: Runtime) -> None:
    sessions, _ = _copies()
    assert {name: files for name, files in sessions.items() if name not in agent.SESSIONS} == {
        "abacus": ("ort.py",)
    }


def _copies() -> tuple[dict[str, tuple[str, ...]], set[str]]:
    sessions = {name: (row.file, *row.beside) for name, row in runtimes.TABLE.items()}
    return sessions, {name for name, row in runtimes.TABLE.items() if row.builds_engine}


def test_the_session_file_that_serves_several_runtimes_imports_what_their_rows_say() -> None:
    libraries = agent.load_module("trt.py").LIBRARIES
    assert {name: runtimes.find(name).imports for name in libraries} == libraries
    assert set(libraries) == {row.name for row in runtimes.TABLE.values() if row.file == "trt.py"}


def test_every_extra_for_a_runtime_has_a_row_and_every_row_an_extra() -> None:
    project = ROOT / "pyproject.toml"
    if not project.is_file():
        pytest.skip("not a checkout: there is no pyproject.toml")
    declared = set(Table.read(project).table("project").table("optional-dependencies"))
    assert declared - OTHERS == {row.extra for row in runtimes.TABLE.values()}


def test_one_runtime_is_exact_and_needs_no_engine() -> None:
    exact = [row for row in runtimes.TABLE.values() if row.exact]
    assert exact == [runtimes.exact_runtime()]
    assert not exact[0].builds_engine


@pytest.mark.parametrize("row", runtimes.TABLE.values(), ids=lambda row: row.name)
def test_a_row_agrees_with_itself(row: Runtime) -> None:
    assert set(row.host) <= set(runtimes.TABLE)
    assert row.builds_engine == bool(row.engine_program) == bool(row.host)
    assert row.builds_engine or row.attained is None or row.attained.device == "CPU"

"""`edgeprune validate` as a user and a CI run it. No test here needs torch: they run from the wheel too."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import textwrap
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any
from xml.etree import ElementTree

import pytest
from click.testing import CliRunner, Result

import edgeprune
from edgeprune import devices
from edgeprune.cli import main
from edgeprune.errors import DeviceLost
from edgeprune.records.machine import Budget
from edgeprune.shelf import load_target

BUDGET = Budget(latency_ms=5.0, percentile=90, memory_mib=100.0, size_mib=1.0)


@pytest.fixture
def bundle(make_run: Callable[..., Any]) -> Path:
    path: Path = make_run(budget=BUDGET).bundle()
    return path


@pytest.fixture
def device(scripted: ModuleType, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The device that every address leads to."""
    found = scripted.ScriptedDevice()
    monkeypatch.setattr(devices, "open_device", lambda name, lab=None: found)
    return found


def validate(*arguments: object) -> Result:
    return CliRunner().invoke(main, ["validate", *map(str, arguments)])


def cases(junit: Path) -> dict[str, list[str]]:
    """Check name -> the tags below its test case."""
    root = ElementTree.parse(junit).getroot()
    return {case.attrib["name"]: [child.tag for child in case] for case in root.iter("testcase")}


def test_what_fits_exits_0_and_shows_the_numbered_checks(bundle: Path, device: Any) -> None:
    done = validate(bundle)
    assert done.exit_code == 0, done.output
    for number in range(1, 11):
        assert f"({number})" in done.stdout
    assert done.stdout.splitlines()[-1] == "scripted: fits"


def test_what_misses_exits_3(bundle: Path, device: Any) -> None:
    device.latency_ms = lambda artefact: 7.0
    done = validate(bundle)
    assert done.exit_code == 3
    assert "p90 bound 7 ms of 5 allowed" in done.stdout
    assert done.stdout.splitlines()[-1] == "scripted: misses"


def test_a_throttled_device_exits_1(make_run: Callable[..., Any], device: Any) -> None:
    run = make_run(budget=BUDGET)
    flag = load_target(run.result.target.name).throttle[0].replace("*", "0")
    device.state = lambda reading: {flag: str(reading)}
    done = validate(run.bundle())
    assert done.exit_code == 1
    assert done.stdout.splitlines()[-1] == "scripted: inconclusive"


def test_a_device_that_fails_exits_1(bundle: Path, device: Any, scripted: ModuleType) -> None:
    device._machine = replace(scripted.MACHINE, runtimes=())
    done = validate(bundle)
    assert done.exit_code == 1
    assert "pip install" in done.stdout
    assert done.stdout.splitlines()[-1] == "scripted: failed"


def test_a_refused_bundle_exits_2_with_error_and_hint_and_prints_nothing_else(
    bundle: Path, device: Any, tmp_path: Path
) -> None:
    content = bytearray(bundle.read_bytes())
    content[-100] ^= 1
    bundle.write_bytes(content)
    done = validate(bundle, "--json", "--junit", tmp_path / "junit.xml")
    assert done.exit_code == 2
    assert done.stdout == ""
    error, hint = done.stderr.splitlines()
    assert error.startswith("error: ")
    assert hint.startswith("hint: ")
    assert list(cases(tmp_path / "junit.xml").values()) == [["failure"]]


def test_json_is_one_document(bundle: Path, device: Any) -> None:
    device.latency_ms = lambda artefact: 7.0
    done = validate(bundle, "--json")
    document = json.loads(done.stdout)
    assert document["verdict"] == "misses"
    (found,) = document["devices"]
    assert found["breaches"] == [{"line": "latency_ms", "value": 7.0, "limit": 5.0}]
    assert found["latency_ms"]["bound"] == 7.0
    assert found["metric"]["value"] == 0.965
    assert "claim" in found["metric"]["from"]
    assert [check["number"] for check in found["checks"]] == list(range(1, 11))


def test_junit_has_one_case_per_check(bundle: Path, device: Any, tmp_path: Path) -> None:
    device.latency_ms = lambda artefact: 7.0
    validate(bundle, "--junit", tmp_path / "junit.xml")
    found = cases(tmp_path / "junit.xml")
    assert [name.split(")")[0] for name in found] == [f"({number}" for number in range(1, 11)]
    assert found["(10) latency within the budget"] == ["failure"]
    assert found["(6) the signature"] == ["skipped"]
    assert found["(8) golden outputs agree"] == ["system-out"]


@pytest.mark.parametrize("place", ["missing/report.xml", "file/report.xml", "."])
def test_a_junit_file_that_cannot_be_written_is_refused_before_anything_runs(
    bundle: Path, device: Any, tmp_path: Path, place: str
) -> None:
    (tmp_path / "file").touch()
    before = sorted(tmp_path.rglob("*"))
    done = validate(bundle, "--junit", tmp_path / place)
    assert (done.exit_code, done.stdout) == (2, "")
    assert "error: --junit " in done.stderr
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize("address", ["", "  "])
def test_a_blank_device_is_refused(bundle: Path, address: str) -> None:
    done = validate(bundle, "--device", address)
    assert (done.exit_code, done.stdout) == (2, "")
    assert "names no device" in done.stderr


def test_junit_survives_what_xml_cannot_hold(
    bundle: Path, device: Any, tmp_path: Path, scripted: ModuleType
) -> None:
    device._machine = replace(scripted.MACHINE, runtimes=(("onnxruntime", "1.0\x1b[31m\x00<&>"),))
    validate(bundle, "--junit", tmp_path / "junit.xml")
    root = ElementTree.parse(tmp_path / "junit.xml").getroot()
    assert any("1.0?[31m?<&>" in (node.text or "") for node in root.iter("system-out"))


LAB = """
[devices.bench]
address = "local"

[devices.slow]
address = "ssh://user@slow.example:22"
"""


@pytest.fixture
def lab(tmp_path: Path, scripted: ModuleType, monkeypatch: pytest.MonkeyPatch) -> Path:
    def opened(name: str, lab: Path | None = None) -> Any:
        found = scripted.ScriptedDevice(latency_ms=lambda artefact: 9.0 if name == "slow" else 1.0)
        found.name = name
        return found

    monkeypatch.setattr(devices, "open_device", opened)
    path = tmp_path / "lab.toml"
    path.write_text(LAB)
    return path


def test_a_lab_is_validated_device_by_device_and_the_worst_counts(bundle: Path, lab: Path) -> None:
    done = validate(bundle, "--lab", lab, "--json")
    assert done.exit_code == 3
    assert [(one["device"], one["verdict"]) for one in json.loads(done.stdout)["devices"]] == [
        ("bench", "fits"),
        ("slow", "misses"),
    ]


def test_a_lab_ends_with_how_many_fit_and_has_a_line_for_each_beginning_and_end(
    bundle: Path, lab: Path
) -> None:
    done = validate(bundle, "--lab", lab)
    assert done.stdout.splitlines()[-1] == "1 of 2 fit: slow misses"
    assert sorted(done.stderr.splitlines()) == [
        "bench: checking the device",
        "bench: fits",
        "slow: checking the device",
        "slow: misses",
    ]


def test_a_device_without_a_way_to_it_is_called_unreachable(
    bundle: Path, lab: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: Any = devices.open_device

    def cut(name: str, lab: Path | None = None) -> Any:
        def lost() -> Any:
            raise DeviceLost("Device slow cannot be reached.", "Plug it in.")

        found = opened(name, lab)
        if name == "slow":
            found.machine = lost
        return found

    monkeypatch.setattr(devices, "open_device", cut)
    done = validate(bundle, "--lab", lab, "--junit", tmp_path / "junit.xml")
    assert done.exit_code == 1
    assert done.stdout.splitlines()[-1] == "1 of 2 fit: slow is unreachable"
    as_json = json.loads(validate(bundle, "--lab", lab, "--json").stdout)
    assert [(one["verdict"], one["reachable"]) for one in as_json["devices"]] == [
        ("fits", True),
        ("failed", False),
    ]
    bench, slow = ElementTree.parse(tmp_path / "junit.xml").getroot()
    assert (slow.attrib["errors"], slow.attrib["failures"]) == ("1", "0")
    assert (bench.attrib["errors"], bench.attrib["failures"]) == ("0", "0")


def test_a_suite_has_its_time_and_what_was_measured(bundle: Path, device: Any, tmp_path: Path) -> None:
    validate(bundle, "--junit", tmp_path / "junit.xml")
    (suite,) = ElementTree.parse(tmp_path / "junit.xml").getroot()
    told = {each.attrib["name"]: each.attrib["value"] for each in suite.iter("property")}
    assert float(suite.attrib["time"]) > 0
    assert len(suite.attrib["timestamp"]) == len("2026-11-30T22:00:00")
    assert (told["verdict"], told["budget.latency_ms"], told["threads"]) == ("fits", "5", "1")
    assert float(told["latency_ms.p50"]) <= float(told["latency_ms.p90_bound"]) <= 5


def test_a_name_that_the_lab_lacks_is_refused_with_the_nearest(bundle: Path, lab: Path) -> None:
    done = validate(bundle, "bensh", "--lab", lab)
    assert (done.exit_code, done.stdout) == (2, "")
    assert "bench" in done.stderr


def test_named_devices_of_a_lab_are_the_only_ones(bundle: Path, lab: Path) -> None:
    done = validate(bundle, "bench", "--lab", lab, "--json")
    assert done.exit_code == 0
    assert [one["device"] for one in json.loads(done.stdout)["devices"]] == ["bench"]


def test_the_lab_of_a_project_file_says_what_a_name_means_and_nothing_else(
    bundle: Path, lab: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its target, its device and its budget are of a fit: a bundle is held against its own."""
    monkeypatch.chdir(lab.parent)
    (lab.parent / "edgeprune.toml").write_text(
        'lab = "lab.toml"\ntarget = "jetson"\ndevice = "slow"\nlatency_ms = 1e-9\nmax_drop = 0'
    )
    done = validate(bundle, "bench", "--json")
    assert done.exit_code == 0
    assert done.stderr.startswith('with edgeprune.toml (lab = "lab.toml")\n')
    assert [one["device"] for one in json.loads(done.stdout)["devices"]] == ["bench"]
    here = validate(bundle, "--json")
    assert (here.exit_code, "edgeprune.toml" in here.stderr) == (0, False)
    assert [one["device"] for one in json.loads(here.stdout)["devices"]] == ["local"]


@pytest.mark.parametrize(
    "arguments",
    [["bench"], ["--lab", "lab.toml", "--device", "local"]],
    ids=["name without lab", "lab and device"],
)
def test_flags_that_contradict_exit_2(bundle: Path, arguments: list[str]) -> None:
    done = validate(bundle, *arguments)
    assert done.exit_code == 2
    assert "Usage:" in done.stderr


def test_validating_imports_no_torch_no_onnx_no_scipy(make_run: Callable[..., Any], tmp_path: Path) -> None:
    """A real proof in a real process where these imports fail, shortened: its length is tested elsewhere."""
    script = """
        import sys

        ABSENT = {"torch", "onnx", "onnxscript", "scipy", "neural_compressor", "torchao"}

        class Absent:
            def find_spec(self, name, path=None, target=None):
                if name.split(".")[0] in ABSENT:
                    raise ModuleNotFoundError(f"{name} is not installed here", name=name)

        sys.meta_path.insert(0, Absent())
        import edgeprune.validating as room
        from edgeprune.cli import main
        from edgeprune.measure import Effort

        room.validate_on.__kwdefaults__["effort"] = Effort(runs=64, seconds=0.2)
        main(["validate", sys.argv[1], "--json"])
    """
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", textwrap.dedent(script), str(make_run().bundle())],
        capture_output=True,
        text=True,
        check=False,
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(Path(edgeprune.__file__).parents[1])},
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    (found,) = json.loads(done.stdout)["devices"]
    assert [check["outcome"] for check in found["checks"] if check["number"] >= 7] == ["passed"] * 4

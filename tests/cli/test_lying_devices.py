"""`edgeprune validate` on devices that lie: one sentence, exit code 1, and the other device is validated."""

from __future__ import annotations

import json
import sys
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any
from xml.etree import ElementTree

import pytest
from click.testing import CliRunner

import edgeprune.validating as room
from edgeprune import devices
from edgeprune.bundle import read_golden
from edgeprune.cli import main
from edgeprune.devices import pipes
from edgeprune.devices.local import LocalDevice
from edgeprune.measure import Effort

LIAR = Path(__file__).parents[1] / "support" / "liar.py"
LAB = '[devices.liar]\naddress = "local"\n\n[devices.good]\naddress = "local"\n'


@dataclass(frozen=True)
class Lie:
    """Request that is answered with a lie (a name of liar.LIES, and its argument), and what must be said."""

    do: str
    lie: str
    argument: Any
    sentence: str
    timeout_s: float = 60.0


def key(do: str, name: str, value: Any, sentence: str) -> Lie:
    return Lie(do, "keys", {name: value}, sentence)


NAN, INF = float("nan"), float("inf")
LIES = {
    # what a machine says about itself
    "cores that are negative": key("machine", "cores", -1, "cores = -1, expected a whole number"),
    "cores that are no number": key("machine", "cores", "2", "cores = '2', expected a whole number"),
    "cores that are true": key("machine", "cores", True, "cores = True, expected a whole number"),
    "more cores than there can be": key("machine", "cores", 10**30, "cores = 1000000000"),
    "memory that is negative": key("machine", "memory_mib", -1.0, "memory_mib = -1.0, expected a number"),
    "memory that is not a number": key("machine", "memory_mib", NAN, "memory_mib = nan"),
    "memory without bound": key("machine", "memory_mib", INF, "memory_mib = inf"),
    "a processor that is a list": key("machine", "processor", ["x"], "processor = ['x'], expected a text"),
    "instruction sets that are a text": key("machine", "isa", "avx2", "isa = 'avx2', expected a list"),
    "more instruction sets than fit": key("machine", "isa", ["x"] * 1000, "isa = ["),
    "runtimes that are a list": key("machine", "runtimes", [], "runtimes = [], expected an object"),
    "a runtime that nobody knows": key("machine", "runtimes", {"evil": "1"}, "runtimes.evil = '1'"),
    "a version that is a number": key("machine", "runtimes", {"onnxruntime": 1}, "runtimes.onnxruntime = 1"),
    "no processor": Lie("machine", "no_key", "processor", "processor = None, expected a value"),
    "no runtime": key("machine", "runtimes", {}, "liar has no onnxruntime"),
    # what was loaded
    "a version that is null": key("load", "version", None, "version = None, expected a text"),
    "no outputs": key("load", "outputs", [], "outputs = [], expected at least one port"),
    "outputs that are a number": key("load", "outputs", 3, "outputs = 3, expected a list"),
    "an output that is a number": key("load", "outputs", [3], "outputs[0] = 3, expected a list"),
    "a name twice": key("load", "outputs", [["a"], ["a"]], "outputs[1][0] = 'a', expected a name of its own"),
    "a name with a command": key("load", "outputs", [["::error::"]], "outputs[0][0] = ': :error: :'"),
    "a name in colours": key("load", "inputs", [["\x1b[31m"]], "inputs[0][0] = "),
    "a name without end": key("load", "inputs", [["x" * 10_000]], "inputs[0][0] = "),
    "no inputs": Lie("load", "no_key", "inputs", "inputs = None, expected a value"),
    # failures that are told
    "a failure without a reason": key("load", "error", "failed", "what = None, expected a value"),
    "a failure of no kind": key("load", "error", ["failed"], "error = ['failed'], expected a text"),
    "a failure in colours": Lie(
        "load", "keys", {"error": "failed", "what": "\x1b[31m\n::error::x"}, r"\x1b[31m : :error: :x"
    ),
    "layers that are a text": Lie(
        "load",
        "keys",
        {"error": "lost int8", "what": "x", "layers": "all"},
        "layers = 'all', expected a list",
    ),
    # outputs
    "outputs that are not there": Lie("predict", "array", [], "arrays = 0, expected 1 outputs"),
    "more outputs than there are": Lie(
        "predict", "array", [["0", "<f4", [1, 3], 12], ["1", "<f4", [1, 3], 12]], "arrays = 2, expected 1"
    ),
    "an output by another name": Lie("predict", "array", [["x", "<f4", [1, 3], 12]], "array '0' = None"),
    "an output of another shape": Lie(
        "predict", "array", [["0", "<f4", [3], 12]], "array '0' = 'float32 [3]', expected an array of [1, 3]"
    ),
    "an output of integers": Lie(
        "predict", "array", [["0", "<i4", [1, 3], 12]], "array '0' = 'int32 [1, 3]'"
    ),
    "an output of other rows": Lie("predict", "array", [["0", "<f4", [2, 3], 24]], "'float32 [2, 3]'"),
    "an output of other values": Lie("predict", "array", [["0", "<f4", [1, 3], 12]], "output differs by 1"),
    "an output that is not a number": Lie("predict", "doubles", ["nan"] * 3, "output differs by inf"),
    "an output as large as can be": Lie(
        "predict", "doubles", ["-1.7e308", "inf", "1.7e308"], "differs by inf"
    ),
    "objects": Lie("predict", "listed", [{"name": "0", "dtype": "|O", "shape": [1]}], "arrays[0].dtype"),
    "texts": Lie("predict", "listed", [{"name": "0", "dtype": "<U5", "shape": [1]}], "arrays[0].dtype"),
    "records": Lie("predict", "listed", [{"name": "0", "dtype": "f4,O", "shape": [1]}], "arrays[0].dtype"),
    "a dtype that is none": Lie("predict", "listed", [{"name": "0", "dtype": "<f5", "shape": [1]}], ".dtype"),
    "a dtype that is a list": Lie("predict", "listed", [{"name": "0", "dtype": [], "shape": [1]}], ".dtype"),
    "a negative shape": Lie(
        "predict", "listed", [{"name": "0", "dtype": "<f4", "shape": [-1]}], "arrays[0].shape holds"
    ),
    "a shape of fractions": Lie(
        "predict", "listed", [{"name": "0", "dtype": "<f4", "shape": [1.5]}], "arrays[0].shape holds"
    ),
    "a huge shape": Lie(
        "predict", "listed", [{"name": "0", "dtype": "<f4", "shape": [1 << 40]}], "bytes, where 48 are due"
    ),
    "a shape that wraps to nothing": Lie(
        "predict", "listed", [{"name": "0", "dtype": "<f4", "shape": [1 << 32, 1 << 32]}], "bytes, where 48"
    ),
    "a huge shape of nothing": Lie(
        "predict", "listed", [{"name": "0", "dtype": "<f4", "shape": [0, 1 << 62, 1 << 62]}], "cannot be"
    ),
    "an array twice": Lie(
        "predict", "array", [["0", "<f4", [1], 4], ["0", "<f4", [1], 4]], "arrays[1].name is there twice"
    ),
    "an array without a name": Lie("predict", "listed", [{"dtype": "<f4", "shape": [1]}], "has no name"),
    "a list of arrays that is none": Lie("predict", "listed", 7, "list of arrays is missing, no list"),
    "arrays without number": Lie("predict", "listed", [0] * 5000, "longer than"),
    "too many dimensions": Lie(
        "predict", "listed", [{"name": "0", "dtype": "<f4", "shape": [1] * 70}], "sizes"
    ),
    # times
    "a time that is not a number": Lie("time", "milliseconds", ["nan"] * 99, "ms[0] = nan, expected finite"),
    "a time without bound": Lie("time", "milliseconds", ["1", "inf"], "ms[1] = inf, expected finite"),
    "a time of nothing": Lie("time", "milliseconds", ["0"] * 99, "ms[0] = 0.0, expected finite milliseconds"),
    "a time that is negative": Lie("time", "milliseconds", ["-5"] * 99, "ms[0] = -5.0, expected finite"),
    "no times": Lie("time", "milliseconds", [], "the number of times = 0, expected at least 1"),
    "times that are too short": Lie("time", "milliseconds", ["1e-30"] * 99, "the sum of ms = "),
    "times longer than the request": Lie("time", "milliseconds", ["1e9"] * 99, "the sum of ms = "),
    "times that overflow": Lie("time", "milliseconds", ["1e308"] * 99, "the sum of ms = inf"),
    "times that are integers": Lie("time", "array", [["ms", "<i8", [64], 512]], "array 'ms' = 'int64 [64]'"),
    "times in a square": Lie("time", "array", [["ms", "<f8", [8, 8], 512]], "array 'ms' = 'float64 [8, 8]'"),
    "times by another name": Lie("time", "array", [["s", "<f8", [64], 512]], "array 'ms' = None"),
    "more times than there can be": Lie(
        "time", "listed", [{"name": "ms", "dtype": "<f8", "shape": [1 << 33]}], "bytes, where"
    ),
    # other figures
    "a warm-up without a run": key("warm_up", "runs", 0, "runs = 0, expected a whole number"),
    "memory of a model that is negative": key("memory", "mib", -5, "mib = -5, expected a number"),
    "memory of a model that is absurd": key("memory", "mib", 1e300, "mib = 1e+300, expected a number"),
    "memory of a model that is a text": key("memory", "mib", "5", "mib = '5', expected a number"),
    "a state that is a list": key("state", "state", [1], "state = [1], expected an object"),
    "a reading that is a number": key("state", "state", {"a\x07": 1}, r"state.a\x07 = 1, expected a text"),
    # frames
    "a banner": Lie("machine", "bare", "Welcome to \x1b[31mUbuntu", "answered b'Welcome ' where a frame"),
    "a header that is no JSON": Lie("machine", "raw", "{nonsense", "its header is not JSON"),
    "a header that is no text": Lie("machine", "raw", "\xff\xfe{", "its header is not JSON"),
    "a header that is a list": Lie("machine", "raw", "[1, 2]", "its header is no object"),
    "a header that is null": Lie("machine", "raw", "null", "its header is no object"),
    "a header without arrays": Lie("machine", "raw", "{}", "its list of arrays is missing"),
    "a header of a number without end": Lie("machine", "raw", '{"a": ' + "9" * 9999 + "}", "is not JSON"),
    "a header that is too deep": Lie("machine", "deep", 100_000, "its header is not JSON"),
    "a header of 4 GiB": Lie("machine", "bare", "epr1\xff\xff\xff\xff", r"answered b'epr1\xff\xff\xff\xff'"),
    "arrays where none are due": Lie("memory", "array", [["x", "<f4", [9], 36]], "36 bytes, where 0 are due"),
    "half a frame": Lie("machine", "torn", 0, "died during 'machine' with exit code 0"),
    "half a frame and a crash": Lie("predict", "torn", 139, "died during 'predict' with exit code 139"),
    "an answer that nobody asked for": Lie("load", "more", 2, "that nobody asked for, so "),
    "a frame without end": Lie("machine", "endless", 1, r"answered b'\x00\x00"),
    "words without end": Lie("machine", "endless", 2, "printed more than 1 MiB on its standard error"),
    "last words in colours": Lie("load", "dead", "\x1b[31m::error::x\n##[error]y", r"\x1b[31m: :error: :x"),
    "a connection that says it was lost": Lie("load", "torn", 255, "The connection to device liar was lost"),
    # time-outs
    "silence": Lie("machine", "silent", None, "did not answer 'machine' within", timeout_s=0.3),
    "a drip": Lie("machine", "drip", 0.01, "did not answer 'machine' within", timeout_s=0.3),
}


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from tests.support import runs

    path: Path = runs.make_run(tmp_path_factory.mktemp("run") / "tiny").bundle()
    return path


@pytest.fixture(scope="module")
def outputs(bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> list[list[float]]:
    folder = tmp_path_factory.mktemp("golden")
    with zipfile.ZipFile(bundle) as archive:
        archive.extract("golden.npz", folder)
    found: list[list[float]] = read_golden(folder / "golden.npz").outputs["output"].tolist()
    return found


@pytest.fixture
def validated(
    bundle: Path,
    outputs: list[list[float]],
    tmp_path: Path,
    scripted: ModuleType,
    monkeypatch: pytest.MonkeyPatch,
) -> Callable[[Lie], tuple[Any, Any, Path]]:
    """Validates on a lab of a liar and a device that is as it should be; the outcome, the JSON, the JUnit."""
    quick = Effort(runs=64, seconds=0.05, interleaved=True)
    monkeypatch.setitem(room.validate_on.__kwdefaults__, "effort", quick)
    monkeypatch.setattr(pipes, "MOST_SAID", 1 << 20)

    def validate(lie: Lie) -> tuple[Any, Any, Path]:
        order = {"do": lie.do, "lie": lie.lie, "with": lie.argument, "outputs": outputs}
        (tmp_path / "order.json").write_text(json.dumps(order))
        python = tmp_path / "python"
        python.write_text(f'#!/bin/sh\nexec "{sys.executable}" -IS "{LIAR}" "{tmp_path}/order.json" "$@"\n')
        python.chmod(0o755)

        def opened(name: str, lab: Path | None = None) -> Any:
            found = (
                scripted.ScriptedDevice() if name == "good" else LocalDevice(python, timeout_s=lie.timeout_s)
            )
            found.name = name
            return found

        monkeypatch.setattr(devices, "open_device", opened)
        (tmp_path / "lab.toml").write_text(LAB)
        junit = tmp_path / "junit.xml"
        asked = [
            "validate",
            str(bundle),
            "--lab",
            str(tmp_path / "lab.toml"),
            "--json",
            "--junit",
            str(junit),
        ]
        done = CliRunner().invoke(main, asked)
        return done, json.loads(done.stdout), junit

    return validate


def test_without_a_lie_the_liar_is_believed(validated: Any, outputs: list[list[float]]) -> None:
    done, document, _ = validated(Lie("nothing", "silent", None, ""))
    assert done.exit_code == 0, done.output
    assert [found["verdict"] for found in document["devices"]] == ["fits", "fits"]


@pytest.mark.parametrize("lie", LIES.values(), ids=LIES.keys())
def test_a_lie_is_told_in_one_sentence_and_the_other_device_is_validated(
    lie: Lie, validated: Callable[[Lie], tuple[Any, Any, Path]]
) -> None:
    done, document, junit = validated(lie)
    assert done.exit_code == 1
    assert done.exception is None or isinstance(done.exception, SystemExit)
    assert "Traceback" not in done.output
    liar, good = document["devices"]
    (failed,) = [check for check in liar["checks"] if check["outcome"] == "failed"]
    assert lie.sentence in failed["detail"]
    assert liar["device"] in failed["detail"] or failed["number"] == 8
    assert failed["hint"]
    assert good["verdict"] == "fits"
    shown = [case.attrib["name"] for case in ElementTree.parse(junit).getroot().iter("testcase")]
    assert len(shown) == 20
    for text in (junit.read_text(), done.stderr, json.dumps(document, ensure_ascii=False)):
        assert all(each.isprintable() or each == "\n" for each in text)
        assert "::" not in text
        assert "##[" not in text

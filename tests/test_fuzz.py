"""Fuzzers: what is read from files ends in an answer or in the error that is named for it.

Every case is drawn from a fixed seed and named by its number, so that one that fails can be tried again.
"""

from __future__ import annotations

import io
import json
import random
import shutil
import struct
import warnings
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

from edgeprune import devices
from edgeprune.bundle import open_bundle
from edgeprune.bundle.archive import pack
from edgeprune.bundle.golden import RowLengths, packed, read_golden
from edgeprune.cli import main
from edgeprune.cli.project import project_values
from edgeprune.devices.lab import load_lab
from edgeprune.errors import BundleError, InputError
from edgeprune.files import sha256
from edgeprune.ledger import Ledger
from edgeprune.measure import Effort
from edgeprune.records.codec import to_json
from edgeprune.records.machine import Budget
from edgeprune.records.trial import Report
from edgeprune.report import document, frontier_table, table, trials_table, verdict_lines
from edgeprune.results import RESULT, load_result
from edgeprune.shelf import folder, load_profile, load_target
from edgeprune.toml import Table
from edgeprune.validating import validate_on

QUICK = Effort(runs=64, seconds=0.01, interleaved=True)
# Texts of JSON, so that those that no program writes are among them.
NASTY = (
    *("null", "true", "-1", "0", "1", "0.5", "-0.0", "1e-320", "1e308", "1e999", "NaN", "-Infinity"),
    *(str(2**31), str(2**63 - 1), str(2**63), "9" * 400, "9" * 5000),
    *('""', '"x"', '"\\u0000"', '"\\ud800"', '"\\u001b[31m"', '"../../x"', '"\\u202e"', f'"{"A" * 9000}"'),
    *(
        "[]",
        "[[]]",
        "[1,2]",
        "{}",
        '{"a":1}',
        '{"a":1,"a":2}',
        "[" * 100 + "]" * 100,
        "[" * 9999 + "]" * 9999,
    ),
)
MARK = "the value of this place"
FOLDERS = 60  # of transformers with one file changed, which take a tenth of a second each


def places(value: Any, way: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Every place in a JSON value."""
    yield way
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, item in items:
        yield from places(item, (*way, key))


def put(value: Any, way: tuple[Any, ...], text: str) -> bytes:
    """JSON text of a value with the JSON text `text` at a place."""
    if not way:
        return text.encode()
    whole = json.loads(json.dumps(value))
    place = whole
    for step in way[:-1]:
        place = place[step]
    place[way[-1]] = MARK
    return json.dumps(whole).replace(f'"{MARK}"', text, 1).encode()


def scrambled(content: bytes, numbers: random.Random) -> bytes:
    """Bytes of which some were flipped, cut out, repeated or replaced."""
    out = bytearray(content)
    for _ in range(numbers.choice((1, 1, 2, 8))):
        at = numbers.randrange(len(out) + 1)
        length = numbers.choice((1, 2, 4, 8, 100))
        kind = numbers.randrange(5)
        if kind == 0 and at < len(out):
            out[at] ^= 1 << numbers.randrange(8)
        elif kind == 1:
            del out[at : at + length]
        elif kind == 2:
            out[at:at] = out[at : at + length]
        elif kind == 3:
            out[at : at + length] = numbers.choice((b"\0", b"\xff", b"\x80", b"\n")) * length
        else:
            out[at : at + 4] = struct.pack("<L", numbers.choice((0, 1, 2**31 - 1, 2**31, 2**32 - 1)))
    return bytes(out)


@pytest.fixture
def run(make_run: Callable[..., Any]) -> Any:
    return make_run(budget=Budget(latency_ms=5.0, percentile=90, memory_mib=100.0, size_mib=1.0))


@pytest.fixture
def unpacked(run: Any, tmp_path: Path) -> Path:
    shutil.unpack_archive(run.bundle(), tmp_path / "unpacked", "zip")
    return tmp_path / "unpacked"


def listing(manifest: dict[str, Any], bundle: Path, name: str) -> dict[str, Any]:
    """Manifest with the size and hash that a file of a bundle has now."""
    now = {"path": name, "size": (bundle / name).stat().st_size, "sha256": sha256(bundle / name)}
    return {**manifest, "files": [now if file["path"] == name else file for file in manifest["files"]]}


def relisted(bundle: Path, name: str) -> None:
    """Give a file of a bundle its size and hash in the manifest."""
    manifest = json.loads((bundle / "manifest.json").read_text())
    (bundle / "manifest.json").write_text(json.dumps(listing(manifest, bundle, name)))


def check_told(error: InputError) -> None:
    """A refusal tells what is wrong and what to do."""
    assert error.what
    assert error.hint


def opens(bundle: Path) -> bool:
    """Whether a bundle is opened; the only other end is a `BundleError`."""
    try:
        with open_bundle(bundle):
            return True
    except BundleError as error:
        check_told(error)
        return False


# -- bundles


def test_every_value_of_a_manifest_is_fuzzed(unpacked: Path, scripted: ModuleType) -> None:
    """What is opened nevertheless is validated: it ends in an answer."""
    path = unpacked / "manifest.json"
    manifest = json.loads(path.read_text())
    opened = 0
    for way in places(manifest):
        for text in NASTY:
            path.write_bytes(put(manifest, way, text))
            try:
                with open_bundle(unpacked) as verified:
                    opened += 1
                    validate_on(scripted.ScriptedDevice(), verified, effort=QUICK)
            except BundleError as error:
                check_told(error)
    assert 0 < opened < 300, "names may be anything, figures may not"


def test_a_forger_who_edits_manifest_and_evidence_alike_reaches_no_traceback(
    unpacked: Path, scripted: ModuleType
) -> None:
    numbers = random.Random(1)
    manifest = json.loads((unpacked / "manifest.json").read_text())
    evidence = json.loads((unpacked / "evidence.json").read_text())
    opened = 0
    for way in places(manifest["claim"]["measurement"]):
        for text in numbers.sample(NASTY, 8):
            (unpacked / "evidence.json").write_bytes(put(evidence, ("chosen", "measurement", *way), text))
            forged = listing(manifest, unpacked, "evidence.json")
            (unpacked / "manifest.json").write_bytes(put(forged, ("claim", "measurement", *way), text))
            try:
                with open_bundle(unpacked) as verified:
                    opened += 1
                    validate_on(scripted.ScriptedDevice(), verified, effort=QUICK)
            except BundleError as error:
                check_told(error)
    assert opened > 0


def test_the_evidence_is_fuzzed(unpacked: Path) -> None:
    numbers = random.Random(2)
    evidence = json.loads((unpacked / "evidence.json").read_text())
    ways = list(places(evidence))
    found = []
    for _ in range(300):
        way, text = numbers.choice(ways), numbers.choice(NASTY)
        (unpacked / "evidence.json").write_bytes(put(evidence, way, text))
        relisted(unpacked, "evidence.json")
        found.append(opens(unpacked))
    assert set(found) == {False, True}


def test_the_bytes_of_a_bundle_are_fuzzed(run: Any, tmp_path: Path) -> None:
    numbers = random.Random(3)
    whole = run.bundle().read_bytes()
    directory = whole.rindex(b"PK\5\6")
    start = struct.unpack_from("<L", whole, directory + 16)[0]
    path = tmp_path / "fuzzed.zip"
    for number in range(600):
        # Every other case is about the directory, which is the smaller part.
        cut = start if number % 2 else 0
        path.write_bytes(whole[:cut] + scrambled(whole[cut:], numbers))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # zipfile's, of names that are there twice
            assert not opens(path) or path.read_bytes() == whole, number


def test_golden_vectors_are_fuzzed(unpacked: Path) -> None:
    numbers = random.Random(4)
    whole = (unpacked / "golden.npz").read_bytes()
    headers = [at for at in range(len(whole)) if whole.startswith((b"\x93NUMPY", b"PK"), at)]
    for _ in range(500):
        at = numbers.choice(headers)
        fuzzed = whole[:at] + scrambled(whole[at : at + 128], numbers) + whole[at + 128 :]
        (unpacked / "golden.npz").write_bytes(fuzzed)
        relisted(unpacked, "golden.npz")
        with warnings.catch_warnings():
            warnings.simplefilter("error")  # numpy's, of headers of Python 2: not a word reaches the user
            opens(unpacked)


def test_golden_vectors_of_several_lengths_are_fuzzed(tmp_path: Path) -> None:
    numbers = random.Random(5)
    lengths = RowLengths(np.array([4, 4, 2, 2], np.int64), {"ids": (1,)})
    arrays = {"ids": np.ones((4, 4), np.int64)}, {"output": np.ones((4, 2), np.float32)}
    whole = packed(*arrays, lengths=lengths)
    headers = [at for at in range(len(whole)) if whole.startswith((b"\x93NUMPY", b"PK", b"length"), at)]
    path, read = tmp_path / "golden.npz", 0
    for _ in range(1000):
        at = numbers.choice(headers)
        path.write_bytes(whole[:at] + scrambled(whole[at : at + 160], numbers) + whole[at + 160 :])
        try:
            golden = read_golden(path)
        except InputError as error:
            check_told(error)
            continue
        read += 1
        assert all(len(feed["ids"]) == 2 for feed in golden.feeds(2) if "ids" in feed)
    assert 0 < read < 500


HEADERS = (
    *(
        "",
        "{",
        "(" * 900,
        "[" * 900 + "]" * 900,
        "{'descr': '<f4'}",
        "{'descr': '|O', 'fortran_order': False}",
    ),
    "{'descr': '|O', 'fortran_order': False, 'shape': (4, 8), }",
    "{'descr': '<f4', 'fortran_order': False, 'shape': (4L, 8L), }",
    "{'descr': '<f4', 'fortran_order': False, 'shape': (-4, -8), }",
    "{'descr': '<f4', 'fortran_order': 7, 'shape': (4, 8), }",
    "{'descr': '<f4', 'fortran_order': False, 'shape': (4611686018427387904, 4), }",
    "{'descr': '<f4', 'fortran_order': False, 'shape': (True, 32), }",
    "{'descr': [('a', '<f4'), ('b', '|O')], 'fortran_order': False, 'shape': (4, 8), }",
    "{'descr': ('<f4', (8,)), 'fortran_order': False, 'shape': (4,), }",
    "{'descr': '<M8[ns]', 'fortran_order': False, 'shape': (4, 8), }",
    "{'descr': '<f4', 'fortran_order': False, 'shape': (4, 8), 'x': __import__('os').system('touch ran'), }",
)


@pytest.mark.parametrize("header", HEADERS, ids=lambda text: text[:60])
@pytest.mark.parametrize("version", [(1, 0), (2, 0), (3, 0), (9, 9)])
def test_an_array_with_a_nasty_header_is_refused(
    unpacked: Path, header: str, version: tuple[int, int]
) -> None:
    text = header.ljust(117).encode() + b"\n"
    size = struct.pack("<H" if version[0] == 1 else "<L", len(text))
    array = b"\x93NUMPY" + bytes(version) + size + text + np.zeros((4, 8), np.float32).tobytes()
    with zipfile.ZipFile(unpacked / "golden.npz") as archive:
        outputs = archive.read("out.output.npy")
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("in.pixels.npy", array)
        archive.writestr("out.output.npy", outputs)
    (unpacked / "golden.npz").write_bytes(buffer.getvalue())
    relisted(unpacked, "golden.npz")
    assert not opens(unpacked)
    assert not Path("ran").exists()


def test_validate_of_fifty_mutated_bundles_prints_no_traceback(
    run: Any, tmp_path: Path, scripted: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    device = scripted.ScriptedDevice()
    monkeypatch.setattr(devices, "open_device", lambda name, lab=None: device)
    numbers = random.Random(5)
    whole = run.bundle().read_bytes()
    with zipfile.ZipFile(io.BytesIO(whole)) as archive:
        files = {name: archive.read(name) for name in archive.namelist()}
    manifest = json.loads(files["manifest.json"])
    figures = [way for way in places(manifest) if way and way[0] in ("budget", "inputs", "claim", "files")]
    for number in range(50):
        path = tmp_path / f"{number}.edgeprune.zip"
        if number % 2:
            path.write_bytes(scrambled(whole, numbers))
        else:
            broken = put(manifest, numbers.choice(figures), numbers.choice(NASTY[8:17]))
            with path.open("wb") as stream:
                pack({**files, "manifest.json": broken}, stream)
        done = CliRunner().invoke(main, ["validate", str(path), "--json", "--junit", str(tmp_path / "j.xml")])
        assert (done.exit_code, done.stdout) == (2, ""), (number, done.output)
        assert isinstance(done.exception, SystemExit)
        assert [line.partition(":")[0] for line in done.stderr.splitlines()] == ["error", "hint"]
    assert device.log == []


# -- run folders


def reported(run: Path) -> bool:
    """Whether a result is read; then all that is told of it is made."""
    try:
        result = load_result(run)
    except InputError as error:
        check_told(error)
        return False
    json.dumps(document(result), allow_nan=False)
    for part in (table(result), trials_table(result), frontier_table(result)):
        assert part.columns
    assert verdict_lines(result)
    return True


@pytest.mark.parametrize("kind", ["one budget", "tiers and a cascade"])
def test_a_result_is_fuzzed(run: Any, tmp_path: Path, kind: str) -> None:
    numbers = random.Random(6)
    if kind == "one budget":
        stored = json.loads((run.folder / RESULT).read_text())
        stored["verdict"]["kind"] = "misses"
    else:
        stored = json.loads((Path(__file__).parent / "fixtures/v0/measured" / RESULT).read_text())
        assert stored["cascade"] or stored["no_cascade"]
    ways = list(places(stored))
    found = []
    for _ in range(1500):
        way, text = numbers.choice(ways), numbers.choice(NASTY)
        (tmp_path / RESULT).write_bytes(put(stored, way, text))
        found.append(reported(tmp_path))
    for _ in range(200):
        (tmp_path / RESULT).write_bytes(scrambled(json.dumps(stored).encode(), numbers))
        found.append(reported(tmp_path))
    assert set(found) == {False, True}


def test_a_ledger_is_fuzzed(run: Any, tmp_path: Path) -> None:
    """With its links, where nothing edited is taken, and as earlier versions wrote it, without."""
    numbers = random.Random(7)
    order = {"budget": run.result.budget, "target": run.result.target, "seed": 0, "others": {"a": [1]}}
    path = tmp_path / "run" / "ledger.jsonl"

    def steps(resume: bool) -> None:
        with Ledger.open(tmp_path / "run", order, resume) as ledger:
            for report in run.result.trials:
                file = tmp_path / "run" / report.name
                file.write_bytes(b"artefact")
                ledger.once(report.name, lambda report=report: report, Report, files=[file])

    steps(False)
    whole = path.read_bytes()
    lines = [json.loads(line) for line in whole.splitlines()]
    for line in lines:
        del line["chain"]
    for number in range(500):
        chained = number % 3 == 0
        at = numbers.randrange(len(lines))
        if chained:
            fuzzed = scrambled(whole, numbers)
        else:
            way, text = numbers.choice(list(places(lines[at]))), numbers.choice(NASTY)
            made = [json.dumps(line).encode() for line in lines]
            made[at] = put(lines[at], way, text)
            fuzzed = b"\n".join(made) + b"\n"
        path.write_bytes(fuzzed)
        try:
            steps(True)
            taken = True
        except InputError as error:
            check_told(error)
            taken = False
        if chained and taken:
            assert path.read_bytes().startswith(fuzzed[: fuzzed.rfind(b"\n") + 1]), number
            read = path.read_bytes().splitlines()[: len(lines)]
            assert read == whole.splitlines()[: len(read)], "what was edited is done again, or refused"


# -- what people write

LITERALS = (
    *("true", "-1", "0", "0.5", "1e308", "inf", "nan", str(2**63), "9" * 5000, "0x" + "f" * 5000),
    *(
        '""',
        '"\\u0000"',
        '"\\u001b[31m"',
        '"../../x"',
        "'''\n'''",
        f'"{"A" * 9000}"',
        "1979-05-27",
        "07:32:00",
    ),
    *("[]", "[[]]", '["a", 1]', "{}", "{a = 1}", "[" * 2000 + "]" * 2000, "{a=" * 2000 + "1" + "}" * 2000),
)
LAB = """
[devices.bench]
address = "ssh://user@bench.local:22"
profile = "raspberry-pi-5"
python = "/opt/venv/bin/python"
workdir = ".cache/edgeprune"
jump = "user@gateway"
exclusive = true
[devices.here]
address = "local"
"""
PROJECT = """
model = "task.py:make"
data = "data.npz"
outputs = "classes"
target = "./own.toml"
profile = ["jetson-orin-nano", "own.toml"]
latency_ms = [20, 10]
max_drop = "2%"
memory_mib = 64
device = "ssh://pi@10.0.0.7"
recover = "distill"
epochs = 3
train_device = "cuda:1"
seed = 7
out = "runs/x"
"""
WRITTEN: dict[str, tuple[str, Callable[[Path], object]]] = {
    "project": (PROJECT, lambda path: project_values(Table.read(path), path.parent)),
    "lab": (LAB, load_lab),
    "target": ((folder("targets") / "arm.toml").read_text("utf-8"), load_target),
    "profile": ((folder("profiles") / "raspberry-pi-5.toml").read_text("utf-8"), load_profile),
}


@pytest.mark.parametrize("kind", WRITTEN)
def test_a_file_that_people_write_is_fuzzed(tmp_path: Path, kind: str) -> None:
    numbers = random.Random(8)
    text, load = WRITTEN[kind]
    lines = text.splitlines()
    keys = [at for at, line in enumerate(lines) if " = " in line and not line.lstrip().startswith("#")]
    path = tmp_path / f"{kind}.toml"
    found = []
    cases = [
        "\n".join([*lines[:at], lines[at].split(" = ")[0] + f" = {literal}", *lines[at + 1 :]]).encode()
        for at in keys
        for literal in LITERALS
    ]
    cases += [scrambled(text.encode(), numbers) for _ in range(300)]
    for case in cases:
        path.write_bytes(case)
        try:
            load(path)
            found.append(True)
        except InputError as error:
            check_told(error)
            found.append(False)
    assert set(found) == {False, True}


def onnx_file(path: Path) -> Path:
    """x [batch, 4] -> a layer, a view that its batch is read for, a sum."""
    from onnx import TensorProto, helper, numpy_helper, save

    stored = {"w": np.ones((4, 6), np.float32), "b": np.ones(6, np.float32), "n": np.array([2, 3]), "k": [0]}
    nodes = [
        helper.make_node("Gemm", ["x", "w", "b"], ["g"], "layer/one", alpha=0.5),
        helper.make_node("Shape", ["x"], ["s"]),
        helper.make_node("Gather", ["s", "k"], ["rows"]),
        helper.make_node("Concat", ["rows", "n"], ["shape"], axis=0),
        helper.make_node("Reshape", ["g", "shape"], ["v"]),
        helper.make_node("Softmax", ["v"], ["y"], axis=2),
    ]
    ends = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)
        for name, shape in (("x", ["batch", 4]), ("y", ["batch", 2, 3]))
    ]
    kept = [numpy_helper.from_array(np.asarray(array), name) for name, array in stored.items()]
    graph = helper.make_graph(nodes, "small", ends[:1], ends[1:], kept)
    save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), str(path))
    return path


def test_an_onnx_file_is_fuzzed(tmp_path: Path) -> None:
    from edgeprune.tasks import TaskOptions, load_task

    numbers = random.Random(9)
    whole = onnx_file(tmp_path / "whole.onnx").read_bytes()
    np.savez(tmp_path / "data.npz", x=np.random.default_rng(0).standard_normal((16, 4)).astype(np.float32))
    options, found = TaskOptions(data=tmp_path / "data.npz"), []
    path = tmp_path / "model.onnx"
    for content in (whole, *(scrambled(whole, numbers) for _ in range(250))):
        path.write_bytes(content)
        try:
            load_task(str(path), options)
            found.append(True)
        except InputError as error:
            check_told(error)
            found.append(False)
    assert found[0]
    assert set(found) == {False, True}


# -- folders of transformers


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Path, Path]]:
    """Folders of a model of texts and of one of recordings, and rows for each."""
    from edgeprune.tasks.pretrained.loading import go_offline

    go_offline()
    for name in ("datasets", "sklearn", "transformers"):
        pytest.importorskip(name)
    from tests.support import pretrained

    place = tmp_path_factory.mktemp("folders")
    texts, labels = pretrained.sentences(20)
    rows = pretrained.write_csv(place / "rows.csv", text=texts, label=labels)
    return {
        "texts": (pretrained.text_folder(place / "texts"), rows),
        "recordings": (
            pretrained.waveform_folder(place / "recordings"),
            pretrained.recordings(place / "tones", 12, seconds=0.1),
        ),
    }


def is_loaded(model: Path, data: Path) -> bool:
    """Whether a folder becomes a task; the only other end is an `InputError`."""
    from edgeprune.tasks import TaskOptions, load_task

    try:
        load_task(str(model), TaskOptions(data=data))
    except InputError as error:
        check_told(error)
        return False
    return True


@pytest.mark.parametrize("reads", ["texts", "recordings"])
def test_a_pretrained_folder_is_fuzzed(
    folders: dict[str, tuple[Path, Path]], tmp_path: Path, reads: str
) -> None:
    numbers = random.Random(10)
    model, data = folders[reads]
    written = {path.name: json.loads(path.read_text("utf-8")) for path in sorted(model.glob("*.json"))}
    found = [is_loaded(model, data)]
    fuzzed = shutil.copytree(model, tmp_path / "model")
    weights = "model.safetensors"
    for number in range(FOLDERS):
        name = weights if number % 10 == 0 else numbers.choice(list(written))
        if number % 4 and name != weights:
            content = put(written[name], numbers.choice(list(places(written[name]))), numbers.choice(NASTY))
        else:
            whole = (model / name).read_bytes()
            content = scrambled(whole[:4000], numbers) + whole[4000:]
        (fuzzed / name).write_bytes(content)
        found.append(is_loaded(fuzzed, data))
        shutil.copy(model / name, fuzzed / name)
    assert found[0]
    assert set(found) == {False, True}


def test_rows_and_recordings_are_fuzzed(folders: dict[str, tuple[Path, Path]], tmp_path: Path) -> None:
    from edgeprune.tasks.pretrained.reading import read_parts
    from edgeprune.tasks.pretrained.sounds import recording
    from tests.support.pretrained import RATE, tone, write_wav

    numbers = random.Random(11)
    whole = {
        tmp_path / "rows.csv": (folders["texts"][1].read_bytes(), lambda path: read_parts(path, "text"), 60),
        tmp_path / "one.wav": (
            write_wav(tmp_path / "whole.wav", tone(0, seconds=0.02)).read_bytes(),
            lambda path: recording(path.name, path.parent, RATE),
            600,
        ),
    }
    for path, (content, read, cases) in whole.items():
        found = []
        for case in (content, *(scrambled(content[:400], numbers) for _ in range(cases))):
            path.write_bytes(case)
            try:
                read(path)
                found.append(True)
            except InputError as error:
                check_told(error)
                found.append(False)
        assert found[0]
        assert set(found) == {False, True}


def test_the_values_are_as_nasty_as_they_should_be(run: Any) -> None:
    document = to_json(replace(run.result, tiers=()))
    assert len(list(places(document))) > 300
    assert sum(put(document, ("seconds",), text).startswith(b"{") for text in NASTY) == len(NASTY)

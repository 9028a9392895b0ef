"""Bundles: the same bytes each time, and nothing gets past the numbered checks."""

from __future__ import annotations

import hashlib
import importlib.util
import io
import json
import os
import random
import shutil
import struct
import subprocess
import sys
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgeprune.bundle import Verified, open_bundle, read, read_golden, write_bundle, write_golden
from edgeprune.bundle.archive import pack
from edgeprune.bundle.golden import worst_difference
from edgeprune.bundle.pace import pace_feeds, pace_onnx
from edgeprune.devices import Load
from edgeprune.devices.local import LocalDevice
from edgeprune.errors import BundleError, InputError
from edgeprune.files import sha256
from edgeprune.records.bundle import PACE
from edgeprune.records.codec import from_json, loads
from edgeprune.records.trial import Breach, FitResult, Pace, Verdict

HAS_SSH_KEYGEN = shutil.which("ssh-keygen") is not None
needs_ssh_keygen = pytest.mark.skipif(not HAS_SSH_KEYGEN, reason="ssh-keygen is not installed")


@pytest.fixture
def run(make_run: Callable[..., Any]) -> Any:
    return make_run()


@pytest.fixture
def bundle(run: Any) -> Path:
    path: Path = run.bundle()
    return path


@pytest.fixture
def key(tmp_path: Path) -> Path:
    path = tmp_path / "key"
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "maker", "-f", path], check=True)
    return path


def contents(bundle: Path) -> dict[str, bytes]:
    with zipfile.ZipFile(bundle) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def packed(path: Path, files: Mapping[str, bytes]) -> Path:
    with path.open("wb") as stream:
        pack(files, stream)
    return path


def refused(path: Path, *, signers: Path | None = None) -> BundleError:
    with pytest.raises(BundleError) as caught, open_bundle(path, signers=signers):
        pytest.fail("the bundle was opened")
    assert caught.value.exit_code == 2
    assert caught.value.hint
    return caught.value


# -- writing


def test_a_bundle_holds_what_a_device_needs(run: Any, bundle: Path) -> None:
    files = contents(bundle)
    bill = ["bom.json"] if importlib.util.find_spec("cyclonedx") else []  # a lab machine has it not
    assert sorted(files) == [
        "README.md",
        "README.txt",
        *bill,
        "evidence.json",
        "golden.npz",
        "manifest.json",
        "model.onnx",
        "ort.py",
        "run.py",
    ]
    assert files["model.onnx"] == (run.folder / "trial-01" / "model.onnx").read_bytes()
    evidence = from_json(FitResult, loads(files["evidence.json"], "evidence.json"))
    assert evidence == replace(run.result, out="tiny")
    assert str(run.folder).encode() not in b"".join(files.values()), (
        "the maker's folders are nobody's business"
    )


def test_a_bundle_opens_and_its_manifest_says_what_was_measured(run: Any, bundle: Path) -> None:
    with open_bundle(bundle) as opened:
        manifest = opened.manifest
        assert sha256(opened.folder / manifest.artefact) == run.result.chosen.measurement.artefact_sha256
        kept = opened.folder
    assert not kept.exists()
    assert manifest.claim.measurement == run.result.chosen.measurement
    assert (manifest.claim.metric, manifest.claim.baseline_metric) == (0.965, 0.965)
    assert manifest.budget == run.result.budget
    assert [(port.name, port.dtype, port.shape) for port in manifest.inputs] == [
        ("pixels", "float32", (1, 8))
    ]
    assert [(port.name, port.dtype, port.shape) for port in manifest.outputs] == [
        ("output", "float32", (1, 3))
    ]
    assert manifest.model == "tiny"
    assert [check.number for check in opened.checks] == [1, 2, 3, 4, 5, 6]


def test_the_same_run_gives_the_same_bytes(run: Any, bundle: Path, tmp_path: Path) -> None:
    assert run.bundle(tmp_path / "again.edgeprune.zip").read_bytes() == bundle.read_bytes()


def test_an_unpacked_bundle_is_a_bundle(bundle: Path, tmp_path: Path) -> None:
    shutil.unpack_archive(bundle, tmp_path / "unpacked", "zip")
    with open_bundle(tmp_path / "unpacked") as opened, open_bundle(bundle) as same:
        assert opened.manifest == same.manifest


def test_the_runner_in_a_bundle_works_without_edgeprune(bundle: Path, tmp_path: Path) -> None:
    shutil.unpack_archive(bundle, tmp_path / "unpacked", "zip")
    readme = (tmp_path / "unpacked" / "README.txt").read_text().splitlines()
    assert len(readme) == 4
    python, *arguments = readme[1].split()
    assert python == "python3"
    done = subprocess.run(
        [sys.executable, *arguments], cwd=tmp_path / "unpacked", capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    answer = json.loads(done.stdout)
    assert answer["ok"] is True
    assert answer["worst"] < 1e-6
    with open_bundle(tmp_path / "unpacked"):  # running it left nothing behind
        pass


def test_a_bundle_for_tensorrt_holds_the_build_step_with_the_memory_budget(run: Any, tmp_path: Path) -> None:
    target = replace(run.result.target, name="jetson", runtime="tensorrt", dialect="tensorrt", device="GPU")
    jetson = replace(run, result=replace(run.result, runtime="tensorrt", target=target))
    files = contents(jetson.bundle(tmp_path / "jetson.edgeprune.zip"))
    beside = {"trt.py", "gpu.py", "trt_build.py", "trt_layers.py"}
    assert {"model.onnx", "run.py", *beside} <= set(files)
    script, program = json.loads(files["manifest.json"])["build"]
    assert script == (
        "python3 -B trt_build.py --artefact model.onnx --out model.plan --batch 1 "
        "--timing-cache timing.cache --workspace-mib 2000"
    )
    assert program == (
        "trtexec --onnx=model.onnx --saveEngine=model.plan --shapes=pixels:1x8 --stronglyTyped "
        "--timingCacheFile=timing.cache --profilingVerbosity=detailed --memPoolSize=workspace:2000"
    )
    readme = files["README.txt"].decode()
    assert script in readme
    assert program in readme
    assert "--runtime tensorrt" in readme
    assert "--device GPU" in readme
    assert "--batch 1 --memory-mib 2000" in readme


def test_the_build_step_of_a_bundle_for_tensorrt_runs_in_its_folder(run: Any, tmp_path: Path) -> None:
    """Against the scripted library: what the bundle carries is enough for its own command."""
    pytest.importorskip("onnx")
    target = replace(run.result.target, name="jetson", runtime="tensorrt", dialect="tensorrt", device="GPU")
    jetson = replace(run, result=replace(run.result, runtime="tensorrt", target=target))
    with zipfile.ZipFile(jetson.bundle(tmp_path / "jetson.edgeprune.zip")) as archive:
        archive.extractall(tmp_path / "on the device")
    folder = tmp_path / "on the device"
    (_, *words) = json.loads((folder / "manifest.json").read_text())["build"][0].split()
    fake = Path(__file__).parent / "support" / "fake_tensorrt"
    done = subprocess.run(
        [sys.executable, *words], cwd=folder, env={"PYTHONPATH": str(fake)}, capture_output=True, check=False
    )
    answer = json.loads(done.stdout)
    assert (answer["ok"], answer["module"], answer["workspace_mib"]) == (True, "tensorrt", 2000)
    assert {"model.plan", "timing.cache"} <= {path.name for path in folder.iterdir()}


def test_another_tier_brings_its_own_golden_outputs(run: Any, tmp_path: Path) -> None:
    other = run.result.frontier[1]
    path = run.bundle(tmp_path / "tier.edgeprune.zip", chosen=other)
    with open_bundle(path) as opened:
        assert opened.manifest.candidate == "trial-02"
        golden = read_golden(opened.folder / "golden.npz")
    fits = read_golden(run.folder / "trial-01" / "golden.npz")
    np.testing.assert_array_equal(golden.inputs["pixels"], fits.inputs["pixels"])
    assert worst_difference(golden.outputs, fits.outputs)[1] > 0.1


def test_a_candidate_that_misses_its_budget_is_not_packed(run: Any, tmp_path: Path) -> None:
    missing = replace(run.result.chosen, verdict=Verdict("misses", (Breach("latency_ms", 9.0, 5.0),)))
    with pytest.raises(InputError, match="latency_ms is 9 where 5 is allowed"):
        run.bundle(tmp_path / "b.edgeprune.zip", chosen=missing)
    assert not (tmp_path / "b.edgeprune.zip").exists()


def test_an_artefact_that_changed_since_it_was_measured_is_not_packed(run: Any) -> None:
    with (run.folder / "trial-01" / "model.onnx").open("ab") as stream:
        stream.write(b"\0")
    with pytest.raises(InputError, match="is not the file that was measured"):
        run.bundle()


def test_a_place_that_cannot_be_written_is_an_input_error_and_leaves_nothing(
    run: Any, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="could not be written"):
        run.bundle(tmp_path / "file" / "b.edgeprune.zip")
    (tmp_path / "folder").mkdir()
    with pytest.raises(InputError, match="Is a directory"):
        run.bundle(tmp_path / "folder")
    assert sorted(item.name for item in tmp_path.iterdir()) == ["file", "folder", "tiny"]


# -- refusing


@dataclass(frozen=True)
class Forged:
    """What was done to the files, and the check and the sentence that must refuse it."""

    forge: Callable[[dict[str, bytes]], object]
    check: int
    sentence: str


def edit_at(*way: Any, to: Any) -> Callable[[dict[str, bytes]], object]:
    """Puts a value at a place of the manifest."""

    def forge(files: dict[str, bytes]) -> None:
        document = place = json.loads(files["manifest.json"])
        for step in way[:-1]:
            place = place[step]
        place[way[-1]] = to
        files["manifest.json"] = json.dumps(document).encode()

    return forge


def relisted(files: dict[str, bytes], name: str, content: bytes) -> None:
    """Put another file in a bundle, with its size and hash in the manifest."""
    manifest = json.loads(files["manifest.json"])
    for listed in manifest["files"]:
        if listed["path"] == name:
            listed.update(size=len(content), sha256=hashlib.sha256(content).hexdigest())
    files |= {name: content, "manifest.json": json.dumps(manifest).encode()}


def regolden(method: int = zipfile.ZIP_STORED, **arrays: Any) -> Callable[[dict[str, bytes]], object]:
    """Puts other golden vectors in a bundle; None leaves an array out."""

    def forge(files: dict[str, bytes]) -> None:
        with np.load(io.BytesIO(files["golden.npz"])) as data:
            whole = {name: data[name] for name in data.files} | {
                name.replace("_", ".", 1): array for name, array in arrays.items()
            }
        whole = {name: array for name, array in whole.items() if array is not None}
        buffer = io.BytesIO()
        save = np.savez if method == zipfile.ZIP_STORED else np.savez_compressed
        save(buffer, **whole)
        relisted(files, "golden.npz", buffer.getvalue())

    return forge


def edit_evidence(*way: Any, to: Any) -> Callable[[dict[str, bytes]], object]:
    def forge(files: dict[str, bytes]) -> None:
        document = place = json.loads(files["evidence.json"])
        for step in way[:-1]:
            place = place[step]
        place[way[-1]] = to
        relisted(files, "evidence.json", json.dumps(document).encode())

    return forge


def another_artefact(files: dict[str, bytes]) -> None:
    relisted(files, "model.onnx", files["model.onnx"][:-1] + b"?")


def edit_manifest(**changes: Any) -> Callable[[dict[str, bytes]], object]:
    def forge(files: dict[str, bytes]) -> None:
        files["manifest.json"] = json.dumps(json.loads(files["manifest.json"]) | changes).encode()

    return forge


FORGED = {
    "no manifest": Forged(lambda files: files.pop("manifest.json"), 2, "has no manifest.json"),
    "torn manifest": Forged(
        lambda files: files.update({"manifest.json": files["manifest.json"][:-20]}), 2, "is not JSON"
    ),
    "manifest with NaN": Forged(edit_manifest(tolerance=float("nan")), 2, "NaN is not a number"),
    "unknown key": Forged(edit_manifest(trust="me"), 2, "trust is not a key of Manifest"),
    "newer schema": Forged(
        edit_manifest(schema=2, new="key"), 2, "has schema 2, this edgeprune knows up to 1"
    ),
    "schema that never was": Forged(edit_manifest(schema=0), 2, "has schema 0, which never was"),
    "pace without its model": Forged(
        edit_manifest(pace={"ms": 1.0, "machine": "x"}), 2, "files does not list 'pace.onnx'"
    ),
    "pace of no time": Forged(edit_manifest(pace={"ms": 0.0, "machine": "x"}), 2, "pace.ms is 0"),
    "boundless tolerance": Forged(edit_manifest(tolerance=1.0), 2, "tolerance is 1.0, expected 0"),
    "artefact outside the list": Forged(edit_manifest(artefact="../m.onnx"), 2, "does not list '../m.onnx'"),
    "model in colours": Forged(
        edit_manifest(model="\x1b[31mred"), 2, r'model is "\x1b[31mred", not one plain'
    ),
    "model in two lines": Forged(
        edit_manifest(model="tiny\n::error::gone"), 2, 'model is "tiny : :error: :gone"'
    ),
    "profile without end": Forged(edit_manifest(profile="p" * 1000), 2, "profile is "),
    "target backwards": Forged(edit_manifest(target="\u202e"), 2, r'target is "\u202e"'),
    "candidate that is a path": Forged(edit_manifest(candidate="../x"), 2, 'candidate is "../x", not a word'),
    "runtime with spaces": Forged(edit_manifest(runtime="a b"), 2, 'runtime is "a b", not a word'),
    "device that is a command": Forged(edit_manifest(device="CPU::error::"), 2, 'device is "CPU: :error: :"'),
    "port without a name": Forged(
        edit_manifest(inputs=[{"name": "", "dtype": "float32", "shape": [1, 8]}]), 2, "inputs[0].name is"
    ),
    "wild file name": Forged(
        edit_manifest(files=[{"path": "a\x07b", "size": 1, "sha256": "0" * 64}]),
        2,
        r"files[0].path is 'a\x07b'",
    ),
    "wild key": Forged(edit_manifest(**{"\x1b]0;x\n##[error]": 1}), 2, r"\x1b]0;x # #[error] is not a key"),
    "missing file": Forged(lambda files: files.pop("ort.py"), 3, "missing: ort.py"),
    "unexpected file": Forged(
        lambda files: files.update({"onnxruntime.py": b"evil"}), 4, "does not list onnxruntime.py"
    ),
    "longer file": Forged(
        lambda files: files.update({"run.py": files["run.py"] + b"#"}), 5, "bytes, the manifest says"
    ),
    "other content": Forged(
        lambda files: files.update({"run.py": b"#" + files["run.py"][1:]}), 5, "has SHA-256"
    ),
}
MEASURED = ("claim", "measurement")
OUT_OF_RANGE = {
    "no thread": (("threads",), 0, "threads is 0, expected a whole number, 1 to"),
    "threads beyond any machine": (("threads",), 2**62, "threads is 4611686018427387904"),
    "threads beyond 64 bits": (("threads",), 10**30, "threads is 1000"),
    "no batch": (("batch",), -1, "batch is -1"),
    "negative tolerance": (("tolerance",), -0.1, "tolerance is -0.1"),
    "percentile of all": (("budget", "percentile"), 100, "budget.percentile is 100"),
    "no latency allowed": (("budget", "latency_ms"), 0, "budget.latency_ms is 0"),
    "boundless memory": (("budget", "memory_mib"), 1e300, "budget.memory_mib is 1e+300"),
    "metric may rise": (("budget", "max_drop"), -1, "budget.max_drop is -1"),
    "no input": (("inputs",), [], "inputs is empty"),
    "dtype of objects": (("inputs", 0, "dtype"), "object", "inputs[0].dtype is 'object'"),
    "dtype that is none": (("outputs", 0, "dtype"), "O8,(2,)f4", "outputs[0].dtype is"),
    "shape without batch": (("outputs", 0, "shape"), [], "outputs[0].shape is not 1 to"),
    "shape of nothing": (("inputs", 0, "shape"), [1, 0], "inputs[0].shape is not 1 to"),
    "shape beyond memory": (("inputs", 0, "shape"), [1, 2**40, 2], "inputs[0].shape is of more than"),
    "shape of another batch": (("inputs", 0, "shape"), [2, 8], "begins with 2, and batch is 1"),
    "port named twice": (
        ("inputs",),
        [{"name": "x", "dtype": "int8", "shape": [1, 1]}] * 2,
        "inputs names a port twice",
    ),
    "infinite metric": (("claim", "metric"), float("inf"), "Infinity is not a number"),
    "negative latency": ((*MEASURED, "latency", "p50_ms"), -1.0, "latency.p50_ms is -1"),
    "claim of other threads": ((*MEASURED, "threads"), 2, "claim.measurement.threads is 2, and threads is 1"),
    "no hash": ((*MEASURED, "artefact_sha256"), "0", "is not 64 hexadecimal digits"),
    "negative size": (("files", 0, "size"), -1, "files[0].size is -1"),
    "path that leaves": (("files", 0, "path"), "../evil", "'../evil', which is not a plain file name"),
    "path twice": (("files", 0, "path"), "run.py", "].path is run.py, which is listed twice"),
    "half a character": (("model",), "\ud800", "half of a surrogate pair"),
}
FORGED |= {
    name: Forged(edit_at(*way, to=value), 2, sentence)
    for name, (way, value, sentence) in OUT_OF_RANGE.items()
}
ENCODED = {
    "byte order mark": lambda text: b"\xef\xbb\xbf" + text,
    "UTF-16": lambda text: text.decode().encode("utf-16"),
    "key twice": lambda text: b'{"schema": 1,' + text[1:],
    "deep nesting": lambda text: b"[" * 100_000 + b"]" * 100_000,
    "huge number": lambda text: text.replace(b'"schema": 1', b'"schema": 1e999'),
    "thousands of digits": lambda text: text.replace(b'"schema": 1', b'"schema": ' + b"1" * 9999),
}
FORGED |= {
    name: Forged(
        lambda files, encode=encode: files.update({"manifest.json": encode(files["manifest.json"])}),
        2,
        "is not JSON",
    )
    for name, encode in ENCODED.items()
}
FORGED |= {
    "golden without outputs": Forged(regolden(out_output=None), 5, "expected in.NAME and out.NAME"),
    "golden of another input": Forged(
        regolden(in_pixels=None, in_other=np.zeros((4, 8), np.float32)), 5, "holds the inputs ['other']"
    ),
    "golden of another dtype": Forged(
        regolden(in_pixels=np.zeros((4, 8))), 5, "pixels is float64, the manifest says float32"
    ),
    "golden of another shape": Forged(
        regolden(out_output=np.zeros((4, 9), np.float32)), 5, "output has shape [4, 9]"
    ),
    "golden of objects": Forged(regolden(out_output=np.array([{}] * 4)), 5, "not plain numbers"),
    "golden that is compressed": Forged(
        regolden(zipfile.ZIP_DEFLATED, in_pixels=np.zeros((40_000, 8), np.float32)), 5, "is compressed"
    ),
    "golden that is no zip": Forged(
        lambda files: relisted(files, "golden.npz", b"PK\x03\x04"), 5, "cannot be read as golden vectors"
    ),
    "rows that do not fill batches": Forged(
        lambda files: [
            edit_at(*way, to=3)(files)
            for way in (
                *(("batch",), (*MEASURED, "batch")),
                *(("inputs", 0, "shape", 0), ("outputs", 0, "shape", 0)),
            )
        ],
        5,
        "4 rows, which do not fill batches of 3",
    ),
    "another artefact": Forged(another_artefact, 5, "the claim is of another artefact"),
    "evidence that is not JSON": Forged(
        lambda files: relisted(files, "evidence.json", b"{"), 5, "evidence.json is not JSON"
    ),
    "evidence of another budget": Forged(edit_evidence("budget", "latency_ms", to=999), 5, "another budget"),
    "evidence of another metric": Forged(edit_evidence("metric", to="top-5"), 5, "another metric"),
    "evidence of another baseline": Forged(
        edit_evidence("baseline", "metric", to=0.5), 5, "is about another baseline"
    ),
    "a candidate without evidence": Forged(edit_manifest(candidate="trial-99"), 5, "another candidate"),
    "a better metric": Forged(edit_at("claim", "metric", to=0.999), 5, "about another claim"),
    "a faster measurement": Forged(edit_at(*MEASURED, "latency", "bound_ms", to=0.1), 5, "another claim"),
}


@pytest.mark.parametrize("case", FORGED.values(), ids=FORGED.keys())
@pytest.mark.parametrize("form", ["zip", "folder"])
def test_a_forged_bundle_is_refused_with_its_own_sentence(
    bundle: Path, tmp_path: Path, case: Forged, form: str
) -> None:
    files = contents(bundle)
    case.forge(files)
    path = packed(tmp_path / "forged.zip", files)
    if form == "folder":
        shutil.unpack_archive(path, tmp_path / "forged", "zip")
        path = tmp_path / "forged"
    error = refused(path)
    assert (error.check, case.sentence in error.what) == (case.check, True), error.what


def test_a_newer_schema_says_upgrade(bundle: Path, tmp_path: Path) -> None:
    files = contents(bundle)
    edit_manifest(schema=2)(files)
    assert "Upgrade edgeprune" in refused(packed(tmp_path / "new.zip", files)).hint


@pytest.mark.parametrize(
    "name", ["../evil", "a/../../evil", "/etc/evil", "C:evil", "..\\evil", "\\evil", ".hidden", "a//b", "a b"]
)
def test_a_name_that_is_not_plainly_inside_is_refused(bundle: Path, tmp_path: Path, name: str) -> None:
    error = refused(packed(tmp_path / "forged.zip", {**contents(bundle), name: b"evil"}))
    assert error.check == 1
    assert repr(name) in error.what or repr(name.replace("\\", "/")) in error.what
    assert not (tmp_path / "evil").exists()


def rezipped(path: Path, files: Mapping[str, bytes], method: int = zipfile.ZIP_STORED) -> Path:
    with zipfile.ZipFile(path, "w", method) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return path


def test_a_compressed_archive_is_refused_before_it_swells(bundle: Path, tmp_path: Path) -> None:
    path = rezipped(
        tmp_path / "bomb.zip", {**contents(bundle), "zeros": bytes(1 << 20)}, zipfile.ZIP_DEFLATED
    )
    error = refused(path)
    assert (error.check, "is compressed" in error.what) == (1, True)


def test_an_archive_packed_by_another_tool_is_refused_although_its_files_are_right(
    bundle: Path, tmp_path: Path
) -> None:
    error = refused(rezipped(tmp_path / "again.zip", contents(bundle)))
    assert (error.check, "byte for byte" in error.what) == (5, True)
    assert "unpack it and validate the folder" in error.hint


def test_links_are_refused(bundle: Path, tmp_path: Path) -> None:
    folder = tmp_path / "unpacked"
    shutil.unpack_archive(bundle, folder, "zip")
    (folder / "ort.py").unlink()
    (folder / "ort.py").symlink_to("/etc/hostname")
    assert "ort.py is a link" in refused(folder).what
    path = tmp_path / "link.zip"
    with zipfile.ZipFile(path, "w") as archive:
        entry = zipfile.ZipInfo("ort.py")
        entry.external_attr = 0o120777 << 16
        archive.writestr(entry, "/etc/hostname")
    assert "ort.py is a link" in refused(path).what


def swapped(monkeypatch: pytest.MonkeyPatch, swap: Callable[[], object]) -> None:
    """Let `swap` happen behind (3), between check and use."""
    check = read._check_missing

    def then_swap(*arguments: Any) -> None:
        check(*arguments)
        swap()

    monkeypatch.setattr(read, "_check_missing", then_swap)


@pytest.mark.parametrize("name", ["ort.py", "model.onnx", "golden.npz", "manifest.json"])
@pytest.mark.parametrize("by", ["link", "other file", "pipe", "nothing"])
def test_a_file_that_is_swapped_between_check_and_use_is_refused_or_of_no_effect(
    bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, by: str
) -> None:
    folder = tmp_path / "unpacked"
    shutil.unpack_archive(bundle, folder, "zip")
    content = (folder / name).read_bytes()

    def swap() -> None:
        (folder / name).rename(tmp_path / "aside")
        if by == "link":
            (folder / name).symlink_to(tmp_path / "aside")
        elif by == "pipe":
            os.mkfifo(folder / name)
        elif by == "other file":
            (folder / name).write_bytes(content.replace(b"o", b"0") + b"more")

    swapped(monkeypatch, swap)
    if name == "manifest.json":
        with open_bundle(folder) as opened:
            assert (opened.folder / name).read_bytes() == content
        return
    error = refused(folder)
    assert error.check == (5 if by == "other file" else 1)


def test_a_folder_that_becomes_a_link_is_not_followed(
    bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, other = tmp_path / "unpacked", tmp_path / "other"
    shutil.unpack_archive(bundle, folder, "zip")
    shutil.unpack_archive(bundle, other, "zip")
    (other / "model.onnx").write_bytes(b"evil")

    def swap() -> None:
        folder.rename(tmp_path / "aside")
        folder.symlink_to(other)

    swapped(monkeypatch, swap)
    with open_bundle(folder) as opened:
        assert sha256(opened.folder / "model.onnx") == opened.manifest.claim.measurement.artefact_sha256


def test_a_zip_that_is_swapped_while_it_is_read_is_the_one_that_was_opened(
    run: Any, bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = run.bundle(tmp_path / "other.edgeprune.zip", chosen=run.result.frontier[1])
    swapped(monkeypatch, lambda: other.replace(bundle))
    with open_bundle(bundle) as opened:
        assert opened.manifest.candidate == "trial-01"
        assert sha256(opened.folder / "model.onnx") == opened.manifest.claim.measurement.artefact_sha256


def test_a_zip_that_is_written_over_while_it_is_read_is_refused(
    bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def scribble() -> None:
        with bundle.open("r+b") as stream:
            stream.seek(bundle.stat().st_size // 2)
            stream.write(b"scribble")

    swapped(monkeypatch, scribble)
    assert refused(bundle).check in (1, 5)


def test_a_directory_of_a_million_entries_is_refused_before_it_is_read(tmp_path: Path) -> None:
    path = tmp_path / "many.zip"
    with path.open("wb") as stream:
        stream.truncate(46_000_000)
        stream.seek(0, 2)
        stream.write(struct.pack("<4s4H2LH", b"PK\5\6", 0, 0, 0xFFFF, 0xFFFF, 46_000_000, 0, 0))
    assert "its directory has 46000000 bytes" in refused(path).what


def test_a_pipe_is_no_bundle(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.zip")
    assert refused(tmp_path / "pipe.zip").what.startswith("There is no bundle")


@pytest.mark.filterwarnings("ignore:Duplicate name")
@pytest.mark.parametrize("second", ["run.py", "RUN.PY"])
def test_a_name_that_is_there_twice_is_refused(bundle: Path, tmp_path: Path, second: str) -> None:
    path = tmp_path / "twice.zip"
    shutil.copy(bundle, path)
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr(second, "evil")
    assert "is there twice" in refused(path).what


def test_entries_that_overlap_are_refused(bundle: Path, tmp_path: Path) -> None:
    """Two names in the directory for one stretch of the archive: small to send, large to unpack."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("a", bytes(100_000))
        for name in "bcdefgh":
            entry = zipfile.ZipInfo(name)
            entry.CRC, entry.header_offset = archive.getinfo("a").CRC, 0
            entry.file_size = entry.compress_size = 100_000
            archive.filelist.append(entry)
        archive._didModify = True  # type: ignore[attr-defined]
    path = tmp_path / "overlap.zip"
    path.write_bytes(buffer.getvalue())
    assert "larger than the archive" in refused(path).what


@pytest.mark.parametrize("content", [b"", b"PK\x05\x06", b"not a zip at all", bytes(1000)])
def test_what_is_no_zip_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "b.zip").write_bytes(content)
    assert refused(tmp_path / "b.zip").check == 1


def test_a_bundle_that_is_not_there_is_refused(tmp_path: Path) -> None:
    assert refused(tmp_path / "none.zip").what.startswith("There is no bundle")


def test_a_truncated_bundle_is_refused_at_any_length(bundle: Path, tmp_path: Path) -> None:
    whole = bundle.read_bytes()
    path = tmp_path / "short.zip"
    for length in random.Random(0).sample(range(len(whole)), 40):
        path.write_bytes(whole[:length])
        refused(path)


def test_a_flipped_bit_anywhere_is_refused(bundle: Path, tmp_path: Path) -> None:
    """Every byte of the archive's own structure, and samples of each file's content, manifest included."""
    whole = bundle.read_bytes()
    files = contents(bundle)
    structure: list[int] = []
    inside: list[int] = []
    with zipfile.ZipFile(bundle) as archive:
        end = 0
        for entry in archive.infolist():
            start = whole.index(files[entry.filename], entry.header_offset)
            structure += range(end, start)
            end = start + entry.file_size
            inside += range(start, end)
        structure += range(end, len(whole))
    numbers = random.Random(0)
    path = tmp_path / "flipped.zip"
    for position in [*structure, *numbers.sample(inside, 100)]:
        flipped = bytearray(whole)
        flipped[position] ^= 1 << numbers.randrange(8)
        path.write_bytes(flipped)
        refused(path)


@needs_ssh_keygen
def test_a_flipped_bit_in_a_signed_folder_is_refused(run: Any, key: Path, tmp_path: Path) -> None:
    folder = tmp_path / "unpacked"
    shutil.unpack_archive(run.bundle(sign=key), folder, "zip")
    numbers = random.Random(0)
    for file in sorted(folder.iterdir()):
        whole = file.read_bytes()
        lines = len(whole.splitlines())
        for _ in range(6):
            flipped = bytearray(whole)
            # In the armour of a signature, line ends and the dashes around it carry nothing.
            position = numbers.randrange(40, 200) if file.suffix == ".sig" else numbers.randrange(len(whole))
            flipped[position] ^= 1 << numbers.randrange(7)
            if file.suffix == ".sig" and len(bytes(flipped).splitlines()) != lines:
                continue
            file.write_bytes(flipped)
            refused(folder)
        file.write_bytes(whole)
    with open_bundle(folder):
        pass


# -- signatures


@needs_ssh_keygen
def test_a_signed_bundle_names_its_signer(run: Any, key: Path, tmp_path: Path) -> None:
    bundle = run.bundle(sign=key)
    with open_bundle(bundle) as opened:
        assert "SHA256:" in signature_of(opened)
    signers = tmp_path / "signers"
    signers.write_text("maker@example.org " + key.with_suffix(".pub").read_text())
    with open_bundle(bundle, signers=signers) as opened:
        assert "maker@example.org" in signature_of(opened)


OTHER_PURPOSE = 'other@example.org namespaces="git" '
EXPIRED = 'earlier@example.org valid-before="20200101" '


@needs_ssh_keygen
@pytest.mark.parametrize(
    ("before", "signer"),
    [
        (("first@example.org,maker@example.org ",), "first@example.org"),
        (("!nobody@example.org,maker@example.org ",), "maker@example.org"),
        (('"the maker" ',), "the maker"),
        (("maker@example.org ", "maker@example.org "), "maker@example.org"),
        ((OTHER_PURPOSE, "maker@example.org "), "maker@example.org"),
        (("maker@example.org cert-authority ", EXPIRED, OTHER_PURPOSE, "maker@example.org "), "maker@"),
    ],
    ids=["names", "a negated name", "a name with a blank", "twice", "another purpose", "four lines"],
)
def test_a_signature_is_accepted_by_whichever_line_of_a_key_allows_it(
    run: Any, key: Path, tmp_path: Path, before: tuple[str, ...], signer: str
) -> None:
    public = key.with_suffix(".pub").read_text()
    signers = tmp_path / "signers"
    signers.write_text("# keys that we trust\n\n" + "".join(names + public for names in before))
    with open_bundle(run.bundle(sign=key), signers=signers) as opened:
        assert f"signature for {signer}" in signature_of(opened)


@needs_ssh_keygen
@pytest.mark.parametrize("names", [OTHER_PURPOSE, EXPIRED, "maker@example.org cert-authority "])
def test_a_key_that_no_line_allows_this_signature_is_refused(
    run: Any, key: Path, tmp_path: Path, names: str
) -> None:
    signers = tmp_path / "signers"
    signers.write_text((names + key.with_suffix(".pub").read_text()) * 2)
    assert refused(run.bundle(sign=key), signers=signers).check == 6


def signature_of(opened: Verified) -> str:
    return next(check.detail for check in opened.checks if check.number == 6)


@needs_ssh_keygen
def test_a_demanded_signature_must_be_there_and_be_of_somebody_trusted(
    run: Any, key: Path, tmp_path: Path
) -> None:
    signers = tmp_path / "signers"
    signers.write_text("maker@example.org " + key.with_suffix(".pub").read_text())
    error = refused(run.bundle(), signers=signers)
    assert (error.check, "is not signed" in error.what) == (6, True)
    other = tmp_path / "other"
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", other], check=True)
    error = refused(run.bundle(sign=other), signers=signers)
    assert (error.check, "does not list" in error.what) == (6, True)


@pytest.mark.parametrize("case", FORGED.values(), ids=FORGED.keys())
@needs_ssh_keygen
def test_where_a_signature_is_demanded_nothing_of_an_unsigned_bundle_is_shown(
    bundle: Path, tmp_path: Path, case: Forged
) -> None:
    signers = tmp_path / "signers"
    signers.write_text(
        "maker@example.org ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIOMqqnkVzrm0SdG6UOoqKLsabgH5C9okWi0dh2l9GKJl"
    )
    files = contents(bundle)
    case.forge(files)
    error = refused(packed(tmp_path / "forged.zip", files), signers=signers)
    if case.sentence == "has no manifest.json":
        assert (error.check, "nothing of it is shown" in error.what) == (2, True)
    else:
        assert (error.check, "is not signed" in error.what) == (6, True)


@needs_ssh_keygen
def test_a_wild_entry_of_an_unsigned_bundle_is_not_shown_either(bundle: Path, tmp_path: Path) -> None:
    (tmp_path / "signers").write_text("")
    path = packed(tmp_path / "forged.zip", {**contents(bundle), "::error::evil": b""})
    assert "evil" not in refused(path, signers=tmp_path / "signers").what
    assert "'" + ": :error: :evil" + "'" in refused(path).what


def test_what_a_manifest_says_is_tame(bundle: Path, tmp_path: Path) -> None:
    files = contents(bundle)
    edit_manifest(sensors=["a\n::error::b"], build=["\x1b[2J"])(files)
    with open_bundle(packed(tmp_path / "wild.zip", files)) as opened:
        assert opened.manifest.sensors == ("a : :error: :b",)
        assert opened.manifest.build == (r"\x1b[2J",)


def test_a_run_folder_with_a_wild_name_gives_a_bundle_that_opens(run: Any, tmp_path: Path) -> None:
    wild = run.folder.rename(tmp_path / "a::b\x07")
    made = write_bundle(run.result, wild, tmp_path / "wild.zip")
    with open_bundle(made) as opened:
        assert opened.manifest.model == r"a: :b\x07"


@needs_ssh_keygen
def test_a_manifest_changed_after_signing_is_refused(run: Any, key: Path, tmp_path: Path) -> None:
    files = contents(run.bundle(sign=key))
    edit_manifest(tolerance=0.5)(files)
    error = refused(packed(tmp_path / "forged.zip", files))
    assert (error.check, "does not match the manifest" in error.what) == (6, True)


@needs_ssh_keygen
def test_a_signature_for_another_purpose_is_refused(run: Any, key: Path, tmp_path: Path) -> None:
    files = contents(run.bundle())
    files["manifest.json.sig"] = subprocess.run(
        ["ssh-keygen", "-Y", "sign", "-q", "-f", key, "-n", "git"],
        input=files["manifest.json"],
        capture_output=True,
        check=True,
    ).stdout
    assert refused(packed(tmp_path / "forged.zip", files)).check == 6


@needs_ssh_keygen
def test_what_is_no_key_cannot_sign(run: Any, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="There is no key"):
        run.bundle(sign=tmp_path / "none")
    (tmp_path / "text").write_text("not a key")
    with pytest.raises(InputError, match="could not sign with"):
        run.bundle(sign=tmp_path / "text")
    assert not (run.folder / "tiny.edgeprune.zip").exists()


# -- golden vectors


def test_golden_vectors_come_back_and_are_served_in_batches(tmp_path: Path) -> None:
    x, y = np.arange(10, dtype=np.float32).reshape(5, 2), np.arange(5, dtype=np.int64)
    golden = read_golden(write_golden(tmp_path / "golden.npz", {"file": x}, {"label": y}))
    np.testing.assert_array_equal(golden.inputs["file"], x)
    np.testing.assert_array_equal(golden.outputs["label"], y)
    assert [feeds["file"].shape for feeds in golden.feeds(2)] == [(2, 2), (2, 2)]


BAD_GOLDEN: dict[str, tuple[dict[str, Any], str]] = {
    "no outputs": ({"in.x": np.zeros((2, 2))}, "expected in.NAME and out.NAME"),
    "a stranger": ({"in.x": np.zeros(2), "out.y": np.zeros(2), "z": np.zeros(2)}, "holds the arrays"),
    "other rows": ({"in.x": np.zeros(2), "out.y": np.zeros(3)}, "[2, 3] rows"),
    "no rows": ({"in.x": np.zeros(0), "out.y": np.zeros(0)}, "[0] rows"),
    "not finite": ({"in.x": np.full(2, np.nan), "out.y": np.zeros(2)}, "not finite"),
    "texts": ({"in.x": np.array(["a"]), "out.y": np.zeros(1)}, "not plain numbers"),
}


@pytest.mark.parametrize(("arrays", "sentence"), BAD_GOLDEN.values(), ids=BAD_GOLDEN.keys())
def test_golden_vectors_that_cannot_serve_are_refused(
    tmp_path: Path, arrays: dict[str, Any], sentence: str
) -> None:
    np.savez(tmp_path / "golden.npz", **arrays)
    with pytest.raises(InputError) as caught:
        read_golden(tmp_path / "golden.npz")
    assert sentence in caught.value.what


def test_pickled_golden_vectors_are_never_loaded(tmp_path: Path) -> None:
    np.savez(tmp_path / "golden.npz", **{"in.x": np.array([{}], dtype=object), "out.y": np.zeros(1)})
    with pytest.raises(InputError, match="cannot be read as golden vectors"):
        read_golden(tmp_path / "golden.npz")


@pytest.mark.parametrize(
    ("served", "wanted"),
    [([2.0, -4.0], 0.0), ([2.0, -3.0], 0.25), ([np.nan, -4.0], float("inf")), ([2.0], float("inf"))],
    ids=["equal", "a quarter of the largest", "not a number", "another shape"],
)
def test_a_difference_is_relative_to_the_largest_golden_value(served: list[float], wanted: float) -> None:
    golden = {"y": np.array([2.0, -4.0])}
    assert worst_difference({"y": np.array(served)}, golden) == ("y", wanted)


def test_a_bundle_carries_a_tiny_model_where_its_time_is_known(make_run: Callable[..., Any]) -> None:
    run = make_run()
    with open_bundle(run.bundle()) as verified:
        assert (verified.manifest.pace, (verified.folder / PACE).exists()) == (None, False)
    paced = replace(run, result=replace(run.result, pace=Pace(0.5, "this processor")))
    with open_bundle(paced.bundle()) as verified:
        assert verified.manifest.pace == Pace(0.5, "this processor")
        assert (verified.folder / PACE).read_bytes() == pace_onnx()


def test_the_tiny_model_is_some_kibibytes_and_runs(tmp_path: Path) -> None:
    assert len(pace_onnx()) < 8 << 10
    (feed,) = pace_feeds().values()
    place = tmp_path / PACE
    place.write_bytes(pace_onnx())
    with LocalDevice().start(Load("onnxruntime", place, 1)) as session:
        (output,) = session.predict(pace_feeds())
        assert session.input_names == ("input",)
    assert output.shape == feed.shape
    assert 0.1 < np.abs(output).max() < 100

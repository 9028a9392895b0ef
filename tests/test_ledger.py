"""The ledger: what was finished stays finished, whatever ends the process."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

import edgeprune
from edgeprune.errors import EdgepruneError, InputError
from edgeprune.files import replacing
from edgeprune.ledger import Ledger, Noted, Sealed, sealed

ORDER = {"task": "sha256:1", "budget": {"latency_ms": 5.0, "percentile": 90}, "seed": 0}
STEPS = ("dense", "dense-int8", "trial-01")


@dataclass(frozen=True)
class Trial:
    name: str
    p90_ms: float


def unexpected() -> Trial:
    raise AssertionError("a recorded step was run again")


def run(folder: Path, *, resume: bool = False, upto: int = len(STEPS)) -> list[str]:
    """Do the first steps of a run; the names of those that were worked on and not found."""
    worked: list[str] = []

    def work(name: str) -> Trial:
        worked.append(name)
        return Trial(name, float(len(name)))

    with Ledger.open(folder, ORDER, resume) as ledger:
        for name in STEPS[:upto]:
            answer = ledger.once(name, lambda name=name: work(name), Trial)  # type: ignore[misc]
            assert answer == Trial(name, float(len(name)))
    return worked


def test_a_resumed_run_does_only_what_is_missing(tmp_path: Path) -> None:
    assert run(tmp_path, upto=2) == ["dense", "dense-int8"]
    assert run(tmp_path, resume=True) == ["trial-01"]
    assert run(tmp_path, resume=True) == []


def test_resume_without_a_run_starts_one(tmp_path: Path) -> None:
    assert run(tmp_path / "new", resume=True) == list(STEPS)


def test_a_finished_run_is_not_overwritten(tmp_path: Path) -> None:
    run(tmp_path)
    with pytest.raises(InputError, match="already holds a run") as caught:
        run(tmp_path)
    assert "--resume" in caught.value.hint
    assert "--out" in caught.value.hint


def test_another_order_is_refused_and_what_differs_is_named(tmp_path: Path) -> None:
    run(tmp_path)
    other = {**ORDER, "budget": {"latency_ms": 4.0, "percentile": 90}, "profile": "local"}
    with pytest.raises(InputError) as caught:
        Ledger.open(tmp_path, other, True)
    assert "budget.latency_ms was 5.0, is now 4.0" in caught.value.what
    assert 'profile was absent, is now "local"' in caught.value.what
    assert "percentile" not in caught.value.what
    assert "seed" not in caught.value.what


def refused_step(folder: Path, *others: str) -> None:
    """A run whose first step writes files, and others that are not the run's, and is refused."""
    artefact = folder / "dense" / "model.onnx"

    def refuse() -> Trial:
        artefact.parent.mkdir()
        artefact.write_bytes(b"half")
        with replacing(artefact.with_name("reference.npz")) as temporary:
            temporary.write_bytes(b"whole")
            for name in others:
                (folder / name).write_text("precious")
        raise InputError("The model has no ONNX form.", "Write it otherwise.")

    with pytest.raises(InputError, match="no ONNX form"), Ledger.open(folder, ORDER, False) as ledger:
        ledger.once("dense", refuse, Trial, files=[artefact, artefact.with_name("reference.npz")])


@pytest.mark.parametrize("exists", [False, True], ids=["a new folder", "an empty one"])
def test_refused_input_leaves_the_place_as_it_was(tmp_path: Path, exists: bool) -> None:
    folder = tmp_path / "run"
    if exists:
        folder.mkdir()
    refused_step(folder)
    assert folder.exists() == exists
    assert not list(folder.glob("*"))


@pytest.mark.parametrize("name", ["notes.txt", ".notes.tmp", "dense/notes.txt", "dense/.model.onnx.a1.tmp"])
def test_refused_input_removes_nothing_that_the_run_did_not_write(tmp_path: Path, name: str) -> None:
    folder = tmp_path / "run"
    refused_step(folder, name)
    assert [path for path in folder.rglob("*") if path.is_file()] == [folder / name]
    assert (folder / name).read_text() == "precious"


@pytest.mark.parametrize("resume", [False, True])
@pytest.mark.parametrize("name", ["notes.txt", ".notes.tmp", "result.json", "dense"])
def test_a_folder_with_other_content_is_refused_and_stays_as_it_is(
    tmp_path: Path, name: str, resume: bool
) -> None:
    folder = tmp_path / "work"
    folder.mkdir()
    (folder / name).write_text("precious")
    (folder / ".cache.edgeprune-tmp").touch()
    before = {path: path.read_text() for path in folder.iterdir()}
    with pytest.raises(InputError, match="is no run folder: it holds") as caught:
        Ledger.open(folder, ORDER, resume)
    assert "new or empty" in caught.value.hint
    assert {path: path.read_text() for path in folder.iterdir()} == before


def test_a_resumed_run_keeps_the_temporary_files_of_others(tmp_path: Path) -> None:
    run(tmp_path, upto=1)
    (tmp_path / ".notes.tmp").write_text("precious")
    (tmp_path / ".result.json.x1.edgeprune-tmp").write_text("half")
    run(tmp_path, resume=True)
    assert (tmp_path / ".notes.tmp").exists()
    assert not (tmp_path / ".result.json.x1.edgeprune-tmp").exists()


def test_a_lock_that_is_a_link_or_no_file_is_refused_and_not_followed(tmp_path: Path) -> None:
    target = tmp_path / "precious"
    target.write_text("kept")
    makers: tuple[Callable[[Path], None], ...] = (
        lambda path: path.symlink_to(target),
        lambda path: path.symlink_to(tmp_path / "none"),
        os.mkfifo,
    )
    for number, make in enumerate(makers):
        folder = tmp_path / str(number)
        folder.mkdir()
        make(folder / "ledger.lock")
        with pytest.raises(InputError, match=r"ledger\.lock is"):
            Ledger.open(folder, ORDER, False)
    assert target.read_text() == "kept"
    assert not (tmp_path / "none").exists()


@pytest.mark.parametrize("replaced", [False, True], ids=["removed", "replaced"])
def test_a_lock_that_lost_its_name_is_noticed_at_the_next_step(tmp_path: Path, replaced: bool) -> None:
    with Ledger.open(tmp_path, ORDER, False) as ledger:
        ledger.once("dense", lambda: Trial("dense", 5.0), Trial)
        (tmp_path / "ledger.lock").unlink()
        if replaced:
            (tmp_path / "ledger.lock").touch()
        with pytest.raises(EdgepruneError, match="removed or replaced"):
            ledger.once("dense-int8", lambda: Trial("dense-int8", 10.0), Trial)
    assert run(tmp_path, resume=True) == ["dense-int8", "trial-01"]


def test_input_that_is_refused_later_keeps_what_was_recorded(tmp_path: Path) -> None:
    def refuse() -> Trial:
        raise InputError("An evaluation failed.", "Mend it.")

    def begin() -> None:
        with Ledger.open(tmp_path / "run", ORDER, False) as ledger:
            ledger.once("dense", lambda: Trial("dense", 1.0), Trial)
            ledger.once("dense-int8", refuse, Trial)

    with pytest.raises(InputError):
        begin()
    with Ledger.open(tmp_path / "run", ORDER, True) as ledger:
        assert ledger.once("dense", unexpected, Trial) == Trial("dense", 1.0)


def test_seen_knows_only_recorded_steps(tmp_path: Path) -> None:
    with Ledger.open(tmp_path, ORDER, False) as ledger:
        assert not ledger.seen("dense")
        ledger.once("dense", lambda: Trial("dense", 1.0), Trial)
        assert ledger.seen("dense")


def test_a_step_that_fails_is_not_recorded(tmp_path: Path) -> None:
    with Ledger.open(tmp_path, ORDER, False) as ledger:
        with pytest.raises(ZeroDivisionError):
            ledger.once("dense", lambda: Trial("dense", 1 / 0), Trial)
        assert not ledger.seen("dense")


def test_a_measurement_that_is_not_finite_is_not_recorded(tmp_path: Path) -> None:
    with Ledger.open(tmp_path, ORDER, False) as ledger:
        with pytest.raises(InputError, match="p90_ms is nan"):
            ledger.once("dense", lambda: Trial("dense", float("nan")), Trial)
        assert not ledger.seen("dense")


# -- torn and damaged lines


@pytest.mark.parametrize("left", [0, 1, 30, -2, -1])
def test_a_torn_last_line_is_dropped_and_its_step_done_again(tmp_path: Path, left: int) -> None:
    run(tmp_path)
    path = tmp_path / "ledger.jsonl"
    *whole, last = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join(whole) + last[:left])
    told: list[str] = []
    with Ledger.open(tmp_path, ORDER, True, listen=told.append) as ledger:
        assert ledger.seen("dense-int8")
        assert not ledger.seen("trial-01")
        ledger.once("trial-01", lambda: Trial("trial-01", 8.0), Trial)
    assert len(told) == (1 if left else 0)
    assert run(tmp_path, resume=True) == []


def test_zeros_that_a_power_cut_left_at_the_end_are_dropped(tmp_path: Path) -> None:
    run(tmp_path)
    with (tmp_path / "ledger.jsonl").open("ab") as stream:
        stream.write(b"\0" * 512)
    assert run(tmp_path, resume=True) == []


def test_a_torn_header_is_no_run(tmp_path: Path) -> None:
    (tmp_path / "ledger.jsonl").write_bytes(b'{"schema":1,"ord')
    assert run(tmp_path) == list(STEPS)


@pytest.mark.parametrize(
    "damage", [b"nonsense\n", b'{"key":"dense"}\n', b'{"key":1,"record":{},"files":[]}\n']
)
def test_a_damaged_line_in_the_middle_is_an_error_that_names_it(tmp_path: Path, damage: bytes) -> None:
    run(tmp_path)
    path = tmp_path / "ledger.jsonl"
    lines = path.read_bytes().splitlines(keepends=True)
    lines[1] = damage
    path.write_bytes(b"".join(lines))
    with pytest.raises(InputError, match=r"ledger\.jsonl, line 2"):
        Ledger.open(tmp_path, ORDER, True)


@dataclass(frozen=True)
class Accident:
    """What happened to the lines of a ledger, and the line that is refused."""

    happened: Callable[[list[bytes]], list[bytes]]
    line: int


def edited(number: int, old: bytes, new: bytes) -> Callable[[list[bytes]], list[bytes]]:
    def happened(lines: list[bytes]) -> list[bytes]:
        assert old in lines[number - 1]
        return [*lines[: number - 1], lines[number - 1].replace(old, new, 1), *lines[number:]]

    return happened


ACCIDENTS = {
    "a figure of the order": Accident(edited(1, b'"seed":0', b'"seed":1'), 1),
    "a figure of a step": Accident(edited(2, b"5.0", b"4.0"), 2),
    "a figure of the last step": Accident(edited(4, b"8.0", b"7.0"), 4),
    "a blank": Accident(edited(3, b":", b": "), 3),
    "a link": Accident(edited(3, b'"chain":"', b'"chain":"0'), 3),
    "a link that is gone": Accident(lambda lines: [*lines[:2], lines[2][:-77] + b"}\n", lines[3]], 3),
    "line ends of another system": Accident(lambda lines: [each[:-1] + b"\r\n" for each in lines], 1),
    "a line removed": Accident(lambda lines: [lines[0], *lines[2:]], 2),
    "lines in another order": Accident(lambda lines: [lines[0], lines[2], lines[1], lines[3]], 2),
    "a line twice": Accident(lambda lines: [*lines[:3], lines[2], lines[3]], 4),
    "the header of another run": Accident(edited(1, b'"order":{', b'"order":{"x":0,'), 1),
}


@pytest.mark.parametrize("case", ACCIDENTS.values(), ids=ACCIDENTS.keys())
def test_a_line_that_is_not_as_it_was_written_is_named(tmp_path: Path, case: Accident) -> None:
    run(tmp_path)
    path = tmp_path / "ledger.jsonl"
    path.write_bytes(b"".join(case.happened(path.read_bytes().splitlines(keepends=True))))
    with pytest.raises(InputError, match=rf"ledger\.jsonl, line {case.line} was edited, or") as caught:
        Ledger.open(tmp_path, ORDER, True)
    assert "Restore the ledger" in caught.value.hint


def test_a_ledger_without_links_is_read_and_linked_from_there_on(tmp_path: Path) -> None:
    run(tmp_path)
    path = tmp_path / "ledger.jsonl"
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    old = [json.dumps({key: line[key] for key in line if key != "chain"}) + "\n" for line in lines]
    path.write_text("".join(old[:3]))
    assert run(tmp_path, resume=True) == ["trial-01"]
    assert run(tmp_path, resume=True) == []
    whole = path.read_text()
    path.write_text(whole.replace("5.0", "4.0", 1))
    with pytest.raises(InputError, match="line 4 was edited, or a line before it"):
        Ledger.open(tmp_path, ORDER, True)


def test_a_noted_figure_is_that_of_the_beginning_and_is_not_compared(tmp_path: Path) -> None:
    with Ledger.open(tmp_path / "new", {**ORDER, "score": Noted(0.5)}, False) as ledger:
        assert ledger.noted("score") == Noted(0.5)
    with Ledger.open(tmp_path / "new", {**ORDER, "score": Noted(0.25)}, True) as ledger:
        assert ledger.noted("score") == Noted(0.5)
    Ledger.open(tmp_path / "old", ORDER, False).close()
    with Ledger.open(tmp_path / "old", {**ORDER, "score": Noted(0.25)}, True) as ledger:
        assert ledger.noted("score") == Noted(None)


def test_what_is_sealed_is_read_without_holding_the_run(tmp_path: Path) -> None:
    assert sealed(tmp_path, "answer") is None
    with Ledger.open(tmp_path, ORDER, False) as ledger:
        (tmp_path / "golden.npz").write_bytes(b"golden")
        for _ in range(2):
            ledger.seal("answer", "first", [tmp_path / "golden.npz"])
        found = sealed(tmp_path, "answer")
        ledger.seal("answer", "second")
    assert found == Sealed("first", {"golden.npz": hashlib.sha256(b"golden").hexdigest()})
    assert sealed(tmp_path, "answer") == Sealed("second", {})
    assert (tmp_path / "ledger.jsonl").read_bytes().count(b"\n") == 3


@pytest.mark.parametrize(("schema", "sentence"), [(2, "this edgeprune knows up to 1"), (0, "never was")])
def test_a_ledger_of_another_schema_is_refused(tmp_path: Path, schema: int, sentence: str) -> None:
    (tmp_path / "ledger.jsonl").write_text(f'{{"schema":{schema},"order":{{}}}}\n')
    with pytest.raises(InputError, match=f"has schema {schema}, .*{sentence}"):
        Ledger.open(tmp_path, ORDER, True)


# -- orders of an earlier edgeprune


@dataclass(frozen=True)
class Limits:
    """A budget as it is today: one line was renamed, another is new."""

    latency_ms: float = field(metadata={"earlier": ("p90_ms",)})
    size_mib: float | None = None


@dataclass(frozen=True)
class Choices:
    epochs: int = 3


@dataclass(frozen=True)
class Earlier:
    """A recorded order, today's, and what the refusal says, None where the run is resumed."""

    then: dict[str, Any]
    now: dict[str, Any]
    refusal: str | None = None


THEN = {"budget": {"p90_ms": 5.0}, "seed": 0}
EARLIER = {
    "a renamed field and a new one": Earlier(THEN, {"budget": Limits(5.0), "seed": 0}),
    "a new field that is not at its default": Earlier(
        THEN, {"budget": Limits(5.0, 2.0), "seed": 0}, r"budget\.size_mib was null, is now 2\.0"
    ),
    "a renamed field of another value": Earlier(
        THEN, {"budget": Limits(4.0), "seed": 0}, r"budget\.latency_ms was 5\.0, is now 4\.0"
    ),
    "a new record": Earlier(THEN, {"budget": Limits(5.0), "seed": 0, "choices": Choices()}),
    "a new record that is not at its defaults": Earlier(
        THEN,
        {"budget": Limits(5.0), "seed": 0, "choices": Choices(4)},
        r"choices\.epochs was 3, is now 4\.",
    ),
    "a new record without defaults": Earlier(
        {"seed": 0}, {"budget": Limits(5.0), "seed": 0}, r"budget\.latency_ms was absent, is now 5\.0"
    ),
    "a new value outside a record": Earlier(
        {"seed": 0}, {"seed": 0, "epochs": 3}, "epochs was absent, is now 3"
    ),
    "records inside an object": Earlier(
        {"budget 1": {"budget": {"p90_ms": 5.0}}}, {"budget 1": {"budget": Limits(5.0), "choices": Choices()}}
    ),
}


@pytest.mark.parametrize("case", EARLIER.values(), ids=EARLIER.keys())
def test_an_order_of_an_earlier_edgeprune_is_compared_by_its_defaults(tmp_path: Path, case: Earlier) -> None:
    Ledger.open(tmp_path, case.then, False).close()
    if case.refusal is None:
        Ledger.open(tmp_path, case.now, True).close()
        return
    with pytest.raises(InputError, match=f"another order: {case.refusal}"):
        Ledger.open(tmp_path, case.now, True)


# -- artefacts


def test_a_step_whose_file_changed_or_vanished_is_done_again_with_a_sentence(tmp_path: Path) -> None:
    artefact = tmp_path / "dense" / "model.onnx"

    def work() -> Trial:
        artefact.parent.mkdir(exist_ok=True)
        artefact.write_bytes(b"weights")
        return Trial("dense", 1.0)

    with Ledger.open(tmp_path, ORDER, False) as ledger:
        ledger.once("dense", work, Trial, files=[artefact])
        ledger.once("dense", unexpected, Trial, files=[artefact])
    told: list[str] = []
    with Ledger.open(tmp_path, ORDER, True, listen=told.append) as ledger:
        artefact.write_bytes(b"weightz")
        assert not ledger.seen("dense")
        ledger.once("dense", work, Trial, files=[artefact])
        artefact.unlink()
        ledger.once("dense", work, Trial, files=[artefact])
        ledger.once("dense", unexpected, Trial, files=[artefact])
    assert [sentence.split("model.onnx ")[1] for sentence in told] == [
        "was changed after it was recorded, so 'dense' is done again.",
        "is missing, so 'dense' is done again.",
    ]


@pytest.mark.parametrize("name", ["x" * 9000, "\0", "ledger.jsonl/x", "."])
def test_a_step_whose_file_has_a_name_that_no_system_takes_is_done_again(tmp_path: Path, name: str) -> None:
    header = json.dumps({"schema": 1, "order": ORDER})
    file = {"path": name, "sha256": "0" * 64}
    step = json.dumps({"key": "dense", "record": {"name": "dense", "p90_ms": 1.0}, "files": [file]})
    (tmp_path / "ledger.jsonl").write_text(f"{header}\n{step}\n")
    assert run(tmp_path, resume=True) == list(STEPS)


# -- the lock


def child(script: str, *arguments: object) -> subprocess.Popen[str]:
    head = "import os, signal, sys\nfrom pathlib import Path\nfrom edgeprune.ledger import Ledger\n"
    return subprocess.Popen(
        [sys.executable, "-c", head + script, *map(str, arguments)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(Path(edgeprune.__file__).parents[1])},
    )


HOLD = f"""
ledger = Ledger.open(Path(sys.argv[1]), {ORDER!r}, False)
print("held", flush=True)
sys.stdin.read()
"""


def test_a_second_run_in_the_same_folder_is_refused_and_the_holder_named(tmp_path: Path) -> None:
    with child(HOLD, tmp_path) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        with pytest.raises(InputError, match=rf"process id {holder.pid}\b"):
            Ledger.open(tmp_path, ORDER, True)
        holder.kill()
        holder.communicate()
    with Ledger.open(tmp_path, ORDER, True) as ledger:
        assert not ledger.seen("dense")


FORK = f"""
ledger = Ledger.open(Path(sys.argv[1]), {ORDER!r}, False)
ready, done = os.pipe()
if os.fork() == 0:
    os.write(done, b"1")
    sys.stdin.read()
    os._exit(0)
os.read(ready, 1)
print("forked", flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_a_forked_worker_that_outlives_a_killed_run_does_not_keep_the_folder(tmp_path: Path) -> None:
    with child(FORK, tmp_path) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "forked\n"
        assert holder.wait() == -signal.SIGKILL
        # The worker is still there: it reads a standard input that nobody has closed.
        with Ledger.open(tmp_path, ORDER, True) as ledger:
            assert not ledger.seen("dense")
        holder.communicate()


# -- kill -9

KILLED = f"""
from tests_trial import Trial
point, wanted = sys.argv[2], 2
real = {{name: getattr(os, name) for name in ("write", "fsync", "open", "close")}}
calls = 0

def die():
    os.kill(os.getpid(), signal.SIGKILL)

def lethal(name):
    def call(*arguments, **options):
        global calls
        if armed and name == point.split("-")[-1]:
            if point == "half-write":
                real["write"](arguments[0], bytes(arguments[1])[:25])
                die()
            if point.startswith("before"):
                die()
            real[name](*arguments, **options)
            die()
        return real[name](*arguments, **options)
    return call

armed = False
for name in real:
    setattr(os, name, lethal(name))

def work(name):
    if name == "trial-01":
        if point == "work":
            die()
    return Trial(name, float(len(name)))

with Ledger.open(Path(sys.argv[1]), {ORDER!r}, False) as ledger:
    for name in {STEPS!r}:
        armed = name == "trial-01" and point != "work"
        ledger.once(name, lambda: work(name), Trial)
"""
POINTS = ("work", "before-open", "before-write", "half-write", "after-write", "before-fsync", "after-fsync")


@pytest.mark.parametrize("point", POINTS)
def test_a_run_killed_at_any_point_loses_at_most_the_running_step(tmp_path: Path, point: str) -> None:
    (tmp_path / "tests_trial.py").write_text(
        "from dataclasses import dataclass\n\n"
        "@dataclass(frozen=True)\nclass Trial:\n    name: str\n    p90_ms: float\n"
    )
    folder = tmp_path / "run"
    killed = child(f"sys.path.insert(0, {str(tmp_path)!r})" + KILLED, folder, point)
    _, stderr = killed.communicate()
    assert killed.returncode == -signal.SIGKILL, stderr
    assert run(folder, resume=True) in ([], ["trial-01"])
    whole = tmp_path / "whole"
    run(whole)
    assert (folder / "ledger.jsonl").read_bytes() == (whole / "ledger.jsonl").read_bytes()


# -- a place that takes no more

FULL = f"""
import resource
from edgeprune.errors import EdgepruneError
folder = Path(sys.argv[1])
with Ledger.open(folder, {ORDER!r}, False) as ledger:
    size = ledger.path.stat().st_size
    resource.setrlimit(resource.RLIMIT_FSIZE, (size + 40, resource.RLIM_INFINITY))
    try:
        ledger.once("dense", lambda: "x" * 200, str)
    except EdgepruneError as error:
        print(error.what, error.hint, ledger.path.stat().st_size == size, sep="\\n")
        sys.exit(error.exit_code)
"""


def test_a_file_that_may_not_grow_is_an_input_error_and_no_half_line_stays(tmp_path: Path) -> None:
    done = child(FULL, tmp_path)
    out, err = done.communicate()
    assert done.returncode == 2, err
    what, hint, unchanged = out.splitlines()
    assert what.endswith("ledger.jsonl could not be written: File too large.")
    assert "limit" in hint
    assert unchanged == "True"
    with Ledger.open(tmp_path, ORDER, True) as ledger:
        assert not ledger.seen("dense")


@pytest.fixture
def tiny(tmp_path: Path) -> Iterator[Path]:
    """A file system of 64 KiB, where mounting one is allowed."""
    place = tmp_path / "tiny"
    place.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(place)], capture_output=True, check=False
    )
    if mounted.returncode:
        pytest.skip("a tmpfs cannot be mounted here")
    yield place
    subprocess.run(["umount", str(place)], check=True)


def test_a_full_disk_is_an_input_error_and_what_was_recorded_stays(tiny: Path) -> None:
    with Ledger.open(tiny, ORDER, False) as ledger:
        ledger.once("dense", lambda: Trial("dense", 1.0), Trial)
        with pytest.raises(InputError, match="No space left on device") as caught:
            ledger.once("dense-int8", lambda: "x" * 100_000, str)
        assert "free some space" in caught.value.hint
        with pytest.raises(InputError, match="No space left on device"):
            ledger.once("trial-01", lambda: str((tiny / "model.onnx").write_bytes(b"x" * 100_000)), str)
        (tiny / "model.onnx").unlink()
    with Ledger.open(tiny, ORDER, True) as ledger:
        assert ledger.seen("dense")
        assert not ledger.seen("dense-int8")


def test_a_read_only_file_system_is_an_input_error(tiny: Path) -> None:
    subprocess.run(["mount", "-o", "remount,ro", str(tiny)], check=True)
    with pytest.raises(InputError, match="Read-only file system") as caught:
        Ledger.open(tiny / "run", ORDER, False)
    assert "can be written" in caught.value.hint


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write where permissions say no")
def test_a_folder_without_permission_is_an_input_error(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(InputError, match="Permission denied"):
        Ledger.open(tmp_path / "run", ORDER, False)


def test_a_file_in_place_of_the_folder_is_an_input_error(tmp_path: Path) -> None:
    (tmp_path / "run").write_text("here already")
    with pytest.raises(InputError, match="File exists") as caught:
        Ledger.open(tmp_path / "run", ORDER, False)
    assert "another path" in caught.value.hint


def test_the_ledger_reads_as_json_lines(tmp_path: Path) -> None:
    run(tmp_path)
    header, *steps = (json.loads(line) for line in (tmp_path / "ledger.jsonl").read_text().splitlines())
    assert {len(line.pop("chain")) for line in (header, *steps)} == {64}
    assert header == {"schema": 1, "order": ORDER}
    assert steps[0] == {"key": "dense", "record": {"name": "dense", "p90_ms": 5.0}, "files": []}


def test_a_result_that_does_not_last_is_asked_for_again_when_the_run_is_resumed(tmp_path: Path) -> None:
    asked: list[float] = []

    def once(ledger: Ledger, value: float) -> float:
        return ledger.once(
            "proof", lambda: asked.append(value) or value, float, lasts=lambda found: found > 0
        )

    with Ledger.open(tmp_path, ORDER, resume=False) as ledger:
        assert once(ledger, -1.0) == once(ledger, 7.0) == -1.0, "in its own run it counts"
    with Ledger.open(tmp_path, ORDER, resume=True) as ledger:
        assert once(ledger, 2.0) == once(ledger, 8.0) == 2.0
    with Ledger.open(tmp_path, ORDER, resume=True) as ledger:
        assert once(ledger, 9.0) == 2.0, "what lasts is not asked for again"
    assert asked == [-1.0, 2.0]


def test_what_was_recorded_about_a_step_that_is_done_again_is_done_again_too(tmp_path: Path) -> None:
    def steps(ledger: Ledger, lasts: bool) -> list[float]:
        keys = ("final-01", "final-01-proof", "final-010", "dense")
        return [ledger.once(keys[0], lambda: 1.0, float, lasts=lambda found: lasts)] + [
            ledger.once(key, lambda: float(not lasts), float) for key in keys[1:]
        ]

    with Ledger.open(tmp_path, ORDER, resume=False) as ledger:
        assert not ledger.grown
        assert steps(ledger, True) == [1.0, 0.0, 0.0, 0.0]
        assert ledger.grown
    with Ledger.open(tmp_path, ORDER, resume=True) as ledger:
        assert steps(ledger, True) == [1.0, 0.0, 0.0, 0.0]
        assert not ledger.grown
        assert steps(ledger, False) == [1.0, 1.0, 0.0, 0.0]


def test_what_is_noted_now_and_was_compared_by_an_earlier_version_is_read_and_not_compared(
    tmp_path: Path,
) -> None:
    for value in (12, "finetune", None):
        folder = tmp_path / str(value)
        Ledger.open(folder, {**ORDER, "said": value}, False).close()
        with Ledger.open(folder, {**ORDER, "said": Noted("now")}, True) as ledger:
            assert ledger.noted("said") == Noted(value)

"""What killed processes leave behind, and who takes it away."""

from __future__ import annotations

import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from edgeprune.files import replacing, scratch, sweep

ROOT = Path(__file__).parents[1]
KILLED = """
import os, signal, sys, tempfile
from pathlib import Path
from edgeprune.files import replacing, scratch
tempfile.tempdir = sys.argv[1]
with scratch() as folder, replacing(Path(sys.argv[1]) / "run" / "model.onnx") as temporary:
    (folder / "probe.onnx").write_bytes(b"x")
    temporary.write_bytes(b"half")
    if sys.argv[2] == "wait":
        print("held", flush=True)
        sys.stdin.read()
    os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.fixture(autouse=True)
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return tmp_path


def child(place: Path, what: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", KILLED, str(place), what],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=ROOT,
    )


def test_a_scratch_folder_is_gone_with_its_block(place: Path) -> None:
    with scratch() as folder:
        (folder / "probe.onnx").write_bytes(b"x")
    assert list(place.iterdir()) == []


def test_what_a_killed_process_left_is_taken_away_by_the_next(place: Path) -> None:
    with child(place, "die") as killed:
        assert killed.wait() == -signal.SIGKILL
    (left,) = place.glob("edgeprune-*")
    assert (left / "probe.onnx").exists()
    with scratch() as folder:
        assert list(place.glob("edgeprune-*")) == [folder]
    (half,) = (place / "run").iterdir()
    sweep(place / "run")
    assert not half.exists()


def test_the_scratch_folder_of_a_process_that_lives_is_left_alone(place: Path) -> None:
    with child(place, "wait") as alive:
        assert alive.stdout is not None
        assert alive.stdout.readline() == "held\n"
        (theirs,) = place.glob("edgeprune-*")
        with scratch() as folder:
            assert sorted(place.glob("edgeprune-*")) == sorted([theirs, folder])
        alive.kill()


def test_a_folder_that_only_looks_like_scratch_is_left_alone(place: Path) -> None:
    (place / "edgeprune-notes").mkdir()
    (place / "precious").mkdir()
    (place / "precious" / "held").touch()
    (place / "edgeprune-link").symlink_to(place / "precious")
    with scratch():
        pass
    assert (place / "edgeprune-notes").is_dir()
    assert (place / "precious" / "held").exists()


def test_sweeping_leaves_what_is_finished(place: Path) -> None:
    with replacing(place / "a" / "model.onnx") as temporary:
        temporary.write_bytes(b"whole")
    (place / "a" / ".model.xml.1234.edgeprune-tmp").mkdir()
    (place / "a" / ".model.xml.1234.edgeprune-tmp" / "model.bin").write_bytes(b"x")
    (place / "a" / ".notes.tmp").touch()
    sweep(place)
    assert sorted(path.name for path in (place / "a").iterdir()) == [".notes.tmp", "model.onnx"]

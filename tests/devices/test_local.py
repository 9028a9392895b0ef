"""This machine as a device: sessions in fresh processes, and how they die."""

from __future__ import annotations

import os
import re
import resource
import signal
import stat
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from edgeprune.devices import Load, open_device, probe
from edgeprune.devices.artefact import artefact_sha256, artefact_size_mib
from edgeprune.devices.local import LocalDevice
from edgeprune.errors import DeviceError, InputError
from edgeprune.files import sha256

X = np.ones((1, 8), np.float32)


@pytest.fixture
def load(small_onnx: ModuleType, tmp_path: Path) -> Load:
    return Load("onnxruntime", small_onnx.linear(tmp_path / "m.onnx"), threads=1)


def python_script(path: Path, body: str) -> Path:
    """A stand-in for an interpreter: it is started as `path agent.py --serve`."""
    path.write_text(f"#!{sys.executable}\n{body}\n")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return path


def test_local_is_in_the_table_and_describes_this_machine() -> None:
    machine = open_device("local").machine()
    assert machine.architecture == os.uname().machine
    assert machine.cores == len(os.sched_getaffinity(0)) or machine.cores >= 1
    assert machine.memory_mib > 0
    assert "onnxruntime" in dict(machine.runtimes)


def test_a_session_predicts_times_and_reports(load: Load, small_onnx: ModuleType) -> None:
    with LocalDevice().start(load, sensors=("/proc/meminfo", "echo 1")) as session:
        assert session.runtime_version.startswith("onnxruntime ")
        assert session.input_names == ("x",)
        assert session.output_names == ("y", "z")
        for got, want in zip(session.predict({"x": X}), small_onnx.linear_in_numpy(X), strict=True):
            np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-6)
        assert session.warm_up({"x": X}, 0.01) > 0
        assert len(session.time({"x": X}, runs=64, seconds=0.0).ms) == 64
        state = session.state()
        assert state["/proc/meminfo"].startswith("MemTotal:")
        assert state["echo 1"].startswith("not read")
        assert session.state()["setting:intra_op_num_threads"] == "1"


def test_a_profiled_session_times_every_operator(load: Load) -> None:
    with LocalDevice().start(replace(load, profile=True)) as session:
        operators = session.operators({"x": X}, runs=4)
    assert operators
    assert all(operator.ms >= 0 and operator.outputs for operator in operators)


def test_peak_memory_grows_with_what_a_run_touches(load: Load) -> None:
    with LocalDevice().start(load) as session:
        session.predict({"x": X})
        small = session.memory().added_mib
        session.predict({"x": np.ones((1 << 20, 8), np.float32)})  # 32 MiB in, 40 MiB out
        assert session.memory().added_mib > small + 64


def test_peak_memory_is_what_a_person_sees_of_the_process_and_the_model_s_part_of_it(load: Load) -> None:
    with LocalDevice().start(load) as session:
        session.predict({"x": X})
        memory = session.memory()
        status = Path(f"/proc/{session._channel._process.pid}/status").read_text()
    (seen_kib,) = re.findall(r"VmHWM:\s+(\d+) kB", status)
    assert memory.process_mib == pytest.approx(int(seen_kib) / 1024, abs=1)
    assert 0 < memory.added_mib < memory.process_mib - 20, "an interpreter, numpy and a runtime take more"


def test_leaving_a_session_ends_its_process(load: Load) -> None:
    session = LocalDevice().start(load)
    process = session._channel._process
    with session:
        assert process.poll() is None
    assert process.returncode == 0


def test_a_bad_request_leaves_the_session_usable(load: Load) -> None:
    with LocalDevice().start(load) as session:
        with pytest.raises(DeviceError, match="Device local failed to predict: "):
            session.predict({"x": np.ones((1, 9), np.float32)})
        assert len(session.predict({"x": X})) == 2


def test_a_killed_agent_is_reported_as_want_of_memory(load: Load) -> None:
    with LocalDevice().start(load) as session:
        os.kill(session._channel._process.pid, signal.SIGKILL)
        with pytest.raises(DeviceError, match="died during 'predict' with signal 9") as caught:
            session.predict({"x": X})
    assert "memory" in caught.value.hint


def test_a_crash_is_reported_with_the_last_words(load: Load, tmp_path: Path) -> None:
    python = python_script(
        tmp_path / "python", "import sys; print('Illegal kernel 7', file=sys.stderr); sys.exit(3)"
    )
    with pytest.raises(DeviceError, match=r"(?s)died during 'load' with exit code 3:.*Illegal kernel 7"):
        LocalDevice(python).start(load)


def test_a_runtime_that_is_not_installed_is_named(load: Load, tmp_path: Path) -> None:
    (tmp_path / "hidden").mkdir()
    (tmp_path / "hidden" / "onnxruntime.py").write_text("raise ImportError('no onnxruntime on this board')")
    python = python_script(
        tmp_path / "python",
        "import os, sys\n"
        f"os.environ['PYTHONPATH'] = {str(tmp_path / 'hidden')!r}\n"
        "os.execv(sys.executable, [sys.executable, *sys.argv[1:]])",
    )
    with pytest.raises(
        DeviceError, match="cannot import what it needs: no onnxruntime on this board"
    ) as caught:
        LocalDevice(python).start(load)
    assert "Install the runtime" in caught.value.hint


def test_an_agent_that_does_not_answer_is_killed_after_the_time_limit(load: Load, tmp_path: Path) -> None:
    python = python_script(tmp_path / "python", "import signal; signal.pause()")
    with pytest.raises(DeviceError, match="did not answer 'load' within 0 s"):
        LocalDevice(python, timeout_s=0.05).start(load)


def test_output_that_is_no_frame_is_shown(load: Load, tmp_path: Path) -> None:
    python = python_script(tmp_path / "python", "import sys; print('Welcome!'); sys.stdin.read()")
    with pytest.raises(DeviceError, match="answered b'Welcome!' where a frame") as caught:
        LocalDevice(python).start(load)
    assert "banner" in caught.value.hint


def test_a_python_that_does_not_exist_is_an_error_before_anything_starts(load: Load) -> None:
    with pytest.raises(DeviceError, match=r"Cannot start /no/python: No such file or directory\."):
        LocalDevice("/no/python").start(load)


def test_an_agent_is_held_to_a_memory(load: Load) -> None:
    with LocalDevice(memory_mib=700).start(load) as session:
        assert len(session.predict({"x": X})) == 2
        with pytest.raises(DeviceError, match=r"predict"):
            session.predict({"x": np.ones((1 << 25, 8), np.float32)})  # 1 GiB


def test_by_default_an_agent_is_held_to_the_machines_memory(load: Load) -> None:
    with LocalDevice().start(load) as session:
        soft, hard = resource.prlimit(session._channel._process.pid, resource.RLIMIT_DATA)
    assert soft == hard == int(probe.memory_mib() * 2**20)


def test_a_killed_host_leaves_no_agent_behind(load: Load) -> None:
    # The host starts a session, asks for an hour of runs and is killed. Its stdout reaches end of file
    # only when every process that holds it is gone, the agent included.
    host = subprocess.Popen(
        [
            sys.executable,
            "-c",
            "import sys, os, threading, numpy as np; from pathlib import Path\n"
            "from edgeprune.devices import Load; from edgeprune.devices.local import LocalDevice\n"
            "session = LocalDevice().start(Load('onnxruntime', Path(sys.argv[1]), 1))\n"
            "print(session._channel._process.pid, flush=True)\n"
            "session.time({'x': np.ones((1, 8), np.float32)}, runs=1, seconds=3600)\n",
            str(load.artefact),
        ],
        stdout=subprocess.PIPE,
        cwd=Path(__file__).parents[2],
    )
    assert host.stdout is not None
    with host, open(f"/proc/{int(host.stdout.readline())}/stat") as agent_stat:
        host.kill()
        host.wait()
        while True:  # the read fails once the process is reaped; a zombie waits for init
            try:
                agent_stat.seek(0)
                if agent_stat.read().split(")")[-1].split()[0] in "ZX":
                    break
            except ProcessLookupError:
                break


def test_an_unknown_address_is_refused_with_the_known_ones() -> None:
    with pytest.raises(InputError, match="no device 'ftp://board'") as caught:
        open_device("ftp://board")
    assert "local" in caught.value.hint


def test_a_missing_artefact_is_refused_before_a_process_starts(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"absent\.onnx does not exist"):
        LocalDevice("/no/python").start(Load("onnxruntime", tmp_path / "absent.onnx", 1))


def test_size_and_hash_cover_every_file_of_an_artefact(tmp_path: Path) -> None:
    xml, weights = tmp_path / "m.xml", tmp_path / "m.bin"
    xml.write_bytes(b"x" * 1024)
    weights.write_bytes(b"w" * 3072)
    before = artefact_sha256(xml)
    assert artefact_size_mib(xml) == 4096 / 2**20
    weights.write_bytes(b"v" * 3072)
    assert artefact_sha256(xml) != before
    weights.unlink()
    with pytest.raises(InputError, match=r"m\.bin does not exist"):
        artefact_sha256(xml)


def test_the_hash_of_a_single_file_is_its_sha256(tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    path.write_bytes(b"abc")
    assert artefact_sha256(path) == sha256(path)
    assert artefact_sha256(path).startswith("ba7816bf8f01cfea")  # FIPS 180-2, appendix B.1
    path.with_name("m.onnx.data").write_bytes(b"weights")
    assert artefact_sha256(path) != sha256(path)

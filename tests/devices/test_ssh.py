"""A device over SSH, against an sshd of our own on the loopback interface."""

from __future__ import annotations

import dataclasses
import os
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from edgeprune.devices import Load, open_device, pipes, ssh
from edgeprune.devices.artefact import artefact_sha256
from edgeprune.devices.lab import LabDevice
from edgeprune.devices.ssh import SshDevice
from edgeprune.errors import DeviceError

X = np.ones((1, 8), np.float32)


@pytest.fixture(scope="module")
def sshd(tmp_path_factory: pytest.TempPathFactory, throwaway_sshd: ModuleType) -> Iterator[Any]:
    if throwaway_sshd.path() is None:
        pytest.skip("sshd is not installed")
    with throwaway_sshd.serve(tmp_path_factory.mktemp("sshd")) as server:
        yield server


@pytest.fixture
def spec(sshd: Any, tmp_path: Path) -> LabDevice:
    """A device with a working folder of its own."""
    return LabDevice(
        "bench", sshd.address, python=sys.executable, workdir=str(tmp_path / "work"), ssh_config=sshd.config
    )


@pytest.fixture
def load(small_onnx: ModuleType, tmp_path: Path) -> Load:
    return Load("onnxruntime", small_onnx.linear(tmp_path / "m.onnx"), threads=1)


def test_a_session_over_ssh_predicts_times_and_reports(
    spec: LabDevice, load: Load, small_onnx: ModuleType
) -> None:
    device = SshDevice(spec)
    assert device.machine().architecture == os.uname().machine
    with device.start(load, sensors=("/proc/meminfo", "echo 1")) as session, device.start(load) as second:
        assert session.input_names == ("x",)
        np.testing.assert_array_equal(session.predict({"x": X})[0], second.predict({"x": X})[0])
        for got, want in zip(session.predict({"x": X}), small_onnx.linear_in_numpy(X), strict=True):
            np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-6)
        assert len(session.time({"x": X}, runs=64, seconds=0.0).ms) == 64
        assert session.memory().added_mib > 0
        state = session.state()
        assert state["/proc/meminfo"].startswith("MemTotal:")
        assert state["echo 1"].startswith("not read")


def test_files_are_copied_once_and_again_only_when_damaged(spec: LabDevice, load: Load) -> None:
    copy = Path(spec.workdir) / "artefacts" / artefact_sha256(load.artefact) / "m.onnx"
    with SshDevice(spec).start(load):
        first = copy.stat().st_ino
    with SshDevice(spec).start(load):
        assert copy.stat().st_ino == first
    copy.write_bytes(b"flipped")
    with SshDevice(spec).start(load):
        assert copy.read_bytes() == load.artefact.read_bytes()
    assert [file.name for file in copy.parent.iterdir()] == ["m.onnx"]  # no temporary name is left


def test_a_folder_with_spaces_and_quotes_is_no_trouble(spec: LabDevice, load: Load) -> None:
    odd = dataclasses.replace(spec, workdir=f"{spec.workdir}/it's $HOME; a folder")
    with SshDevice(odd).start(load) as session:
        assert len(session.predict({"x": X})) == 2
    assert (Path(odd.workdir) / "agents").is_dir()


def test_a_killed_agent_is_reported_as_want_of_memory(
    spec: LabDevice, load: Load, monkeypatch: pytest.MonkeyPatch
) -> None:
    with SshDevice(spec).start(load) as session:
        # Found by its folder, which is the test's own: the agent tells nobody its process id.
        agents = [
            int(process.name)
            for process in Path("/proc").iterdir()
            if process.name.isdigit()
            and _cwd(process).startswith(spec.workdir)
            and b"timeout" not in (process / "cmdline").read_bytes()
        ]
        assert len(agents) == 1
        os.kill(agents[0], signal.SIGKILL)
        with pytest.raises(DeviceError, match="died during 'predict' with exit code 137") as caught:
            session.predict({"x": X})
    assert "memory" in caught.value.hint


def _cwd(process: Path) -> str:
    try:
        return os.readlink(process / "cwd")
    except OSError:  # it ended in the meantime, or belongs to somebody else
        return ""


def test_a_python_that_the_device_lacks_is_named(spec: LabDevice, load: Load) -> None:
    device = SshDevice(dataclasses.replace(spec, python="/no/python"))
    with pytest.raises(DeviceError, match=r"(?s)exit code 127:.*/no/python") as caught:
        device.start(load)
    assert "no such Python" in caught.value.hint


def test_a_host_key_that_is_not_known_is_refused_in_sshs_words(
    spec: LabDevice, load: Load, tmp_path: Path
) -> None:
    config = tmp_path / "strange_config"
    known = spec.ssh_config.read_text() if spec.ssh_config is not None else ""
    config.write_text(known.replace("known_hosts", "other_known_hosts"))
    with pytest.raises(
        DeviceError, match=r"bench cannot be reached at ssh://.* Host key verification failed\."
    ):
        SshDevice(dataclasses.replace(spec, ssh_config=config)).start(load)


def test_a_port_where_nobody_listens_is_an_error_in_sshs_words(load: Load) -> None:
    with pytest.raises(DeviceError, match="Connection refused") as caught:
        open_device("ssh://127.0.0.1:1").start(load)
    assert "try it once by hand" in caught.value.hint


def test_a_folder_that_cannot_be_written_is_an_error_with_its_name(spec: LabDevice, load: Load) -> None:
    Path(spec.workdir).write_text("a file where the folder should be")
    with pytest.raises(DeviceError, match="A command failed on device bench: ") as caught:
        SshDevice(spec).start(load)
    assert spec.workdir in caught.value.hint


def test_an_exclusive_device_refuses_a_second_user_until_the_first_has_left(
    spec: LabDevice, load: Load
) -> None:
    mine = dataclasses.replace(spec, exclusive=True)
    first, second = SshDevice(mine), SshDevice(mine)
    assert first.machine() == first.machine()
    with pytest.raises(DeviceError, match="exclusive, and another edgeprune is using it"):
        second.start(load)
    first.close()
    with second.start(load) as session:
        assert len(session.predict({"x": X})) == 2


def test_a_name_of_the_lab_file_leads_to_its_device(
    sshd: Any, spec: LabDevice, load: Load, tmp_path: Path
) -> None:
    lab = tmp_path / "lab.toml"
    lab.write_text(
        f'[devices.bench]\naddress = "{sshd.address}"\npython = "{sys.executable}"\n'
        f'workdir = "{spec.workdir}"\nssh_config = "{sshd.config}"\n'
    )
    device = open_device("bench", lab=lab)
    assert device.name == "bench"
    with device.start(load) as session:
        assert session.runtime_version.startswith("onnxruntime ")


@pytest.fixture
def played(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], LabDevice]:
    """An exclusive device behind a program that plays ssh."""
    monkeypatch.setattr(ssh, "QUIT_SECONDS", 0.05)
    monkeypatch.setattr(pipes, "QUIT_SECONDS", 0.05)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")

    def play(program: str) -> LabDevice:
        path = tmp_path / "ssh"
        path.write_text(f"#!/bin/sh\nexec {program}\n")
        path.chmod(0o755)
        return LabDevice("bench", "ssh://bench.example", exclusive=True)

    return play


HANGING = f"{sys.executable} -IS -c 'import signal; signal.pause()'"


@pytest.mark.parametrize("exclusive", [True, False], ids=["for its lock", "for a script"])
def test_an_ssh_that_hangs_is_waited_for_no_longer_than_allowed(
    played: Callable[[str], LabDevice], exclusive: bool
) -> None:
    device = SshDevice(dataclasses.replace(played(HANGING), exclusive=exclusive), timeout_s=0.05)
    with pytest.raises(DeviceError, match="Device bench did not answer within 0 s"):
        device.machine()
    device.close()  # its `ssh -O exit` hangs, too


def test_a_script_that_prints_without_end_is_given_up(played: Callable[[str], LabDevice]) -> None:
    device = SshDevice(dataclasses.replace(played("yes"), exclusive=False))
    with pytest.raises(DeviceError, match="Device bench printed more than 64 KiB on its standard output"):
        device.machine()
    device.close()


def test_what_a_strange_ssh_says_is_tame(played: Callable[[str], LabDevice]) -> None:
    spoken = played("sh -c 'printf \"\\\\033[31m\\\\n::error::gone\\\\n\" >&2; exit 255'")
    with pytest.raises(DeviceError, match=r"\\x1b\[31m : :error: :gone"):
        SshDevice(spoken).machine()

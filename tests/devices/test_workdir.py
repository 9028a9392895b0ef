"""The working folder on a device is its user's alone; the scripts run here, behind a stand-in for ssh."""

from __future__ import annotations

import os
import stat
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from edgeprune.devices.lab import LabDevice
from edgeprune.devices.ssh import SshDevice
from edgeprune.errors import DeviceError

SSH = """#!/bin/sh
while [ "$1" != -- ]; do [ "$1" != -O ] || exit 0; shift; done
shift 2
cd "$HOME" && exec sh -c "$*"
"""


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Home folder of the device's user, who works with a careless umask."""
    program = tmp_path / "bin" / "ssh"
    program.parent.mkdir()
    program.write_text(SSH)
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}:{os.environ['PATH']}")
    folder = tmp_path / "home"
    folder.mkdir()
    monkeypatch.setenv("HOME", str(folder))
    return folder


def use(workdir: str, *, exclusive: bool = False) -> None:
    device = SshDevice(
        LabDevice("bench", "ssh://bench", python=sys.executable, workdir=workdir, exclusive=exclusive)
    )
    try:
        assert device.machine().architecture == os.uname().machine
    finally:
        device.close()


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


@pytest.mark.parametrize("exclusive", [False, True])
@pytest.mark.parametrize("workdir", [".cache/edgeprune", "it's $HOME; a `folder`/", "./with//slashes"])
def test_a_working_folder_is_made_for_its_user_alone(home: Path, workdir: str, exclusive: bool) -> None:
    use(workdir, exclusive=exclusive)
    made = [home / workdir, home / workdir / "agents", *(home / workdir / "agents").iterdir()]
    assert [mode(folder) for folder in made] == [0o700] * 3


def test_a_private_folder_below_tmp_is_made_and_used_again(home: Path) -> None:
    shared = home / "tmp"
    shared.mkdir()
    shared.chmod(0o1777)
    for _ in range(2):
        use(str(shared / "edgeprune-me"))
    assert mode(shared / "edgeprune-me") == 0o700


@dataclass(frozen=True)
class Unsafe:
    make: Callable[[Path], None]  # what is there, given the working folder's path
    says: str = "is a link, belongs to another user, or can be written by others"
    by_root: bool = False


def _shared(work: Path) -> None:
    work.mkdir()
    work.chmod(0o1777)


def _of_the_group(work: Path) -> None:
    work.mkdir()
    work.chmod(0o770)


def _strangers(work: Path) -> None:
    work.mkdir()
    os.chown(work, 12345, 12345)


def _strangers_below(work: Path) -> None:
    (work / "agents").mkdir(parents=True)
    os.chown(work / "agents", 12345, 12345)


def _link(work: Path) -> None:
    work.symlink_to(work.parent, target_is_directory=True)


def _dangling(work: Path) -> None:
    work.symlink_to(work.parent / "nowhere")


def _link_below(work: Path) -> None:
    work.mkdir()
    (work / "agents").symlink_to(work.parent, target_is_directory=True)


def _below_a_shared_folder(work: Path) -> None:
    work.parent.chmod(0o777)


def _below_a_strangers_tmp(work: Path) -> None:
    work.parent.chmod(0o1777)
    os.chown(work.parent, 12345, 12345)


UNSAFE = {
    "a shared folder": Unsafe(_shared),
    "a folder of the group": Unsafe(_of_the_group),
    "another user's": Unsafe(_strangers, by_root=True),
    "another user's below": Unsafe(_strangers_below, by_root=True),
    "a link": Unsafe(_link),
    "a link to nowhere": Unsafe(_dangling),
    "a link below": Unsafe(_link_below),
    "below a shared folder": Unsafe(_below_a_shared_folder, "lies in a folder in which others may put"),
    "below a stranger's tmp": Unsafe(
        _below_a_strangers_tmp, "lies in a folder in which others", by_root=True
    ),
}


@pytest.mark.parametrize("exclusive", [False, True])  # a lock comes first, in the working folder alone
@pytest.mark.parametrize("unsafe", UNSAFE.values(), ids=UNSAFE)
def test_a_folder_that_others_reach_is_refused_and_gets_nothing(
    home: Path, unsafe: Unsafe, exclusive: bool
) -> None:
    if unsafe.by_root and os.getuid() != 0:
        pytest.skip("only root can give a folder away")
    work = home / "place" / "work"
    work.parent.mkdir()
    unsafe.make(work)
    with pytest.raises(DeviceError, match=unsafe.says) as refused:
        use("place/work/", exclusive=exclusive)
    assert "place/work" in refused.value.what
    assert "chmod go-w" in refused.value.hint
    assert {path.name for path in home.rglob("*") if path.is_file()} <= {"lock"}


def test_a_copy_that_became_a_link_is_sent_again(home: Path) -> None:
    use("work")
    (copy,) = (home / "work" / "agents").glob("*/agent.py")
    copy.rename(home / "agent.py")
    copy.symlink_to(home / "agent.py")
    use("work")
    assert not copy.is_symlink()

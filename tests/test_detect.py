"""Detection reads what binds this process: affinity, quotas and limits, at whatever level they are set."""

from __future__ import annotations

import os
import platform
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeprune import detect
from edgeprune.devices import probe

MEMINFO = "MemTotal:        8192000 kB\nMemFree:         1000 kB\n"  # 8000 MiB
V1_MOUNTS = (
    "32 31 0:29 / /sys/fs/cgroup/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct\n"
    "35 31 0:32 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n"
)
V2_MOUNTS = "32 31 0:29 / /sys/fs/cgroup rw,nosuid - cgroup2 cgroup2 rw,nsdelegate\n"


def tree(root: Path, files: dict[str, str]) -> Path:
    """A made-up /proc and /sys."""
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


@pytest.fixture(autouse=True)
def eight_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(8)))


def test_without_cgroups_the_affinity_mask_and_physical_memory_hold(tmp_path: Path) -> None:
    root = tree(tmp_path, {"proc/meminfo": MEMINFO})
    assert detect.cores(root) == 8
    assert detect.memory_mib(root) == 8000


def test_version_1_quota_and_limit_hold(tmp_path: Path) -> None:
    root = tree(
        tmp_path,
        {
            "proc/meminfo": MEMINFO,
            "proc/self/cgroup": "4:memory:/jobs/one\n1:cpu,cpuacct:/jobs/one\n",
            "proc/self/mountinfo": V1_MOUNTS,
            "sys/fs/cgroup/cpu,cpuacct/jobs/one/cpu.cfs_quota_us": "250000\n",
            "sys/fs/cgroup/cpu,cpuacct/jobs/one/cpu.cfs_period_us": "100000\n",
            "sys/fs/cgroup/memory/jobs/one/memory.limit_in_bytes": f"{512 * 2**20}\n",
        },
    )
    assert detect.cores(root) == 2  # two whole cores of 2.5
    assert detect.memory_mib(root) == 512


def test_version_1_without_limits_says_minus_one_and_a_huge_number(tmp_path: Path) -> None:
    root = tree(
        tmp_path,
        {
            "proc/meminfo": MEMINFO,
            "proc/self/cgroup": "4:memory:/\n1:cpu,cpuacct:/\n",
            "proc/self/mountinfo": V1_MOUNTS,
            "sys/fs/cgroup/cpu,cpuacct/cpu.cfs_quota_us": "-1\n",
            "sys/fs/cgroup/cpu,cpuacct/cpu.cfs_period_us": "100000\n",
            "sys/fs/cgroup/memory/memory.limit_in_bytes": "9223372036854771712\n",
        },
    )
    assert detect.cores(root) == 8
    assert detect.memory_mib(root) == 8000


def test_version_2_obeys_the_tightest_group_above(tmp_path: Path) -> None:
    root = tree(
        tmp_path,
        {
            "proc/meminfo": MEMINFO,
            "proc/self/cgroup": "0::/user.slice/job\n",
            "proc/self/mountinfo": V2_MOUNTS,
            "sys/fs/cgroup/user.slice/cpu.max": "300000 100000\n",
            "sys/fs/cgroup/user.slice/memory.max": f"{2**30}\n",
            "sys/fs/cgroup/user.slice/job/cpu.max": "max 100000\n",
            "sys/fs/cgroup/user.slice/job/memory.max": "max\n",
        },
    )
    assert detect.cores(root) == 3
    assert detect.memory_mib(root) == 1024


def test_in_a_container_the_group_at_the_top_of_the_mount_is_its_own(tmp_path: Path) -> None:
    root = tree(
        tmp_path,
        {
            "proc/meminfo": MEMINFO,
            "proc/self/cgroup": "0::/docker/abc\n",
            "proc/self/mountinfo": V2_MOUNTS.replace("0:29 / ", "0:29 /docker/abc "),
            "sys/fs/cgroup/cpu.max": "100000 100000\n",
        },
    )
    assert detect.cores(root) == 1


def test_a_fraction_of_a_core_is_still_one_thread(tmp_path: Path) -> None:
    root = tree(
        tmp_path,
        {
            "proc/self/cgroup": "0::/\n",
            "proc/self/mountinfo": V2_MOUNTS,
            "sys/fs/cgroup/cpu.max": "25000 100000\n",
        },
    )
    assert detect.cores(root) == 1


@given(quota=st.integers(1, 10**9), period=st.integers(1, 10**6), allowed=st.integers(1, 512))
def test_cores_are_never_fewer_than_one_nor_more_than_allowed(
    tmp_path_factory: pytest.TempPathFactory, quota: int, period: int, allowed: int
) -> None:
    root = tree(
        tmp_path_factory.mktemp("quota"),
        {
            "proc/self/cgroup": "0::/\n",
            "proc/self/mountinfo": V2_MOUNTS,
            "sys/fs/cgroup/cpu.max": f"{quota} {period}\n",
        },
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "sched_getaffinity", lambda pid: set(range(allowed)))
        found = detect.cores(root)
    assert found == max(1, min(allowed, quota // period))


def test_x86_flags_are_read_in_a_fixed_order(tmp_path: Path) -> None:
    cpuinfo = "processor\t: 0\nmodel name\t: A Xeon\nflags\t\t: avx512_vnni sse4_2 fpu avx2 avx\n"
    host = detect.host(tree(tmp_path, {"proc/cpuinfo": cpuinfo}))
    assert host.isa == ("sse4_2", "avx", "avx2", "avx512_vnni")
    assert host.processor == "A Xeon"


def test_arm_features_are_read_and_the_board_names_itself(tmp_path: Path) -> None:
    files = {
        "proc/cpuinfo": "processor\t: 0\nFeatures\t: fp asimd crc32 asimdhp asimddp\n",
        "proc/device-tree/model": "Raspberry Pi 5 Model B Rev 1.0\0",
    }
    host = detect.host(tree(tmp_path, files))
    assert host.isa == ("asimd", "asimddp", "asimdhp")
    assert host.processor == "Raspberry Pi 5 Model B Rev 1.0"


def test_what_the_system_does_not_tell_is_unknown_and_not_guessed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr(os, "sched_getaffinity")
    assert detect.host(tmp_path) == detect.Host(platform.machine(), None, None, None, None)
    assert "unknown" in detect.int8_summary(None)


def test_only_x86_without_vnni_saturates() -> None:
    assert detect.saturates(("avx2",))
    assert not detect.saturates(("avx2", "avx_vnni"))
    assert not detect.saturates(("avx512f", "avx512_vnni"))
    assert not detect.saturates(("asimd",))
    assert not detect.saturates(())


def test_the_summary_tells_the_kinds_of_processors_apart() -> None:
    said = [
        detect.int8_summary(isa)
        for isa in ((), ("avx2",), ("avx_vnni",), ("asimd",), ("asimddp",), ("i8mm",))
    ]
    assert len(set(said)) == len(said)
    assert "saturate" in said[1]


def test_host_and_device_agree_about_the_same_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    host, machine = detect.host(), probe.machine()
    assert (host.architecture, host.cores, host.memory_mib) == (
        machine["architecture"],
        machine["cores"],
        machine["memory_mib"],
    )
    assert list(host.isa or ()) == machine["isa"]

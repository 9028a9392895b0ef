"""Facts and readings of the device: processor, memory, clocks, temperatures. Runs there, on Python 3.8."""

from __future__ import annotations

import glob
import os
import platform
import shlex
import subprocess
from collections.abc import Sequence
from typing import Any

COMMAND_SECONDS = 5.0  # a sensor command that takes longer is reported as such

ALWAYS = (
    "/sys/devices/system/cpu/cpufreq/policy*/scaling_governor",
    "/sys/devices/system/cpu/cpufreq/policy*/scaling_cur_freq",
    "/sys/class/thermal/thermal_zone*/temp",
    "/sys/devices/system/cpu/cpu*/thermal_throttle/*_throttle_count",
)

# The flags that decide which INT8 kernels a runtime picks, as /proc/cpuinfo names them.
_ISA_X86 = "sse4_2 avx avx2 fma avx512f avx512bw avx512_vnni avx_vnni avx512_bf16 amx_int8 amx_bf16"
_ISA_ARM = "neon asimd asimddp asimdhp i8mm bf16 sve sve2"


def read(path: str) -> str:
    """The text of a small file, stripped; empty when it cannot be read (sensors come and go)."""
    try:
        with open(path, errors="replace") as file:
            return file.read().strip()
    except OSError:
        return ""


def machine() -> dict[str, Any]:
    """The facts of `devices.Machine`, without the runtimes."""
    info = read("/proc/cpuinfo")
    return {
        "architecture": platform.machine(),
        "processor": _processor(info),
        "cores": cores(),
        "memory_mib": memory_mib(),
        "isa": [flag for flag in f"{_ISA_X86} {_ISA_ARM}".split() if flag in _flags(info)],
        "system": _system(),
        "python": platform.python_version(),
    }


def cores(root: str = "/") -> int:
    """Cores this process may use: the affinity mask, or the cgroup's CPU quota when that is less."""
    count = len(os.sched_getaffinity(0))
    for folder in cgroup_folders("cpu", root):
        both = read(os.path.join(folder, "cpu.max")).split()  # version 2: "50000 100000" or "max 100000"
        quota, period = both if len(both) == 2 else ("", "")
        if not quota:
            quota, period = (read(os.path.join(folder, f"cpu.cfs_{n}_us")) for n in ("quota", "period"))
        if quota.isdigit() and period.isdigit() and int(period):
            count = min(count, max(1, int(quota) // int(period)))
    return count


def memory_mib(root: str = "/") -> float:
    """Physical memory, or the cgroup's limit when that is less (/proc/meminfo shows the host's)."""
    total = 0.0
    for line in read(os.path.join(root, "proc/meminfo")).splitlines():
        if line.startswith("MemTotal:"):
            total = int(line.split()[1]) / 1024.0
    for folder in cgroup_folders("memory", root):
        for file in ("memory.max", "memory.limit_in_bytes"):
            limit = read(os.path.join(folder, file))
            if limit.isdigit():
                total = min(total, int(limit) / 2.0**20)
    return total


def cgroup_folders(controller: str, root: str = "/") -> list[str]:
    """The cgroup folders, version 1 or 2, that bind this process, the outermost first."""
    found = []
    for line in read(os.path.join(root, "proc/self/cgroup")).splitlines():
        _, controllers, path = line.split(":", 2)
        if controllers and controller not in controllers.split(","):
            continue
        top = os.path.join(root, "sys/fs/cgroup", controller if controllers else "")
        parts = [part for part in path.split("/") if part]
        # A container often sees its own group mounted at the top while /proc names the host's path.
        found += [os.path.join(top, *parts[:depth]) for depth in range(len(parts) + 1)]
    return [folder for folder in found if os.path.isdir(folder)]


def state(sensors: Sequence[str]) -> dict[str, str]:
    """Clocks, governor, temperatures, throttle counters and load, as text by name.

    sensors: more to read: a path or glob (it begins with "/"), else a command and its arguments.
    """
    found = {"loadavg": " ".join(read("/proc/loadavg").split()[:3])}
    for line in read("/proc/stat").splitlines()[:1]:  # cpu user nice system idle iowait irq softirq steal
        fields = line.split()
        if len(fields) > 8:
            found["steal"] = fields[8]
    for folder in cgroup_folders("cpu"):
        for line in read(os.path.join(folder, "cpu.stat")).splitlines():
            if line.startswith("nr_throttled "):
                found[os.path.join(folder, "cpu.stat:nr_throttled")] = line.split()[1]
    for sensor in tuple(ALWAYS) + tuple(sensors):
        if sensor.startswith("/"):
            found.update((path, read(path)) for path in sorted(glob.glob(sensor)))
        else:
            found[sensor] = _command(sensor)
    return found


def _command(line: str) -> str:
    try:
        done = subprocess.run(
            shlex.split(line),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=COMMAND_SECONDS,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return f"unavailable: {error}"
    return done.stdout.decode("utf-8", "replace").strip()


def _flags(info: str) -> list[str]:
    for line in info.splitlines():
        name, _, value = line.partition(":")
        if name.strip() in ("flags", "Features"):
            return value.split()
    return []


def _processor(info: str) -> str:
    board = read("/proc/device-tree/model").rstrip("\0")  # what ARM boards call themselves
    for line in info.splitlines():
        name, _, value = line.partition(":")
        if name.strip() == "model name":
            return f"{board}, {value.strip()}" if board else value.strip()
    return board or platform.processor() or "unknown"


def _system() -> str:
    for line in read("/etc/os-release").splitlines():
        if line.startswith("PRETTY_NAME="):
            return line.partition("=")[2].strip('"') + ", Linux " + platform.release()
    return f"{platform.system()} {platform.release()}"

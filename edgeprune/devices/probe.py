"""Facts and readings of the device: processor, memory, clocks, heat, waiting. Runs there, on Python 3.8."""

from __future__ import annotations

import contextlib
import glob
import itertools
import os
import platform
import select
import signal
import stat
import subprocess
import time
from collections.abc import Mapping, Sequence
from typing import Any

# Whatever a target or a host asks for, nothing outside of these three lists is read or run.
READABLE_FOLDERS = ("/sys/bus/", "/sys/class/", "/sys/devices/")
READABLE_FILES = (
    *("/proc/loadavg", "/proc/meminfo", "/proc/stat"),
    *("/proc/pressure/cpu", "/proc/pressure/io", "/proc/pressure/memory"),
)
COMMANDS = (
    *("nvpmodel -q", "jetson_clocks --show", "tegrastats --interval 100"),
    *(
        "vcgencmd get_throttled",
        "vcgencmd measure_clock arm",
        "vcgencmd measure_temp",
        "vcgencmd measure_volts",
    ),
    "nvidia-smi --query-gpu=clocks.sm,clocks.mem,temperature.gpu,power.draw --format=csv,noheader",
    "nvidia-smi --query-gpu=clocks_throttle_reasons.active --format=csv,noheader",
)
ENDLESS = ("tegrastats",)  # prints a line at a time until it is ended: its first line is the reading

COMMAND_SECONDS = 5.0  # a command that takes longer is ended
READING_BYTES = 4096  # of one reading, a file's or a command's; more is cut off
FILE_BYTES = 1 << 20  # of /proc/cpuinfo and its like
MOST_FILES = 512  # of one glob
BUSY_SHARE = 0.01  # of the time, from which a thread counts as one that wants a CPU
THROTTLED = {"throttled_usec": 1e-6, "throttled_time": 1e-9}  # of cpu.stat, version 2 and 1: seconds of each

ALWAYS = (
    "/sys/devices/system/cpu/cpufreq/policy*/scaling_governor",
    "/sys/devices/system/cpu/cpufreq/policy*/scaling_cur_freq",
    "/sys/class/thermal/thermal_zone*/temp",
    "/sys/devices/system/cpu/cpu*/thermal_throttle/*_throttle_count",
)

# The flags that decide which INT8 kernels a runtime picks, as /proc/cpuinfo names them.
_ISA_X86 = "sse4_2 avx avx2 fma avx512f avx512bw avx512_vnni avx_vnni avx512_bf16 amx_int8 amx_bf16"
_ISA_ARM = "neon asimd asimddp asimdhp i8mm bf16 sve sve2"


def read(path: str, most: int = FILE_BYTES) -> str:
    """Text of a small regular file, stripped, of `most` bytes; empty when it cannot be read (sensors come and
    go)."""
    try:
        handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY)
    except OSError:
        return ""
    try:
        if not stat.S_ISREG(os.fstat(handle).st_mode):
            return ""
        data = b""
        while len(data) < most:
            block = os.read(handle, most - len(data))
            if not block:
                break
            data += block
        return data.decode("utf-8", "replace").strip()
    except OSError:
        return ""
    finally:
        os.close(handle)


def allowed(sensor: str) -> bool:
    """Whether a sensor is on the lists: a path or glob below a readable folder, a readable file, or a
    command."""
    if not sensor.startswith("/"):
        return sensor in COMMANDS
    plain = os.path.normpath(sensor) == sensor and "**" not in sensor
    return plain and (sensor in READABLE_FILES or sensor.startswith(READABLE_FOLDERS))


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


class Waits:
    """Counters of what the CPUs did while this process was timed, from the kernel's own books.

    /proc/self/task/*/schedstat has the nanoseconds that each thread ran, and that it was ready and had no
    CPU; /proc/stat what the CPUs did for everybody, and what their hypervisor took; cpu.stat how long a quota
    held the control group back. A counter that a system does not keep is None: unknown, never zero.
    """

    def __init__(self, root: str = "/") -> None:
        self._root = root
        self._books: dict[str, int] = {}  # thread: open schedstat
        self._before = self._counted()

    def begin(self) -> None:
        """Count from here; of threads that begin later, `waited_ns` tells nothing and `end` all."""
        self.close()
        for thread in _threads(self._root):
            with contextlib.suppress(OSError):  # it has just ended
                self._books[thread] = os.open(_schedstat(self._root, thread), os.O_RDONLY)
        self._before = self._counted()

    def waited_ns(self) -> int:
        """Nanoseconds that the threads of `begin` waited in their lives; a microsecond each to ask."""
        total = 0
        for book in self._books.values():
            with contextlib.suppress(OSError, IndexError, ValueError):
                total += int(os.pread(book, 128, 0).split()[1])
        return total

    def end(self, seconds: float) -> dict[str, Any]:
        """Counts since `begin`, as `records.trial.Waiting` has them. seconds: the clock's, since then."""
        before, after = self._before, self._counted()
        self.close()
        now, then = after["threads"], before["threads"]
        ran = {thread: now[thread][0] - then.get(thread, (0, 0))[0] for thread in now}
        waited = {thread: now[thread][1] - then.get(thread, (0, 0))[1] for thread in now}
        known = _is_kept(now)
        least = BUSY_SHARE * seconds * 1e9
        return {
            "seconds": seconds,
            "cores": len(os.sched_getaffinity(0)),
            "threads": sum(ran[thread] + waited[thread] >= least for thread in ran) if known else None,
            "ran_s": sum(ran.values()) / 1e9 if known else None,
            "waited_s": sum(waited.values()) / 1e9 if known else None,
            "busy_s": _grown(before["cpus"], after["cpus"], "busy"),
            "stolen_s": _grown(before["cpus"], after["cpus"], "steal"),
            "throttled_s": _grown(before["groups"], after["groups"]),
        }

    def close(self) -> None:
        for book in self._books.values():
            os.close(book)
        self._books = {}

    def _counted(self) -> dict[str, Any]:
        threads = {}
        for thread in _threads(self._root):
            words = read(_schedstat(self._root, thread), READING_BYTES).split()
            if len(words) >= 2 and words[0].isdigit() and words[1].isdigit():
                threads[thread] = (int(words[0]), int(words[1]))
        return {"threads": threads, "cpus": _cpus(self._root), "groups": _throttled(self._root)}


def _threads(root: str) -> list[str]:
    try:
        return os.listdir(os.path.join(root, "proc/self/task"))
    except OSError:
        return []


def _schedstat(root: str, thread: str) -> str:
    return os.path.join(root, "proc/self/task", thread, "schedstat")


def _is_kept(threads: Mapping[str, tuple[int, int]]) -> bool:
    """Whether the kernel keeps the books: one that does not shows zeros, and this process has run."""
    return any(ran for ran, _ in threads.values())


def _cpus(root: str) -> dict[str, float]:
    """Seconds that the CPUs this process may use were busy, and had no time from their hypervisor.

    Empty where one of them is not listed: a container may show other CPUs than its own.
    """
    tick, mine = 1.0 / os.sysconf("SC_CLK_TCK"), os.sched_getaffinity(0)
    found = {"busy": 0.0, "steal": 0.0}
    seen = set()
    for line in read(os.path.join(root, "proc/stat")).splitlines():
        name, *words = line.split()
        if name[3:].isdigit() and name.startswith("cpu") and int(name[3:]) in mine and len(words) >= 8:
            # user nice system idle iowait irq softirq steal; what guests ran is in user already
            user, nice, system, _, _, irq, softirq, steal = (int(word) for word in words[:8])
            found["busy"] += tick * (user + nice + system + irq + softirq)
            found["steal"] += tick * steal
            seen.add(int(name[3:]))
    return found if seen == mine else {}


def _throttled(root: str) -> dict[str, float]:
    """Seconds that a quota held back each control group of this process, the outer ones too."""
    found = {}
    for folder in cgroup_folders("cpu", root):
        for line in read(os.path.join(folder, "cpu.stat")).splitlines():
            name, _, value = line.partition(" ")
            if name in THROTTLED and value.strip().isdigit():
                found[folder] = int(value) * THROTTLED[name]
    return found


def _grown(before: Mapping[str, float], after: Mapping[str, float], name: str = "") -> Any:
    """Growth of a counter, or of the one that grew most; None where it is not kept."""
    grown = [after[key] - before[key] for key in after if key in before and name in ("", key)]
    return max(0.0, *grown) if grown else None


def state(sensors: Sequence[str]) -> dict[str, str]:
    """Clocks, governor, temperatures, throttle counters and load, as text by name.

    sensors: more to read, a path or glob (it begins with "/") or a command; one that is not `allowed` is
        neither read nor run, and its reading says so.
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
        if not allowed(sensor):
            found[sensor] = "not read: it is not on the list of readings"
        elif sensor.startswith("/"):
            for path in itertools.islice(glob.iglob(sensor), MOST_FILES):
                if os.path.realpath(path).startswith((*READABLE_FOLDERS, *READABLE_FILES)):
                    found[path] = read(path, READING_BYTES)
        else:
            found[sensor] = _command(sensor)
    return found


def _command(line: str) -> str:
    """Output of a command within its bounds of bytes and seconds."""
    try:
        process = subprocess.Popen(
            line.split(),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    except OSError as error:
        return f"unavailable: {error}"
    stdout: Any = process.stdout
    output, until = b"", time.monotonic() + COMMAND_SECONDS
    endless = line.split()[0] in ENDLESS
    try:
        while len(output) < READING_BYTES and not (endless and b"\n" in output):
            if not select.select([stdout], [], [], max(0.0, until - time.monotonic()))[0]:
                output = output or f"unavailable: no answer in {COMMAND_SECONDS:g} s".encode()
                break
            block = os.read(stdout.fileno(), READING_BYTES - len(output))
            if not block:
                break
            output += block
    finally:
        with contextlib.suppress(ProcessLookupError):  # it ended by itself
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        stdout.close()
    text = output.decode("utf-8", "replace")
    return text.splitlines()[0].strip() if endless and text else text.strip()


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

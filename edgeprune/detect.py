"""Facts of the host: the cores, memory and instruction sets that this process may use.

Standard library only. Linux answers from /proc and the cgroup files; elsewhere a fact is `None`, never a
guess. The device's own facts come from `devices.probe`, which runs there and may import nothing of this.
"""

from __future__ import annotations

import os
import platform
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

# The flags that decide which INT8 kernels a runtime picks, as Linux names them in /proc/cpuinfo.
ISA_X86 = (
    "sse4_2",
    "avx",
    "avx2",
    "fma",
    "avx512f",
    "avx512bw",
    "avx512_vnni",
    "avx_vnni",
    "avx512_bf16",
    "amx_int8",
    "amx_bf16",
)
ISA_ARM = ("neon", "asimd", "asimddp", "asimdhp", "i8mm", "bf16", "sve", "sve2")
ISA = ISA_X86 + ISA_ARM

_VNNI = frozenset({"avx512_vnni", "avx_vnni"})


@dataclass(frozen=True)
class Host:
    """The facts of this machine; `None` where the operating system does not tell."""

    architecture: str  # `uname -m`
    processor: str | None
    cores: int | None  # whole cores: affinity and cgroup quota respected
    memory_mib: float | None  # the smaller of physical memory and the cgroup limit
    isa: tuple[str, ...] | None  # of ISA


def host(root: Path = Path("/")) -> Host:
    """The facts of this machine; `root` is where its /proc and /sys hang."""
    info = _read(root / "proc/cpuinfo")
    return Host(
        architecture=platform.machine(),
        processor=_processor(info, root),
        cores=cores(root),
        memory_mib=memory_mib(root),
        isa=_isa(info),
    )


def cores(root: Path = Path("/")) -> int | None:
    """Whole cores this process may use; a quota of half a core still counts as one thread.

    The fraction of a core above a whole one is left out: a thread on it is throttled in the middle of a
    query, which shows at the 99th percentile and not at the median.
    """
    if not hasattr(os, "sched_getaffinity"):
        return None
    allowed = len(os.sched_getaffinity(0))
    quotas = [quota for folder in _cgroups("cpu", root) if (quota := _quota(folder)) is not None]
    return max(1, min([allowed, *(int(quota) for quota in quotas)]))


def memory_mib(root: Path = Path("/")) -> float | None:
    """Physical memory, or the cgroup's limit where that is less: /proc/meminfo always shows the host's."""
    for line in (_read(root / "proc/meminfo") or "").splitlines():
        name, _, value = line.partition(":")
        if name == "MemTotal":
            physical = int(value.split()[0]) / 1024  # the kernel's "kB" are KiB
            limits = [limit for folder in _cgroups("memory", root) if (limit := _limit(folder)) is not None]
            return min([physical, *limits])
    return None


def saturates(isa: tuple[str, ...]) -> bool:
    """Whether an x86 processor with these flags can overflow in unsigned-by-signed 8-bit products.

    AVX2 adds two u8*s8 products in 16 bits (VPMADDUBSW, Intel SDM volume 2) and clips there; VNNI adds
    four in 32 bits (VPDPBUSD) and does not. On ARM the products are widened first.
    """
    return bool(set(isa) & set(ISA_X86)) and not _VNNI & set(isa)


def int8_summary(isa: tuple[str, ...] | None) -> str:
    """A sentence for people on INT8 models with these instruction sets."""
    if isa is None:
        return "Instruction sets unknown on this system: measure before you trust INT8 here."
    found = set(isa)
    if found & _VNNI:
        return f"{min(found & _VNNI)}: 8-bit products are summed in 32 bits; INT8 is fast and exact."
    if found & set(ISA_X86):
        return (
            "No VNNI: 8-bit products are summed in 16 bits and can saturate; INT8 gains less, and its "
            "accuracy must be measured in the runtime (7-bit weights avoid the error)."
        )
    if "i8mm" in found:
        return "i8mm: 8-bit matrix products; INT8 is fast and exact."
    if "asimddp" in found:
        return "Dot product (asimddp): INT8 is fast and exact."
    if found & {"asimd", "neon"}:
        return "NEON without dot product: INT8 is exact, and gains mostly in memory traffic."
    return "None of the instruction sets that speed INT8 up was found."


def _read(path: Path) -> str | None:
    try:
        return path.read_text(errors="replace").strip()
    except OSError:
        return None


def _isa(info: str | None) -> tuple[str, ...] | None:
    for line in (info or "").splitlines():
        name, _, value = line.partition(":")
        if name.strip() in ("flags", "Features"):
            flags = set(value.split())
            return tuple(flag for flag in ISA if flag in flags)
    return None


def _processor(info: str | None, root: Path) -> str | None:
    for line in (info or "").splitlines():
        name, _, value = line.partition(":")
        if name.strip() == "model name":
            return value.strip()
    # ARM boards name themselves in the device tree, as a C string.
    board = _read(root / "proc/device-tree/model")
    return board.rstrip("\0") if board else None


def _quota(folder: Path) -> float | None:
    """The CPU quota of one cgroup in cores; version 2 writes "50000 100000" or "max 100000"."""
    both = (_read(folder / "cpu.max") or "").split()
    if len(both) != 2:
        both = [_read(folder / f"cpu.cfs_{name}_us") or "" for name in ("quota", "period")]
    quota, period = both
    if not (quota.isdigit() and period.isdigit() and int(period)):  # "max", "-1", absent
        return None
    return int(quota) / int(period)


def _limit(folder: Path) -> float | None:
    """The memory limit of one cgroup in MiB. Version 1 writes a huge number for "none": never the minimum."""
    for name in ("memory.max", "memory.limit_in_bytes"):
        text = _read(folder / name) or ""
        if text.isdigit():
            return int(text) / 2**20
    return None


def _cgroups(controller: str, root: Path) -> Iterator[Path]:
    """The folders of the cgroups, version 1 or 2, that bind this process: its own and all above it."""
    mounts = list(_mounts(root))
    for line in (_read(root / "proc/self/cgroup") or "").splitlines():
        _, controllers, group = line.split(":", 2)
        if controllers and controller not in controllers.split(","):
            continue
        for kind, options, shown, mounted in mounts:
            if kind == ("cgroup" if controllers else "cgroup2") and (
                not controllers or controller in options
            ):
                # A container often sees its own group mounted at the top while /proc names the host's path.
                inside = os.path.relpath(group, shown)
                parts = () if inside.startswith("..") or inside == "." else Path(inside).parts
                yield from (mounted.joinpath(*parts[:depth]) for depth in range(len(parts) + 1))


def _mounts(root: Path) -> Iterator[tuple[str, list[str], str, Path]]:
    """(file system, its options, the cgroup shown there, the folder) of every cgroup mount; proc(5)."""
    for line in (_read(root / "proc/self/mountinfo") or "").splitlines():
        left, _, right = line.partition(" - ")
        before, after = left.split(), right.split()
        if len(before) > 4 and len(after) > 2 and after[0] in ("cgroup", "cgroup2"):
            yield after[0], after[2].split(","), before[3], root / before[4].lstrip("/")


__all__ = ["ISA", "ISA_ARM", "ISA_X86", "Host", "cores", "host", "int8_summary", "memory_mib", "saturates"]

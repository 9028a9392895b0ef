"""The shelf: named hardware profiles and targets, one TOML file each, read strictly.

    profiles/NAME.toml    what a machine is, and the budget it gives a model    -> Profile
    targets/NAME.toml     runtime, INT8 dialect, what to watch on the device    -> Target

A name is looked up among the files that edgeprune ships; a path ending in .toml is the user's own file.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Literal, TypeAlias

from edgeprune import detect
from edgeprune.devices.probe import COMMANDS, READABLE_FOLDERS, allowed
from edgeprune.errors import EdgepruneError, InputError
from edgeprune.records.machine import Budget, Figure, Profile, Target, drop_line
from edgeprune.runtimes import AUTO
from edgeprune.runtimes import TABLE as RUNTIMES
from edgeprune.toml import Table, nearest, quoted

Kind: TypeAlias = Literal["profiles", "targets"]

# Figures that a profile may state, each in one unit, so that a roofline reads it without converting.
FIGURES: Mapping[str, tuple[str, str]] = MappingProxyType(
    {
        "memory": ("GB", "memory size as the vendor states it"),
        "memory_bandwidth": ("GB/s", "peak memory bandwidth"),
        "cores": ("cores", "processor cores"),
        "clock_max": ("GHz", "highest processor clock"),
        "gpu_cores": ("cores", "CUDA cores"),
        "gpu_clock_max": ("GHz", "highest GPU clock"),
        "float32": ("TFLOPS", "peak FP32 rate of the GPU"),
        "int8_dense": ("TOPS", "peak INT8 rate of the GPU, without sparsity"),
        "compute_capability": ("capability", "CUDA compute capability, MAJOR.MINOR"),
        "float32_macs": (
            "macs/clock",
            "FP32 multiply-adds per core and clock, where isa promises another number",
        ),
    }
)

DIALECTS = (AUTO, *dict.fromkeys(dialect for row in RUNTIMES.values() for dialect in row.dialects))


def folder(kind: Kind) -> Path:
    """Folder of the files of a kind: inside the package in a wheel, beside it in a checkout.

    Raises `EdgepruneError` when they are in neither place.
    """
    package = Path(__file__).resolve().parent
    for place in (package / "_shelf" / kind, package.parent / kind):
        if place.is_dir():
            return place
    raise EdgepruneError(
        f"edgeprune's own {kind} are missing: there is no folder {package / '_shelf' / kind}.",
        "The installation is damaged: install edgeprune again.",
    )


def names(kind: Kind) -> tuple[str, ...]:
    """The names on the shelf, sorted."""
    return tuple(sorted(path.stem for path in folder(kind).glob("*.toml")))


@dataclass(frozen=True)
class Shelved:
    """Profile as its file has it.

    here: whether it is this machine (`detect = true`). target: name or path of the target that it brings,
    where the machine serves with one runtime.
    """

    profile: Profile
    here: bool
    target: str | None


def load_profile(name_or_path: str | Path) -> Profile:
    """Hardware profile, by its name on the shelf or by the path of a .toml file.

    Raises `InputError` when there is none, or when the file is not exactly a profile.
    """
    return shelved(name_or_path).profile


def shelved(name_or_path: str | Path) -> Shelved:
    """Profile with what its file says beside it; as `load_profile`."""
    file = _open("profiles", name_or_path)
    file.only(
        *("title", "detect", "target", "architecture", "threads", "batch", "isa", "sources", "budget"),
        "figures",
    )
    here = file.flag("detect")
    machine = _detected(file) if here else _written(file)
    profile = Profile(
        name=file.path.stem,
        title=file.text("title"),
        architecture=machine.architecture,
        threads=machine.threads,
        budget=_budget(file.table("budget")),
        batch=file.whole("batch", least=1, default=1),
        isa=machine.isa,
        figures=machine.figures + _figures(file.table("figures")),
        sources=machine.sources,
        unsaid=tuple(key for key in ("percentile", "max_drop") if key not in file.table("budget")),
    )
    return Shelved(profile, here, _other(file, "target", "targets") if "target" in file else None)


def load_target(name_or_path: str | Path) -> Target:
    """A deployment platform, by its name on the shelf or by the path of a .toml file.

    Raises `InputError` when there is none, when the file is not exactly a target, or when its default
    profile is neither on the shelf nor a .toml file (relative paths start at the target's folder).
    """
    file = _open("targets", name_or_path)
    file.only("title", "runtime", "dialect", "profile", "channel_multiple", "device", "sensors", "throttle")
    profile = _other(file, "profile", "profiles")
    row = RUNTIMES[file.text("runtime", among=tuple(RUNTIMES))]
    dialect = file.text("dialect", among=DIALECTS)
    if dialect not in (AUTO, *row.dialects):
        raise file.error(
            "dialect",
            f'is "{dialect}", which {row.name} has no kernels for',
            f"Write one of: {', '.join((AUTO, *row.dialects))}.",
        )
    return Target(
        name=file.path.stem,
        title=file.text("title"),
        runtime=row.name,
        dialect=dialect,
        profile=profile,
        channel_multiple=file.whole("channel_multiple", least=1),
        sensors=_readings(file, "sensors"),
        throttle=_readings(file, "throttle"),
        device=file.text("device", default=row.device),
    )


def _other(file: Table, key: str, kind: Kind) -> str:
    """Name on the shelf, or path, of the file that another file names."""
    name = file.text(key)
    if name.endswith(".toml"):
        path = file.path.parent / name
        if not path.is_file():
            raise file.error(key, f'is "{name}", and there is no file {path}', "Correct the path.")
        return str(path)
    if name not in names(kind):
        raise file.error(key, f'is "{name}"', nearest(name, names(kind)))
    return name


def _readings(file: Table, key: str) -> tuple[str, ...]:
    """Sensors or throttle flags, all of them on the probe's lists."""
    readings = file.texts(key)
    for reading in readings:
        if not allowed(reading):
            raise file.error(
                key,
                f'holds "{reading}", which no device reads',
                f"Name paths or globs below {', '.join(READABLE_FOLDERS)}, or one of: {'; '.join(COMMANDS)}.",
            )
    return readings


def _open(kind: Kind, name_or_path: str | Path) -> Table:
    text = str(name_or_path)
    if text.endswith(".toml"):
        return Table.read(Path(text))
    if text not in names(kind):
        raise InputError(
            f'There is no {kind[:-1]} "{text}".', nearest(text, names(kind)) + " Or the path of a .toml file."
        )
    return Table.read(folder(kind) / f"{text}.toml")


def _budget(table: Table) -> Budget:
    table.only("latency_ms", "speedup", "percentile", "memory_mib", "size_mib", "max_drop")
    if "latency_ms" in table and "speedup" in table:
        raise table.error(
            "speedup",
            "stands beside latency_ms, and both bound the latency",
            "Keep latency_ms (absolute) or speedup (relative to the dense float model).",
        )

    def line(key: str) -> float | None:
        return table.number(key) if key in table else None

    return Budget(
        latency_ms=line("latency_ms"),
        speedup=line("speedup"),
        percentile=table.whole("percentile", least=1, most=99, default=90),
        memory_mib=line("memory_mib"),
        size_mib=line("size_mib"),
        **_drop(table),
    )


def _drop(table: Table) -> dict[str, float]:
    """Line of the largest drop: a number, or a text such as "2%"; none where the file says nothing."""
    if "max_drop" not in table:
        return {}
    if not table.is_text("max_drop"):
        return {"max_drop": table.number("max_drop", zero=True)}
    try:
        return drop_line(table.text("max_drop"))
    except ValueError as error:
        raise table.error(
            "max_drop",
            f'is {quoted(table.text("max_drop"))}, expected a number of 0 or more, or a text such as "2%"',
        ) from error


def _figures(table: Table) -> tuple[tuple[str, Figure], ...]:
    table.only(*FIGURES)
    found = []
    for name in table:
        figure = table.table(name)
        figure.only("value", "unit", "source")
        found.append(
            (
                name,
                Figure(
                    value=figure.number("value"),
                    unit=figure.text("unit", among=FIGURES[name][:1]),
                    source=figure.text("source"),
                ),
            )
        )
    return tuple(found)


@dataclass(frozen=True)
class _Detectable:
    """Machine facts of a profile, either written in its file or detected."""

    architecture: str
    threads: int
    isa: tuple[str, ...]
    figures: tuple[tuple[str, Figure], ...]
    sources: tuple[str, ...]


def _written(file: Table) -> _Detectable:
    sources = file.texts("sources")
    if not sources:
        raise file.error(
            "sources", "is missing", "Name the documents that architecture and isa were read in."
        )
    return _Detectable(
        architecture=file.text("architecture"),
        threads=file.whole("threads", least=1),
        isa=file.texts("isa", among=detect.ISA),
        figures=(),
        sources=sources,
    )


def _detected(file: Table) -> _Detectable:
    for key in ("architecture", "threads", "isa", "sources"):
        if key in file:
            raise file.error(key, "stands beside detect = true", "Keep one: detect reads it on this machine.")
    host = detect.host()
    if host.cores is None:
        raise file.error(
            "detect",
            "is true, but this system does not tell how many cores may be used",
            "Write a profile of your own with architecture and threads, and give its path.",
        )
    source = "read on this machine when the profile was loaded: affinity mask, /proc, cgroup limits"
    figures = [("cores", Figure(float(host.cores), "cores", source))]
    if host.memory_mib is not None:
        figures.append(("memory", Figure(round(host.memory_mib * 2**20 / 1e9, 2), "GB", source)))
    # One core is left to the system: with all of them taken, whatever else runs lands in the latency's tail.
    threads = max(1, host.cores - 1)
    return _Detectable(host.architecture, threads, host.isa or (), tuple(figures), (source,))


__all__ = [
    "DIALECTS",
    "FIGURES",
    "Kind",
    "Shelved",
    "folder",
    "load_profile",
    "load_target",
    "names",
    "shelved",
]

"""Hardware profiles, deployment targets and budgets."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import Literal

# In "...-weights" activations stay float, and weights have 8 or 4 bits.
Precision = Literal["float32", "int8", "int8-weights", "int4-weights"]


DEFAULT_DROP = 0.01  # of a metric that is a share, 0 to 1
_PERCENT = re.compile(r"\s*([^%\s]+)\s*%\s*")


def drop_line(value: float | str) -> dict[str, float]:
    """Line of a budget that a largest drop is: `max_drop` of 0.5 or "0.5", `max_drop_percent` of "2%".

    Raises `ValueError` for anything else than a finite number of 0 or more.
    """
    percent = _PERCENT.fullmatch(value) if isinstance(value, str) else None
    found = float(value if percent is None else percent[1])
    if not 0 <= found < math.inf:
        raise ValueError(f"{found:g} is no largest drop")
    return {"max_drop" if percent is None else "max_drop_percent": found}


@dataclass(frozen=True)
class Figure:
    """Hardware figure with its source, without which no figure enters a profile."""

    value: float
    unit: str
    source: str  # document and date, e.g. "NVIDIA Jetson Orin Nano datasheet DS-11105-001 v1.1, 2023-01"


@dataclass(frozen=True)
class Budget:
    """Limits on a model's latency, memory, size and metric drop; `None` is no limit.

    `latency_ms` bounds the `percentile` of single-query latency; `speedup` is the same bound given
    relative to the dense float model on the same device, and is resolved to milliseconds before a
    search. `memory_mib` bounds the peak memory of the process that serves, the runtime included. `max_drop`
    is absolute, in the metric's own unit; `max_drop_percent` is the same bound given relative to the dense
    model's metric, and resolved likewise. `whole_ms` bounds the same percentile of whole queries, of what the
    task does before and after the model too; `latency_ms` is then what they leave to the model.
    """

    latency_ms: float | None = None
    speedup: float | None = None
    percentile: int = 90
    memory_mib: float | None = None
    size_mib: float | None = None
    max_drop: float = DEFAULT_DROP
    max_drop_percent: float | None = None
    whole_ms: float | None = None

    @property
    def timed(self) -> bool:
        """Whether latency is limited at all."""
        return self.latency_ms is not None or self.speedup is not None


@dataclass(frozen=True)
class Profile:
    """Hardware profile: one machine, the threads and batch of a query on it, and the budget of a model."""

    name: str
    title: str
    architecture: str  # as `uname -m` prints it: "x86_64", "aarch64"
    threads: int
    budget: Budget
    batch: int = 1
    isa: tuple[str, ...] = ()  # INT8-relevant instruction sets, e.g. ("avx2", "avx512_vnni")
    figures: tuple[tuple[str, Figure], ...] = ()  # by name, e.g. ("memory", Figure(8, "GB", ...))
    sources: tuple[str, ...] = ()  # where architecture and isa were read
    unsaid: tuple[str, ...] = ()  # lines of the budget that the file leaves to their defaults


@dataclass(frozen=True)
class Target:
    """Deployment platform: runtime, INT8 dialect, sensors to read on the device, default profile."""

    name: str
    title: str
    runtime: str  # a key of runtimes.TABLE
    dialect: str  # a key of quantize.dialects.TABLE
    profile: str  # its default profile
    channel_multiple: int
    sensors: tuple[str, ...] = ()  # globs under /sys, or commands, read before, during and after a proof
    throttle: tuple[str, ...] = ()  # counters and flags; any that moves marks the run
    device: str = "CPU"  # the runtime's own device string

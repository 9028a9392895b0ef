"""edgeprune: prune, quantise and prove a PyTorch model inside a device's budget.

`__all__` is the public surface, and docs/stability.md says what may change of it. `import edgeprune` is
light: neither numpy nor torch nor a runtime is imported before a name that needs it is used.
"""

from __future__ import annotations

import logging
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any

from edgeprune.errors import (
    BundleError,
    DeviceBusy,
    DeviceError,
    DeviceLost,
    EdgepruneError,
    InputError,
    LostInt8,
    MissingExtraError,
    NothingToQuantise,
)
from edgeprune.records.progress import Event
from edgeprune.records.task import Task
from edgeprune.telemetry import switch_off

if TYPE_CHECKING:
    from edgeprune.devices import Device, Machine, open_device
    from edgeprune.fitting import fit
    from edgeprune.graph.coupling import Axis, FrozenParameter, Group
    from edgeprune.measure import Effort
    from edgeprune.options import FitOptions
    from edgeprune.pruning.criteria import Criterion, Evidence, Slopes
    from edgeprune.pruning.once import Pruned, prune
    from edgeprune.records.bundle import Check, Validation
    from edgeprune.records.cpu_time import Waiting
    from edgeprune.records.machine import Budget, Figure, Profile, Target
    from edgeprune.records.trial import (
        Breach,
        Candidate,
        CascadeResult,
        DeviceState,
        DraftReport,
        Drop,
        ErrorBar,
        FitResult,
        Latency,
        LayerFacts,
        LayerTimes,
        LengthTimes,
        Measurement,
        Occasion,
        Pace,
        ProjectUse,
        Report,
        TierResult,
        Training,
        Verdict,
    )
    from edgeprune.records.whole_query import PartTimes, WholeQueries
    from edgeprune.validating import validate

try:
    __version__ = version("edgeprune")
except PackageNotFoundError:  # a source tree that was never installed
    __version__ = "0+unknown"

switch_off()  # before any runtime is imported

# A program that configures no logging hears nothing of edgeprune's, warnings included.
logging.getLogger("edgeprune").addHandler(logging.NullHandler())

_ROOMS = {  # room -> the public names that are imported from it on first use
    "devices": ("Device", "Machine", "open_device"),
    "fitting": ("fit",),
    "graph.coupling": ("Axis", "FrozenParameter", "Group"),
    "measure": ("Effort",),
    "options": ("FitOptions",),
    "pruning.criteria": ("Criterion", "Evidence", "Slopes"),
    "pruning.once": ("Pruned", "prune"),
    "records.bundle": ("Check", "Validation"),
    "records.machine": ("Budget", "Figure", "Profile", "Target"),
    "records.trial": (
        *("Breach", "Candidate", "CascadeResult", "DeviceState", "DraftReport", "Drop", "ErrorBar"),
        *("FitResult", "Occasion", "Pace", "ProjectUse", "Training"),
        *("Latency", "LayerFacts", "LayerTimes", "LengthTimes", "Measurement", "Report"),
        *("TierResult", "Verdict"),
    ),
    "records.cpu_time": ("Waiting",),
    "records.whole_query": ("PartTimes", "WholeQueries"),
    "validating": ("validate",),
}
_LAZY = {name: f"edgeprune.{room}" for room, names in _ROOMS.items() for name in names}


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module 'edgeprune' has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(_LAZY[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *_LAZY})


__all__ = [
    "Axis",
    "Breach",
    "Budget",
    "BundleError",
    "Candidate",
    "CascadeResult",
    "Check",
    "Criterion",
    "Device",
    "DeviceBusy",
    "DeviceError",
    "DeviceLost",
    "DeviceState",
    "DraftReport",
    "Drop",
    "EdgepruneError",
    "Effort",
    "ErrorBar",
    "Event",
    "Evidence",
    "Figure",
    "FitOptions",
    "FitResult",
    "FrozenParameter",
    "Group",
    "InputError",
    "Latency",
    "LayerFacts",
    "LayerTimes",
    "LengthTimes",
    "LostInt8",
    "Machine",
    "Measurement",
    "MissingExtraError",
    "NothingToQuantise",
    "Occasion",
    "Pace",
    "PartTimes",
    "Profile",
    "ProjectUse",
    "Pruned",
    "Report",
    "Slopes",
    "Target",
    "Task",
    "TierResult",
    "Training",
    "Validation",
    "Verdict",
    "Waiting",
    "WholeQueries",
    "fit",
    "open_device",
    "prune",
    "validate",
]

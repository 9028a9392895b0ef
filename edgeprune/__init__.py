"""edgeprune: prune, quantise and prove a PyTorch model inside a device's budget.

`import edgeprune` is light: torch and the runtimes are imported by the functions that use them.
"""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any

from edgeprune.errors import DeviceError, EdgepruneError, InputError, MissingExtraError
from edgeprune.records.task import Task

if TYPE_CHECKING:
    from edgeprune.fitting import fit
    from edgeprune.pruning.once import Pruned, prune
    from edgeprune.records.trial import FitResult

try:
    __version__ = version("edgeprune")
except PackageNotFoundError:  # a source tree that was never installed
    __version__ = "0+unknown"

_LAZY = {
    "fit": "edgeprune.fitting",
    "prune": "edgeprune.pruning.once",
    "Pruned": "edgeprune.pruning.once",
    "FitResult": "edgeprune.records.trial",
}


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module 'edgeprune' has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(_LAZY[name]), name)


__all__ = [
    "DeviceError",
    "EdgepruneError",
    "FitResult",
    "InputError",
    "MissingExtraError",
    "Pruned",
    "Task",
    "fit",
    "prune",
]

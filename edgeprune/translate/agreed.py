"""Agreement of a translated file with ONNX Runtime, on data."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from numpy.typing import NDArray

from edgeprune.errors import InputError
from edgeprune.graph import onnxfile
from edgeprune.graph.capture import Captured
from edgeprune.translate.network import Network
from edgeprune.translate.shape_folding import Arrays, run

EQUAL_WITHIN_SHARE = 1e-4  # of an output's largest absolute value


def agreed(
    model: onnx.ModelProto, network: Network, captured: Captured, feeds: Sequence[Arrays], path: Path
) -> None:
    """Refuse a translation whose outputs differ from ONNX Runtime's by more than 1e-4 of their largest value.

    feeds: inputs by name, batch after batch. Raises `InputError` naming the first operator that differs.
    """
    names = [value.name for value in model.graph.output]
    for feed, wanted in zip(feeds, run(model, feeds, path), strict=True):
        tensors = [torch.tensor(array) for array in feed.values()]
        with torch.no_grad():
            found = captured.run(*tensors)
        for name, output in zip(names, found, strict=True):
            if (told := apart(output, wanted[name])) is not None:
                raise InputError(
                    f"{path}: output {name!r} of the translation {told}: the first that differs is "
                    f"{_first(model, network, feed, path) or 'that output'}.",
                    "Give the model as a FILE.py or a MODEL.pt2, and report the operator.",
                )


def apart(found: torch.Tensor, wanted: Any) -> str | None:
    """Difference of a value from ONNX Runtime's, as a clause; None where there is none."""
    given = found.numpy(force=True)
    if not isinstance(wanted, np.ndarray) or given.shape != wanted.shape:
        shape = getattr(wanted, "shape", type(wanted).__name__)
        return f"has shape {given.shape}, and {shape} in ONNX Runtime"
    if wanted.dtype.kind != "f":
        return None if np.array_equal(given, wanted) else "differs from ONNX Runtime's"
    error, scale = _error(given, wanted)
    if error <= EQUAL_WITHIN_SHARE * scale:
        return None
    return f"differs from ONNX Runtime's by {error:.3g}, where its largest value is {scale:.3g}"


def _error(given: NDArray[Any], wanted: NDArray[Any]) -> tuple[float, float]:
    """Largest difference and largest value; what is not finite must be the same."""
    exact, own = wanted.astype(np.float64), given.astype(np.float64)
    finite = np.isfinite(exact)
    same = np.array_equal(exact[~finite], own[~finite], equal_nan=True)
    if not same or not np.isfinite(own[finite]).all():
        return float("inf"), 1.0
    scale = float(np.abs(exact[finite]).max(initial=0.0))
    return float(np.abs(exact[finite] - own[finite]).max(initial=0.0)), max(scale, 1e-30)


def _first(model: onnx.ModelProto, network: Network, feed: Arrays, path: Path) -> str | None:
    """First operator whose value differs, in words."""
    with torch.no_grad():
        values = network.values(*(torch.tensor(array) for array in feed.values()))
    made = {name: step.node for step in network.steps for name in step.outputs if name}
    there = {name for node in model.graph.node for name in node.output}
    asked = [name for name in made if name in there and isinstance(values.get(name), torch.Tensor)]
    wanted = run(model, [feed], path, asked)[0]
    return next((onnxfile.called(made[name]) for name in asked if apart(values[name], wanted[name])), None)

"""One row of the survey: an architecture exported, pruned by 30 %, compared and written as ONNX."""

from __future__ import annotations

import copy
import tempfile
import time
import traceback
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from torch.utils import _pytree as pytree

from benchmarks.survey.subject import NotBuilt, Subject, parameters
from benchmarks.zoo.entry import awaken
from edgeprune.errors import EdgepruneError
from edgeprune.export import export_onnx
from edgeprune.graph.capture import Captured
from edgeprune.graph.coupling import Coupling, analyse
from edgeprune.graph.fx import attribute
from edgeprune.graph.surgery import cut
from edgeprune.pruning import once
from edgeprune.tasks.purity import capture_pure
from tests.support import references  # the oracle of the property tests

RATIO = 0.3
EXACT = 1e-4  # of the largest output, float32: deep networks with random weights amplify rounding
EXACT_DOUBLE = 1e-9  # in double precision, in which what rounding made is 1e-9 of what it was
FROZEN = 0.1  # of all parameters
SEEDS = 2  # random sets of units beside the 30 %


@dataclass(frozen=True)
class Row:
    """What happened to one architecture; what was not reached keeps its default.

    built, exported, pruned, onnx: "yes", or the sentence that was said. crash: the last lines of a traceback
    that is no sentence of edgeprune's, and where. frozen: share of the parameters, by reason in `held`.
    error: of the cuts against the masked graph, as a share of the largest output. double: the same in double
    precision, where `error` is too large to tell a wrong cut from rounding.
    """

    key: str
    built: str = ""
    params: int = 0
    exported: str = ""
    groups: int = 0
    frozen: float = 0.0
    held: tuple[tuple[str, float], ...] = ()
    unknown: tuple[str, ...] = ()
    pruned: str = ""
    removed: float = 0.0  # share of the prunable parameters
    error: float | None = None
    double: float | None = None
    onnx: str = ""
    crash: str = ""
    seconds: dict[str, float] = field(default_factory=dict)


def measure(subject: Subject, tell: object = None, *, onnx: bool = True) -> Row:
    """Every step in turn until one fails, that of ONNX, the longest, when it is asked for.

    tell: called with each step's row, for who may be killed.
    """
    found: dict[str, object] = {"key": subject.key, "seconds": {}}
    step = "build"

    def done(**values: object) -> None:
        nonlocal started
        found.update(values)
        found["seconds"] = {**found["seconds"], step: round(time.perf_counter() - started, 2)}  # type: ignore[dict-item]
        started = time.perf_counter()
        if callable(tell):
            tell(Row(**found))  # type: ignore[arg-type]

    started = time.perf_counter()
    torch.manual_seed(0)
    try:
        model, example = subject.build()
        awaken(model)
        done(built="yes", params=parameters(model))
        step = "export"
        dense = capture_pure(model, example)
        done(exported="yes")
        step = "analyse"
        coupling = analyse(dense)
        done(**_analysis(coupling, int(found["params"])))  # type: ignore[call-overload]
        step = "prune"
        with mock.patch.object(once, "capture", return_value=dense):  # torch.export is the slowest step
            pruned = once.prune(model, example, RATIO)
        prunable = pruned.dense_params - sum(each.size for each in pruned.frozen)
        done(pruned="yes", removed=(pruned.dense_params - pruned.params) / prunable)
        step = "compare"
        error = _largest_error(dense, coupling, pruned.kept)
        double = _largest_error(_doubled(dense), coupling, pruned.kept) if error > EXACT else None
        done(error=error, double=double)
        if not onnx:
            return Row(**found)  # type: ignore[arg-type]
        step = "onnx"
        with tempfile.TemporaryDirectory() as folder:
            export_onnx(pruned.captured, Path(folder) / "pruned.onnx")
        done(onnx="yes")
    except NotBuilt as error:
        done(built=str(error))
    except EdgepruneError as error:
        said = {"export": "exported", "prune": "pruned", "onnx": "onnx"}.get(step, "crash")
        done(**{said: error.what if said != "crash" else f"{step}: {error.what}"})
    except Exception as error:  # the survey goes on to the next architecture
        frames = traceback.extract_tb(error.__traceback__)
        own = [frame for frame in frames if "/edgeprune/" in frame.filename] or list(frames)
        place = f"{Path(own[-1].filename).name}:{own[-1].lineno} {own[-1].name}"
        done(crash=f"{step}: {type(error).__name__}: {' '.join(str(error).split())[:300]} ({place})")
    return Row(**found)  # type: ignore[arg-type]


def _analysis(coupling: Coupling, params: int) -> dict[str, object]:
    held = Counter[str]()
    for each in coupling.frozen:
        held[f"{each.op.removeprefix('aten.')}: {each.reason}"] += each.size
    return {
        "groups": len(coupling.groups),
        "frozen": sum(held.values()) / params,
        "held": tuple((reason, round(size / params, 4)) for reason, size in held.most_common(4)),
        "unknown": coupling.unknown,
    }


def _largest_error(dense: Captured, coupling: Coupling, kept: object) -> float:
    sets = [references.random_kept(coupling, seed, 0.6, depth=1 - seed / 2) for seed in range(SEEDS)]
    return max(_error(dense, coupling, each) for each in (kept, *sets))


def _doubled(dense: Captured) -> Captured:
    """The graph in double precision, with a double in place of every float that the graph asks for."""
    module = copy.deepcopy(dense.module).double()
    for node in module.graph.nodes:
        node.args, node.kwargs = pytree.tree_map(_double, (node.args, node.kwargs))
        if node.op == "get_attr" and isinstance(constant := attribute(module, node.target), torch.Tensor):
            constant.data = _double(constant.data)  # no parameter and no buffer
    module.recompile()
    return Captured(module, *pytree.tree_map(_double, (dense.args, dense.kwargs)))


def _double(value: Any) -> Any:
    if isinstance(value, torch.Tensor) and value.dtype is torch.float32:
        return value.double()
    return torch.float64 if value is torch.float32 else value


def _error(dense: Captured, coupling: Coupling, kept: object) -> float:
    with torch.no_grad():
        found = cut(dense, coupling, kept).run(*dense.inputs)  # type: ignore[arg-type]
        wanted = references.masked(dense, coupling, kept, dense.inputs)  # type: ignore[arg-type]
    return references.difference(found, wanted)

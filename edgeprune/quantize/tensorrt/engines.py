"""TensorRT engines of a Q/DQ file, built to prove that INT8 layers run in INT8; no GPU is needed.

TensorRT for RTX builds engines for a given compute capability on any host. Such an engine is thrown away: the
build proves that the file parses and builds, and the engine's own account says, layer by layer, which layers
run on integers. A Jetson (SM87) is not among the capabilities: for a Jetson the build here proves parsing,
type rules and the placement of Q/DQ pairs, and the engine is built and checked on the Jetson.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgeprune.errors import EdgepruneError, InputError, MissingExtraError
from edgeprune.files import scratch
from edgeprune.graph import onnxfile
from edgeprune.quantize.emit import Quantised
from edgeprune.quantize.tensorrt.refusals import ELSEWHERE, check_types
from edgeprune.runtimes import trt_build

CAPABILITIES = ("SM75", "SM80", "SM86", "SM89", "SM120", "SM121")
MULTIPLYING = ("correlation", "deconv", "gemm")  # engine layers that convolve or multiply matrices
ENGINE_TIMEOUT_SECONDS = 600.0
MOST_ENGINES = 6  # builds of one file, each with the layers in float that the engine before ran in float


def capability_of(version: float) -> str:
    """Capability to build engines for, as a proof for a GPU of compute capability `version` (8.7).

    The GPU's own capability where TensorRT for RTX builds for it, else the last one before: SM86 for Orin's
    8.7.
    """
    known = {each: int(each.removeprefix("SM")) for each in CAPABILITIES}
    older = [each for each in CAPABILITIES if known[each] <= round(version * 10)]
    return older[-1] if older else CAPABILITIES[0]


@dataclass(frozen=True)
class EngineLayer:
    """One layer of a built engine.

    onnx: names of the ONNX nodes that the layer computes; inputs, constants: number types of activations and
    of weights.
    """

    name: str
    kind: str
    onnx: tuple[str, ...]
    inputs: tuple[str, ...]
    constants: tuple[str, ...]

    def multiplies_int8(self, weight: str) -> bool:
        """Whether this layer multiplies integer activations with the integers of this weight."""
        return (
            self.kind in MULTIPLYING
            and f"{weight}.dequantize" in self.onnx
            and self.inputs[:1] == ("Int8",)
            and "Int8" in self.constants
        )


@dataclass(frozen=True)
class Engine:
    """A built engine; int8, not_int8: the INT8 layers of the file that run in INT8, and those in float."""

    version: str
    capability: str
    plan_mib: float
    activation_mib: float
    layers: tuple[EngineLayer, ...]
    int8: tuple[str, ...]
    not_int8: tuple[str, ...]


def build_engine(path: Path, capability: str, *, batch: int = 1) -> Engine:
    """Build an engine of `path` (a Q/DQ ONNX file in the TensorRT dialect) for a GPU of `capability`.

    Raises `InputError` for an unknown capability and for a file that TensorRT refuses, naming the node;
    `MissingExtraError` without TensorRT for RTX; `EdgepruneError` when the build fails or the engine's
    account of its layers cannot be read: an engine of unknown types never counts as INT8.
    """
    if capability not in CAPABILITIES:
        raise InputError(
            f"There is no compute capability {capability!r} to build for.",
            f"Choose one of: {', '.join(CAPABILITIES)}.",
        )
    wanted = check_types(onnxfile.load(path), path.name)
    answer = _build(path, capability, batch)
    layers = tuple(
        EngineLayer(
            str(layer["name"]),
            str(layer["type"]),
            tuple(layer["onnx"]),
            tuple(tensor["type"] for tensor in layer["inputs"]),
            tuple(tensor["type"] for tensor in layer["constants"]),
        )
        for layer in answer["layers"]
    )
    found = {weight: any(layer.multiplies_int8(weight) for layer in layers) for weight in wanted}
    return Engine(
        version=str(answer["version"]),
        capability=capability,
        plan_mib=answer["plan_bytes"] / 2**20,
        activation_mib=answer["activation_bytes"] / 2**20,
        layers=layers,
        int8=tuple(wanted[weight] for weight, good in found.items() if good),
        not_int8=tuple(wanted[weight] for weight, good in found.items() if not good),
    )


def write_for_engine(
    quantised: Callable[[tuple[str, ...]], Quantised],
    path: Path,
    lost_in: Callable[[Path], Iterable[str]],
) -> tuple[Quantised, tuple[str, ...]]:
    """Write a file whose INT8 layers all run in INT8 in its engine, with other layers given back to float.

    quantised: makes the model, given the layers to leave in float. path: where its file is written.
    lost_in: builds a file, here or on the device, and names the layers that are INT8 in the file but not in
        the engine.
    Returns the file and the layers given back: INT8 that is not computed as INT8 costs accuracy and
    conversions for nothing. Raises the errors of `lost_in`, `NothingToQuantise` when no layer is left, and
    `EdgepruneError` when MOST_ENGINES builds were not enough.
    """
    given: tuple[str, ...] = ()
    for _ in range(MOST_ENGINES):
        made = quantised(given)
        lost = {layer.partition("#")[0] for layer in lost_in(onnxfile.save(made.model, path))}
        if not lost:
            return made, given
        given = tuple(sorted({*given, *lost}))
    raise EdgepruneError(
        f"After {MOST_ENGINES} builds of {path.name} the engine still runs INT8 layers in float: "
        f"{', '.join(sorted(lost)[:5])}; in float by then: {len(given)} layers.",
        ELSEWHERE,
    )


def lost_in_engine(capability: str, batch: int) -> Callable[[Path], Iterable[str]]:
    """Function for `write_for_engine` that builds for a GPU of `capability` on a host without that GPU."""
    return lambda path: build_engine(path, capability, batch=batch).not_int8


def require_int8(engine: Engine) -> None:
    """Raise `EdgepruneError` naming the INT8 layers of the file that the engine runs in float."""
    if engine.not_int8:
        wanted = len(engine.int8) + len(engine.not_int8)
        raise EdgepruneError(
            f"TensorRT {engine.version} for {engine.capability} runs {len(engine.not_int8)} of {wanted} INT8 "
            f"layers in float: {', '.join(engine.not_int8[:5])}.",
            "Leave these layers out of INT8 (float_layers), and report the model.",
        )


def _build(path: Path, capability: str, batch: int) -> Mapping[str, Any]:
    """Run trt_build.py in a process of its own, because a failed build makes later builds fail."""
    with scratch() as folder:
        command: Sequence[str] = (
            *(sys.executable, trt_build.__file__, "--artefact", str(path)),
            *("--out", str(folder / "engine.plan"), "--capability", capability),
            *("--batch", str(batch)),
        )
        try:
            done = subprocess.run(
                command, capture_output=True, text=True, timeout=ENGINE_TIMEOUT_SECONDS, check=False
            )
        except subprocess.TimeoutExpired as error:
            raise EdgepruneError(
                f"TensorRT did not build {path.name} for {capability} in {ENGINE_TIMEOUT_SECONDS:.0f} s.",
                "Try again on a machine that does nothing else.",
            ) from error
    lines = done.stdout.splitlines()
    answer: dict[str, Any] = json.loads(lines[-1]) if lines and lines[-1].startswith("{") else {}
    if answer.get("ok") and "activation_bytes" in answer:
        return answer
    said = str(answer.get("error") or done.stderr.strip()[-500:] or f"exit {done.returncode}")
    if said.startswith("ImportError"):
        raise MissingExtraError("TensorRT for RTX is not installed.", "pip install 'edgeprune[rtx]'")
    if said.startswith("node "):
        raise InputError(f"TensorRT refuses {path.name} for {capability}: {said[:600]}", ELSEWHERE)
    raise EdgepruneError(f"TensorRT does not build {path.name} for {capability}: {said[:600]}", ELSEWHERE)

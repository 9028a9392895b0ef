"""The runtimes that serve an artefact: one row each, imported only when one is used.

A row holds every fact about its runtime: the file that runs on the device (`ort.py`, `ov.py`, `trt.py`:
standard library, numpy and the runtime, nothing of edgeprune), what it loads, how it is installed and how
fast it is expected to be. To add one: write the session file with a `Runner` like its neighbours, add the row
here, its copy in `devices.agent.SESSIONS` (the agent imports nothing of edgeprune) and the extra in
pyproject.toml. `tests/runtimes/` then compares the copies and tests the session by itself.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from edgeprune.errors import InputError, MissingExtraError
from edgeprune.runtimes.attained import ON_JETSON, Attained, on_processor


@dataclass(frozen=True)
class Runtime:
    """A runtime: how it is installed, what it loads, and what it needs on the device and on the host.

    says: one sentence, for the documentation.
    file: the session file beside this one that runs on the device; beside: other files that it needs there.
    dialects: INT8 dialects that it has kernels for, of `quantize.dialects`. device: its device string where a
        target names none.
    suffix: of the artefact that edgeprune writes for it; companions: suffixes of the files that the artefact
        cannot be loaded without.
    accepts: suffixes it can load.
    imports: the module whose import proves that it is installed.
    extra: of edgeprune, that installs it; elsewhere: where it comes from when pip has none.
    builds_engine: the device builds an engine of the artefact as it first loads it, for a batch and within a
        memory; engine_program: the vendor's own program that does the same.
    exact: its INT8 arithmetic can be made exact on any host.
    host: runtimes that the host needs instead of this one, when the device builds its own engine: where the
        export is proven equal, and where the build is proven without a GPU.
    remark: what `edgeprune doctor` adds where a model ran: whether INT8 products are exact, or the devices.
    attained: shares of a machine's peak rates; None where latency can be measured, not predicted.
    call: lines of Python that make `run`, from inputs by name to outputs, of {artefact} with {threads}
        threads and the settings that it is measured with; empty where that takes more than a few.
    """

    name: str
    says: str
    file: str
    suffix: str
    accepts: tuple[str, ...]
    imports: str
    extra: str
    dialects: tuple[str, ...]
    device: str = "CPU"
    elsewhere: str = ""
    beside: tuple[str, ...] = ()
    companions: tuple[str, ...] = ()
    builds_engine: bool = False
    engine_program: str = ""
    exact: bool = False
    host: tuple[str, ...] = ()
    remark: Literal["", "int8", "devices"] = ""
    attained: Attained | None = None
    call: str = ""

    @property
    def path(self) -> Path:
        return Path(__file__).parent / self.file

    @property
    def pip(self) -> str:
        """Command that installs the runtime."""
        return f"pip install 'edgeprune[{self.extra}]'"

    @property
    def repair(self) -> str:
        """Command that installs the runtime, and where else the runtime may come from."""
        return f"{self.pip} ({self.elsewhere})" if self.elsewhere else self.pip


_ORT_CALL = """\
import os
os.environ["ORT_DISABLE_TELEMETRY"] = "1"  # before it is imported
import onnxruntime
options = onnxruntime.SessionOptions()
options.intra_op_num_threads = {threads}
options.add_session_config_entry("session.intra_op.allow_spinning", "0")  # or it burns a core after a query
options.add_session_config_entry("optimization.disable_specified_optimizers", "WeightBiasQuantization")
session = onnxruntime.InferenceSession("{artefact}", options, providers=["CPUExecutionProvider"])
run = lambda feeds: session.run(None, feeds)
"""
_OPENVINO_CALL = """\
import openvino
settings = {{"PERFORMANCE_HINT": "LATENCY", "INFERENCE_PRECISION_HINT": "f32", "NUM_STREAMS": 1}}
settings |= {{"INFERENCE_NUM_THREADS": {threads}, "ENABLE_CPU_PINNING": False}}
model = openvino.Core().compile_model("{artefact}", "CPU", settings)
run = lambda feeds: list(model(feeds).values())
"""
AUTO = "auto"  # the dialect of a target: its runtime's own for the profile's architecture
_TENSORRT = ("gpu.py", "trt_build.py", "trt_layers.py")
_ROWS = (
    Runtime(
        name="onnxruntime",
        says="Serves ONNX files on processors; made exact, it computes what outputs are compared with.",
        file="ort.py",
        suffix=".onnx",
        accepts=(".onnx",),
        imports="onnxruntime",
        extra="ort",
        dialects=("onnxruntime-x86", "onnxruntime-arm"),
        exact=True,
        remark="int8",
        call=_ORT_CALL,
        attained=on_processor(
            *(0.7, 6000, 5),
            weights=1.6,
            activations=5,
            fixed_mib=14,
            runtime_mib=49,
            latency_off=(0.50, 1.72),
            memory_off=(0.64, 1.33),
        ),
    ),
    Runtime(
        name="openvino",
        says="Serves OpenVINO IR on processors, and on Intel's GPUs and NPUs.",
        file="ov.py",
        suffix=".xml",
        accepts=(".onnx", ".xml"),
        imports="openvino",
        extra="openvino",
        dialects=("openvino",),
        call=_OPENVINO_CALL,
        companions=(".bin",),
        remark="devices",
        attained=on_processor(
            *(0.75, 6000, 3),
            weights=2,
            activations=3,
            fixed_mib=53,
            runtime_mib=51,
            latency_off=(0.60, 1.22),
            memory_off=(0.72, 1.15),
        ),
    ),
    Runtime(
        name="tensorrt",
        says="Builds an engine of the ONNX file on an NVIDIA GPU, such as a Jetson's, and serves it there.",
        file="trt.py",
        suffix=".onnx",
        accepts=(".onnx", ".plan"),
        imports="tensorrt",
        extra="tensorrt",
        dialects=("tensorrt",),
        device="GPU",
        elsewhere="on a Jetson: it comes with JetPack",
        beside=_TENSORRT,
        builds_engine=True,
        engine_program="trtexec",
        host=("onnxruntime", "tensorrt-rtx"),
        attained=ON_JETSON,
    ),
    Runtime(
        name="tensorrt-rtx",
        says="Builds and serves an engine on an RTX card; on a host without one, builds it for a named GPU.",
        file="trt.py",
        suffix=".onnx",
        accepts=(".onnx", ".plan"),
        imports="tensorrt_rtx_bindings",
        extra="rtx",
        dialects=("tensorrt",),
        device="GPU",
        beside=_TENSORRT,
        builds_engine=True,
        engine_program="tensorrt_rtx",
        host=("onnxruntime", "tensorrt-rtx"),
        attained=ON_JETSON,
    ),
)
TABLE: Mapping[str, Runtime] = {row.name: row for row in _ROWS}


def find(name: str) -> Runtime:
    """The row of `name`. Raises `InputError` when there is none."""
    if name not in TABLE:
        raise InputError(f"There is no runtime {name!r}.", f"Choose one of: {', '.join(TABLE)}.")
    return TABLE[name]


def exact_runtime() -> Runtime:
    """The runtime whose INT8 arithmetic can be made exact on any host."""
    return next(row for row in TABLE.values() if row.exact)


def version(name: str) -> str | None:
    """The version of a runtime in this interpreter, found by importing it; None when it does not import."""
    try:
        module = importlib.import_module(find(name).imports)
    except ImportError:
        return None
    return str(getattr(module, "__version__", "unknown")).split("-")[0]  # OpenVINO appends its build


def require(name: str) -> str:
    """The version of a runtime that must be here. Raises `MissingExtraError` with the pip line."""
    found = version(name)
    if found is None:
        raise MissingExtraError(f"{name} is not installed in this Python.", f"Run: {find(name).pip}")
    return found


def require_host(name: str) -> None:
    """Raise `MissingExtraError` when this Python lacks what fitting for a runtime needs."""
    for needed in find(name).host or (name,):
        require(needed)


__all__ = [
    "AUTO",
    "TABLE",
    "Attained",
    "Runtime",
    "exact_runtime",
    "find",
    "require",
    "require_host",
    "version",
]

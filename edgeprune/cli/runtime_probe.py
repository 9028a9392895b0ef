"""Probe of one library in a process of its own: `python -m edgeprune.cli.runtime_probe NAME`.

A broken native library may crash or hang the interpreter that imports it, and `edgeprune doctor` must not
die with its patient. Prints one JSON object: state, version, detail. Needs NumPy and the library that is
looked at; the test models are written byte by byte, because a machine that only serves has no `onnx`.
"""

from __future__ import annotations

import importlib
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from edgeprune.cli.extras import HUB, REPORT
from edgeprune.devices.agent import load_module
from edgeprune.runtimes import Runtime, find, version

if TYPE_CHECKING:
    from numpy.typing import NDArray

ONNX_FLOAT, ONNX_UINT8, ONNX_INT8, ONNX_INT32 = 1, 2, 3, 6  # TensorProto.DataType
PRODUCT_DEPTH, PRODUCT_WIDTH = 64, 16
EXACT = PRODUCT_DEPTH * 255 * 127  # of the INT8 product

FIT = "fit"  # name of the probe of what `edgeprune fit` needs on a workstation
HOST_LIBRARIES = (  # module, package
    ("torch", "torch"),
    ("torchao", "torchao"),
    ("onnx", "onnx"),
    ("onnxscript", "onnxscript"),
    ("scipy", "scipy"),
    ("neural_compressor.torch", "neural-compressor-pt"),
)
DRAWING_LIBRARIES = (("matplotlib", "matplotlib"), ("jinja2", "jinja2"))
HUB_LIBRARIES = (
    ("transformers", "transformers"),
    ("datasets", "datasets"),
    ("tokenizers", "tokenizers"),
    ("sklearn", "scikit-learn"),
    ("PIL", "pillow"),
)

PROBED = {FIT: HOST_LIBRARIES, HUB: HUB_LIBRARIES, REPORT: DRAWING_LIBRARIES}

State = Literal["works", "imports", "missing", "fails"]
Value = tuple[str, int, tuple[int, ...]]  # name, element type, shape


@dataclass(frozen=True)
class Finding:
    """Finding of a probe: a model ran (`works`), it was imported (`imports`), or neither."""

    state: State
    version: str | None
    detail: str


def probe_runtime(name: str) -> Finding:
    """Run a small model in a runtime's session file; where that builds engines for a GPU, import it only."""
    row = find(name)
    importlib.import_module(row.imports)  # what it raises is the finding; `version` would hide it
    release = version(name)
    if row.builds_engine:
        return Finding("imports", release, "imports; needs a GPU to run")
    session = load_module(row.file)
    x = np.array([[-1, 0, 1, 2]], np.float32)
    y = _run(session, onnx_model("Relu", (("x", ONNX_FLOAT, (1, 4)),), ("y", ONNX_FLOAT, (1, 4))), x=x)
    if not np.array_equal(y, np.maximum(x, 0)):
        return Finding("fails", release, f"Relu of {x} came out as {y}")
    return Finding("works", release, "; ".join(("runs", *_remarks(row, session))))


def _run(session: Any, model: bytes, **feeds: NDArray[Any]) -> NDArray[Any]:
    """The first output of a model in one thread."""
    with TemporaryDirectory() as folder:
        path = Path(folder) / "probe.onnx"
        path.write_bytes(model)
        return np.array(session.Runner(str(path), 1).run(feeds)[0])


def _remarks(row: Runtime, session: Any) -> tuple[str, ...]:
    if row.remark == "devices":
        return (f"devices: {', '.join(session.devices())}",)
    if row.remark == "int8":
        return (int8_verdict(_largest_product(session)),)
    return ()


def _largest_product(session: Any) -> int:
    """INT8 product of the largest factors, whose partial sums overflow 16 bits."""
    factors = (("a", ONNX_UINT8, (1, PRODUCT_DEPTH)), ("b", ONNX_INT8, (PRODUCT_DEPTH, PRODUCT_WIDTH)))
    product = _run(
        session,
        onnx_model("MatMulInteger", factors, ("y", ONNX_INT32, (1, PRODUCT_WIDTH))),
        a=np.full((1, PRODUCT_DEPTH), 255, np.uint8),
        b=np.full((PRODUCT_DEPTH, PRODUCT_WIDTH), 127, np.int8),
    )
    return int(product.min())


def probe_libraries(libraries: Sequence[tuple[str, str]]) -> Finding:
    """Import libraries (module, package), each after those that it needs; the version is the first one's."""
    for module, _ in libraries:
        importlib.import_module(module)
    versions = {package: metadata.version(package) for _, package in libraries}
    told = ", ".join(f"{name} {of}" for name, of in versions.items())
    return Finding("works", next(iter(versions.values())), told)


def look(name: str) -> Finding:
    """Finding about a runtime, or about libraries of the host; whatever they raise is part of it."""
    try:
        return probe_libraries(PROBED[name]) if name in PROBED else probe_runtime(name)
    except ModuleNotFoundError as error:
        return Finding("missing", None, f"{error.name} is not installed")
    except Exception as error:  # the patient's, not ours
        return Finding("fails", None, f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0]}")


def int8_verdict(product: int) -> str:
    """Verdict on INT8 on this processor, from the product of the largest 8-bit factors."""
    if product == EXACT:
        return "INT8 products are exact"
    return f"INT8 products saturate ({product} instead of {EXACT}): measure accuracy in this runtime"


def onnx_model(op: str, inputs: Sequence[Value], output: Value) -> bytes:
    """ONNX file of one operator (IR 8, opset 13); field numbers as in onnx.proto3."""
    node = b"".join(_field(1, name) for name, _, _ in inputs) + _field(2, output[0]) + _field(4, op)
    graph = _field(1, node) + _field(2, "probe")
    graph += b"".join(_field(11, _value(each)) for each in inputs) + _field(12, _value(output))
    return _field(1, 8) + _field(7, graph) + _field(8, _field(2, 13))


def _value(value: Value) -> bytes:
    name, element, shape = value
    dims = b"".join(_field(1, _field(1, size)) for size in shape)
    return _field(1, name) + _field(2, _field(1, _field(1, element) + _field(2, dims)))


def _field(number: int, value: int | str | bytes) -> bytes:
    """One protobuf field: a varint for an integer, length-delimited for the rest."""
    if isinstance(value, int):
        return _varint(number << 3) + _varint(value)
    content = value.encode() if isinstance(value, str) else value
    return _varint(number << 3 | 2) + _varint(len(content)) + content


def _varint(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*out, value])


if __name__ == "__main__":
    # Libraries print on import; the parent reads the last line only.
    print(json.dumps(asdict(look(sys.argv[1]))), flush=True)

"""One look at one library, in a process of its own: `python -m edgeprune.cli.runtime_probe NAME`.

A broken native library may crash or hang the interpreter that imports it, and `edgeprune doctor` must not
die with its patient. Prints one JSON object: state, version, detail. Needs NumPy and the library that is
looked at; the test models are written byte by byte, because a machine that only serves has no `onnx`.
"""

from __future__ import annotations

import importlib
import json
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib import metadata
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from numpy.typing import NDArray

FLOAT, UINT8, INT8, INT32 = 1, 2, 3, 6  # TensorProto.DataType
DEPTH, WIDTH = 64, 16  # of the INT8 product
EXACT = DEPTH * 255 * 127  # what it must come to

FIT = (  # module, package
    ("torch", "torch"),
    ("torchao", "torchao"),
    ("onnx", "onnx"),
    ("onnxscript", "onnxscript"),
    ("scipy", "scipy"),
    ("neural_compressor.torch", "neural-compressor-pt"),
)

State = Literal["works", "imports", "missing", "fails"]
Value = tuple[str, int, tuple[int, ...]]  # name, element type, shape


@dataclass(frozen=True)
class Finding:
    """`works`: a model ran. `imports`: no more than that could be tried. `missing`: it is not installed."""

    state: State
    version: str | None
    detail: str


def probe_onnxruntime() -> Finding:
    """Run a float model, then an INT8 product whose partial sums overflow 16 bits."""
    import numpy as np
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1

    def run(model: bytes, **feeds: NDArray[Any]) -> NDArray[Any]:
        session = ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])
        return np.asarray(session.run(None, feeds)[0])

    x = np.array([[-1, 0, 1, 2]], np.float32)
    y = run(onnx_model("Relu", (("x", FLOAT, (1, 4)),), ("y", FLOAT, (1, 4))), x=x)
    if not np.array_equal(y, np.maximum(x, 0)):
        return Finding("fails", ort.__version__, f"Relu of {x} came out as {y}")
    factors = (("a", UINT8, (1, DEPTH)), ("b", INT8, (DEPTH, WIDTH)))
    product = run(
        onnx_model("MatMulInteger", factors, ("y", INT32, (1, WIDTH))),
        a=np.full((1, DEPTH), 255, np.uint8),
        b=np.full((DEPTH, WIDTH), 127, np.int8),
    )
    return Finding("works", ort.__version__, f"runs; {int8_verdict(int(product.min()))}")


def probe_openvino() -> Finding:
    """Run a float model on the CPU, and name the devices that OpenVINO sees."""
    import numpy as np
    import openvino as ov

    version = str(ov.__version__).partition("-")[0]
    x = np.array([[-1, 0, 1, 2]], np.float32)
    core = ov.Core()
    model = core.read_model(onnx_model("Relu", (("x", FLOAT, (1, 4)),), ("y", FLOAT, (1, 4))))
    y = np.asarray(core.compile_model(model, "CPU", {"INFERENCE_NUM_THREADS": 1})([x])[0])
    if not np.array_equal(y, np.maximum(x, 0)):
        return Finding("fails", version, f"Relu of {x} came out as {y}")
    return Finding("works", version, f"runs; devices: {', '.join(core.available_devices)}")


def probe_tensorrt() -> Finding:
    return _imports_only("tensorrt")


def probe_tensorrt_rtx() -> Finding:
    return _imports_only("tensorrt_rtx_bindings")


def probe_fit() -> Finding:
    """Import what `edgeprune fit` needs on a workstation, in the order in which one needs the other."""
    for module, _ in FIT:
        importlib.import_module(module)
    versions = {package: metadata.version(package) for _, package in FIT}
    return Finding("works", versions["torch"], ", ".join(f"{name} {of}" for name, of in versions.items()))


PROBES: Mapping[str, Callable[[], Finding]] = MappingProxyType(
    {
        "onnxruntime": probe_onnxruntime,
        "openvino": probe_openvino,
        "tensorrt": probe_tensorrt,
        "tensorrt-rtx": probe_tensorrt_rtx,
        "fit": probe_fit,
    }
)


def look(name: str) -> Finding:
    """The finding of one probe; whatever the library raises is part of it."""
    try:
        return PROBES[name]()
    except ModuleNotFoundError as error:
        return Finding("missing", None, f"{error.name} is not installed")
    except Exception as error:  # the patient's, not ours
        return Finding("fails", None, f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0]}")


def int8_verdict(product: int) -> str:
    """What the product of the largest 8-bit factors says about INT8 on this processor."""
    if product == EXACT:
        return "INT8 products are exact"
    return f"INT8 products saturate ({product} instead of {EXACT}): measure accuracy in this runtime"


def onnx_model(op: str, inputs: Sequence[Value], output: Value) -> bytes:
    """A model of one operator as an ONNX file (IR 8, opset 13); field numbers as in onnx.proto3."""
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


def _imports_only(module: str) -> Finding:
    version = str(getattr(importlib.import_module(module), "__version__", "unknown"))
    return Finding("imports", version, "imports; needs a GPU to run")


if __name__ == "__main__":
    # Libraries print on import; the parent reads the last line only.
    print(json.dumps(asdict(look(sys.argv[1]))), flush=True)

"""INT8 dialects of runtimes: the places and types of Q/DQ pairs that become integer kernels.

A runtime fuses only patterns that it recognises: ONNX Runtime turns DequantizeLinear -> op -> QuantizeLinear
into one integer kernel and runs everything else in float, between two conversions. So the ranges come from
calibration, and the placement of Q/DQ pairs comes from the dialect. A new runtime is one row here.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

from edgeprune.errors import InputError
from edgeprune.records.machine import Target
from edgeprune.runtimes import AUTO, find

IntegerType = Literal["uint8", "int8"]
X86 = ("x86_64", "amd64", "i686", "i386")
ARM = ("aarch64", "arm64", "arm")


@dataclass(frozen=True)
class Dialect:
    """Types and places of quantisation that one runtime turns into integer kernels.

    layers: operators with weights that have an integer kernel.
    integer_output: the layers whose integer kernel must also write integers; the kernels of other layers may
        write float, which keeps the precision of logits.
    float_output: True when the kernels in `integer_output` may write float; they then do so where no layer
        reads their output.
    joins: operators over several activations that run on integers when their inputs are integers.
    reductions: operators over one activation that run on integers and write another range.
    followers: operators that only move or select values; output and input have one scale.
    integer_followers: followers that are placed on the integers themselves, because the runtime would run
        them in float between DequantizeLinear and QuantizeLinear.
    fused: activation functions that the runtime fuses into the kernel in front of them.
    architectures: of the machines that it is for, as `uname -m` prints them; empty for all.
    dynamic: True when products with ranges from each query have a kernel (`dynamic.py`).
    half: True when everything outside Q/DQ is written in float16: the runtime takes all types from the file.
    blocks: True when products with weights in blocks have a kernel (`weight_only.py`).
    convolutions: True when integer products may be quicker as 1x1 convolutions (`graph.pointwise`), which a
        measurement then decides.
    """

    name: str
    activation: IntegerType
    symmetric: bool  # activations: zero point 0 for every tensor
    per_channel: bool  # one weight scale per output channel
    quantised_bias: bool  # INT32, scale = activation scale * weight scale
    layers: frozenset[str]
    integer_output: frozenset[str]
    joins: frozenset[str]
    reductions: frozenset[str]
    followers: frozenset[str]
    integer_followers: frozenset[str]
    fused: frozenset[str]
    architectures: tuple[str, ...] = ()
    dynamic: bool = False
    half: bool = False
    blocks: bool = False
    convolutions: bool = False
    float_output: bool = False


def _onnxruntime(
    name: str, activation: IntegerType, architectures: tuple[str, ...] = (), *, dynamic: bool = False
) -> Dialect:
    return Dialect(
        name=name,
        architectures=architectures,
        activation=activation,
        symmetric=False,
        per_channel=True,
        quantised_bias=True,
        layers=frozenset({"Conv", "Gemm", "MatMul"}),
        integer_output=frozenset({"Conv"}),
        joins=frozenset({"Add", "Mul", "Concat"}),
        reductions=frozenset({"AveragePool", "GlobalAveragePool", "Sigmoid", "LeakyRelu"}),
        followers=frozenset(
            {"Flatten", "MaxPool", "Pad", "Reshape", "Resize", "Slice", "Split", "Squeeze", "Transpose"}
            | {"Unsqueeze"}
        ),
        integer_followers=frozenset({"Pad"}),
        fused=frozenset({"Relu", "Clip"}),
        dynamic=dynamic,
        blocks=True,
    )


_TENSORRT = Dialect(
    name="tensorrt",
    activation="int8",
    symmetric=True,
    per_channel=True,
    # TensorRT's parser refuses INT32 behind a DequantizeLinear, and zero points other than 0.
    quantised_bias=False,
    layers=frozenset({"Conv", "Gemm", "MatMul"}),
    integer_output=frozenset({"Conv"}),
    joins=frozenset({"Add", "Concat"}),
    reductions=frozenset({"AveragePool", "GlobalAveragePool"}),
    followers=frozenset(
        {"Flatten", "MaxPool", "Reshape", "Slice", "Split", "Squeeze", "Transpose", "Unsqueeze"}
    ),
    # A constant of integers may stand before a DequantizeLinear only, so nothing is padded on integers.
    integer_followers=frozenset(),
    fused=frozenset({"Relu", "Clip"}),
    half=True,
)

# x86 kernels multiply unsigned activations with signed weights (VPMADDUBSW, VPDPBUSD); ARM kernels
# multiply signed with signed (SMLAL, SDOT). The other combination costs a conversion or runs in C++.
TABLE: dict[str, Dialect] = {
    "onnxruntime-x86": _onnxruntime("onnxruntime-x86", "uint8", X86, dynamic=True),
    "onnxruntime-arm": _onnxruntime("onnxruntime-arm", "int8", ARM, dynamic=True),
    # OpenVINO's CPU plug-in runs the same Q/DQ graph on integers. Integers through a Concat gain nothing
    # (docs/int8.md), and crash the plug-in in a DenseNet (2026.4).
    "openvino": replace(
        _onnxruntime("openvino", "uint8"),
        joins=frozenset({"Add", "Mul"}),
        convolutions=True,
        float_output=True,
    ),
    "tensorrt": _TENSORRT,
}


def dialect_for(name: str, architecture: str, runtime: str = "onnxruntime") -> Dialect:
    """Dialect called `name`; "auto" is the runtime's own for `architecture` (as `uname -m` prints it).

    Raises `InputError` naming the known dialects or architectures.
    """
    if name == AUTO:
        own = [TABLE[each] for each in find(runtime).dialects]
        found = next((each for each in own if _suits(each, architecture)), None)
        if found is None:
            raise InputError(
                f'No INT8 dialect of {runtime} is known for architecture "{architecture}".',
                f"Name one in the target file: {', '.join(TABLE)}.",
            )
        return found
    if name not in TABLE:
        raise InputError(f'There is no INT8 dialect "{name}".', f"Use {AUTO} or one of: {', '.join(TABLE)}.")
    return TABLE[name]


def check_dialect(target: Target, architecture: str) -> None:
    """Raise `InputError` for a target in whose INT8 dialect its runtime, or the machine, has no kernels."""
    dialect, row = dialect_for(target.dialect, architecture, target.runtime), find(target.runtime)
    if dialect.name not in row.dialects:
        raise InputError(
            f"Target {target.name} writes INT8 for {row.name} in the dialect {dialect.name}, which it has no "
            "kernels for.",
            f"Write dialect = {AUTO!r} in the target file, or one of: {', '.join(row.dialects)}.",
        )
    if not _suits(dialect, architecture):
        raise InputError(
            f"Target {target.name} writes INT8 in the dialect {dialect.name}, and the profile's machine is "
            f"{architecture}.",
            "Choose a target and a profile of one machine: `edgeprune targets` and `edgeprune profiles` list "
            "them.",
        )


def _suits(dialect: Dialect, architecture: str) -> bool:
    machine = architecture.lower()
    return (
        not dialect.architectures
        or machine in dialect.architectures
        or (machine.startswith("arm") and dialect.architectures == ARM)
    )

"""What ONNX Runtime really makes of a Q/DQ file: a graph that is not fused is slower than float."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import onnx
import onnxruntime

from edgeprune.errors import EdgepruneError
from edgeprune.files import scratch
from edgeprune.graph import onnxfile

_INTEGER = ("QLinear", "QGemm", "MatMulInteger", "ConvInteger", "DynamicQuantizeMatMul", "MatMulNBits")
_CONVERSIONS = ("QuantizeLinear", "DequantizeLinear", "DynamicQuantizeLinear")
_MOVING = frozenset(
    {"Concat", "Expand", "Flatten", "Gather", "Identity", "MaxPool", "NhwcMaxPool", "Pad", "Reshape", "Shape"}
    | {"Resize", "Slice", "Split", "Squeeze", "Transpose", "Unsqueeze"}
)


@dataclass(frozen=True)
class Kernels:
    """Nodes of the graph that ONNX Runtime runs, counted by operator."""

    integer: Mapping[str, int]  # QLinearConv, QLinearAdd, QGemm, ...
    floating: Mapping[str, int]  # kernels that compute in float
    conversions: Mapping[str, int]  # QuantizeLinear and DequantizeLinear that were not fused
    moving: Mapping[str, int]  # MaxPool, Reshape, ...: they run on whatever type arrives


def integer_nodes(path: Path) -> Kernels:
    """Load `path` in ONNX Runtime on this machine and count the kernels of the optimised graph.

    Signed activations are fused only on ARM by default; a file that has them is counted as fused there.
    Raises `EdgepruneError` when the runtime does not load the file.
    """
    with scratch() as folder:
        optimised = folder / "optimised.onnx"
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        options.intra_op_num_threads = 1
        options.optimized_model_filepath = str(optimised)
        options.add_session_config_entry(
            "optimization.disable_specified_optimizers", "WeightBiasQuantization"
        )
        if _has_signed_activations(onnxfile.load(path)):
            options.add_session_config_entry("session.qdqisint8allowed", "1")
        try:
            onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        except Exception as error:  # onnxruntime's errors share no base but Exception
            raise EdgepruneError(
                f"ONNX Runtime does not load {path}: {error}", "Quantise again; the file may be damaged."
            ) from error
        nodes = Counter(node.op_type for node in onnx.load(str(optimised)).graph.node)
    kinds: dict[str, dict[str, int]] = {"integer": {}, "floating": {}, "conversions": {}, "moving": {}}
    for operator, count in sorted(nodes.items()):
        kinds[_kind(operator)][operator] = count
    return Kernels(**kinds)


def _has_signed_activations(model: onnx.ModelProto) -> bool:
    signed = {t.name for t in model.graph.initializer if t.data_type == onnx.TensorProto.INT8}
    return any(
        node.op_type == "QuantizeLinear" and len(node.input) > 2 and node.input[2] in signed
        for node in model.graph.node
    )


def _kind(operator: str) -> str:
    if operator.startswith(_INTEGER):
        return "integer"
    if operator in _CONVERSIONS:
        return "conversions"
    return "moving" if operator in _MOVING else "floating"

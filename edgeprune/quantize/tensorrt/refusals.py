"""Check of an ONNX file for nodes and types that TensorRT refuses, before a build.

TensorRT itself reports them late: on the device, after minutes, at times by a crash. The rules are those that
the parser of TensorRT for RTX 1.7 showed; tests/quantize/tensorrt/test_refusals.py compares them with the
parser.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

from edgeprune.errors import InputError
from edgeprune.graph import onnxfile

if TYPE_CHECKING:
    from onnx import ModelProto, NodeProto, TensorProto, ValueInfoProto

# Operators of ONNX 1.23 that the parser of TensorRT for RTX 1.7 has no importer for (`supports_operator`).
REFUSED = frozenset(
    {"AffineGrid", "Bernoulli", "BitCast", "BitShift", "BitwiseAnd", "BitwiseNot", "BitwiseOr"}
    | {"BitwiseXor", "CenterCropPad", "Col2Im", "Compress", "ConcatFromSequence", "ConvInteger"}
    | {"CumProd", "DFT", "DeformConv", "Det", "DynamicQuantizeLinear", "ImageDecoder", "MatMulInteger"}
    | {"MaxRoiPool", "MaxUnpool", "MelWeightMatrix", "Multinomial", "NegativeLogLikelihoodLoss"}
    | {"Optional", "OptionalGetElement", "OptionalHasElement", "QLinearConv", "QLinearMatMul"}
    | {"RegexFullMatch", "SequenceAt", "SequenceConstruct", "SequenceEmpty", "SequenceErase"}
    | {"SequenceInsert", "SequenceLength", "SequenceMap", "SoftmaxCrossEntropyLoss", "SplitToSequence"}
    | {"StringConcat", "StringNormalizer", "StringSplit", "SwiGLU", "TfIdfVectorizer", "Unique"}
    # The parser's importers of these want a plugin that is missing, or crash.
    | {"Attention", "NonZero", "RoiAlign"}
)
_NAMES = ("FLOAT", "FLOAT16", "INT8", "INT32", "INT64", "BOOL")
_PORTS = frozenset({*_NAMES, "UINT8"})  # types of inputs and outputs
_CASTS = frozenset({*_NAMES, "BFLOAT16", "DOUBLE"})  # types to cast to; UINT8 as an output only
_STORED = frozenset({*_CASTS, "UINT8"})  # types of constants
ELSEWHERE = "Serve this model with ONNX Runtime or OpenVINO, or write the operation in another way."
_FLOAT32 = "Make the model float32 (model.float()) before it is captured."
_QUANTISE = "Quantise with the dialect tensorrt."


def check_types(model: ModelProto, file: str) -> Mapping[str, str]:
    """Check a model for nodes that TensorRT refuses, and return its layers in INT8 by the weight's name.

    file: its name, for the message.
    Raises `InputError` naming the node: an operator without an importer, a type that TensorRT does not have
    at this place, zero points other than 0, integers other than INT8, a quantised bias; or naming the input:
    a type that an engine does not take, a variable size other than the batch.
    """
    stored = {tensor.name: tensor for tensor in model.graph.initializer}
    outputs = {value.name for value in model.graph.output}
    bytes_in = {value.name for value in model.graph.input if _element(value) == "UINT8"}
    for value in (*model.graph.input, *model.graph.output):
        _check_port(file, value)
    for value in model.graph.input:
        _check_shape(file, value)
    wanted = {}
    for node in _nodes(model):
        _check_operator(file, node)
        _check_constants(file, node, stored)
        _check_bytes(file, node, bytes_in, outputs)
        if node.op_type in ("QuantizeLinear", "DequantizeLinear"):
            _check_integers(file, node, stored)
            if node.op_type == "DequantizeLinear" and node.input[0] in stored:
                weight = node.name.removesuffix(".dequantize")
                wanted[weight] = weight.removesuffix(".weight")
    return wanted


def _nodes(model: ModelProto) -> Iterable[NodeProto]:
    return (node for graph in onnxfile.graphs(model.graph) for node in graph.node)


def _check_port(file: str, value: ValueInfoProto) -> None:
    kind = _element(value)
    if kind not in _PORTS:
        hint = _FLOAT32 if kind in ("DOUBLE", "BFLOAT16") else f"Take one of {', '.join(sorted(_PORTS))}."
        raise InputError(f"{file}: {value.name} is {kind}, which a TensorRT engine does not take.", hint)


def _check_shape(file: str, value: ValueInfoProto) -> None:
    """Raise `InputError` for an input with a variable size other than the batch, which no profile fixes."""
    sizes = value.type.tensor_type.shape.dim
    if any(not size.HasField("dim_value") for size in sizes[1:]):
        shown = [size.dim_value if size.HasField("dim_value") else size.dim_param or "?" for size in sizes]
        raise InputError(
            f"{file}: input {value.name} leaves more open than its batch: {shown}.",
            "Capture the model with an example of the size it is served with.",
        )


def _check_operator(file: str, node: NodeProto) -> None:
    name = _name(node)
    if node.op_type in REFUSED or node.domain not in ("", "ai.onnx"):
        raise InputError(f"{file}: node {name} is a {node.op_type}, which TensorRT has not.", ELSEWHERE)
    if node.op_type == "MaxPool" and len(node.output) > 1 and node.output[1]:
        raise InputError(
            f"{file}: node {name} asks for the indices of a MaxPool, which TensorRT has not.", ELSEWHERE
        )


def _check_constants(file: str, node: NodeProto, stored: Mapping[str, TensorProto]) -> None:
    kinds = {_kind(stored[name].data_type) for name in node.input if name in stored}
    if "DOUBLE" in kinds:
        raise InputError(f"{file}: node {_name(node)} computes in float64, which TensorRT has not.", _FLOAT32)
    strange = sorted(kinds - _STORED)
    if strange and node.op_type not in ("QuantizeLinear", "DequantizeLinear"):
        raise InputError(
            f"{file}: node {_name(node)} reads constants of type {', '.join(strange)}, "
            "which TensorRT has not.",
            "Keep such constants in int64 or float32.",
        )
    to = next((entry.i for entry in node.attribute if entry.name == "to"), None)
    if node.op_type == "Cast" and to is not None and _kind(to) not in {*_CASTS, "UINT8"}:
        raise InputError(
            f"{file}: node {_name(node)} casts to {_kind(to)}, which TensorRT has not.",
            "Cast to int64, int32, bool or float32.",
        )


def _check_bytes(file: str, node: NodeProto, inputs: set[str], outputs: set[str]) -> None:
    """Raise `InputError` for a node that computes with uint8, a type of inputs and outputs alone."""
    casts = node.op_type == "Cast"
    to_bytes = casts and any(entry.name == "to" and _kind(entry.i) == "UINT8" for entry in node.attribute)
    if (inputs & set(node.input) and not casts) or (to_bytes and node.output[0] not in outputs):
        raise InputError(
            f"{file}: node {_name(node)} computes with uint8, which TensorRT takes at an engine's edge "
            "alone.",
            "Make an input of type uint8 float first of all (x.float()), and use int32 or bool inside.",
        )


def _check_integers(file: str, node: NodeProto, stored: Mapping[str, TensorProto]) -> None:
    from onnx import numpy_helper

    kinds = {_kind(stored[name].data_type) for name in node.input if name in stored} - {"FLOAT", "FLOAT16"}
    if kinds - {"INT8"}:
        raise InputError(
            f"{file}: node {node.name} is quantised as {', '.join(sorted(kinds))}; TensorRT takes INT8 only.",
            _QUANTISE,
        )
    point = stored.get(node.input[2]) if len(node.input) > 2 else None
    if point is not None and numpy_helper.to_array(point).any():
        raise InputError(
            f"{file}: node {node.name} has a zero point other than 0, which TensorRT refuses.", _QUANTISE
        )


def _name(node: NodeProto) -> str:
    return str(node.name or node.output[0])


def _element(value: ValueInfoProto) -> str:
    return _kind(value.type.tensor_type.elem_type)


def _kind(number: int) -> str:
    from onnx import TensorProto

    return str(TensorProto.DataType.Name(number))

"""ONNX files from outside, read and checked before anything of them is run.

A file may come from anybody: weights that lie beside it are taken from its own folder alone, and what no
road leads on from (integer models, halves, sequences, random numbers) is refused by name.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import onnx
import onnx.inliner
from onnx import TensorProto, external_data_helper

from edgeprune.errors import InputError
from edgeprune.foreign import tame
from edgeprune.graph import onnxfile

MOST_FILE_BYTES = 2**31 - 1  # of one protobuf file, weights included: an artefact holds no more either
FIRST_OPSET = 7  # older operators broadcast and count axes by other rules
INPUT_TYPES = {
    TensorProto.FLOAT: "float32",
    TensorProto.INT64: "int64",
    TensorProto.INT32: "int32",
    TensorProto.INT16: "int16",
    TensorProto.INT8: "int8",
    TensorProto.UINT8: "uint8",
    TensorProto.BOOL: "bool",
}
# Operators on integers, ONNX's and the runtimes' own: ConvInteger, QLinearAdd, QAttention, MatMulNBits, ...
_INTEGER = re.compile(r"[Qq]uantiz|Integer|QLinear|NBits|Bnb4|^Q[A-Z]")
_HALVES = {
    TensorProto.FLOAT16: "float16",
    TensorProto.BFLOAT16: "bfloat16",
    TensorProto.DOUBLE: "float64",
}
_RANDOM = frozenset(
    ["RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike", "Bernoulli", "Multinomial"]
)
_CONTROL = frozenset(
    (
        *("SequenceConstruct", "SequenceEmpty", "SplitToSequence", "SequenceMap"),
        *("Optional", "OptionalGetElement"),
    )
)


def read_onnx(path: Path) -> onnx.ModelProto:
    """A float32 model of tensors, with its weights, its local functions written out.

    Raises `InputError` for a file that is damaged, too large or reads outside of its folder, and for a model
    that no road leads on from, naming the operator, the input or the weight.
    """
    model = _parsed(path)
    _load_external(model, path)
    try:
        onnx.checker.check_model(model)
        model = onnx.inliner.inline_local_functions(model) if model.functions else model
    except Exception as error:  # the checker's errors, and protobuf's above 2 GB, share no base
        raise InputError(f"{path} is no valid ONNX model: {tame(str(error))}", "Export it again.") from error
    _check_opset(model, path)
    for node in all_nodes(model):
        _check_operator(node, path)
    _check_types(model, path)
    return model


def all_nodes(model: onnx.ModelProto) -> Iterator[onnx.NodeProto]:
    """Every node of a model, those in branches and loop bodies included."""
    for graph in onnxfile.graphs(model.graph):
        yield from graph.node


def graph_inputs(model: onnx.ModelProto) -> list[onnx.ValueInfoProto]:
    """Inputs that a caller gives: old files list the weights among them."""
    weights = {tensor.name for tensor in model.graph.initializer}
    return [value for value in model.graph.input if value.name not in weights]


def _parsed(path: Path) -> onnx.ModelProto:
    if not path.is_file():
        problem = "is a folder" if path.is_dir() else "does not exist"
        raise InputError(f"{path} {problem}.", f"Give the path of an .onnx file, seen from {Path.cwd()}.")
    _check_size(path.stat().st_size, path)
    try:
        model = onnx.load(str(path), load_external_data=False)
    except Exception as error:  # protobuf's DecodeError has no stable import path
        raise InputError(
            f"{path} is not a file that onnx can read.", "Give a file that an ONNX exporter wrote."
        ) from error
    if any(isinstance(name, bytes) for name in _names(model)):
        raise InputError(f"{path} holds a name that is no text.", "Give a file that an ONNX exporter wrote.")
    if not model.graph.node and not model.graph.output:
        raise InputError(f"{path} holds no ONNX graph.", "Give a file that an ONNX exporter wrote.")
    return model


def _names(model: onnx.ModelProto) -> Iterator[object]:
    """Every name in a model; protobuf gives bytes for what is not UTF-8."""
    for graph in onnxfile.graphs(model.graph):
        yield from (each.name for each in (*graph.initializer, *graph.input, *graph.output))
        for node in graph.node:
            yield from (node.name, node.op_type, node.domain, *node.input, *node.output)
            yield from (entry.name for entry in node.attribute)


def _check_size(size: int, path: Path) -> None:
    if size > MOST_FILE_BYTES:
        raise InputError(
            f"{path} and the weights beside it are {size / 2**30:.1f} GiB.",
            "One ONNX file, and so an artefact, holds at most 2 GiB: deploy a smaller model.",
        )


def _load_external(model: onnx.ModelProto, path: Path) -> None:
    """Read the weights that lie beside the file. Raises `InputError` for those that lie anywhere else."""
    outside = [each for each in _tensors(model) if external_data_helper.uses_external_data(each)]
    total = path.stat().st_size
    for tensor in outside:
        entries = {entry.key: entry.value for entry in tensor.external_data}
        location = entries.get("location", "")
        place = Path(location)
        where = f"{path}: weight {tame(tensor.name, 80)!r} lies in {tame(location, 120)!r}"
        if not location or place.is_absolute() or ".." in place.parts or "\\" in location:
            raise InputError(
                f"{where}, which is outside of the file's folder.",
                "Put the weights beside the file: `onnx.save(model, path, save_as_external_data=True)`.",
            )
        file = path.parent / place
        if file.is_symlink() or not file.is_file():
            raise InputError(f"{where}, which is no file there.", f"Put {place.name} beside {path.name}.")
        try:
            external_data_helper.load_external_data_for_tensor(tensor, str(path.parent))
        except Exception as error:  # the helper's errors, an offset that is no number among them, differ
            raise InputError(
                f"{where}, and cannot be read there: {tame(str(error))}", "Export it again."
            ) from error
        tensor.data_location = TensorProto.DEFAULT
        del tensor.external_data[:]
        total += len(tensor.raw_data)
        _check_size(total, path)


def _tensors(model: onnx.ModelProto) -> Iterator[TensorProto]:
    """Every stored tensor of a model: weights, and those in attributes."""
    graphs = list(onnxfile.graphs(model.graph))
    for graph in graphs:
        yield from graph.initializer
    functions = [node for function in model.functions for node in function.node]
    for node in (*(node for graph in graphs for node in graph.node), *functions):
        for entry in node.attribute:
            yield from ([entry.t] if entry.HasField("t") else entry.tensors)


def _check_opset(model: onnx.ModelProto, path: Path) -> None:
    version = opset_of(model)
    newest = onnx.defs.onnx_opset_version()
    if not FIRST_OPSET <= version <= newest:
        raise InputError(
            f"{path} is of ONNX opset {version}.",
            f"Opsets {FIRST_OPSET} to {newest} are read: convert it with onnx.version_converter.",
        )


def opset_of(model: onnx.ModelProto) -> int:
    """Version of the standard operators that a model uses."""
    return max((entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx")), default=0)


def _check_operator(node: onnx.NodeProto, path: Path) -> None:
    if _INTEGER.search(node.op_type):
        raise InputError(
            f"{path} is quantised already: it has the operator {onnxfile.called(node)}.",
            "Give the float32 model that it was made of: edgeprune chooses what becomes INT8 itself.",
        )
    if node.op_type in _RANDOM:
        raise InputError(
            f"{path} draws random numbers with {onnxfile.called(node)}.",
            "What is served is a function of its inputs: export the model in evaluation mode.",
        )
    if node.op_type in _CONTROL:
        raise InputError(
            f"{path}: operator {onnxfile.called(node)} makes no tensor, and is not translated.",
            "Export that part with tensors alone.",
        )
    for entry in node.attribute:
        if entry.name in ("to", "dtype") and entry.i in _HALVES:
            _refuse_type(f"{path}: {onnxfile.called(node)}", entry.i)


def _check_types(model: onnx.ModelProto, path: Path) -> None:
    for tensor in _tensors(model):
        if tensor.data_type in _HALVES and (tensor.dims or tensor.data_type != TensorProto.DOUBLE):
            _refuse_type(f"{path}: weight {tame(tensor.name, 80)!r}", tensor.data_type)
    given = graph_inputs(model)
    if not given:
        raise InputError(f"{path} takes no inputs.", "Export a model of one tensor input or more.")
    for value in given:
        kind = value.type.WhichOneof("value")
        if kind != "tensor_type":
            raise InputError(
                f"{path}: input {value.name!r} is a {str(kind).removesuffix('_type')}, not a tensor.",
                "Export a model of tensor inputs only.",
            )
        element = value.type.tensor_type.elem_type
        if element in _HALVES:
            _refuse_type(f"{path}: input {value.name!r}", element)
        if element not in INPUT_TYPES:
            name = TensorProto.DataType.Name(element).lower()
            raise InputError(
                f"{path}: input {value.name!r} is {name}.",
                f"Inputs are {', '.join(INPUT_TYPES.values())}: export that part of the model apart.",
            )


def _refuse_type(where: str, kind: int) -> None:
    raise InputError(
        f"{where} is {_HALVES[kind]}.",
        "Export the model in float32: edgeprune chooses the precision of what is shipped itself.",
    )

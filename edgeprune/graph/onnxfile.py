"""ONNX files and their metadata: the captured node of each value, the layer of each weight.

Inputs have the placeholders' names, outputs are `output`, `output_1`, ..., the batch is `batch`.
Ranges are calibrated on the captured graph and used on the ONNX graph, so each ONNX node says in its
metadata which captured nodes its outputs are, and a node with weights says which layer it is. The
exporter's own metadata (source lines, stack traces of the user's machine) does not leave the host.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType

import onnx

from edgeprune.errors import EdgepruneError, InputError
from edgeprune.files import write
from edgeprune.foreign import tame
from edgeprune.records.lengths import LENGTH_NAME

BATCH_NAME = "batch"  # the first dimension of every input
VALUES = "edgeprune.values"  # captured node of each output, comma-separated, empty where there is none
LAYER = "edgeprune.layer"  # the parameter's module: "layer1.0.conv1"
TYPES = "edgeprune.types"  # of the file: "float16" when it computes in float16 outside Q/DQ
STANDARD_DOMAINS = ("", "ai.onnx")
WEIGHTED = ("Conv", "ConvTranspose", "Gemm", "MatMul")  # the weight is the second input
RECURRENT = ("LSTM", "GRU", "RNN")  # layers of which ONNX has no form on integers


def load(path: Path) -> onnx.ModelProto:
    """Read an ONNX file with its weights. Raises `InputError` naming the file when it cannot be read."""
    try:
        return onnx.load(str(path))
    except Exception as error:  # protobuf's DecodeError has no stable import path
        raise InputError(
            f"{path} cannot be read as ONNX: {error}", "Give a file written by export_onnx."
        ) from error


def save(model: onnx.ModelProto, path: Path) -> Path:
    """Write an ONNX file whole or not at all.

    Raises `EdgepruneError` when the model does not fit one protobuf file (2 GB), `InputError` when the
    place cannot be written.
    """
    write(path, content(model))
    return path


def content(model: onnx.ModelProto) -> bytes:
    """The bytes of a model's file. Raises `EdgepruneError` when they do not fit one protobuf file (2 GB)."""
    try:
        return bytes(model.SerializeToString())
    except Exception as error:  # protobuf's EncodeError, above 2 GB, has no stable import path
        raise EdgepruneError(
            f"The ONNX model cannot be written: {error}",
            "One ONNX file holds at most 2 GB: deploy a smaller model.",
        ) from error


def copied(model: onnx.ModelProto) -> onnx.ModelProto:
    """A copy for a step that rewrites in place, where the model itself is needed again."""
    other = onnx.ModelProto()
    other.CopyFrom(model)
    return other


def mark_half(model: onnx.ModelProto) -> None:
    """Mark a model as one that computes in float16, for sessions and checks on the host."""
    onnx.helper.set_model_props(model, {TYPES: "float16"})


def metadata(node: onnx.NodeProto, key: str) -> str | None:
    """One entry of a node's metadata, None when it has no such entry."""
    return next((entry.value for entry in node.metadata_props if entry.key == key), None)


def keep_values(node: onnx.NodeProto, successor: onnx.NodeProto) -> None:
    """Copy the captured nodes of a node's outputs to the node that makes these outputs from now on."""
    values = metadata(node, VALUES)
    if values is not None:
        successor.metadata_props.add(key=VALUES, value=values)


def graphs(graph: onnx.GraphProto) -> Iterator[onnx.GraphProto]:
    """The graph, then every graph inside its nodes, at any depth."""
    yield graph
    for node in graph.node:
        for inner in inner_graphs(node):
            yield from graphs(inner)


def inner_graphs(node: onnx.NodeProto) -> list[onnx.GraphProto]:
    """The branches or the loop body of a node; they take the values around the node by name."""
    found: list[onnx.GraphProto] = []
    for entry in node.attribute:
        found += [entry.g] if entry.HasField("g") else entry.graphs
    return found


def operator_name(node: onnx.NodeProto) -> str:
    """Name of an operator with its domain, where that is not ONNX's own: `com.microsoft.Attention`."""
    domain = f"{node.domain}." if node.domain not in STANDARD_DOMAINS else ""
    return tame(f"{domain}{node.op_type}", 80)


def called(node: onnx.NodeProto) -> str:
    """An operator of a file, for a sentence: `Conv (node 'layer1/conv')`."""
    name = node.name or next(iter(node.output), "")
    return f"{operator_name(node)} (node {tame(name, 80)!r})"


def reads(node: onnx.NodeProto) -> list[str]:
    """The values that a node takes, those that its branches or its loop body take among them."""
    return [*node.input, *reads_inside(node)]


def reads_inside(node: onnx.NodeProto) -> list[str]:
    """The values that the branches or the loop body of a node take, their own among them."""
    inside = [graph for inner in inner_graphs(node) for graph in graphs(inner)]
    nodes = [name for graph in inside for each in graph.node for name in each.input]
    return [*nodes, *(value.name for graph in inside for value in graph.output)]


def live_nodes(
    graph: onnx.GraphProto, instead: Mapping[str, str] = MappingProxyType({})
) -> list[onnx.NodeProto]:
    """The nodes that an output depends on, in order; instead: node -> the only value that is read there."""
    needed, found = {value.name for value in graph.output}, list[onnx.NodeProto]()
    for node in reversed(graph.node):
        if needed.intersection(node.output):
            found.append(node)
            needed.update([instead[node.name]] if node.name in instead else reads(node))
    return found[::-1]


def drop_unused(model: onnx.ModelProto) -> int:
    """Remove nodes and initialisers that no output depends on."""
    graph = model.graph
    nodes = live_nodes(graph)
    needed = {value.name for value in graph.output}.union(*map(reads, nodes))
    unused = [at for at, tensor in enumerate(graph.initializer) if tensor.name not in needed]
    for at in reversed(unused):  # one by one: to write the others anew copies every weight
        del graph.initializer[at]
    removed = len(unused) + len(graph.node) - len(nodes)
    del graph.node[:]
    graph.node.extend(nodes)
    return removed


def name_ends(model: onnx.ModelProto, inputs: tuple[str, ...]) -> None:
    """Name the inputs as the placeholders, and the outputs "output", "output_1", ..."""
    if len(model.graph.input) != len(inputs):
        raise EdgepruneError(
            f"The ONNX model has {len(model.graph.input)} inputs where the model has {len(inputs)}.",
            "Remove the inputs that the model does not use.",
        )
    names = {value.name: name for value, name in zip(model.graph.input, inputs, strict=True)}
    for index, value in enumerate(model.graph.output):
        names[value.name] = f"output_{index}" if index else "output"
    ends = set(names.values())
    everywhere = list(graphs(model.graph))
    for graph in everywhere:  # another value that has such a name already makes room
        made = {name for node in graph.node for name in node.output}
        made.update(value.name for value in (*graph.input, *graph.initializer))
        names.update({name: f"{name}.inner" for name in made & ends - set(names)})
    for graph in everywhere:
        for node in graph.node:
            for slot in (node.input, node.output):
                slot[:] = [names.get(name, name) for name in slot]
        for value in (*graph.input, *graph.output, *graph.value_info, *graph.initializer):
            value.name = names.get(value.name, value.name)


def name_batch(model: onnx.ModelProto) -> None:
    """Name the batch "batch" in every shape: torch has a symbol such as `s77` for an input's dimension 0."""
    _name_symbols(model, BATCH_NAME, [(0,)] * len(model.graph.input))


def name_length(model: onnx.ModelProto, dims: Sequence[Sequence[int]]) -> None:
    """Name the length "length" in every shape. dims: of each input, those that have it."""
    _name_symbols(model, LENGTH_NAME, dims)


def _name_symbols(model: onnx.ModelProto, name: str, dims: Sequence[Sequence[int]]) -> None:
    """Name the symbols of these dimensions of each input in every shape."""
    symbols = {
        sizes[dim].dim_param
        for value, those in zip(model.graph.input, dims, strict=True)
        for dim in those
        if dim < len(sizes := value.type.tensor_type.shape.dim) and sizes[dim].dim_param
    }
    if not symbols:
        return
    pattern = re.compile(rf"\b({'|'.join(map(re.escape, symbols))})\b")
    for graph in graphs(model.graph):
        for value in (*graph.input, *graph.output, *graph.value_info):
            for size in value.type.tensor_type.shape.dim:
                if size.dim_param:
                    size.dim_param = pattern.sub(name, size.dim_param)


def captured_names(model: onnx.ModelProto) -> dict[str, str]:
    """ONNX value name -> name of the captured node that computes it. Graph inputs keep their names."""
    initialisers = {tensor.name for tensor in model.graph.initializer}
    names = {value.name: value.name for value in model.graph.input if value.name not in initialisers}
    for node in model.graph.node:
        sources = (metadata(node, VALUES) or "").split(",")
        names.update({value: source for value, source in zip(node.output, sources, strict=False) if source})
    return names


def recurrent_name(module: str, layer: int) -> str:
    """Name of one layer of a recurrent module, which can have several."""
    return f"{module}.l{layer}"


def module_of_recurrent(layer: str) -> str:
    """The module of a `recurrent_name`."""
    return layer.rpartition(".l")[0]


def layers_without_integers(model: onnx.ModelProto) -> tuple[str, ...]:
    """Names of the layers that stay float in every precision.

    Recurrent ones, each with all its gates, and operators with weights that are kept as an ONNX file has
    them.
    """
    recurrent = (node.name for node in model.graph.node if node.op_type in RECURRENT)
    others = (node for node in model.graph.node if node.op_type not in (*WEIGHTED, *RECURRENT))
    return (*recurrent, *dict.fromkeys(name for node in others if (name := metadata(node, LAYER))))


def float_matrices(model: onnx.ModelProto) -> frozenset[str]:
    """Names of the stored matrices of floating-point numbers."""
    kind = onnx.TensorProto.FLOAT
    return frozenset(
        each.name for each in model.graph.initializer if each.data_type == kind and len(each.dims) > 1
    )


def layers(model: onnx.ModelProto) -> dict[int, str]:
    """Layer names by the index of the node that reads the weight; the weight's own name when unknown."""
    initialisers = {tensor.name for tensor in model.graph.initializer}
    return {
        index: metadata(node, LAYER) or node.input[1].removesuffix(".weight")
        for index, node in enumerate(model.graph.node)
        if node.op_type in WEIGHTED and len(node.input) > 1 and node.input[1] in initialisers
    }

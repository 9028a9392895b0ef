"""Operators of ONNX files that have no form in torch, as one torch operation that ONNX Runtime computes.

The call carries the operator as text, so a captured graph is complete in itself, and the export writes the
operator as its file has it. Nothing is known of it but its sizes: pruning leaves whole what it touches, and
it has no gradient.
"""

from __future__ import annotations

import base64
import functools
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import onnx
import onnxruntime
import onnxscript
import torch
from onnx import defs
from torch.fx import GraphModule, Node

from edgeprune.errors import InputError
from edgeprune.graph import onnxfile
from edgeprune.graph.blocks import Blocks
from edgeprune.graph.rules import rule
from edgeprune.graph.walk import Walk

DOMAIN, PLACEHOLDER = "edgeprune", "KeptOperator"  # what stands for an operator while torch exports the graph
_MOST_OPEN = 64  # sessions at a time


@dataclass(frozen=True)
class LinearSizes:
    """A list of integers, each `times * batch + plus`."""

    times: tuple[int, ...]
    plus: tuple[int, ...]

    def at(self, batch: Any) -> list[Any]:
        """The integers for a batch, which may be one of torch's symbols."""
        return [t * batch + p if t else p for t, p in zip(self.times, self.plus, strict=True)]


@dataclass(frozen=True)
class KeptOperator:
    """An operator with what is known of it.

    model: of this one node; its inputs are the values that it reads, each once, those that its branches take
    among them. sizes, dtypes: of its outputs that have a name.
    """

    model: onnx.ModelProto
    sizes: tuple[LinearSizes, ...]
    dtypes: tuple[torch.dtype, ...]

    @property
    def node(self) -> onnx.NodeProto:
        return self.model.graph.node[0]

    @property
    def inputs(self) -> tuple[str, ...]:
        return tuple(value.name for value in self.model.graph.input)

    def text(self) -> str:
        """The operator as an argument of `kept_operator`."""
        return json.dumps(
            {
                "model": base64.b64encode(onnxfile.content(self.model)).decode("ascii"),
                "sizes": [[each.times, each.plus] for each in self.sizes],
                "dtypes": [str(dtype).removeprefix("torch.") for dtype in self.dtypes],
            }
        )


@functools.lru_cache(maxsize=_MOST_OPEN)
def read_kept(text: str) -> KeptOperator:
    """The operator of a text that `KeptOperator.text` wrote."""
    stored = json.loads(text)
    return KeptOperator(
        onnx.ModelProto.FromString(base64.b64decode(stored["model"])),
        tuple(LinearSizes(tuple(times), tuple(plus)) for times, plus in stored["sizes"]),
        tuple(getattr(torch, name) for name in stored["dtypes"]),
    )


@torch.library.custom_op("edgeprune::kept_operator", mutates_args=())
def kept_operator(inputs: Sequence[torch.Tensor], batch: int, operator: str) -> list[torch.Tensor]:
    """Outputs of an operator of an ONNX file, computed by ONNX Runtime on the CPU.

    inputs: by `KeptOperator.inputs`. batch: rows of a query. operator: `KeptOperator.text`.
    Raises `InputError` where an output has other sizes than the file's data said.
    """
    kept = read_kept(operator)
    feeds = {name: each.numpy(force=True) for name, each in zip(kept.inputs, inputs, strict=True)}
    found = [torch.from_numpy(array) for array in _session(operator).run(None, feeds)]
    for tensor, sizes in zip(found, kept.sizes, strict=True):
        if list(tensor.shape) != sizes.at(batch):
            raise InputError(
                f"Operator {onnxfile.called(kept.node)} gives {list(tensor.shape)} for {batch} rows, where "
                f"{sizes.at(batch)} was expected from the first rows of the data.",
                "Its sizes depend on values: export that part with fixed sizes.",
            )
    return [tensor.to(inputs[0].device) for tensor in found]


@kept_operator.register_fake
def _(inputs: Sequence[torch.Tensor], batch: int, operator: str) -> list[torch.Tensor]:
    kept = read_kept(operator)
    return [
        torch.empty(sizes.at(batch), dtype=dtype, device=inputs[0].device)
        for sizes, dtype in zip(kept.sizes, kept.dtypes, strict=True)
    ]


def _no_gradient(ctx: Any, *_: Any) -> Any:
    raise InputError(
        f"Operator {onnxfile.called(read_kept(ctx.operator).node)} is kept as its file has it, and has no "
        "gradient.",
        "Take a criterion and a recovery that need none: --criterion obs, --recover reconstruct.",
    )


def _remember(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
    ctx.operator = inputs[2]


kept_operator.register_autograd(_no_gradient, setup_context=_remember)


@functools.lru_cache(maxsize=_MOST_OPEN)
def _session(operator: str) -> Any:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.log_severity_level = 4
    content = onnxfile.content(read_kept(operator).model)
    return onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])


@rule("edgeprune.kept_operator")
def _whole(walk: Walk, node: Node) -> list[Blocks]:
    """What is computed elsewhere is taken whole, and what it gives is whole."""
    kept = read_kept(str(node.args[2]))
    for value in node.all_input_nodes:
        reason = "is kept as the ONNX file has it"
        walk.freeze(node, onnxfile.operator_name(kept.node), reason, walk.all_blocks(value))
    return [() for _ in kept.sizes]


def kept_operators(module: GraphModule) -> list[Node]:
    """Calls of `kept_operator` in a graph."""
    target = torch.ops.edgeprune.kept_operator.default
    return [node for node in module.graph.nodes if node.op == "call_function" and node.target is target]


def kept_names(module: GraphModule) -> list[str]:
    """Operators of a graph that are kept as their file has them, for a sentence, each kind once."""
    nodes = (read_kept(str(node.args[2])).node for node in kept_operators(module))
    return list(dict.fromkeys(onnxfile.operator_name(node) for node in nodes))


# The way back to ONNX -------------------------------------------------------------------------------


def translations(module: GraphModule) -> dict[Callable[..., Any], Callable[..., Any]] | None:
    """Translation of `kept_operator` for `torch.onnx.export`: a placeholder of as many inputs and outputs.

    None for a graph without one: the exporter's own table then stays as it is.
    """
    return {torch.ops.edgeprune.kept_operator.default: _written} if kept_operators(module) else None


def _written(inputs: Sequence[Any], batch: Any, operator: str) -> Any:
    kept = read_kept(operator)
    parameter = defs.OpSchema.FormalParameter
    schema = defs.OpSchema(
        PLACEHOLDER,
        DOMAIN,
        1,
        inputs=[parameter(f"in{at}", f"I{at}") for at in range(len(inputs))],
        outputs=[parameter(f"out{at}", f"O{at}") for at in range(len(kept.sizes))],
        type_constraints=[
            (f"{letter}{at}", _tensor_types(), "")
            for letter, count in (("I", len(inputs)), ("O", len(kept.sizes)))
            for at in range(count)
        ],
        attributes=[defs.OpSchema.Attribute("operator", defs.OpSchema.AttrType.STRING, "")],
    )
    write = onnxscript.values.Op(onnxscript.values.Opset(DOMAIN, 1), PLACEHOLDER, schema)
    found = write(*inputs, operator=operator)
    return list(found) if len(kept.sizes) > 1 else [found]


def _tensor_types() -> list[str]:
    """Types of tensors as schemas call them: those that Identity takes."""
    (constraint,) = defs.get_schema("Identity").type_constraints
    return [name for name in constraint.allowed_type_strs if name.startswith("tensor(")]


def put_back(model: onnx.ModelProto) -> None:
    """Write, in the place of each placeholder, the operator as its file has it; one with weights is a layer.

    Raises `InputError` for an operator of ONNX's own whose meaning changed between the opset of its file and
    that of the model.
    """
    graph = model.graph
    if not any(node.domain == DOMAIN and node.op_type == PLACEHOLDER for node in graph.node):
        return
    nodes, matrices = [], onnxfile.float_matrices(model)
    for node in graph.node:
        if node.domain != DOMAIN or node.op_type != PLACEHOLDER:
            nodes.append(node)
            continue
        kept = read_kept(onnx.helper.get_node_attr_value(node, "operator").decode("ascii"))
        _import_domains(model, kept)
        nodes.append(_renamed(kept, node))
        weight = next((name for name in node.input if name in matrices), None)
        if weight is not None:
            nodes[-1].metadata_props.add(key=onnxfile.LAYER, value=weight.rpartition(".")[0] or weight)
    del graph.node[:]
    graph.node.extend(nodes)
    left = [entry for entry in model.opset_import if entry.domain != DOMAIN]
    del model.opset_import[:]
    model.opset_import.extend(left)


def _import_domains(model: onnx.ModelProto, kept: KeptOperator) -> None:
    own = {entry.domain: entry.version for entry in model.opset_import}
    theirs = {entry.domain: entry.version for entry in kept.model.opset_import}
    for node in _nodes(kept.node):
        if node.domain not in onnxfile.STANDARD_DOMAINS:
            if node.domain not in own:
                model.opset_import.add(domain=node.domain, version=theirs[node.domain])
                own[node.domain] = theirs[node.domain]
            continue
        before, now = theirs.get(node.domain, theirs.get("", 0)), own.get("", 0)
        if _form(node, before) != _form(node, now):
            raise InputError(
                f"Operator {onnxfile.called(node)} is kept as its file has it, of opset {before}; the "
                f"artefact is of opset {now}, where the operator has another form.",
                f"Convert the file first: `onnx.version_converter.convert_version(model, {now})`.",
            )


def _form(node: onnx.NodeProto, opset: int) -> tuple[object, ...]:
    """What an operator of ONNX's own takes and gives in an opset: types are added often, forms rarely change.

    That a form means the same in both is proven with the whole model, on data (`export.prove_equal`).
    """
    schema = defs.get_schema(node.op_type, opset, "")
    attributes = {
        name: (each.type, each.required, each.default_value.SerializeToString())
        for name, each in schema.attributes.items()
    }
    ends = [[(each.name, each.option) for each in side] for side in (schema.inputs, schema.outputs)]
    return attributes, ends


def _nodes(node: onnx.NodeProto) -> Iterator[onnx.NodeProto]:
    """A node, then those in its branches or loop body."""
    yield node
    for inner in onnxfile.inner_graphs(node):
        for graph in onnxfile.graphs(inner):
            yield from graph.node


def _renamed(kept: KeptOperator, placeholder: onnx.NodeProto) -> onnx.NodeProto:
    """The operator with the placeholder's inputs and outputs; what its branches hold has names of its own."""
    node = onnx.NodeProto()
    node.CopyFrom(kept.node)
    node.name = placeholder.name
    onnxfile.keep_values(placeholder, node)
    names = dict(zip(kept.inputs, placeholder.input, strict=True))
    outputs = iter(placeholder.output)
    node.output[:] = [next(outputs) if name else "" for name in node.output]
    rename_inputs(node, names, prefix=f"{placeholder.output[0]}.")
    return node


def rename_inputs(node: onnx.NodeProto, names: Mapping[str, str], prefix: str) -> None:
    """Rename in place what a node reads, by `names`; what its branches make gets a prefix."""
    inside = [graph for inner in onnxfile.inner_graphs(node) for graph in onnxfile.graphs(inner)]
    own = {name for graph in inside for each in graph.node for name in each.output if name}
    own |= {value.name for graph in inside for value in (*graph.input, *graph.initializer)}
    new = dict(names) | {name: prefix + name for name in own}
    node.input[:] = [names.get(name, name) for name in node.input]
    for graph in inside:
        for each in graph.node:
            each.input[:] = [new.get(name, name) for name in each.input]
            each.output[:] = [new.get(name, name) for name in each.output]
        for value in (*graph.input, *graph.output, *graph.initializer, *graph.value_info):
            value.name = new.get(value.name, value.name)


def outside_reads(node: onnx.NodeProto) -> list[str]:
    """Values that a node takes from around it, each once: its own inputs, then those of its branches."""
    inside = [graph for inner in onnxfile.inner_graphs(node) for graph in onnxfile.graphs(inner)]
    own = {name for graph in inside for each in graph.node for name in each.output}
    own |= {value.name for graph in inside for value in (*graph.input, *graph.initializer)}
    inner = [name for name in onnxfile.reads_inside(node) if name not in own]
    return list(dict.fromkeys(name for name in (*node.input, *inner) if name))

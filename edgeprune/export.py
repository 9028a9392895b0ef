"""ONNX export: a captured graph becomes an ONNX model that is proven equal before anything else uses it."""

from __future__ import annotations

import ast
import functools
import re
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from typing import Any

import onnx
import onnx_ir as ir
import onnxruntime
import torch
from torch.fx import Node

from edgeprune.errors import EdgepruneError, InputError
from edgeprune.graph import onnxfile
from edgeprune.graph.capture import Captured
from edgeprune.graph.first_difference import first_difference
from edgeprune.graph.fx import written_at
from edgeprune.graph.onnx_operator import put_back, translations
from edgeprune.graph.onnx_repairs import repair
from edgeprune.graph.plain_forms import plain_forms
from edgeprune.quiet import quiet

EQUAL_WITHIN = 1e-4  # of the output's largest absolute value: float32 rounding of other kernels stays below
_LOGGERS = ("torch.onnx", "torch.export", "onnxscript", "onnx_ir")  # they report on themselves
_UNTRANSLATED = re.compile(r"No ONNX function found for <OpOverload\(op='([^']+)', overload='([^']+)'\)>")
_TAG = "edgeprune"  # in node.meta["custom"], which torch.export carries through tracing and decomposition


def export_onnx(captured: Captured, path: Path, *, prove: bool = True) -> Path:
    """Write the ONNX file of a captured graph, as `to_onnx` makes it."""
    return onnxfile.save(to_onnx(captured, prove=prove), path)


def to_onnx(captured: Captured, *, prove: bool = True) -> onnx.ModelProto:
    """Translate a captured graph to ONNX, and prove in ONNX Runtime that the model computes the same.

    prove: False only for a model whose shapes are wanted and whose answers are not.
    The batch stays dynamic (dimension "batch") or fixed at one row; where lengths vary, the length stays
    dynamic, too (dimension "length"). Inputs keep the placeholders' names, outputs are `output`, `output_1`,
    ...; BatchNorm is folded into the convolutions. The model carries what `graph.onnxfile` reads: the
    captured node of each value, the layer of each weight.
    Raises `InputError` naming the operator that has no ONNX form or that the runtime lacks, `EdgepruneError`
    naming the output that differs.
    """
    with _tagged(captured), _without_gradients(captured.module), _one_registry(), quiet(*_LOGGERS):
        program = captured.program()
        plain_forms(program)
        try:
            exported = torch.onnx.export(
                program, dynamo=True, verbose=False, custom_translation_table=translations(captured.module)
            )
        except Exception as error:
            raise InputError(
                f"The model has no ONNX form: {_failure(error, captured)}",
                "Write that part of the model with other operators, or check that onnxscript is up to date.",
            ) from error
    if exported is None or exported.exported_program is None:
        raise EdgepruneError("torch.onnx.export returned no model.", "Install onnxscript.")
    tagged = [node for node in exported.exported_program.graph.nodes if _TAG in node.meta.get("custom", {})]
    origins = {node.name: node.meta["custom"][_TAG] for node in tagged}
    tensors = {node.name for node in tagged if isinstance(node.meta.get("val"), torch.Tensor)}
    _annotate(exported.model, origins, tensors, _layers(captured))
    repair(exported.model)
    model = exported.model_proto
    put_back(model)
    onnxfile.name_ends(model, captured.input_names)
    onnxfile.name_batch(model)
    if captured.lengths is not None:
        onnxfile.name_length(model, captured.lengths.dims)
    if prove:
        prove_equal(captured, model)
    return model


def prove_equal(captured: Captured, model: onnx.ModelProto) -> None:
    """Prove an ONNX model equal to a captured graph on the example, and on one more row where there may be.

    Where the length may vary, on the example at each of the lengths.

    Raises `EdgepruneError` when an output differs by more than 1e-4 of its largest absolute value, has
    another shape, or is not finite where the captured graph is; it names the first operator that differs.
    """
    session = _session(onnxfile.content(model))
    names = [value.name for value in session.get_outputs()]
    asked = list(captured.examples())
    if not captured.fixed_batch:
        asked += [tuple(torch.cat([tensor, tensor[:1]]) for tensor in tensors) for tensors in asked]
    for tensors in asked:
        with torch.no_grad():
            expected = captured.run(*tensors)
        feeds = {
            name: tensor.numpy(force=True) for name, tensor in zip(captured.input_names, tensors, strict=True)
        }
        found = [torch.from_numpy(array) for array in _run(session, feeds)]
        if len(found) != len(expected):
            raise EdgepruneError(
                f"The ONNX file has {len(found)} outputs where the model has {len(expected)}.",
                "Return tensors only, each a different one.",
            )
        for name, one, other in zip(names, expected, found, strict=True):
            if (problem := _difference(one.cpu(), other)) is not None:
                place = first_difference(captured, model, tensors, _asked(feeds), _same)
                raise EdgepruneError(
                    f"Output {name} of the ONNX file {problem}: "
                    + (f"the first that differs is {place}." if place else "everything before it is equal."),
                    "Take sizes from x.shape where a shape differs. Else the exporter or the runtime "
                    "computes that operator wrongly: write it with other operators, and report it.",
                )


def _asked(feeds: dict[str, Any]) -> Callable[[onnx.ModelProto, Sequence[str]], list[Any]]:
    return lambda model, names: _run(_session(onnxfile.content(model)), feeds, names)


def _same(expected: torch.Tensor, found: torch.Tensor) -> bool:
    return _difference(expected, found) is None


def _difference(expected: torch.Tensor, found: torch.Tensor) -> str | None:
    """How a value of the file differs from the model's, None when it does not."""
    if expected.shape != found.shape:
        return f"has shape {tuple(found.shape)} in ONNX Runtime and {tuple(expected.shape)} in the model"
    reference, difference = expected.double(), (expected.double() - found.double()).abs()
    same = (reference == found.double()) | (reference.isnan() & found.double().isnan())
    difference = torch.where(same, 0.0, difference)  # infinities agree with themselves
    scale = float(reference[reference.isfinite()].abs().max()) if reference.isfinite().any() else 0.0
    error = float(difference.nan_to_num(nan=torch.inf).max()) if difference.numel() else 0.0
    if error <= EQUAL_WITHIN * max(scale, torch.finfo(torch.float32).tiny):
        return None
    return (
        f"differs from the model by {error:.3g} where its largest value is {scale:.3g} "
        f"(allowed: {EQUAL_WITHIN:g} of that)"
    )


def _session(content: bytes) -> Any:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.log_severity_level = 3
    try:
        return onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime's errors share no base but Exception
        raise InputError(
            f"ONNX Runtime does not load the exported model: {error}",
            "Write the operator it names with other operators.",
        ) from error


def _run(session: Any, feeds: dict[str, Any], names: Sequence[str] | None = None) -> list[Any]:
    """The values of those names, or the outputs."""
    try:
        found: list[Any] = session.run(names, feeds)
    except Exception as error:  # onnxruntime's errors share no base but Exception
        shapes = ", ".join(f"{name} {list(array.shape)}" for name, array in feeds.items())
        raise InputError(
            f"ONNX Runtime does not run the exported model on {shapes}: {error}",
            "The operator it names was exported wrongly: write that part of the model with other operators.",
        ) from error
    return found


def _layers(captured: Captured) -> dict[str, str]:
    """Captured node -> the module of its weight, for every node that takes a parameter of a matrix."""
    found = {}
    parameters = dict(captured.module.named_parameters())
    for node in captured.module.graph.nodes:
        weight = next((name for name in map(_attribute, node.all_input_nodes) if name in parameters), None)
        if node.op == "call_function" and weight is not None and parameters[weight].dim() > 1:
            found[node.name] = weight.removesuffix(".weight")
    return found


def _attribute(node: Node) -> str | None:
    return str(node.target) if node.op == "get_attr" else None


def _annotate(model: ir.Model, origins: dict[str, str], tensors: set[str], layers: dict[str, str]) -> None:
    """Replace the exporter's metadata by edgeprune's.

    origins: captured name of each of the exporter's; tensors: those of one tensor. A decomposed operator
    leaves several exporter's nodes with one origin; the last one is its result.
    """
    sources = {name: origin for name, origin in origins.items() if name in tensors}
    scopes = {node: node.metadata_props.get("pkg.torch.onnx.name_scopes", "[]") for node in model.graph}
    _forget(model)
    last = {source: name for name, source in sources.items()}
    used: set[str] = set()
    for node in model.graph:
        names = [value.name or "" for value in node.outputs]
        values = [sources[name] if name in sources and last[sources[name]] == name else "" for name in names]
        if any(values):
            node.metadata_props[onnxfile.VALUES] = ",".join(values)
        weight = node.inputs[1] if node.op_type in onnxfile.WEIGHTED and len(node.inputs) > 1 else None
        if weight is not None and weight.name and weight.is_initializer():
            named = weight.name.removesuffix(".weight")
            origin = origins.get((ast.literal_eval(scopes[node]) or [""])[-1], "")
            layer = named if weight.name.endswith(".weight") else layers.get(origin, named)
            node.metadata_props[onnxfile.LAYER] = layer
            node.name = layer if layer not in used else f"{layer}#{len(used)}"  # a module called twice
            used.add(node.name)
        elif node.op_type in onnxfile.RECURRENT:
            origin = origins.get((ast.literal_eval(scopes[node]) or [""])[-1], "")
            module = layers.get(origin, "").rpartition(".")[0] or origin or node.op_type.lower()
            node.name = next(
                name for at in count() if (name := onnxfile.recurrent_name(module, at)) not in used
            )
            used.add(node.name)


def _forget(model: ir.Model) -> None:
    """Clear the metadata and documentation of a model and of everything in it."""
    parts: list[Any] = [model]
    for graph in (model.graph, *model.graph.subgraphs()):
        parts += [graph, *graph.inputs, *graph.initializers.values(), *graph]
        parts += [value for node in graph for value in node.outputs]
    for part in parts:
        part.metadata_props.clear()
        part.doc_string = None


@contextmanager
def _tagged(captured: Captured) -> Iterator[None]:
    """Each operation carries its own name through tracing, so that ONNX values can be traced back.

    Weights and constants carry none: torch.export (2.13) gives a lifted constant the tag of its first user
    and then refuses the constant's own as a mismatch.
    """
    operations = [node for node in captured.module.graph.nodes if node.op == "call_function"]
    before = [(node, node.meta.get("custom")) for node in operations]
    for node, custom in before:
        node.meta["custom"] = {**(custom or {}), _TAG: node.name}
    try:
        yield
    finally:
        for node, custom in before:
            if custom is None:
                del node.meta["custom"]
            else:
                node.meta["custom"] = custom


@contextmanager
def _one_registry() -> Iterator[None]:
    """The exporter's table of translations is made once in a process.

    torch (2.13) parses the source of all of onnxscript's functions for each export: about a second.
    """
    try:
        from torch.onnx._internal.exporter._registration import ONNXRegistry
    except ImportError:  # it is nobody's promise: another torch makes it for each export again
        yield
        return
    before = vars(ONNXRegistry).get("from_torchlib")
    if before is None:
        yield
        return
    made = functools.partial(_registry, ONNXRegistry.from_torchlib)
    ONNXRegistry.from_torchlib = staticmethod(made)  # type: ignore[method-assign]
    try:
        yield
    finally:
        ONNXRegistry.from_torchlib = before  # type: ignore[method-assign]


@functools.cache
def _registry(make: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    return make(*args, **kwargs)


@contextmanager
def _without_gradients(module: torch.nn.Module) -> Iterator[None]:
    """No parameter asks for a gradient, whether or not gradients are on.

    For a mask that asks for one, as a learned position bias does, torch (2.13) traces attention through
    one kernel and decomposes it through another, whose strides the traced views do not fit.
    """
    learned = [parameter for parameter in module.parameters() if parameter.requires_grad]
    for parameter in learned:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in learned:
            parameter.requires_grad_(True)


def _failure(error: BaseException, captured: Captured) -> str:
    """`operator aten.foo.default (FILE, line N: CODE) cannot be translated: REASON.`

    The exporter fails at a node of its decomposed graph; the tag leads back to the operator of the model.
    """
    causes = [error]
    while causes[-1].__cause__ is not None:
        causes.append(causes[-1].__cause__)
    reason = " ".join(str(causes[-1]).split())[:300].removesuffix(".")
    if missing := _UNTRANSLATED.search(reason):
        reason = f"onnxscript has no form of {missing[1]}.{missing[2]}"
    failed = next(filter(None, map(_failed_node, reversed(causes))), None)
    if failed is None:
        return f"{reason}."
    name = failed.meta.get("custom", {}).get(_TAG)
    node = next((each for each in captured.module.graph.nodes if each.name == name), failed)
    return f"operator {node.target}{written_at(node)} cannot be translated: {reason}."


def _failed_node(error: BaseException) -> Node | None:
    """The exporter's errors hold the node only as text; the frame that raised has the node itself."""
    frames = [frame for frame, _ in traceback.walk_tb(error.__traceback__)]
    nodes = [frame.f_locals.get("node") for frame in reversed(frames)]
    return next((node for node in nodes if isinstance(node, Node)), None)

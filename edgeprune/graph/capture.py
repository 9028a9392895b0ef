"""Capture of an nn.Module as one flat ATen graph, on which pruning, training and export then work."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, is_dataclass, replace
from typing import Any

import torch
from torch.export import ExportedProgram
from torch.fx import GraphModule, Node
from torch.fx.experimental.symbolic_shapes import free_unbacked_symbols
from torch.utils import _pytree as pytree

from edgeprune.errors import InputError
from edgeprune.graph.blocks import SYMBOLIC_BATCH
from edgeprune.graph.composites import write_out
from edgeprune.graph.exporting import LOGGERS, NotExported, attention_in_full, export, known
from edgeprune.graph.folding import fold_weights
from edgeprune.graph.fx import attribute, shape_of
from edgeprune.graph.inplace_views import as_views
from edgeprune.graph.length import tell_length
from edgeprune.graph.mode import TrainableGraph, trains
from edgeprune.graph.moving import device_of
from edgeprune.graph.one_row import FOR_ONE_ROW, first_rows, row_by_row, single_rows, takes_one_row
from edgeprune.quiet import quiet
from edgeprune.records.lengths import Lengths


@dataclass(frozen=True)
class Captured:
    """A model as one flat ATen graph.

    module: trainable graph that is called like the original model and may be set to training or evaluation
        mode; dynamic batch. Parameters and buffers keep their qualified names; parameters that no output
        depends on are left out.
    args, kwargs: the example inputs that `module` is called with.
    fixed_batch: why the batch is fixed at one row, in words; empty where it may vary. Several rows are then
        answered one by one.
    lengths: of sequences, between which their length may vary, too; None where it is the example's.
    """

    module: GraphModule
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    fixed_batch: str = ""
    lengths: Lengths | None = None

    @property
    def inputs(self) -> tuple[torch.Tensor, ...]:
        """Tensors of the example in the order of the graph's placeholders; dimension 0 is the batch."""
        return flatten((self.args, self.kwargs))

    @property
    def input_names(self) -> tuple[str, ...]:
        return tuple(node.name for node in self.module.graph.nodes if node.op == "placeholder")

    def examples(self) -> tuple[tuple[torch.Tensor, ...], ...]:
        """Flat inputs at each length, the shortest first: the first positions of the example."""
        if self.lengths is None:
            return (self.inputs,)
        return tuple(self.lengths.first(self.inputs, length) for length in self.lengths.values)

    def takes(self, place: int, tensor: torch.Tensor) -> bool:
        """Whether an input has the sizes that this one of the example has, the batch and the length aside."""
        like = self.inputs[place]
        if self.lengths is None or tensor.dim() != like.dim():
            return tensor.shape[1:] == like.shape[1:]
        return self.lengths.fixed(place, tensor.shape) == self.lengths.fixed(place, like.shape)

    def run(self, *tensors: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Run on flat inputs (placeholder order) and return the outputs' tensors, flattened."""
        return flatten(self.answer(*tensors))

    def answer(self, *tensors: torch.Tensor) -> Any:
        """The answer to flat inputs as the original model gives it: a tensor, a tuple, a dict, a class."""
        spec = pytree.tree_structure((self.args, self.kwargs))
        args, kwargs = pytree.tree_unflatten(list(tensors), spec)
        if self.fixed_batch:
            return row_by_row(self.module, args, kwargs)
        return self.module(*args, **kwargs)

    def queries(self, tensors: tuple[torch.Tensor, ...]) -> Iterator[tuple[torch.Tensor, ...]]:
        """Flat inputs with as many rows as the graph takes at once: for an `Interpreter` of the graph."""
        if self.fixed_batch:
            yield from single_rows(tensors)
        else:
            yield tensors

    def joined(self, outputs: Iterable[tuple[torch.Tensor, ...]]) -> tuple[torch.Tensor, ...]:
        """Flat outputs for all `queries` of an input."""
        first, *others = outputs
        return tuple(map(torch.cat, zip(first, *others, strict=True))) if others else first

    def with_module(self, module: GraphModule) -> Captured:
        """Another graph with the same example, called in the same way."""
        return replace(self, module=module)

    def copy(self, borrowed: Iterable[torch.Tensor] = ()) -> Captured:
        """A deep copy; the tensors in `borrowed` are shared, for a caller that replaces them."""
        with quiet(*LOGGERS):
            return self.with_module(copy.deepcopy(self.module, {id(tensor): tensor for tensor in borrowed}))

    def on(self, device: torch.device) -> Captured:
        """The graph on a device: itself where it lies there, else a copy."""
        if device_of(self.module) == device:
            return self
        moved = self.copy()
        moved.module.to(device)
        return moved

    def program(self) -> ExportedProgram:
        """`ExportedProgram` of the graph in evaluation mode, for files and exporters.

        Outputs of a named tuple are a tuple, those of another class a dict of its fields: who loads the file
        need not import the class. Weights are shared.
        """
        module = _again(self.module).eval()
        _plain_outputs(module)
        # A file holds the memory that its example looks at: of a slice, all that it was sliced from.
        args, kwargs = pytree.tree_map_only(torch.Tensor, torch.clone, (self.args, self.kwargs))
        return export(module, args, kwargs, one_row=bool(self.fixed_batch), lengths=self.lengths)


def flatten(value: Any) -> tuple[torch.Tensor, ...]:
    """Tensors of a nested structure, in pytree order; None and plain numbers are left out."""
    return tuple(leaf for leaf in pytree.tree_leaves(known(value)) if isinstance(leaf, torch.Tensor))


def rebuilt(answer: Any, tensors: Iterable[torch.Tensor]) -> Any:
    """A structure like `answer` that holds `tensors`, in the order of `flatten`, in the place of its own."""
    given = iter(tensors)
    return pytree.tree_map_only(torch.Tensor, lambda _: next(given), answer)


def capture(
    model: torch.nn.Module,
    example: Any,
    rows: int | None = None,
    lengths: Lengths | None = None,
    *,
    folded: bool = True,
) -> Captured:
    """Capture `model` with `torch.export`, the batch dynamic, in evaluation mode.

    example: a tensor, a tuple of tensors (positional) or a dict of tensors (keywords).
    rows: of the queries that are asked for, where that is known. A model that exports for a batch of one row
        alone is then captured for that, with the first row of the example; for other queries it is refused.
    lengths: of sequences, between which their length is dynamic, too; the example has the longest one.
    folded: whether weights that are computed from parameters alone become parameters (graph/folding.py);
        without, every parameter is what the model stores under its name.
    Raises `InputError` when the example does not fit `forward`, and, with torch.export's words and the line
    of the user's model, when the model does not export.
    """
    args, kwargs = _as_call(example)
    for index, tensor in enumerate(flatten((args, kwargs))):
        if tensor.dim() == 0 or tensor.shape[0] == 0:
            raise InputError(
                f"Example input {index} has shape {tuple(tensor.shape)}; dimension 0 must be the batch.",
                "Give an example with a batch of one or more.",
            )
    if isinstance(model, GraphModule) and "train" in vars(model):
        model = _of_program(model)
    _check_call(model, args, kwargs)
    with evaluated(model):
        if isinstance(model, GraphModule) and takes_one_row(model.graph):
            if rows not in (None, 1):
                raise InputError(
                    f"Queries of {rows} rows are asked for, and of the model the batch is fixed: "
                    f"{FOR_ONE_ROW}.",
                    "Ask for queries of one row, --batch 1, or export it with a batch that may vary.",
                )
            return _for_one_row(model, args, kwargs, FOR_ONE_ROW, lengths)
        try:
            program = export(model, args, kwargs, lengths=lengths)
        except NotExported as error:
            return _instead(model, args, kwargs, rows, error, lengths)
        return Captured(module_of(program, lengths, folded=folded), args, kwargs, lengths=lengths)


def capture_one_row(
    model: torch.nn.Module, example: Any, why: str, lengths: Lengths | None = None
) -> Captured:
    """Capture `model` for the first row of the example. why: `Captured.fixed_batch`."""
    with evaluated(model):
        return _for_one_row(model, *_as_call(example), why, lengths)


def _for_one_row(
    model: torch.nn.Module,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    why: str,
    lengths: Lengths | None,
) -> Captured:
    """The model captured for the first row of the example. Raises `NotExported`."""
    args, kwargs = first_rows((args, kwargs))
    program = export(model, args, kwargs, one_row=True, lengths=lengths)
    return Captured(module_of(program, lengths), args, kwargs, fixed_batch=why, lengths=lengths)


def _instead(
    model: torch.nn.Module,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    rows: int | None,
    error: NotExported,
    lengths: Lengths | None,
) -> Captured:
    """The model captured for one row, as it does not export with a batch that may vary.

    Raises `error` where it does not export with one row either, or gives no row for it, and where queries of
    other batches are asked for.
    """
    refused = error
    if rows is not None:
        try:
            captured = _for_one_row(model, args, kwargs, error.why, lengths)
        except NotExported:
            raise error from error.__cause__  # the batch is not to blame
        if all(shape[:1] == (1,) for shape in output_shapes(captured.module)):
            if rows == 1:
                return captured
            refused = NotExported(
                error.what,
                f"{error.hint} As it is, it can be served row by row: --batch 1.",
                error.why,
            )
    raise refused from error.__cause__


def all_in_one_row(captured: Captured) -> bool:
    """Whether an output has one row however many are given, and what was given is one row, or is all there.

    A mean over the batch of an example of several rows is none of that.
    """
    single = len(captured.inputs[0]) == 1
    return any(
        shape[:1] == (1,) and (single or any(size and size % SYMBOLIC_BATCH == 0 for size in shape))
        for shape in output_shapes(captured.module)
    )


def output_shapes(module: GraphModule) -> list[tuple[int, ...]]:
    """Shapes of the tensors that a graph returns; the batch is SYMBOLIC_BATCH.

    () for one whose size depends on values: nothing is known of its batch.
    """
    last = next(node for node in module.graph.nodes if node.op == "output")
    return [
        () if free_unbacked_symbols(node.meta.get("val")) else shape_of(module, node)
        for node in pytree.tree_leaves(last.args)
        if isinstance(node, Node)
        and (node.op == "get_attr" or isinstance(node.meta.get("val"), torch.Tensor))
    ]


def told_fixed(captured: Captured, example: Any) -> str:
    """Sentence about a model that was captured for one row; empty for any other."""
    if not captured.fixed_batch:
        return ""
    rows = len(flatten(example)[0])
    first = f", the first of the example's {rows}," if rows > 1 else ""
    return (
        f"The batch is fixed at one row{first} because of the model: {captured.fixed_batch}. Queries are "
        "of one row, and in training, calibration and evaluation several rows go through it one by one."
    )


@contextmanager
def evaluated(model: torch.nn.Module) -> Iterator[None]:
    """Put a model into evaluation mode, and each module back into its own; an exported program has none.

    Attention is computed in full, as it is captured.
    """
    if isinstance(model, GraphModule) and "train" in vars(model):
        yield
        return
    modes = {module: module.training for module in model.modules()}
    model.eval()
    try:
        with attention_in_full():
            yield
    finally:
        model.train(modes[model])  # what is not a flag, too
        for module, mode in modes.items():
            module.training = mode


def module_of(
    program: ExportedProgram, lengths: Lengths | None = None, *, folded: bool = True
) -> TrainableGraph:
    """A trainable module of the program, in evaluation mode, without torch.export's run-time guards.

    The guards compare sizes with the example's, so they would refuse a pruned graph. Weights that are
    computed from parameters alone are parameters of their values (graph/folding.py), and composite operations
    that have no rule are written out (graph/composites.py).
    lengths: that the program was exported for.
    """
    module = _again(program.module(check_guards=False)).eval()
    as_views(module)
    write_out(module)
    if folded:
        fold_weights(module)
    if lengths is not None:
        tell_length(module, lengths)
    return module


def _again(module: GraphModule) -> TrainableGraph:
    """The same graph once more, on the same weights, without guards and without what no output depends on."""
    with quiet(*LOGGERS):
        graph = copy.deepcopy(module.graph)
    for node in list(graph.nodes):
        if (node.op == "call_module" and node.target == "_guards_fn") or _is_dead_assert(node):
            graph.erase_node(node)
    for node in reversed(graph.nodes):
        if node.op == "call_function" and not node.users and not node.is_impure():
            graph.erase_node(node)
    stored = {node: attribute(module, str(node.target)) for node in graph.nodes if node.op == "get_attr"}
    read = {id(tensor) for node, tensor in stored.items() if node.users}
    for node, tensor in stored.items():  # another name of a parameter that is read stays one
        if isinstance(tensor, torch.nn.Parameter) and id(tensor) not in read:
            graph.erase_node(node)
    return TrainableGraph(module, graph)


def _of_program(module: GraphModule) -> TrainableGraph:
    """Graph of what `ExportedProgram.module()` returns, whose `eval()` torch.export refuses.

    Raises `InputError` when it was exported in training mode: nothing tells which of its operations are
    meant to train.
    """
    for node in module.graph.nodes:
        if trains(node):
            raise InputError(
                f"The model was exported in training mode: `{node.name}` behaves differently there.",
                "Call model.eval() before torch.export.export.",
            )
    return _again(module).eval()


def _plain_outputs(module: GraphModule) -> None:
    """Let a graph return its outputs in tuples, lists and dicts alone, where it is known how."""
    graph: Any = module.graph
    info = graph._codegen.pytree_info
    plain = _plain(info.out_spec)
    if plain is not None:
        graph._codegen.pytree_info = info._replace(out_spec=pytree.tree_structure(plain))
        module.recompile()


def _plain(spec: pytree.TreeSpec) -> Any:
    """A value of plain containers with the leaves of `spec`; None where a container has no plain form."""
    if spec.is_leaf():
        return 0
    parts = [_plain(child) for child in spec.children()]
    if any(part is None for part in parts):
        return None
    kind: Any = spec.context if pytree.is_namedtuple_class(spec.context) else spec.type
    if issubclass(kind, list):
        return parts
    if issubclass(kind, tuple):
        return tuple(parts)
    names = spec.context[0] if is_dataclass(kind) else spec.context  # beside those of fields that are None
    named = isinstance(names, list) and len(names) == len(parts)
    known = is_dataclass(kind) or issubclass(kind, Mapping)
    return dict(zip(names, parts, strict=True)) if known and named else None


def _is_dead_assert(node: Node) -> bool:
    return (
        node.op == "call_function"
        and not node.users
        and node.target
        in (
            torch.ops.aten._assert_tensor_metadata.default,
            torch.ops.aten._assert_scalar.default,
            torch.ops.aten.sym_constrain_range_for_size.default,
        )
    )


def _as_call(example: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
    if isinstance(example, torch.Tensor):
        return (example,), {}
    if isinstance(example, tuple | list) and example and all(isinstance(t, torch.Tensor) for t in example):
        return tuple(example), {}
    if (
        isinstance(example, Mapping)
        and example
        and all(isinstance(t, torch.Tensor) for t in example.values())
    ):
        return (), dict(example)
    raise InputError(
        f"The example is {type(example).__name__}, not tensors.",
        "Give a tensor, a tuple of tensors (positional) or a dict of tensors (keywords).",
    )


def _check_call(model: torch.nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    if isinstance(model, torch.jit.ScriptModule):
        raise InputError(
            f"The model is TorchScript ({type(model).__name__}).",
            "Give the nn.Module that it was made from: torch.export does not take TorchScript.",
        )
    signature = inspect.signature(model.forward)
    try:
        signature.bind(*args, **kwargs)
    except TypeError as error:
        names = ", ".join(signature.parameters)
        given = ", ".join(kwargs) if kwargs else f"{len(args)} by position"
        raise InputError(
            f"The example ({given}) does not fit {type(model).__name__}.forward({names}): {error}.",
            "Give a tuple in the order of forward's parameters, or a dict by their names.",
        ) from error

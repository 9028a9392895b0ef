"""Capture of an nn.Module as one flat ATen graph, on which pruning, training and export then work."""

from __future__ import annotations

import copy
import inspect
import traceback
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, is_dataclass
from typing import Any

import torch
from torch.export import Dim, ExportedProgram
from torch.fx import GraphModule, Node
from torch.utils import _pytree as pytree

from edgeprune.errors import InputError
from edgeprune.graph.composites import write_out
from edgeprune.graph.fixed_sizes import fixed_sizes, place
from edgeprune.graph.folding import fold_weights
from edgeprune.graph.fx import attribute
from edgeprune.graph.mode import TrainableGraph, trains
from edgeprune.graph.moving import device_of
from edgeprune.quiet import quiet

_LOGGERS = ("torch.export", "torch.fx", "torch._dynamo")  # these report on torch's internals


@dataclass(frozen=True)
class Captured:
    """A model as one flat ATen graph.

    module: trainable graph that is called like the original model and may be set to training or evaluation
        mode; dynamic batch. Parameters and buffers keep their qualified names; parameters that no output
        depends on are left out.
    args, kwargs: the example inputs that `module` is called with.
    """

    module: GraphModule
    args: tuple[Any, ...]
    kwargs: dict[str, Any]

    @property
    def inputs(self) -> tuple[torch.Tensor, ...]:
        """Tensors of the example in the order of the graph's placeholders; dimension 0 is the batch."""
        return flatten((self.args, self.kwargs))

    @property
    def input_names(self) -> tuple[str, ...]:
        return tuple(node.name for node in self.module.graph.nodes if node.op == "placeholder")

    def run(self, *tensors: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Run on flat inputs (placeholder order) and return the outputs' tensors, flattened."""
        return flatten(self.answer(*tensors))

    def answer(self, *tensors: torch.Tensor) -> Any:
        """The answer to flat inputs as the original model gives it: a tensor, a tuple, a dict, a class."""
        spec = pytree.tree_structure((self.args, self.kwargs))
        args, kwargs = pytree.tree_unflatten(list(tensors), spec)
        return self.module(*args, **kwargs)

    def with_module(self, module: GraphModule) -> Captured:
        """Another graph with the same example, called in the same way."""
        return Captured(module, self.args, self.kwargs)

    def copy(self, borrowed: Iterable[torch.Tensor] = ()) -> Captured:
        """A deep copy; the tensors in `borrowed` are shared, for a caller that replaces them."""
        with quiet(*_LOGGERS):
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
        return _export(module, self.args, self.kwargs)


def flatten(value: Any) -> tuple[torch.Tensor, ...]:
    """Tensors of a nested structure, in pytree order; None and plain numbers are left out."""
    return tuple(leaf for leaf in pytree.tree_leaves(_known(value)) if isinstance(leaf, torch.Tensor))


def _known(value: Any) -> Any:
    """The value, its dataclasses made known to torch, which takes them for no structure by themselves."""
    leaves = pytree.tree_leaves(value)
    kinds = {type(leaf) for leaf in leaves if is_dataclass(leaf) and not isinstance(leaf, type)}
    for kind in kinds:
        torch.export.register_dataclass(kind, serialized_type_name=f"{kind.__module__}.{kind.__qualname__}")
    return _known(value) if kinds else value


def rebuilt(answer: Any, tensors: Iterable[torch.Tensor]) -> Any:
    """A structure like `answer` that holds `tensors`, in the order of `flatten`, in the place of its own."""
    given = iter(tensors)
    return pytree.tree_map_only(torch.Tensor, lambda _: next(given), answer)


def capture(model: torch.nn.Module, example: Any) -> Captured:
    """Capture `model` with `torch.export`, the batch dynamic, in evaluation mode.

    example: a tensor, a tuple of tensors (positional) or a dict of tensors (keywords).
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
        program = _export(model, args, kwargs)
    return Captured(module_of(program), args, kwargs)


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
        with _attention_in_full():
            yield
    finally:
        model.train(modes[model])  # what is not a flag, too
        for module, mode in modes.items():
            module.training = mode


def module_of(program: ExportedProgram) -> TrainableGraph:
    """A trainable module of the program, in evaluation mode, without torch.export's run-time guards.

    The guards compare sizes with the example's, so they would refuse a pruned graph. Weights that are
    computed from parameters alone are parameters of their values (graph/folding.py), and composite operations
    that have no rule are written out (graph/composites.py).
    """
    module = _again(program.module(check_guards=False)).eval()
    write_out(module)
    fold_weights(module)
    return module


def _again(module: GraphModule) -> TrainableGraph:
    """The same graph once more, on the same weights, without guards and without what no output depends on."""
    with quiet(*_LOGGERS):
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


def _export(model: torch.nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> ExportedProgram:
    # torch specialises a dimension of size 1, so a batch of one is captured as a batch of two.
    args, kwargs = pytree.tree_map_only(torch.Tensor, _at_least_two, (args, kwargs))
    fixed: list[str] = []
    try:
        with (
            torch.no_grad(),
            quiet(*_LOGGERS),
            fixed_sizes() as fixed,
            _attention_in_full(),
            _outputs_known(model),
            _keywords_by_name(model, kwargs),
        ):
            # Shapes are given by the names of forward's parameters, those that `*args` gathers included.
            bound = inspect.signature(model.forward).bind(*args, **kwargs).arguments
            shapes = pytree.tree_map(
                lambda leaf: {0: Dim.DYNAMIC} if isinstance(leaf, torch.Tensor) else None, dict(bound)
            )
            return torch.export.export(model, args, kwargs or None, dynamic_shapes=shapes, strict=False)
    except Exception as error:
        raise InputError(*_not_exported(error, fixed)) from error


def _not_exported(error: Exception, fixed: list[str]) -> tuple[str, str]:
    """What an export failed at, and what to try. fixed: lines at which a size became a number."""
    if fixed and "specialized it to be a constant" in str(error):
        return (
            f"The model does not export: it takes the batch, which may vary, for a number{fixed[0]}.",
            "Keep the rows a size: x.shape[0] in place of len(x), -1 in place of a number, no loop over rows "
            "and no branch on how many there are. Also where single queries are served, calibration and "
            "evaluation ask for other batches.",
        )
    return (
        f"The model does not export{_user_line(error)}: {_first_lines(str(error))}",
        "torch.export needs control flow that does not depend on the data and a batch that may vary; "
        "use torch.where or torch.cond there, and take sizes from x.shape. "
        "`torch.export.export(model, args, dynamic_shapes=..., strict=False)` shows the full report.",
    )


def _at_least_two(tensor: torch.Tensor) -> torch.Tensor:
    return tensor if tensor.shape[0] > 1 else torch.cat([tensor, tensor])


def _first_lines(text: str, count: int = 3) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return " ".join(lines[:count])[:600]


def _user_line(error: BaseException) -> str:
    """` (FILE, line N: CODE)` of the deepest frame that is not torch's own, "" when all are."""
    found = ""
    current: BaseException | None = error
    while current is not None:
        frames = traceback.walk_tb(current.__traceback__)
        found = place((frame.f_code.co_filename, line) for frame, line in frames) or found
        current = current.__cause__ or current.__context__
    return found


@contextmanager
def _attention_in_full() -> Iterator[None]:
    """Switch off the opaque inference kernel that nn.TransformerEncoderLayer calls otherwise."""
    enabled = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(enabled)


@contextmanager
def _outputs_known(model: torch.nn.Module) -> Iterator[None]:
    """Make the dataclasses that a model returns known before torch.export looks at them."""
    hook = model.register_forward_hook(lambda module, args, output: _known(output))
    try:
        yield
    finally:
        hook.remove()


@contextmanager
def _keywords_by_name(model: torch.nn.Module, kwargs: dict[str, Any]) -> Iterator[None]:
    """Give `model.forward` a signature that names the keywords which its `**kwargs` gathers.

    torch (2.13, issue 150022) looks for the dynamic shapes of gathered keywords once below the name of
    `**kwargs` and once beside it: no specification satisfies both.
    """
    forward = model.forward
    signature = inspect.signature(forward)
    named = [each for each in signature.parameters.values() if each.kind is not each.VAR_KEYWORD]
    gathered = kwargs.keys() - {each.name for each in named}
    if not gathered or len(named) == len(signature.parameters):
        yield
        return
    named += [inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY) for name in kwargs if name in gathered]

    def by_name(*args: Any, **kwargs: Any) -> Any:
        return forward(*args, **kwargs)

    own = vars(model).get("forward")
    by_name.__signature__ = signature.replace(parameters=named)  # type: ignore[attr-defined]
    model.forward = by_name
    try:
        yield
    finally:
        if own is None:
            del model.forward
        else:
            model.forward = own

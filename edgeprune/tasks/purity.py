"""Purity of a model: its outputs depend on its inputs alone, or one sentence says on what else."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NoReturn

import torch
from torch.fx import GraphModule, Node
from torch.fx.node import map_arg

from edgeprune.errors import InputError
from edgeprune.graph.blocks import SYMBOLIC_BATCH
from edgeprune.graph.capture import (
    Captured,
    all_in_one_row,
    capture,
    capture_one_row,
    evaluated,
    flatten,
    output_shapes,
)
from edgeprune.graph.fx import argument, op_name, written_at
from edgeprune.graph.one_row import first_rows
from edgeprune.graph.outputs import in_module
from edgeprune.records.lengths import Lengths
from edgeprune.tasks.guest import guest
from edgeprune.tasks.items import laid_out

SAME_OUTPUT = 1e-4  # of its largest absolute value: other kernels' roundings stay below
_SERVED = (torch.float32, torch.float64)  # of the floating-point outputs
_HALF = (torch.float16, torch.bfloat16)
_IN_FULL = (
    "Compute in float32, without autocast: edgeprune chooses the precision of what is shipped itself, and "
    "runtimes differ in what they have for halves."
)
_STATE = (
    "What is served is a function of its inputs: make the state an input and an output of forward, or change "
    "it in training only, `if self.training:`."
)
_NOISE = (
    "Draw random numbers in training only, `if self.training:`, or outside of the model as one more input. "
    "Dropout must follow model.eval()."
)


def capture_pure(
    model: torch.nn.Module, example: Any, rows: int | None = None, lengths: Lengths | None = None
) -> Captured:
    """Capture of a model that is a function of its inputs, as far as its graph and two runs tell.

    rows, lengths: as for `capture`.

    Raises `InputError` naming the buffer that forward writes to, the line that draws random numbers, the
    layer that normalises by the batch, the output of another number type than float32, or the output in which
    two runs, or the model and its graph, differ; and as `capture` does.
    """
    with torch.random.fork_rng(devices=[]):  # a number that nothing reads may be drawn
        return _captured(model, example, rows, lengths)


def _captured(model: torch.nn.Module, example: Any, rows: int | None, lengths: Lengths | None) -> Captured:
    first, second, changed = _two_runs(model, example)
    found = difference(first, second)
    named = " and ".join(changed)
    try:
        captured = capture(model, example, rows, lengths)
    except InputError as error:
        if found or changed:  # what torch.export says of state that it cannot follow is about itself
            _refuse_state(found, named)
        raise error from error.__cause__
    for graph in captured.module.modules():  # those of autocast and of branches, too
        if isinstance(graph, GraphModule):
            _check_graph(graph, model)
    for number, output in enumerate(second):
        if output.is_complex() or (output.is_floating_point() and output.dtype not in _SERVED):
            raise InputError(
                f"Output {number} of the model is {output.dtype}.",
                "Return float32: `output.float()`, or torch.view_as_real of complex numbers.",
            )
    if found:
        _refuse_state(found, named)
    if rows == 1 and not captured.fixed_batch:
        captured = _at_one_row(model, example, captured, lengths)
    with torch.no_grad():
        given = captured.run(*flatten(example))
    if captured.fixed_batch:  # the same numbers in one row are no other answer
        second = tuple(
            wanted.reshape(own.shape) if wanted.numel() == own.numel() else wanted
            for own, wanted in zip(given, second, strict=True)
        )
    found = difference(given, second)
    if found and captured.fixed_batch and len(flatten(example)[0]) > 1:
        raise InputError(
            f"The batch is fixed at one row because of the model: {captured.fixed_batch}. Several rows at "
            f"once differ from one after another in {found}.",
            "Give an example of one row where forward is made for one, else let no row depend on the others.",
        )
    if found:
        raise InputError(
            f"The graph that torch.export makes of the model differs from the model in {found}.",
            "What Python computes in forward from values, attributes or the time is a constant of the graph: "
            "compute it with tensors.",
        )
    _check_lengths(model, example, captured)
    return captured


def _check_lengths(model: torch.nn.Module, example: Any, captured: Captured) -> None:
    """Refuse a graph that differs from the model at one of the shorter lengths."""
    if captured.lengths is None:
        return
    for length, inputs in zip(captured.lengths.values[:-1], captured.examples(), strict=False):
        with evaluated(model), torch.no_grad():
            found = difference(captured.run(*inputs), _run(model, laid_out(example, inputs)))
        if found:
            raise InputError(
                f"The graph that torch.export makes of the model differs from it, at length {length}, in "
                f"{found}.",
                "Let forward compute the same at every length, or leave lengths out and pad to the longest.",
            )


def _at_one_row(
    model: torch.nn.Module, example: Any, captured: Captured, lengths: Lengths | None
) -> Captured:
    """The captured model, or another for one row, where the model takes a way of its own for a single row.

    Raises `InputError` where it gives no row for one.
    """
    if all_in_one_row(captured):
        return capture_one_row(model, example, "it puts all rows into one", lengths)
    one = first_rows(example)
    with evaluated(model), torch.no_grad():
        wanted = _run(model, one)
        found = difference(captured.run(*flatten(one)), wanted)
    for number, (shape, output) in enumerate(zip(output_shapes(captured.module), wanted, strict=False)):
        if shape[:1] == (SYMBOLIC_BATCH,) and output.shape[:1] != (1,):
            raise InputError(
                f"Output {number} of the model has shape {list(output.shape)} for one row, without a batch.",
                "Name the dimension that squeeze() drops, such as squeeze(-1): the batch always comes first.",
            )
    if not found:
        return captured
    return capture_one_row(model, example, "it computes something else for one row than for several", lengths)


def _refuse_state(found: str | None, named: str) -> NoReturn:
    """found: in what two runs differ. named: what of the model's state changed in the second one."""
    if found is None:
        raise InputError(f"forward changes the model's {named}.", _STATE)
    why = f"{named} changed" if named else "something outside torch, such as numpy.random, does"
    raise InputError(f"Two runs of the model on the same input differ in {found}: {why}.", _STATE)


def difference(given: Sequence[torch.Tensor], wanted: Sequence[torch.Tensor]) -> str | None:
    """First output that is not the same, in words; None when all are."""
    if len(given) != len(wanted):
        return f"their number, {len(given)} and {len(wanted)}"
    for number, (one, other) in enumerate(zip(given, wanted, strict=True)):
        if one.shape != other.shape:
            return f"output {number}, {list(one.shape)} and {list(other.shape)}"
        kind = torch.complex128 if other.is_complex() else torch.float64
        exact = other.to(kind)
        scale = _largest(exact)
        apart = _largest(one.to(kind) - exact)
        if apart > SAME_OUTPUT * scale:
            return f"output {number} by {apart:.3g}, where its largest value is {scale:.3g}"
    return None


def _largest(values: torch.Tensor) -> float:
    """Largest absolute value of the finite ones."""
    finite = values[values.isfinite()]
    return float(finite.abs().max()) if finite.numel() else 0.0


def _two_runs(
    model: torch.nn.Module, example: Any
) -> tuple[tuple[torch.Tensor, ...], tuple[torch.Tensor, ...], tuple[str, ...]]:
    """Outputs of two runs on the example, and what of the model's state differs after the second one.

    What a first run makes once and for all, such as a table of positions, is no such difference.
    """
    with evaluated(model), torch.no_grad():
        first = _run(model, example)
        before = _state(model)
        second = _run(model, example)
        after = _state(model)
    changed = tuple(name for name, value in after.items() if name in before and before[name] != value)
    return first, second, changed


def _run(model: torch.nn.Module, example: Any) -> tuple[torch.Tensor, ...]:
    with guest("The model", "Correct the line that raised, or the example: the model is called with it."):
        if isinstance(example, Mapping):
            given = model(**example)
        else:
            given = model(*(example if isinstance(example, tuple | list) else (example,)))
        # Copies: a model may give the same tensor again, with other values.
        return tuple(output.detach().clone() for output in flatten(given))


def _state(model: torch.nn.Module) -> dict[str, object]:
    """Stored tensors, by identity, version and sum, and plain numbers, each with its kind and name.

    The sum, because `.data` changes values and no version.
    """
    found: dict[str, object] = {}
    for path, module in model.named_modules():
        prefix = f"{path}." if path else ""
        stored = {
            "parameter": module._parameters,
            "buffer": module._buffers,
            "attribute": {k: v for k, v in vars(module).items() if isinstance(v, int | float | torch.Tensor)},
        }
        for kind, values in stored.items():
            for name, value in values.items():
                if isinstance(value, torch.Tensor):
                    value = id(value), value._version, repr(value.sum().item())
                found[f"{kind} {prefix + name!r}"] = value
    return found


def _check_graph(module: GraphModule, model: torch.nn.Module) -> None:
    """Refuse a graph that draws random numbers, writes to what is stored, or normalises by the batch."""
    needed = _needed(module)
    for node in module.graph.nodes:
        if op_name(node) == "aten.batch_norm" and argument(node, 5, "training"):
            raise InputError(
                f"Layer {in_module(node, node.name)} normalises by each batch's statistics in evaluation mode"
                f"{written_at(node)}.",
                "Use running statistics (track_running_stats=True); model.eval() must reach the layer.",
            )
        value = node.meta.get("val")
        if node.op == "call_function" and isinstance(value, torch.Tensor) and value.dtype in _HALF:
            raise InputError(f"forward computes in {value.dtype}{written_at(node)}.", _IN_FULL)
        for name in _written(node):
            kind = "parameter" if name in dict(model.named_parameters()) else "buffer"
            raise InputError(f"forward writes to the model's {kind} {name!r}{written_at(node)}.", _STATE)
        if _draws(node) and (node in needed or node.target._schema.is_mutable):
            raise InputError(f"forward draws random numbers with {op_name(node)}{written_at(node)}.", _NOISE)


def _needed(module: GraphModule) -> set[Node]:
    """Nodes that the outputs are computed from."""
    last = next(node for node in module.graph.nodes if node.op == "output")
    needed, waiting = {last}, [last]
    while waiting:
        for node in waiting.pop().all_input_nodes:
            if node not in needed:
                needed.add(node)
                waiting.append(node)
    return needed


def _draws(node: Node) -> bool:
    """Whether a node draws random numbers: dropout that is switched off does not."""
    schema = getattr(node.target, "_schema", None)
    if schema is None:
        return False
    given = {
        each.name: argument(node, at, each.name, each.default_value)
        for at, each in enumerate(schema.arguments)
    }
    trains = given.get("train", given.get("training", True))
    share = given.get("dropout_p", given.get("dropout", given.get("p") if "dropout" in schema.name else None))
    recurrent = "train" in given and "dropout" in given  # which torch does not tag
    tagged = torch.Tag.nondeterministic_seeded in getattr(node.target, "tags", ())
    return (tagged or recurrent) and trains is not False and share != 0


def _written(node: Node) -> tuple[str, ...]:
    """Names of the stored tensors that a node writes to, itself or through views of them."""
    schema = getattr(node.target, "_schema", None)
    if schema is None or not schema.is_mutable:
        return ()
    roots: list[Node] = []
    for at, each in enumerate(schema.arguments):
        if each.alias_info is not None and each.alias_info.is_write:
            map_arg(argument(node, at, each.name), lambda written: roots.append(_root(written)))
    return tuple(str(root.target) for root in roots if root.op == "get_attr")


def _root(node: Node) -> Node:
    """The node whose memory a view, or what was written in place, is."""
    while node.op == "call_function" and node.args and isinstance(node.args[0], Node):
        schema = getattr(node.target, "_schema", None)
        if schema is None:
            aliases = op_name(node) == "getitem"
        else:
            aliases = any(each.alias_info is not None for each in schema.returns)
        if not aliases:
            break
        node = node.args[0]
    return node

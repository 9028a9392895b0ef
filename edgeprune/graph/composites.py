"""Composite operations written out: those that PyTorch itself defines by others, and that have no rule.

torch.export leaves `cosine_similarity`, `hstack`, `gru_cell` or `tensordot` in a graph as one operation each.
There are about 240 of them, and their definitions consist of a few operations that are followed.
"""

from __future__ import annotations

import logging
from typing import Any

import torch
from torch.fx import GraphModule, Node
from torch.fx.experimental.proxy_tensor import make_fx
from torch.utils import _pytree as pytree

from edgeprune.graph.fx import attribute, is_pointwise, op_name
from edgeprune.graph.rulebook import RULES
from edgeprune.quiet import quiet

log = logging.getLogger(__name__)


def write_out(module: GraphModule) -> None:
    """Replace composite operations without a rule in place by what they are made of.

    One whose definition depends on values, or on how large the batch is, stays. So does one that is made of
    an operation without a rule: nothing would be gained, and a runtime may know it and not its parts.
    """
    changed = False
    for node in list(module.graph.nodes):
        target: Any = node.target
        if node.op != "call_function" or not isinstance(target, torch._ops.OpOverload) or _is_followed(node):
            continue
        if target._can_decompose() and not target._schema.is_mutable:
            made = _definition(module, node)
            if made is not None:
                _inline(node, made)
                changed = True
    if changed:
        module.graph.lint()
        module.recompile()


def _is_followed(node: Node) -> bool:
    return op_name(node) in RULES or is_pointwise(node)


def _definition(module: GraphModule, node: Node) -> GraphModule | None:
    """Graph of an operation's definition, with a placeholder for each node among its arguments."""
    leaves, spec = pytree.tree_flatten((node.args, node.kwargs))
    values = [_example(module, leaf, node) for leaf in leaves if isinstance(leaf, Node)]
    target: Any = node.target

    def define(*given: Any) -> Any:
        left = iter(given)
        args, kwargs = pytree.tree_unflatten(
            [next(left) if isinstance(leaf, Node) else leaf for leaf in leaves], spec
        )
        return target.decompose(*args, **kwargs)

    environment = getattr(_mode(values), "shape_env", None)
    decided = dict(getattr(environment, "replacements", {}))
    try:
        with torch.no_grad(), quiet("torch", below=logging.CRITICAL):
            made: GraphModule = make_fx(define)(*values)
    except Exception as error:
        log.debug("%s cannot be written out", node.name, exc_info=error)
        return None
    specialised = decided != dict(getattr(environment, "replacements", {}))
    constants = any(each.op == "get_attr" for each in made.graph.nodes)
    parts = [each for each in made.graph.nodes if isinstance(each.target, torch._ops.OpOverload)]
    lost = [op_name(each) for each in parts if not _is_followed(each)]
    if lost:
        log.debug("%s is not written out: %s has no rule", node.name, ", ".join(lost))
    return None if specialised or constants or lost else made


def _example(module: GraphModule, value: Node, node: Node) -> Any:
    if value.op != "get_attr":
        return value.meta["val"]
    tensor = attribute(module, str(value.target))
    mode = _mode([each.meta.get("val") for each in (node, *node.all_input_nodes)])
    return tensor if mode is None else mode.from_tensor(tensor, static_shapes=True)


def _mode(values: list[Any]) -> Any:
    found = (getattr(leaf, "fake_mode", None) for leaf in pytree.tree_leaves(values))
    return next((mode for mode in found if mode is not None), None)


def _inline(node: Node, made: GraphModule) -> None:
    """Put a definition in the place of its operation."""
    graph = node.graph
    arguments = iter(
        [leaf for leaf in pytree.tree_leaves((node.args, node.kwargs)) if isinstance(leaf, Node)]
    )
    copies: dict[Node, Node] = {}
    result: Any = None
    with graph.inserting_before(node):
        for each in made.graph.nodes:
            if each.op == "placeholder":
                copies[each] = next(arguments)
            elif each.op == "output":
                result = pytree.tree_map_only(Node, copies.__getitem__, each.args[0])
            else:
                copies[each] = graph.node_copy(each, copies.__getitem__)
                kept = [key for key in ("nn_module_stack", "stack_trace") if key in node.meta]
                copies[each].meta = {key: node.meta[key] for key in kept} | {"val": each.meta.get("val")}
    if isinstance(result, Node):
        node.replace_all_uses_with(result)
    else:
        for part in list(node.users):  # each takes one of several outputs
            part.replace_all_uses_with(result[part.args[1]])
            graph.erase_node(part)
    graph.erase_node(node)

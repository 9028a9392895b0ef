"""In-place changes of a tensor's shape (`unsqueeze_`, `t_`, `squeeze_`) as the views that they are."""

from __future__ import annotations

from typing import Any

import torch
from torch.fx import GraphModule, Node


def as_views(module: GraphModule) -> None:
    """Replace, in place, operations that change the shape of their argument by those that give a view of it.

    Both give the same tensor over the same memory, and torch.export lets later operations read the result. An
    argument that is read again behind the operation, in the shape that it has then, keeps it, and so does one
    that is stored or given: that shape is left behind for the next call.
    """
    changed = False
    order = {node: place for place, node in enumerate(module.graph.nodes)}
    for node in module.graph.nodes:
        view = _view(node)
        if view is None:
            continue
        argument = node.args[0]
        read_again = any(order[user] > order[node] for user in argument.users)
        if argument.op == "call_function" and not read_again:
            node.target = view
            changed = True
    if changed:
        module.recompile()


def _view(node: Node) -> Any:
    """Operation that gives the view; None for a node that changes no shape in place, or has no such form."""
    target = node.target
    if not isinstance(target, torch._ops.OpOverload) or torch.Tag.inplace_view not in target.tags:
        return None
    packet = getattr(torch.ops.aten, target._schema.name.removeprefix("aten::").removesuffix("_"), None)
    for name in packet.overloads() if packet is not None else ():
        view = getattr(packet, name)
        shares = bool(view._schema.returns) and view._schema.returns[0].alias_info is not None
        if shares and not view._schema.is_mutable and _takes(view) == _takes(target):
            return view
    return None


def _takes(operation: Any) -> list[tuple[str, str]]:
    return [(each.name, str(each.type)) for each in operation._schema.arguments]

"""Export of a model by torch.export: what is set around it, and what is said when it fails."""

from __future__ import annotations

import inspect
import logging
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import is_dataclass
from typing import Any

import torch
from torch.export import Dim, ExportedProgram
from torch.utils import _pytree as pytree

from edgeprune.errors import InputError
from edgeprune.graph.fixed_sizes import fixed_sizes, place
from edgeprune.quiet import quiet

LOGGERS = ("torch.export", "torch.fx", "torch._dynamo")  # these report on torch's internals


class NotExported(InputError):
    """A model does not export. why: the reason, as a clause about the model."""

    def __init__(self, what: str, hint: str, why: str) -> None:
        super().__init__(what, hint)
        self.args = (what, hint, why)
        self.why = why


def export(
    model: torch.nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], *, one_row: bool = False
) -> ExportedProgram:
    """Export with a batch that may vary, or with `one_row` for the one row that the arguments have.

    Raises `NotExported`.
    """
    if not one_row:  # torch specialises a dimension of size 1, so a batch of one is captured as one of two
        args, kwargs = pytree.tree_map_only(torch.Tensor, _at_least_two, (args, kwargs))
    batch = None if one_row else {0: Dim.DYNAMIC}
    fixed: list[str] = []
    try:
        with (
            torch.no_grad(),
            quiet(*LOGGERS),
            quiet("torch._subclasses", below=logging.CRITICAL),  # it reports what is raised here, too
            fixed_sizes() as fixed,
            attention_in_full(),
            _outputs_known(model),
            _keywords_by_name(model, kwargs),
        ):
            # Shapes are given by the names of forward's parameters, those that `*args` gathers included.
            bound = inspect.signature(model.forward).bind(*args, **kwargs).arguments
            shapes = pytree.tree_map(
                lambda leaf: batch if isinstance(leaf, torch.Tensor) else None, dict(bound)
            )
            return torch.export.export(model, args, kwargs or None, dynamic_shapes=shapes, strict=False)
    except Exception as error:
        raise NotExported(*_not_exported(error, fixed)) from error


def _not_exported(error: Exception, fixed: list[str]) -> tuple[str, str, str]:
    """What an export failed at, what to try, and why. fixed: lines at which a size became a number."""
    if fixed and "specialized it to be a constant" in str(error):
        why = f"it takes the batch, which may vary, for a number{fixed[0]}"
        return (
            f"The model does not export: {why}.",
            "Keep the rows a size: x.shape[0] in place of len(x), -1 in place of a number, no loop over rows "
            "and no branch on how many there are.",
            why,
        )
    line = _user_line(error)
    return (
        f"The model does not export{line}: {_first_lines(str(error))}",
        "torch.export needs control flow that does not depend on the data and a batch that may vary; "
        "use torch.where or torch.cond there, and take sizes from x.shape. "
        "`torch.export.export(model, args, dynamic_shapes=..., strict=False)` shows the full report.",
        f"with more rows it does not export{line}",
    )


def known(value: Any) -> Any:
    """The value, its dataclasses made known to torch, which takes them for no structure by themselves."""
    leaves = pytree.tree_leaves(value)
    kinds = {type(leaf) for leaf in leaves if is_dataclass(leaf) and not isinstance(leaf, type)}
    for kind in kinds:
        torch.export.register_dataclass(kind, serialized_type_name=f"{kind.__module__}.{kind.__qualname__}")
    return known(value) if kinds else value


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
def attention_in_full() -> Iterator[None]:
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
    hook = model.register_forward_hook(lambda module, args, output: known(output))
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

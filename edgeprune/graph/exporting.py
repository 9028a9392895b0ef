"""Export of a model by torch.export: what is set around it, and what is said when it fails."""

from __future__ import annotations

import inspect
import logging
import re
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
from edgeprune.records.lengths import LENGTH_NAME, Lengths

_OF_LENGTHS = re.compile(
    rf"Constraints violated \(({LENGTH_NAME}\b|.*\b{LENGTH_NAME}\b)|marked {LENGTH_NAME} "
)
LOGGERS = ("torch.export", "torch.fx", "torch._dynamo")  # these report on torch's internals


class NotExported(InputError):
    """A model does not export. why: the reason, as a clause about the model."""

    def __init__(self, what: str, hint: str, why: str) -> None:
        super().__init__(what, hint)
        self.args = (what, hint, why)
        self.why = why


def export(
    model: torch.nn.Module,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    *,
    one_row: bool = False,
    lengths: Lengths | None = None,
) -> ExportedProgram:
    """Export with a batch that may vary, or with `one_row` for the one row that the arguments have.

    lengths: of sequences, between the shortest and the longest of which the length may vary, too.
    Raises `NotExported`.
    """
    if not one_row:  # torch specialises a dimension of size 1, so a batch of one is captured as one of two
        args, kwargs = pytree.tree_map_only(torch.Tensor, _at_least_two, (args, kwargs))
    if lengths is not None:
        args, kwargs = _apart((args, kwargs), model, lengths)
    varying = _varying((args, kwargs), one_row, lengths)
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
            shapes = pytree.tree_map(lambda leaf: varying.get(id(leaf)), dict(bound))
            return torch.export.export(model, args, kwargs or None, dynamic_shapes=shapes, strict=False)
    except Exception as error:
        raise NotExported(*_not_exported(error, fixed, lengths)) from error


def _apart(given: Any, model: torch.nn.Module, lengths: Lengths) -> Any:
    """The inputs at a length that no stored tensor has, as copies, of which each is told by its identity.

    Where a length equals a width, torch takes a view for the wrong one, and then the length for a number.
    """
    sizes = {size for tensor in (*model.parameters(), *model.buffers()) for size in tensor.shape}
    length = next((each for each in lengths.between() if each not in sizes), lengths.longest)
    leaves, spec = pytree.tree_flatten(given)
    places = [at for at, leaf in enumerate(leaves) if isinstance(leaf, torch.Tensor)]
    for at, tensor in zip(places, lengths.first([leaves[at] for at in places], length), strict=True):
        leaves[at] = tensor.clone()
    return pytree.tree_unflatten(leaves, spec)


def _varying(given: Any, one_row: bool, lengths: Lengths | None) -> dict[int, dict[int, Any] | None]:
    """Dimensions of each tensor that may vary, by the tensor's `id`."""
    tensors = [leaf for leaf in pytree.tree_leaves(given) if isinstance(leaf, torch.Tensor)]
    along = ((),) * len(tensors) if lengths is None else lengths.dims
    # torch gives equal dimensions of one name one symbol.
    length = None if lengths is None else Dim(LENGTH_NAME, min=lengths.values[0], max=lengths.longest)
    batch: dict[int, Any] = {} if one_row else {0: Dim.DYNAMIC}
    return {
        id(tensor): {**batch, **dict.fromkeys(dims, length)} or None
        for tensor, dims in zip(tensors, along, strict=True)
    }


def _not_exported(error: Exception, fixed: list[str], lengths: Lengths | None) -> tuple[str, str, str]:
    """What an export failed at, what to try, and why. fixed: lines at which a size became a number."""
    if lengths is not None and _OF_LENGTHS.search(str(error)):
        return _not_of_lengths(error, fixed, lengths)
    if fixed and "specialized it to be a constant" in str(error):
        why = f"it takes the batch, which may vary, for a number{fixed[0]}"
        return (
            f"The model does not export: {why}.",
            "Keep the rows a size: x.shape[0] in place of len(x), -1 in place of a number, no loop over rows "
            "and no branch on how many there are.",
            why,
        )
    line = _user_line(error)
    whole = (
        ""
        if lengths is None
        else f" It has to take all lengths from {lengths.values[0]} to {lengths.longest}; for one, leave "
        f"lengths out, and pad to {lengths.longest}."
    )
    return (
        f"The model does not export{line}: {_first_lines(str(error))}",
        "torch.export needs control flow that does not depend on the data and a batch that may vary; "
        "use torch.where or torch.cond there, and take sizes from x.shape. "
        f"`torch.export.export(model, args, dynamic_shapes=..., strict=False)` shows the full report.{whole}",
        f"with more rows it does not export{line}",
    )


def _not_of_lengths(error: Exception, fixed: list[str], lengths: Lengths) -> tuple[str, str, str]:
    """The same of an export whose length cannot vary."""
    if fixed and "specialized it to be a constant" in str(error):
        why = f"it takes the length, which may vary, for a number{fixed[0]}"
    else:
        reasons = [line.strip(" -") for line in str(error).splitlines()[1:] if line.strip().startswith("-")]
        why = f"not all lengths from {lengths.values[0]} to {lengths.longest} are its own: " + (
            " ".join(reasons[:1])[:300] or _first_lines(str(error))
        )
    return (
        f"The model does not export with the lengths {lengths.told}: {why.removesuffix('.')}.",
        "Keep the length a size: x.shape[1] in place of len(x[0]), -1 in place of a number, no loop over "
        "positions. As it is, it can be served at one length: leave lengths out, and pad to "
        f"{lengths.longest}.",
        why,
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

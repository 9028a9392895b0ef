"""Items of a task's data: one batch of inputs becomes tensors in the example's order, or a sentence."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np
import torch

from edgeprune.errors import InputError
from edgeprune.records.lengths import Lengths, stated_lengths
from edgeprune.tasks.blame import kind_of, names_of

_LIKE_EXAMPLE = "Every input must look like the example, in the same order; only the batch may differ."
_IN_BATCHES = "Give batches: torch.utils.data.DataLoader(data, batch_size=32) makes them of single samples."


def flat_inputs(example: Any, item: Any, where: str = "The input") -> tuple[torch.Tensor, ...]:
    """Tensors of one item of calibration or training inputs, in the example's order.

    item: laid out as `example` (a tensor, a tuple or list, a dict), of tensors or numpy arrays; of a dict,
    the example's names are read. where: the item's name in error messages.
    Raises `InputError` when the layout differs.
    """
    if isinstance(example, Mapping):
        if not isinstance(item, Mapping):
            raise InputError(
                f"{where} is {kind_of(item)}, and the example is a dict of {names_of(example)}.",
                _LIKE_EXAMPLE,
            )
        for name in example:
            if name not in item:
                raise InputError(f"{where} has no {name!r}; it has {names_of(item)}.", _LIKE_EXAMPLE)
        return tuple(_tensor(item[name], f"{where}, input {name!r},") for name in example)
    expected = 1 if isinstance(example, torch.Tensor) else len(example)
    items = list(item) if isinstance(item, tuple | list) else [item]
    if len(items) != expected:
        hint = "Calibration data is unlabelled: give the inputs alone." if len(items) == expected + 1 else ""
        raise InputError(
            f"{where} is {kind_of(item)}, and the example has {expected} input{'s' * (expected != 1)}.",
            hint or _LIKE_EXAMPLE,
        )
    return tuple(_tensor(value, f"{where}, input {index},") for index, value in enumerate(items))


def like_example(
    example: Any, item: Any, where: str, lengths: Lengths | None = None
) -> tuple[torch.Tensor, ...]:
    """Tensors of an item that looks like the example: sizes, number types, one batch, finite values.

    lengths: of sequences, one of which the item has.
    Raises `InputError` that names the item by `where`, the input, and what was expected and given.
    """
    tensors = flat_inputs(example, item, where)
    batches = {tensor.shape[0] if tensor.dim() else 0 for tensor in tensors}
    for place, ((name, like), tensor) in enumerate(zip(named_inputs(example), tensors, strict=True)):
        at = f"{where}, input {name},"
        free = {0, *(lengths.dims[place] if lengths is not None else ())}
        sizes, wanted = (_sizes(each, free) for each in (tensor, like))
        if sizes != wanted:
            want = ", ".join(wanted)
            raise InputError(
                f"{at} has shape {list(tensor.shape)}, and the example asks for [{want}].",
                _IN_BATCHES if tensor.shape == like.shape[1:] else _LIKE_EXAMPLE,
            )
        if tensor.dtype != like.dtype:
            kind = str(like.dtype).removeprefix("torch.")
            raise InputError(
                f"{at} is {tensor.dtype}, and the example is {like.dtype}.",
                f"Give it as the example is: tensor.to(torch.{kind}), or array.astype({kind!r}).",
            )
        if not tensor.shape[0] or len(batches) > 1:
            problem = (
                "is empty" if not tensor.shape[0] else f"has {tensor.shape[0]} rows, unlike another input"
            )
            raise InputError(f"{at} {problem}.", "Give the same number of rows, one or more, in all inputs.")
        if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
            raise InputError(
                f"{at} holds NaN or infinite values.",
                "Clean the data: INT8 ranges cannot be taken from values that are not finite.",
            )
    if lengths is not None and lengths.of([tensor.shape for tensor in tensors]) is None:
        shown = ", ".join(map(str, (list(tensor.shape) for tensor in tensors)))
        raise InputError(
            f"{where} has inputs of the shapes {shown}, which are of none of the lengths {lengths.told}.",
            "Pad each batch to the shortest of them that holds its sequences, or cut it to the longest.",
        )
    return tensors


def _sizes(tensor: torch.Tensor, free: Collection[int]) -> list[str]:
    """Sizes for a sentence: N for the batch, L for the length."""
    return [("L" if dim else "N") if dim in free else str(size) for dim, size in enumerate(tensor.shape)]


def lengths_of(example: Any, values: Any, dims: Any) -> Lengths | None:
    """Lengths of sequences that are stated beside an example. Raises `InputError` as `stated_lengths`."""
    if values is None and dims is None:
        return None
    given = [example] if isinstance(example, torch.Tensor) else example
    named = given.items() if isinstance(given, Mapping) else enumerate(given)
    return stated_lengths(
        values, dims, {name: tuple(each.shape) for name, each in named if isinstance(each, torch.Tensor)}
    )


def named_inputs(example: Any) -> list[tuple[str, Any]]:
    """Inputs of an example with their names in sentences; none when it is of no such layout."""
    if isinstance(example, Mapping):
        return [(repr(name), value) for name, value in example.items()]
    if isinstance(example, tuple | list):
        return [(str(index), value) for index, value in enumerate(example)]
    return [("0", example)] if isinstance(example, torch.Tensor) else []


def laid_out(example: Any, tensors: Sequence[torch.Tensor]) -> Any:
    """Tensors in the example's order, laid out as the example."""
    if isinstance(example, torch.Tensor):
        return tensors[0]
    return dict(zip(example, tensors, strict=True)) if isinstance(example, Mapping) else tuple(tensors)


def left_out(example: Any, item: Any) -> tuple[str, ...]:
    """Names in an item that the example has not, such as labels."""
    if not isinstance(example, Mapping) or not isinstance(item, Mapping):
        return ()
    return tuple(str(name) for name in item if name not in example)


def _tensor(value: Any, where: str) -> torch.Tensor:
    if isinstance(value, torch.Tensor):
        return value.detach()
    if isinstance(value, np.ndarray) and value.dtype.kind in "biuf":
        return torch.tensor(value)  # a copy: torch cannot share memory that numpy may not write
    raise InputError(
        f"{where} is {kind_of(value)}, not a tensor or a numeric numpy array.",
        "Give flat tensors: torch.as_tensor(value) makes one of numbers, dataset.with_format('torch') of the "
        "rows of a `datasets` Dataset.",
    )

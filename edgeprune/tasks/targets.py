"""Targets of a training batch: a tensor, a tree of tensors with the batch first, or None."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch.utils import _pytree as pytree

from edgeprune.errors import InputError
from edgeprune.tasks.blame import kind_of


@dataclass(frozen=True)
class Layout:
    """Layout of a target and of its tensors, the batch aside. shown: the same, for a sentence."""

    form: Any
    tensors: tuple[Any, ...]
    shown: str = field(compare=False)


def as_tensors(value: Any, where: str) -> Any:
    """A target with tensors at its ends: arrays and lists of numbers are turned into some.

    where: its name in error messages. Raises `InputError` for what is no tensor.
    """
    if value is None or isinstance(value, torch.Tensor):
        return value
    if isinstance(value, Mapping):
        return {name: as_tensors(part, f"{where} {name!r}") for name, part in value.items()}
    if isinstance(value, tuple | list) and not _numeric(value):
        parts = [as_tensors(part, f"{where} {number}") for number, part in enumerate(value)]
        return type(value)(*parts) if hasattr(value, "_fields") else type(value)(parts)
    try:
        return torch.as_tensor(value)
    except (TypeError, ValueError, RuntimeError) as error:
        raise InputError(
            f"{where} is {kind_of(value)}, not a tensor.",
            "Give tensors, or a tuple, list or dict of them, the batch first in each; or None.",
        ) from error


def layout(target: Any, rows: int, where: str) -> Layout:
    """Layout of a batch's target. Raises `InputError` for a tensor that has not `rows` rows."""
    leaves, form = pytree.tree_flatten(target)
    for leaf in leaves:
        if leaf is not None and (leaf.dim() == 0 or len(leaf) != rows):
            raise InputError(
                f"{where} has {rows} rows of inputs, and in its target {kind_of(leaf)}.",
                "Give targets with the batch first, one row for each sample.",
            )
    kinds = (None if leaf is None else (leaf.dtype, *leaf.shape[1:]) for leaf in leaves)
    return Layout(form, tuple(kinds), ", ".join(map(kind_of, leaves)) or "nothing")


def _numeric(value: Any) -> bool:
    """Whether a list holds numbers alone, however deep."""
    if isinstance(value, tuple | list):
        return bool(value) and all(map(_numeric, value))
    return isinstance(value, bool | int | float | np.generic)

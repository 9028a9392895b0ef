"""Stand-in for a device that is not the processor: it computes, and refuses what a GPU refuses.

Its tensors say that they lie on PyTorch's `meta` device, and hold their values on the processor. An operation
on tensors of both devices raises, as CUDA's do: only copies and single numbers (0-dim, in pointwise
operations) cross over.

    with elsewhere():
        x = torch.ones(2, device=ELSEWHERE)
        x + torch.ones(2)  # RuntimeError
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode, return_and_correct_aliasing

ELSEWHERE = torch.device("meta")
_HERE = torch.device("cpu")
_CROSSING = ("aten::_to_copy", "aten::copy_", "aten::_local_scalar_dense")


class ElsewhereTensor(torch.Tensor):
    """Tensor on the stand-in device. here: its values."""

    here: torch.Tensor

    @staticmethod
    def __new__(cls, here: torch.Tensor) -> ElsewhereTensor:
        made = torch.Tensor._make_wrapper_subclass(  # type: ignore[attr-defined]
            cls,
            here.size(),
            strides=here.stride(),
            storage_offset=here.storage_offset(),
            dtype=here.dtype,
            device=ELSEWHERE,
        )
        made.here = here
        return made

    def __repr__(self) -> str:  # type: ignore[override]
        return f"ElsewhereTensor({self.here!r})"

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _computed(func, args, kwargs or {})


class _Factories(TorchDispatchMode):
    """Mode in which tensors may be made on the stand-in device."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        leaves = pytree.tree_leaves((args, kwargs))
        if any(_is_there(leaf) for leaf in leaves):
            return _computed(func, args, kwargs)
        return func(*args, **kwargs)


@contextmanager
def elsewhere() -> Iterator[torch.device]:
    """Context in which the stand-in device is there."""
    with _Factories():
        yield ELSEWHERE


def _computed(func: Any, args: Any, kwargs: Any) -> Any:
    leaves = pytree.tree_leaves((args, kwargs))
    theirs = [leaf for leaf in leaves if isinstance(leaf, ElsewhereTensor)]
    ours = [
        leaf for leaf in leaves if isinstance(leaf, torch.Tensor) and not isinstance(leaf, ElsewhereTensor)
    ]
    name = func._schema.name
    if theirs and ours and name not in _CROSSING:
        numbers = torch.Tag.pointwise in func.tags and all(not tensor.dim() for tensor in ours)
        if not numbers:
            raise RuntimeError(f"Expected all tensors to be on the same device, found two for {func}.")
    told = [leaf for leaf in leaves if isinstance(leaf, torch.device)]
    stays = told[0] != ELSEWHERE if told else not (theirs and _first(args, kwargs, theirs))
    values = {id(tensor): tensor.here for tensor in theirs}

    def here(leaf: Any) -> Any:
        return _HERE if isinstance(leaf, torch.device) else values.get(id(leaf), leaf)

    def there(leaf: Any) -> Any:
        return ElsewhereTensor(leaf) if isinstance(leaf, torch.Tensor) else leaf

    found = func(*pytree.tree_map(here, args), **pytree.tree_map(here, kwargs))
    if stays:
        return args[0] if name == "aten::copy_" else found
    return return_and_correct_aliasing(func, args, kwargs, pytree.tree_map(there, found))


def _is_there(leaf: Any) -> bool:
    return isinstance(leaf, ElsewhereTensor) or (isinstance(leaf, torch.device) and leaf == ELSEWHERE)


def _first(args: Any, kwargs: Any, theirs: Any) -> bool:
    """Whether the result lies on the stand-in device: where its destination does, or any of its tensors."""
    return (
        not args
        or not isinstance(args[0], torch.Tensor)
        or isinstance(args[0], ElsewhereTensor)
        or any(tensor.dim() for tensor in theirs)
    )

"""Listener to a loss, which tells what outputs are by the functions of torch that it hands them to.

Nothing is guessed from a name or a shape. The user's loss is run once on a batch, and torch reports the
calls: an output that goes into `cross_entropy`, or into a softmax, as it is or only reshaped, holds class
scores; one that goes into `mse_loss` holds values; of one that is normalised the direction counts. A loss
that does its own arithmetic tells nothing, and neither does an output that two functions read in two ways, or
of which one reads a part.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch.overrides import TorchFunctionMode

from edgeprune.records.meaning import Meaning, OutputKind

# Functions that keep a tensor's elements: all in their places, moved, or some of them.
_KEEPING = frozenset(("contiguous", "clone", "float", "double", "half", "bfloat16", "to", "type"))
MOVING = frozenset(
    (
        *("view", "reshape", "flatten", "unflatten", "squeeze", "unsqueeze"),
        *("transpose", "permute", "movedim", "moveaxis", "swapaxes", "swapdims", "T", "mT"),
        *("__getitem__", "narrow", "select", "unbind", "split", "chunk"),
    )
)
# Loss functions with the axis of the classes in their first argument, None where each element counts alone.
_LOSSES: Mapping[str, tuple[OutputKind, int | None]] = {
    "cross_entropy": ("classes", 1),
    "nll_loss": ("classes", 1),
    "multi_margin_loss": ("classes", 1),
    "binary_cross_entropy_with_logits": ("labels", None),
    "multilabel_soft_margin_loss": ("labels", None),
    "binary_cross_entropy": ("probabilities", None),
    "mse_loss": ("values", None),
    "l1_loss": ("values", None),
    "smooth_l1_loss": ("values", None),
    "huber_loss": ("values", None),
    "gaussian_nll_loss": ("values", None),
    "cosine_embedding_loss": ("embeddings", 1),
}
# Functions along an axis that show what it is of: with the place of their argument `dim`, and its default.
_ALONG: Mapping[str, tuple[OutputKind, int, int | None]] = {
    "softmax": ("classes", 1, None),
    "log_softmax": ("classes", 1, None),
    "normalize": ("embeddings", 2, 1),
    "cosine_similarity": ("embeddings", 2, 1),
}


def hear(loss: Callable[[], Any], outputs: Sequence[torch.Tensor]) -> tuple[Any, tuple[Meaning | None, ...]]:
    """Result of `loss()`, which reads `outputs`, and what that told of each; None where it told nothing.

    An axis is given where it is certain: no other axis of that output has the size of the one that was read.
    """
    listener = _Listener(outputs)
    with listener:
        result = loss()
    return result, tuple(listener.meaning(at) for at in range(len(outputs)))


@dataclass(frozen=True)
class _Made:
    """Tensor that was made of an output; whole: its elements are all there, in their places."""

    tensor: torch.Tensor
    at: int
    whole: bool = True


class _Listener(TorchFunctionMode):
    def __init__(self, outputs: Sequence[torch.Tensor]) -> None:
        super().__init__()
        self._outputs = outputs
        # By identity; the tensors are held, so that no other takes an identity.
        self._made = {id(tensor): _Made(tensor, at) for at, tensor in enumerate(outputs)}
        self._told: dict[int, set[Meaning | None]] = {}

    def meaning(self, at: int) -> Meaning | None:
        told = self._told.get(at, set())
        return next(iter(told)) if len(told) == 1 else None

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        result = func(*args, **kwargs)
        name = name_of(func)
        named = [kwargs[key] for key in ("input", "input1", "x1") if key in kwargs]
        both = args[:2] if name.startswith("cosine") else args[:1]
        for made in [self._made[id(read)] for read in (*both, *named) if id(read) in self._made]:
            self._hear(made, func, name, args, kwargs, result)
        return result

    def _hear(
        self, read: _Made, func: Any, name: str, args: tuple[Any, ...], kwargs: Mapping[str, Any], result: Any
    ) -> None:
        if name in _KEEPING or name in MOVING:
            for tensor in result if isinstance(result, tuple | list) else (result,):
                self._made[id(tensor)] = _Made(tensor, read.at, read.whole and name in _KEEPING)
        elif name in _ALONG:
            kind, place, default = _ALONG[name]
            dim = kwargs.get("dim", args[place] if len(args) > place else default)
            self._tell(read, kind, dim if isinstance(dim, int) else None, along=True)
        elif name in _LOSSES and getattr(func, "__module__", "") == F.__name__:
            kind, dim = _LOSSES[name]
            self._tell(read, kind, dim, along=dim is not None)

    def _tell(self, read: _Made, kind: OutputKind, dim: int | None, *, along: bool) -> None:
        """Note what the loss took an output for; a part of one, or an unknown axis, settles nothing."""
        output, meaning = self._outputs[read.at], None
        if not along:
            meaning = Meaning(kind) if read.tensor.numel() == output.numel() else None
        elif dim is not None and -read.tensor.dim() <= dim < read.tensor.dim():
            size = read.tensor.shape[dim]
            axes = [axis for axis in range(1, output.dim()) if output.shape[axis] == size > 1]
            if read.whole:
                axes = [axis for axis in axes if axis == dim % output.dim()]
            if axes:
                meaning = Meaning(kind, axes[0] if len(axes) == 1 else None)
        self._told.setdefault(read.at, set()).add(meaning)


def name_of(func: Any) -> str:
    """Name of a function as people write it; that of the attribute, for a property such as `Tensor.T`."""
    name = str(getattr(func, "__name__", ""))
    return str(getattr(getattr(func, "__self__", None), "__name__", name)) if name == "__get__" else name

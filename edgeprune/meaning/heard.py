"""Listener to a loss, which tells what outputs are by the functions of torch that it hands them to.

Nothing is guessed from a name or a shape. The user's loss is run once on a batch, and torch reports the
calls: an output that goes into `cross_entropy`, or into a softmax, as it is or only reshaped, holds class
scores; one that goes into `mse_loss` holds values. A loss that does its own arithmetic tells nothing, and
neither does an output that two functions read in two ways, or of which one reads a part.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch.overrides import TorchFunctionMode

from edgeprune.records.meaning import Meaning, OutputKind

# Functions that keep the elements of a tensor, or some of them, and give no other number.
_RESHAPING = frozenset(
    (
        *("view", "reshape", "flatten", "unflatten", "squeeze", "unsqueeze", "contiguous", "clone"),
        *("transpose", "permute", "movedim", "moveaxis", "swapaxes", "swapdims", "T", "mT"),
        *("float", "double", "half", "bfloat16", "to", "type"),
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
}
_SOFTMAXES = ("softmax", "log_softmax")


def hear(loss: Callable[[], Any], outputs: Sequence[torch.Tensor]) -> tuple[Any, tuple[Meaning | None, ...]]:
    """Result of `loss()`, which reads `outputs`, and what that told of each; None where it told nothing.

    An axis is given where it is certain: no other axis of that output has the size of the one that was read.
    """
    listener = _Listener(outputs)
    with listener:
        result = loss()
    return result, tuple(listener.meaning(at) for at in range(len(outputs)))


class _Listener(TorchFunctionMode):
    def __init__(self, outputs: Sequence[torch.Tensor]) -> None:
        super().__init__()
        self._outputs = outputs
        # By identity, each with its output; the tensors are held, so that no other takes an identity.
        self._known = {id(tensor): (tensor, at) for at, tensor in enumerate(outputs)}
        self._told: dict[int, set[Meaning | None]] = {}

    def meaning(self, at: int) -> Meaning | None:
        told = self._told.get(at, set())
        return next(iter(told)) if len(told) == 1 else None

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        result = func(*args, **kwargs)
        read = args[0] if args else kwargs.get("input")
        known = self._known.get(id(read))
        if known is None or not isinstance(read, torch.Tensor):
            return result
        name = _name(func)
        if name in _RESHAPING:
            for tensor in result if isinstance(result, tuple | list) else (result,):
                self._known[id(tensor)] = (tensor, known[1])
        elif name in _SOFTMAXES:
            dim = kwargs.get("dim", args[1] if len(args) > 1 else None)
            if isinstance(dim, int):
                self._tell(known[1], read, "classes", dim)
        elif name in _LOSSES and getattr(func, "__module__", "") == F.__name__:
            kind, dim = _LOSSES[name]
            self._tell(known[1], read, kind, dim)
        return result

    def _tell(self, at: int, read: torch.Tensor, kind: OutputKind, dim: int | None) -> None:
        """Note that the loss read `read`, made of an output, as `kind`; a part of one settles nothing."""
        output = self._outputs[at]
        meaning = None
        if dim is None:
            meaning = Meaning(kind) if read.numel() == output.numel() else None
        elif read.dim() > dim:
            size = read.shape[dim]
            if read.shape == output.shape:
                axes = [dim % read.dim()]
            else:
                axes = [axis for axis in range(1, output.dim()) if output.shape[axis] == size > 1]
            if axes and axes[0] > 0:
                meaning = Meaning(kind, axes[0] if len(axes) == 1 else None)
        self._told.setdefault(at, set()).add(meaning)


def _name(func: Any) -> str:
    """Name of a function as people write it; that of the attribute, for a property such as `Tensor.T`."""
    name = str(getattr(func, "__name__", ""))
    return str(getattr(getattr(func, "__self__", None), "__name__", name)) if name == "__get__" else name

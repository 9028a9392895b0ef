"""Broadcasts in a loss that compare every row of an output with every target: [N, 1] against [N] is [N, N].

torch warns of some of them, and trains on. The user's loss is run once; a call that takes an output and a
target as they are, or changed place by place, and spreads both is such a broadcast. One that is meant shows
in the code: it gives one of them another shape first.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch.overrides import TorchFunctionMode

from edgeprune.errors import InputError
from edgeprune.meaning.heard import MOVING, name_of

# Loss functions that broadcast, and return a number alone.
_LOSSES = frozenset(("mse_loss", "l1_loss", "smooth_l1_loss", "huber_loss", "poisson_nll_loss", "kl_div"))


@contextmanager
def refused_broadcasts(outputs: Sequence[torch.Tensor], targets: Sequence[torch.Tensor]) -> Iterator[None]:
    """Context of a call of a loss. Raises `InputError` at its end where an output and a target spread."""
    meetings = _Spreads(outputs, targets)
    with meetings:
        yield
    if meetings.spread is not None:
        output, target, together = (list(shape) for shape in meetings.spread)
        raise InputError(
            f"The loss compares an output {output} with targets {target} as {together}: every row with the "
            "targets of all.",
            "Give both one shape, such as output.squeeze(1), or target.unsqueeze(1).",
        )


class _Spreads(TorchFunctionMode):
    """spread: shapes of the first output and targets that spread, and of what both became."""

    def __init__(self, outputs: Sequence[torch.Tensor], targets: Sequence[torch.Tensor]) -> None:
        super().__init__()
        self.spread: tuple[torch.Size, torch.Size, torch.Size] | None = None
        # By identity; the tensors are held, so that no other takes an identity.
        self._side = {id(tensor): (side, tensor) for side in (0, 1) for tensor in (outputs, targets)[side]}

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        result = func(*args, **kwargs)
        given = [value for value in (*args, *kwargs.values()) if isinstance(value, torch.Tensor)]
        sides = {self._side[id(value)][0]: value for value in given if id(value) in self._side}
        if len(sides) == 2 and isinstance(result, torch.Tensor):
            self._look(func, sides[0].shape, sides[1].shape, result)
        kept = len(given) == 1 and isinstance(result, torch.Tensor) and result.shape == given[0].shape
        if kept and sides and name_of(func) not in MOVING:  # changed place by place
            self._side[id(result)] = (next(iter(sides)), result)
        return result

    def _look(self, func: Any, output: torch.Size, target: torch.Size, result: torch.Tensor) -> None:
        try:
            together: torch.Size = torch.broadcast_shapes(output, target)  # type: ignore[no-untyped-call]
        except RuntimeError:  # they do not broadcast
            return
        spreads = together.numel() > max(output.numel(), target.numel())
        placewise = name_of(func) in _LOSSES or result.shape == together
        if self.spread is None and spreads and placewise:
            self.spread = output, target, together

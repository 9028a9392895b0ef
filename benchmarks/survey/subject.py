"""One architecture of a library: how to build it small, with inputs that it takes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import nn

Built = tuple[nn.Module, Any]  # the model, and an example that it was seen to take


class NotBuilt(Exception):
    """An architecture that could not be built small: what it said last."""


@dataclass(frozen=True)
class Subject:
    """name: of the architecture; library: whose it is; build: may raise `NotBuilt`."""

    name: str
    library: str
    build: Callable[[], Built]

    @property
    def key(self) -> str:
        return f"{self.library}/{self.name}"


def parameters(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())

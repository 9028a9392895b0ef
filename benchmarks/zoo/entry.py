"""One architecture of the zoo: how to build it small, with random weights."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn

Example = torch.Tensor | Mapping[str, torch.Tensor]


@dataclass(frozen=True)
class Entry:
    """build: the model and an example batch of two. needs: a library without which it is skipped."""

    name: str
    build: Callable[[], tuple[nn.Module, Example]]
    needs: str | None = None

    def named(self, name: str) -> Entry:
        return replace(self, name=name)

    def made(self, seed: int = 0) -> tuple[nn.Module, Example]:
        """Built and set to weights under which every layer shows in the output; evaluation mode."""
        torch.manual_seed(seed)
        model, example = self.build()
        awaken(model)
        return model.eval(), example


def awaken(model: nn.Module) -> None:
    """Random weights that carry a signal: libraries start so small that a wrong cut would not show.

    Matrices and filters of unit gain, norms and biases away from 1 and 0.
    """
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.dim() < 2:
                low = 0.5 if name.endswith(("weight", "gamma")) else -0.5
                parameter.uniform_(low, low + 1)
            elif not name.endswith("original0"):  # the length in weight_norm
                parameter.normal_(std=1.5 * (parameter.shape[0] / parameter.numel()) ** 0.5)
        for module in model.modules():
            if isinstance(module, nn.modules.batchnorm._BatchNorm) and module.running_mean is not None:
                module.running_mean.uniform_(-0.5, 0.5)
                module.running_var.uniform_(0.5, 2.0)  # type: ignore[union-attr]


@dataclass(frozen=True)
class Part:
    """A configuration inside a configuration."""

    config: str
    options: Mapping[str, Any]


class Served(nn.Module):
    """The outputs that a model is used for: the others would keep what they show from being cut."""

    def __init__(self, model: nn.Module, outputs: tuple[str, ...]) -> None:
        super().__init__()
        self.model, self.outputs = model, outputs

    def forward(self, **inputs: torch.Tensor) -> tuple[torch.Tensor, ...]:
        found = self.model(**inputs)
        return tuple(found[name] for name in self.outputs)


def from_config(
    model: str,
    config: str,
    example: Callable[[], Example],
    *,
    outputs: tuple[str, ...] = (),
    **options: Any,
) -> Entry:
    """An architecture of `transformers`, by the names of its model and configuration classes."""

    def build() -> tuple[nn.Module, Example]:
        import transformers

        parts = {
            name: getattr(transformers, value.config)(**value.options) if isinstance(value, Part) else value
            for name, value in options.items()
        }
        settings = getattr(transformers, config)(**parts)
        built: nn.Module = getattr(transformers, model)(settings)
        return (Served(built, outputs) if outputs else built), example()

    return Entry(model, build, needs="transformers")


def images(size: int, channels: int = 3) -> Callable[[], Example]:
    return lambda: {"pixel_values": torch.randn(2, channels, size, size)}


def tokens(length: int, vocabulary: int) -> Callable[[], Example]:
    def make() -> Example:
        ids = torch.randint(0, vocabulary, (2, length))
        return {"input_ids": ids, "attention_mask": torch.ones_like(ids)}

    return make


def written(name: str, model: Callable[[], nn.Module], example: Callable[[], Example]) -> Entry:
    return Entry(name, lambda: (model(), example()))

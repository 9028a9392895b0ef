"""MODEL and the options that say what it leaves open, for every verb that takes a model."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

if TYPE_CHECKING:
    from edgeprune.tasks import TaskOptions

Verb = TypeVar("Verb", bound=Callable[..., Any])

# Fields of `TaskOptions`, beside the seed, which a verb declares with its own default.
_OPTIONS = (
    click.option(
        "--data", type=click.Path(path_type=Path), help="Arrays by input name, for a .pt2 or .onnx MODEL."
    ),
    click.option(
        "--outputs",
        help="What the outputs are, for a MODEL that does not say it: classes, labels, values, "
        "probabilities, embeddings or none; of several outputs classes,none or NAME=classes,NAME=none.",
    ),
)


def model_options(verb: Verb) -> Verb:
    """Add MODEL and the options of `TaskOptions` to a verb."""
    for option in reversed(_OPTIONS):
        verb = option(verb)
    return click.argument("model")(verb)


def task_options(given: dict[str, Any], seed: int = 0) -> TaskOptions:
    """Take what `model_options` added out of a verb's parameters."""
    from dataclasses import fields

    from edgeprune.tasks import TaskOptions

    names = {field.name for field in fields(TaskOptions)} - {"seed"}
    return TaskOptions(seed=seed, **{name: given.pop(name) for name in names})


__all__ = ["model_options", "task_options"]

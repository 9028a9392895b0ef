"""MODEL and the options that say what it leaves open, for every verb that takes a model."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from edgeprune.cli.numbers import WholeNumbers

if TYPE_CHECKING:
    from edgeprune.records.task import Task
    from edgeprune.tasks import TaskOptions

Verb = TypeVar("Verb", bound=Callable[..., Any])

# Fields of `TaskOptions`, beside the seed, which a verb declares with its own default.
_OPTIONS = (
    click.option(
        "--data",
        type=click.Path(path_type=Path),
        help="Of a .pt2 or .onnx MODEL arrays by input name (.npz); of a FOLDER labelled rows: .csv, .tsv, "
        ".jsonl, .json, .parquet, a folder of such files called train, validation and test, or of images or "
        "WAV files by class.",
    ),
    click.option(
        "--outputs",
        help="What the outputs are, for a MODEL that does not say it: classes, labels, values, "
        "probabilities, embeddings or none; of several outputs classes,none or NAME=classes,NAME=none.",
    ),
    click.option(
        "--columns",
        help="Columns of the data, for a FOLDER: text=review,label=stars; of two texts text=A,pair=B; "
        "words=W,label=T; image=I,label=L; audio=A,label=L. What is left out is found by its usual name.",
    ),
    click.option(
        "--metric",
        help="Metric, for a FOLDER: accuracy, f1, auc, matthews or rmse; by default accuracy of classes, f1 "
        "of several labels, rmse of values.",
    ),
    click.option(
        "--tokens",
        type=WholeNumbers(),
        help="Tokens of every text, for a FOLDER; by default the 99th percentile of the training texts. "
        "Several, as in 32,128, stay in the artefact: a text is padded to the next, and the budget is that "
        "of the longest.",
    ),
    click.option(
        "--seconds",
        type=float,
        help="Seconds of every recording, for a FOLDER; by default the 99th percentile of the training "
        "recordings, or what the model's feature extractor gives.",
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


def told_task(model: str, options: TaskOptions) -> Task:
    """Task of MODEL, for verbs other than `fit`; what there is to tell of it goes to stderr."""
    from edgeprune.tasks import PreparedTask, load_task

    task = load_task(model, options)
    for remark in task.remarks if isinstance(task, PreparedTask) else ():
        click.echo(remark, err=True)
    return task


__all__ = ["model_options", "task_options", "told_task"]

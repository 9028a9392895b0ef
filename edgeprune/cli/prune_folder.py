"""`edgeprune prune FOLDER -o FOLDER`: a pretrained folder becomes a smaller one that loads again."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import click

from edgeprune.cli.model import told_task
from edgeprune.cli.output import answers_alone
from edgeprune.cli.pruned_sizes import tell_pruned

if TYPE_CHECKING:
    import torch

    from edgeprune.meaning.kinds import Said
    from edgeprune.tasks import TaskOptions
    from edgeprune.tasks.pretrained.loading import Logits


def to_folder(
    folder: Path,
    options: TaskOptions,
    ratio: float,
    criterion: str | None,
    layers: int,
    output: Path,
    *,
    as_json: bool,
) -> None:
    """Prune a folder into a new one, and say what its config says now. Raises `InputError`."""
    from edgeprune.pruning.folder.pruned_folder import check_place, prune_folder
    from edgeprune.tasks.pretrained.loading import go_offline

    place = output.absolute()
    go_offline()
    check_place(place)
    with answers_alone():
        module, example, calibration, said = _given(folder, options)
        pruned = prune_folder(
            *(module, example, ratio, criterion, calibration, options.seed), layers=layers, outputs=said
        )
        pruned.save(folder, place)
    tell_pruned(
        *(pruned, output),
        {
            "config": {name: {"dense": old, "pruned": new} for name, (old, new) in pruned.changed.items()},
            "whole": list(pruned.whole),
        },
        pruned.changed,
        [f"kept whole, as no number of the config says their width: {', '.join(pruned.whole)}"]
        if pruned.whole
        else [],
        as_json=as_json,
    )


def _given(folder: Path, options: TaskOptions) -> tuple[Logits, Any, list[tuple[torch.Tensor, ...]], Said]:
    """The model, an example, calibration inputs and what the outputs are, by what data there is."""
    from edgeprune.tasks import flat_inputs, walk
    from edgeprune.tasks.pretrained.loading import load_any_head
    from edgeprune.tasks.pretrained.reading import FILE_KINDS
    from edgeprune.tasks.pretrained.samples import drawn_example, text_windows

    data = options.data
    if data is not None and (data.is_dir() or data.suffix in FILE_KINDS):
        task = told_task(str(folder), options)
        batches = [flat_inputs(task.example, batch) for batch in walk(task.calibration, "calibration")]
        return cast("Logits", task.model), task.example, batches, task.outputs
    _refuse_unread(options, ("tokens",) if data is not None else ())
    module = load_any_head(folder, lambda sentence: click.echo(sentence, err=True))
    if data is None:
        return module, drawn_example(module, options.seed), [], "classes"
    tokens = max(options.tokens) if isinstance(options.tokens, tuple) else options.tokens
    windows = text_windows(module, folder, data, tokens)
    return module, windows[0], [tuple(batch.values()) for batch in windows], "classes"


def _refuse_unread(options: TaskOptions, read: tuple[str, ...]) -> None:
    """Refuse options that say how labelled rows are read, where there are none. Raises `InputError`."""
    from edgeprune.errors import InputError

    for name in ("outputs", "columns", "metric", "tokens", "seconds"):
        if getattr(options, name) is not None and name not in read:
            raise InputError(
                f"--{name} says how data is read, and none was given that it is about.",
                f"Leave --{name} out, or give labelled rows with --data (docs/hugging_face.md).",
            )

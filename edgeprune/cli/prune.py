"""`edgeprune prune`: pruning by a ratio, without a device or a search."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import click

from edgeprune.cli.model import model_options, task_options, told_task
from edgeprune.cli.settled import with_project
from edgeprune.pruning.criteria import DEFAULT, WITHOUT_DATA
from edgeprune.pruning.criteria import TABLE as CRITERIA

if TYPE_CHECKING:
    from edgeprune.pruning.once import Pruned


@with_project
@click.command("prune")
@model_options
@click.option("--ratio", type=float, required=True, help="Share of the prunable parameters to remove.")
@click.option(
    "--criterion",
    help=f"By default {DEFAULT}, and {WITHOUT_DATA} without data. Importance: {', '.join(CRITERIA)}.",
)
@click.option(
    "--branches", type=int, default=0, show_default=True, help="Residual branches to drop whole first."
)
@click.option(
    "--heads",
    type=click.Choice(["whole", "inside"]),
    default="whole",
    show_default=True,
    help="Remove whole attention heads, or make heads narrower.",
)
@click.option("--seed", type=int, default=0, show_default=True)
@click.option(
    "--layers",
    type=int,
    default=0,
    show_default=True,
    help="Whole layers to drop first, of a FOLDER that is written as a folder.",
)
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path),
    required=True,
    help="The .pt2 file to write, or, of a FOLDER, the new folder.",
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document on stdout.")
def command(
    model: str,
    ratio: float,
    criterion: str | None,
    branches: int,
    heads: Literal["whole", "inside"],
    seed: int,
    layers: int,
    output: Path,
    as_json: bool,
    **options: Any,
) -> None:
    """Prune MODEL to a smaller dense model, without a device or a search.

    Layers that lost inputs get the least-squares best weights on the calibration data. MODEL is as for
    `edgeprune fit`. A FOLDER of transformers becomes a folder that transformers loads again, when -o names
    no .pt2 file: its widths are those that its config can say, the same in every layer.
    """
    from edgeprune.cli.output import answers_alone
    from edgeprune.errors import InputError
    from edgeprune.pruning.once import prune

    if Path(model).is_dir() and output.suffix != ".pt2":
        from edgeprune.cli.prune_folder import to_folder

        if branches or heads != "whole":
            raise InputError(
                "--branches and --heads inside are not for a folder: no config says such widths.",
                "Leave them out (--layers drops whole layers), or give -o a name that ends in .pt2.",
            )
        to_folder(Path(model), task_options(options, seed), ratio, criterion, layers, output, as_json=as_json)
        return
    if output.suffix != ".pt2":
        raise InputError(f"{output} is not a .pt2 file.", "Give -o a name that ends in .pt2.")
    if layers:
        raise InputError(
            "--layers is for a FOLDER that is written as a folder.", "Leave it out, or say --branches."
        )
    place = output.absolute()  # before the task's code may change the working folder
    with answers_alone():
        task = told_task(model, task_options(options, seed))
        pruned = prune(
            *(task.model, task.example, ratio, criterion, task.calibration, seed),
            branches=branches,
            heads=heads,
            outputs=task.outputs,
            lengths=task.lengths,
            length_dims=task.length_dims,
        )
        pruned.save(place)
    _tell(pruned, output, as_json=as_json)


def _tell(pruned: Pruned, output: Path, *, as_json: bool) -> None:
    from edgeprune.cli.pruned_sizes import tell_pruned
    from edgeprune.graph.onnx_operator import kept_names

    sentences = [pruned.fixed_batch] if pruned.fixed_batch else []
    if pruned.lengths:
        first, *_, last = pruned.lengths
        sentences.append(f"takes lengths from {first} to {last}; MACs are those of {last}")
    if kept := kept_names(pruned.captured.module):
        sentences.append(f"calls {', '.join(kept)} through edgeprune: no other program loads it")
    more = {
        "kept": {name: len(units) for name, units in pruned.kept.items()},
        "frozen": [(each.name, each.op, each.reason) for each in pruned.frozen],
        "fixed_batch": pruned.fixed_batch,
        "lengths": list(pruned.lengths),
    }
    tell_pruned(pruned, output, more, {}, sentences, as_json=as_json)

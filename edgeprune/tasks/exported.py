"""Tasks from files alone: a `torch.export` file and named arrays."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import torch
from torch.export import ExportedProgram
from torch.utils import _pytree as pytree

from edgeprune.environment import variable
from edgeprune.errors import InputError
from edgeprune.graph.capture import Captured, flatten, module_of
from edgeprune.graph.mode import trains
from edgeprune.graph.one_row import FOR_ONE_ROW, takes_one_row
from edgeprune.meaning.kinds import Said
from edgeprune.quiet import quiet
from edgeprune.records.task import Task
from edgeprune.tasks.arrays import Arrays, InputSpec, read_arrays, split_rows
from edgeprune.tasks.metrics import Batches, Pairs, metric_for

_DYNAMIC = (
    "Export it with a batch that may vary: `torch.export.export(model.eval(), (x,), "
    "dynamic_shapes=({0: torch.export.Dim.DYNAMIC},))`, with two or more rows in x."
)
_SAVE = "Write it with `torch.export.save(torch.export.export(model.eval(), (x,), ...), path)`."


def task_from_export(path: Path, data: Path | None, seed: int, said: Said = None) -> Task:
    """Task of a .pt2 file and a .npz file with the inputs by name and, optionally, `labels`.

    The metric is "top-1" for integer labels, "RMSE" for float labels, and without labels the
    "fidelity" to the outputs of the file's own model. said: what the outputs are, as in `Task.outputs`. The
    rows are shuffled by `seed` and split, so that no evaluation row is used for calibration or training.
    Raises `InputError`.
    """
    if not path.is_file():
        problem = "is a folder" if path.is_dir() else "does not exist"
        raise InputError(f"{path} {problem}.", f"Give the path of a .pt2 file, seen from {Path.cwd()}.")
    data = needed_data(path, data)
    program = _load(path)
    specs = _input_specs(program, path)
    keywords = _called_by_keyword(program, specs, path)
    _refuse_training_mode(program, path)
    arrays = read_arrays(data, specs)
    calibration, train, evaluation = split_rows(arrays, seed)

    module = module_of(program)

    example = next(iter(Batches(calibration.rows(slice(0, 1)), keywords)))
    named = dict(example) if keywords else {}
    captured = Captured(
        module,
        *(() if keywords else tuple(example), named),
        fixed_batch=FOR_ONE_ROW if takes_one_row(module.graph) else "",
    )
    return task_of(
        path, captured, arrays, calibration, train, evaluation, keywords=keywords, said=said, data=data
    )


def needed_data(path: Path, data: Path | None) -> Path:
    """The file of the arrays. Raises `InputError` when there is none."""
    if data is None:
        raise InputError(
            f"{path} was given without --data.",
            "Add --data DATA.npz: one array for each input of the model by its name and, "
            "if you have them, `labels`.",
        )
    return data


def task_of(
    path: Path,
    captured: Captured,
    arrays: Arrays,
    calibration: Arrays,
    train: Arrays,
    evaluation: Arrays,
    *,
    keywords: bool,
    said: Said,
    data: Path,
) -> Task:
    """Task of a captured model, with its data in three parts and the metric that follows from the labels.

    path: of the model's file. keywords: whether the inputs are given by name. Raises `InputError`.
    """

    def forward(rows: Arrays) -> Any:
        with torch.no_grad():
            result = captured.answer(*(torch.tensor(array) for array in rows.inputs.values()))
        if not flatten(result):
            raise InputError(f"{path} returns no tensor.", "Export a model that returns tensors.")
        return result

    metric = metric_for(forward, captured, said, arrays, evaluation, data)
    return Task(
        model=captured.module,
        example=next(iter(Batches(calibration.rows(slice(0, 1)), keywords))),
        calibration=Batches(calibration, keywords),
        train=Pairs(Batches(train, keywords)),
        outputs=metric.outputs,
        evaluate=metric.evaluate,
        evaluate_subset=metric.evaluate_subset,
        evaluate_samples=metric.evaluate_samples,
        metric=metric.name,
        lower_is_better=metric.lower_is_better,
    )


def _load(path: Path) -> ExportedProgram:
    try:
        # Unless told not to, torch.export.load runs code in the file; it prints the traceback of an error.
        without_pickle = variable("TORCH_FORCE_WEIGHTS_ONLY_LOAD", "1")
        with without_pickle, quiet("torch.export", below=logging.CRITICAL + 1):
            return torch.export.load(path)
    except Exception as error:
        raise InputError(f"{path} is not a file that torch.export.load can read.", _SAVE) from error


def _input_specs(program: ExportedProgram, path: Path) -> tuple[InputSpec, ...]:
    names = set(program.graph_signature.user_inputs)
    specs = []
    for node in program.graph.nodes:
        if node.op != "placeholder" or node.name not in names:
            continue
        value = node.meta.get("val")
        if not isinstance(value, torch.Tensor):
            raise InputError(
                f"{path}: input `{node.name}` is not a tensor.", "Export a model of tensor inputs only."
            )
        sizes = tuple(_size(size) for size in value.shape)
        if not sizes or sizes[0] not in (None, 1):
            raise InputError(
                f"{path} was exported for one fixed batch: input `{node.name}` is {list(value.shape)}.",
                _DYNAMIC,
            )
        specs.append(InputSpec(node.name, (None, *sizes[1:]), str(value.dtype).removeprefix("torch.")))
    if not specs:
        raise InputError(f"{path} takes no inputs.", "Export a model of one tensor input or more.")
    return tuple(specs)


def _called_by_keyword(program: ExportedProgram, specs: tuple[InputSpec, ...], path: Path) -> bool:
    """Whether the model takes its inputs by keyword, all of them, or by position, all of them."""
    args, kwargs = pytree.tree_unflatten([spec.name for spec in specs], program.call_spec.in_spec)
    if all(isinstance(leaf, str) for leaf in args) and not kwargs:
        return False
    if not args and all(name == leaf for name, leaf in kwargs.items()):
        return True
    raise InputError(
        f"{path} takes nested inputs, or some by position and some by keyword.",
        "Export it with flat inputs, all by position or all by keyword.",
    )


def _refuse_training_mode(program: ExportedProgram, path: Path) -> None:
    for node in program.graph.nodes:
        if trains(node):
            raise InputError(
                f"{path} was exported in training mode: `{node.name}` behaves differently there.",
                "Call model.eval() before torch.export.export.",
            )


def _size(size: object) -> int | None:
    """Size as an integer; None for a symbolic size."""
    return size if isinstance(size, int) else None

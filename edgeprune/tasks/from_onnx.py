"""Tasks from files alone: an ONNX file and named arrays."""

from __future__ import annotations

from pathlib import Path

import onnx
import torch

from edgeprune.errors import InputError
from edgeprune.graph.capture import Captured, capture, capture_one_row
from edgeprune.graph.one_row import FOR_ONE_ROW
from edgeprune.meaning.kinds import Said
from edgeprune.records.task import Task
from edgeprune.tasks.arrays import Arrays, InputSpec, read_arrays, split_rows
from edgeprune.tasks.exported import needed_data, task_of
from edgeprune.translate import NotTranslated, agreed, read_onnx, translated
from edgeprune.translate.checked_file import INPUT_TYPES, graph_inputs

FOLDED_AT = (2, 3, 5)  # batches at which a file is run, to see what depends on the batch
COMPARED = (3, 8)  # rows of the batches on which the file and its translation are compared


def task_from_onnx(path: Path, data: Path | None, seed: int, said: Said = None) -> Task:
    """Task of an .onnx file and a .npz file with the inputs by name and, optionally, `labels`.

    Metric, split and meaning as in `task_from_export`. Sizes that the file leaves open, the batch aside, are
    those of the data. Raises `InputError`, for a file with an operator that has no translation among others.
    """
    model = read_onnx(path)
    data = needed_data(path, data)
    specs = _input_specs(model, path)
    fixed = all(_batch(value) == 1 for value in graph_inputs(model))
    arrays = read_arrays(data, specs)
    captured = _captured(model, arrays, path, fixed)
    calibration, train, evaluation = split_rows(arrays, seed)
    return task_of(
        *(path, captured, arrays, calibration, train, evaluation), keywords=False, said=said, data=data
    )


def _captured(model: onnx.ModelProto, arrays: Arrays, path: Path, fixed: bool) -> Captured:
    """The file as a graph of torch's operations, which agrees with ONNX Runtime on the data."""
    feeds = [arrays.rows(slice(0, rows)).inputs for rows in ((1,) if fixed else FOLDED_AT)]
    example = tuple(torch.tensor(array) for array in feeds[0].values())
    try:
        network = translated(model, feeds, path)
        with torch.no_grad():
            network(*example)
    except NotTranslated as error:
        raise InputError(f"{path}: {error}.", _OTHERWISE) from error
    captured = capture_one_row(network, example, FOR_ONE_ROW) if fixed else capture(network, example)
    parts = [slice(0, 1), slice(1, 2)] if fixed else [slice(0, rows) for rows in COMPARED]
    agreed(model, network, captured, [arrays.rows(part).inputs for part in parts], path)
    return captured


def _input_specs(model: onnx.ModelProto, path: Path) -> tuple[InputSpec, ...]:
    specs, batches = [], {value.name: _batch(value) for value in graph_inputs(model)}
    for value in graph_inputs(model):
        tensor, batch = value.type.tensor_type, batches[value.name]
        if not tensor.HasField("shape") or not tensor.shape.dim:
            raise InputError(
                f"{path}: input {value.name!r} has no dimensions, and dimension 0 must be the batch.",
                "Export the model with the shapes of its inputs.",
            )
        if batch not in (None, 1) or len(set(batches.values())) > 1:
            shown = [dim.dim_value or dim.dim_param or "?" for dim in tensor.shape.dim]
            raise InputError(
                f"{path} was exported for one fixed batch: input {value.name!r} is {shown}.",
                "Export it with a batch that may vary, as in "
                "`torch.onnx.export(..., dynamic_shapes=({0: torch.export.Dim.DYNAMIC},))`, or for one row.",
            )
        sizes = tuple(dim.dim_value if dim.HasField("dim_value") else None for dim in tensor.shape.dim[1:])
        specs.append(InputSpec(value.name, (None, *sizes), INPUT_TYPES[tensor.elem_type]))
    return tuple(specs)


def _batch(value: onnx.ValueInfoProto) -> int | None:
    """Rows that an input has in the file; None where they may vary."""
    dims = value.type.tensor_type.shape.dim
    return dims[0].dim_value if dims and dims[0].HasField("dim_value") else None


_OTHERWISE = (
    "Give the model as a FILE.py or a MODEL.pt2, or export it with that part written in other operators."
)

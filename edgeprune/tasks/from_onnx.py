"""Tasks from files alone: an ONNX file and named arrays."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path

import onnx
import torch

from edgeprune.errors import InputError
from edgeprune.graph.capture import Captured, capture, capture_one_row
from edgeprune.graph.one_row import FOR_ONE_ROW
from edgeprune.graph.onnx_operator import kept_names
from edgeprune.meaning.kinds import Said
from edgeprune.tasks.arrays import Arrays, InputSpec, read_arrays, split_rows
from edgeprune.tasks.exported import needed_data, task_of
from edgeprune.tasks.prepared import PreparedTask
from edgeprune.translate import Network, NotTranslated, agreed, output_key, read_onnx, translated
from edgeprune.translate.checked_file import INPUT_TYPES, graph_inputs
from edgeprune.translate.shape_folding import Arrays as Rows

FOLDED_AT = (2, 3, 5)  # batches at which a file is run, to see what depends on the batch
COMPARED = (3, 8)  # rows of the batches on which the file and its translation are compared


def task_from_onnx(path: Path, data: Path | None, seed: int, said: Said = None) -> PreparedTask:
    """Task of an .onnx file and a .npz file with the inputs by name and, optionally, `labels`.

    Metric, split and meaning as in `task_from_export`. Sizes that the file leaves open, the batch aside, are
    those of the data. Operators that have no translation are kept as they are, and a remark says so. Raises
    `InputError`, for a file with one whose sizes depend on values among others.
    """
    model = read_onnx(path)
    data = needed_data(path, data)
    specs = _input_specs(model, path)
    fixed = all(_batch(value) == 1 for value in graph_inputs(model))
    arrays = read_arrays(data, specs)
    captured = _captured(model, arrays, path, fixed)
    calibration, train, evaluation = split_rows(arrays, seed)
    task = task_of(
        *(path, captured, arrays, calibration, train, evaluation), keywords=False, said=said, data=data
    )
    given = {each.name: getattr(task, each.name) for each in fields(task)}
    return PreparedTask(**given, remarks=_kept(captured))


def _captured(model: onnx.ModelProto, arrays: Arrays, path: Path, fixed: bool) -> Captured:
    """The file as a graph of torch's operations, which agrees with ONNX Runtime on the data."""
    feeds = [arrays.rows(slice(0, rows)).inputs for rows in ((1,) if fixed else FOLDED_AT)]
    example = tuple(torch.tensor(array) for array in feeds[0].values())
    network = _network(model, feeds, example, path)
    captured = capture_one_row(network, example, FOR_ONE_ROW) if fixed else capture(network, example)
    parts = [slice(0, 1), slice(1, 2)] if fixed else [slice(0, rows) for rows in COMPARED]
    agreed(model, network, captured, [arrays.rows(part).inputs for part in parts], path)
    return captured


def _kept(captured: Captured) -> tuple[str, ...]:
    """A sentence about the operators that are kept as the file has them, where there are any."""
    names = kept_names(captured.module)
    if not names:
        return ()
    return (
        f"operators without a translation are kept as the file has them ({', '.join(names)}): nothing that "
        "they read or write is pruned, nothing is trained through them, and MACs do not count their work",
    )


def _network(
    model: onnx.ModelProto, feeds: Sequence[Rows], example: tuple[torch.Tensor, ...], path: Path
) -> Network:
    """The file in torch's operations, and operators that have no translation as the file has them."""
    keep = set[str]()
    while True:
        try:
            network = translated(model, feeds, path, keep)
            with torch.no_grad():
                network(*example)
            return network
        except NotTranslated as error:
            key = output_key(error.node)
            if key in keep:
                raise InputError(f"{path}: {error}.", _OTHERWISE) from error
            keep.add(key)


def _input_specs(model: onnx.ModelProto, path: Path) -> tuple[InputSpec, ...]:
    specs = []
    for value in graph_inputs(model):
        sizes = _sizes(value)
        if not sizes:
            raise InputError(
                f"{path}: input {value.name!r} has no dimensions, and dimension 0 must be the batch.",
                "Make what is no sample a constant of the model, and export its inputs with their shapes.",
            )
        specs.append(InputSpec(value.name, (None, *sizes[1:]), INPUT_TYPES[value.type.tensor_type.elem_type]))
    batches = {value.name: _batch(value) for value in graph_inputs(model)}
    name, rows = next(((name, rows) for name, rows in batches.items() if rows not in (None, 1)), ("", None))
    if rows is not None:
        raise InputError(
            f"{path}: dimension 0 of input {name!r} is {rows} in the file, and it must be the batch.",
            "Export it with a batch that may vary, as in "
            "`torch.onnx.export(..., dynamic_shapes=({0: torch.export.Dim.DYNAMIC},))`, or for one row.",
        )
    if len(set(batches.values())) > 1:
        fixed = ", ".join(repr(name) for name, rows in batches.items() if rows == 1)
        raise InputError(
            f"{path} takes one row of input {fixed} and any number of rows of the others.",
            "Export it with a batch that may vary in all of its inputs, or with one row in all.",
        )
    return tuple(specs)


def _batch(value: onnx.ValueInfoProto) -> int | None:
    """Rows that an input has in the file; None where they may vary."""
    return next(iter(_sizes(value)), None)


def _sizes(value: onnx.ValueInfoProto) -> tuple[int | None, ...]:
    """Sizes of an input, None for one that may vary: some exporters write -1 or 0 there."""
    dims = value.type.tensor_type.shape.dim
    return tuple(dim.dim_value if dim.HasField("dim_value") and dim.dim_value > 0 else None for dim in dims)


_OTHERWISE = (
    "Give the model as a FILE.py or a MODEL.pt2, or export it with that part written in other operators."
)

"""Named arrays of a .npz file, checked against a model's inputs and split into three parts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeprune.errors import InputError

LABELS = "labels"
MOST_CALIBRATION_ROWS = 256  # INT8 ranges hardly move beyond a few hundred samples
FEWEST_SAMPLES = 8


@dataclass(frozen=True)
class InputSpec:
    """Name, sizes and number type of one input of an exported model; None is a size that may vary."""

    name: str
    sizes: tuple[int | None, ...]  # sizes[0] is the batch
    dtype: str  # as numpy and torch both call it, e.g. "float32"

    def shape(self) -> str:
        """Sizes as text for messages: "[N, 3, any]"."""
        rest = ("any" if size is None else str(size) for size in self.sizes[1:])
        return f"[{', '.join(('N', *rest))}]"


@dataclass(frozen=True)
class Arrays:
    """Rows of every input, in the model's order, with their labels: int64, float32 or None."""

    inputs: Mapping[str, NDArray[Any]]
    labels: NDArray[Any] | None

    def __len__(self) -> int:
        return len(next(iter(self.inputs.values())))

    def rows(self, which: slice | NDArray[np.int64]) -> Arrays:
        """Some of the rows, of inputs and labels."""
        inputs = {name: array[which] for name, array in self.inputs.items()}
        return Arrays(inputs, None if self.labels is None else self.labels[which])


def read_arrays(path: Path, specs: tuple[InputSpec, ...]) -> Arrays:
    """Read the arrays for the inputs `specs`. Raises `InputError` naming an array that does not fit."""
    arrays = _read(path)
    names = [spec.name for spec in specs]
    for spec in specs:
        if spec.name not in arrays:
            raise InputError(
                f"{path} has no array {spec.name!r}; it has {', '.join(arrays) or 'nothing'}.",
                f"The model's inputs are {', '.join(names)}: save each array under that name, "
                f"`np.savez(path, {spec.name}=..., labels=...)`.",
            )
        _check_input(arrays[spec.name], spec, path)
    raw = arrays.get(LABELS) if LABELS not in names else None
    for name in arrays:
        if name not in names and name != LABELS:
            raise InputError(
                f"{path} has an array {name!r} that the model does not take.",
                f"The model's inputs are {', '.join(names)}; beside them only `{LABELS}` may be there.",
            )
    inputs = {name: arrays[name] for name in names}
    counts = {name: len(array) for name, array in inputs.items()}
    if raw is not None:
        _check_labels(raw, path)
        counts[LABELS] = len(raw)
    if len(set(counts.values())) > 1:
        shown = ", ".join(f"{count} in {name!r}" for name, count in counts.items())
        raise InputError(f"{path} has unequal numbers of rows: {shown}.", "Row i of every array is sample i.")
    rows = counts[names[0]]
    if rows < FEWEST_SAMPLES:
        raise InputError(
            f"{path} holds {rows} rows; at least {FEWEST_SAMPLES} are needed.",
            "The rows are shared out to calibration, training and evaluation: give a few hundred or more.",
        )
    if raw is None:
        return Arrays(inputs, None)
    return Arrays(inputs, raw.astype(np.float32 if raw.dtype.kind == "f" else np.int64))


def split_rows(arrays: Arrays, seed: int) -> tuple[Arrays, Arrays, Arrays]:
    """Split rows, shuffled by `seed`, into calibration, training and evaluation (half of the rows)."""
    order = np.random.default_rng(seed).permutation(len(arrays))
    evaluation = len(order) // 2
    calibration = evaluation + min(MOST_CALIBRATION_ROWS, max(1, len(order) // 8))
    return (
        arrays.rows(order[evaluation:calibration]),
        arrays.rows(order[calibration:]),
        arrays.rows(order[:evaluation]),
    )


def _read(path: Path) -> dict[str, NDArray[Any]]:
    hint = "Write it with `np.savez(path, NAME=array, ...)`."
    if not path.is_file():
        problem = "is a folder" if path.is_dir() else "does not exist"
        raise InputError(f"{path} {problem}.", hint)
    try:
        loaded = np.load(path, allow_pickle=False)
    except Exception as error:
        raise InputError(f"{path} is not a .npz file that numpy can read.", hint) from error
    if not isinstance(loaded, np.lib.npyio.NpzFile):
        raise InputError(f"{path} holds one array without a name.", hint)
    arrays = {}
    with loaded:
        for name in loaded.files:
            try:
                arrays[name] = loaded[name]
            except Exception as error:  # pickled objects, or bytes that do not decompress
                raise InputError(
                    f"{path}: array {name!r} cannot be read: {error}", "Give plain numeric arrays."
                ) from error
    return arrays


def _check_input(array: NDArray[Any], spec: InputSpec, path: Path) -> None:
    wanted = f"the model takes {spec.dtype} {spec.shape()}"
    given = f"{path}: array {spec.name!r} is {array.dtype} {list(array.shape)}"
    fits = array.ndim == len(spec.sizes) and all(
        size is None or size == there for size, there in zip(spec.sizes, array.shape, strict=True)
    )
    if not fits:
        raise InputError(f"{given}, and {wanted}.", "Save row i as the model takes sample i.")
    if str(array.dtype) != spec.dtype:
        raise InputError(f"{given}, and {wanted}.", f"Save it as `array.astype('{spec.dtype}')`.")
    _check_finite(array, spec.name, path)


def _check_labels(labels: NDArray[Any], path: Path) -> None:
    if labels.dtype.kind not in "biuf" or labels.ndim == 0:
        raise InputError(
            f"{path}: array {LABELS!r} is {labels.dtype} {list(labels.shape)}.",
            "Give integers (class numbers) or floats (values to predict), one row for each sample.",
        )
    _check_finite(labels, LABELS, path)


def _check_finite(array: NDArray[Any], name: str, path: Path) -> None:
    if array.dtype.kind != "f":
        return
    bad = ~np.isfinite(array)
    if bad.any():
        row = int(np.argwhere(bad)[0][0])
        raise InputError(
            f"{path}: array {name!r} holds {int(bad.sum())} NaN or infinite values, first in row {row}.",
            "Clean the data: INT8 ranges and metrics cannot be taken from values that are not finite.",
        )

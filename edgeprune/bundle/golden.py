"""Golden vectors: real inputs, the artefact's outputs, and torch's outputs with the same integers."""

from __future__ import annotations

import io
import math
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeprune.bundle.archive import check_directory
from edgeprune.devices import Feeds, Session
from edgeprune.errors import InputError
from edgeprune.files import write
from edgeprune.records.bundle import GOLDEN, GOLDEN_IN, GOLDEN_LENGTH, GOLDEN_OUT, GOLDEN_REFERENCE, Port

Arrays = Mapping[str, NDArray[Any]]
_MOST_HEADER = 1024  # characters: numpy's of an array takes about a hundred


@dataclass(frozen=True)
class Golden:
    """Golden inputs and outputs by the model's own names; dimension 0 is the row, equally many in all.

    reference: the outputs of the captured graph with the artefact's integers, computed in torch; empty in
        bundles of an older version.
    lengths: where sequences have several; None where there is one.
    """

    inputs: Arrays
    outputs: Arrays
    rows: int
    reference: Arrays = field(default_factory=dict)
    lengths: RowLengths | None = None

    def feeds(self, batch: int, *, longest: bool = False) -> Iterator[Feeds]:
        """The inputs, `batch` rows at a time; rows that do not fill a batch are left out.

        longest: those of the longest length alone, whose latency a budget limits.
        """
        for start in range(0, self.rows - batch + 1, batch):
            rows = {name: array[start : start + batch] for name, array in self.inputs.items()}
            if self.lengths is None:
                yield rows
            elif not longest or self.lengths.rows[start] == self.lengths.rows.max():
                yield self.lengths.cut(rows, start)


@dataclass(frozen=True)
class RowLengths:
    """Lengths of golden rows, which are padded to the longest.

    rows: length of each row, [rows]. dims: dimensions that have the length, by input.
    """

    rows: NDArray[np.int64]
    dims: Mapping[str, tuple[int, ...]]

    def cut(self, inputs: Arrays, start: int) -> dict[str, NDArray[Any]]:
        """Inputs of a batch, which begins at row `start`, without their padding."""
        length = int(self.rows[start])
        return {
            name: array[
                tuple(
                    slice(0, length if dim in self.dims.get(name, ()) else None) for dim in range(array.ndim)
                )
            ]
            for name, array in inputs.items()
        }

    @property
    def arrays(self) -> Arrays:
        """Arrays of golden.npz that hold them."""
        dims = {f"{GOLDEN_LENGTH}.{name}": np.array(each, np.int64) for name, each in self.dims.items()}
        return {GOLDEN_LENGTH: self.rows, **dims}

    @classmethod
    def padded(
        cls, parts: Sequence[Arrays], lengths: Sequence[int], dims: Mapping[str, tuple[int, ...]]
    ) -> tuple[Arrays, RowLengths]:
        """Inputs of several lengths, the longest part first, as one padded array for each input."""
        found = {}
        for name, whole in parts[0].items():
            columns = []
            for part in parts:
                array = part[name]
                behind = [
                    (0, full - size) if dim else (0, 0)
                    for dim, (full, size) in enumerate(zip(whole.shape, array.shape, strict=True))
                ]
                columns.append(np.pad(array, behind))
            found[name] = np.concatenate(columns)
        rows = np.concatenate(
            [
                np.full(len(next(iter(part.values()))), length, np.int64)
                for part, length in zip(parts, lengths, strict=True)
            ]
        )
        return found, cls(rows, dims)


def write_golden(
    path: Path,
    inputs: Arrays,
    outputs: Arrays,
    reference: Arrays = MappingProxyType({}),
    lengths: RowLengths | None = None,
) -> Path:
    """Write golden.npz. Raises `InputError` when it cannot be written."""
    write(path, packed(inputs, outputs, reference, lengths))
    return path


def packed(
    inputs: Arrays,
    outputs: Arrays,
    reference: Arrays = MappingProxyType({}),
    lengths: RowLengths | None = None,
) -> bytes:
    """Bytes of golden.npz; the same arrays give the same bytes."""
    arrays = {GOLDEN_IN + name: np.asarray(array) for name, array in inputs.items()}
    arrays |= {GOLDEN_OUT + name: np.asarray(array) for name, array in outputs.items()}
    arrays |= {GOLDEN_REFERENCE + name: np.asarray(array) for name, array in reference.items()}
    return _zipped(arrays if lengths is None else {**arrays, **lengths.arrays})


def _zipped(arrays: Arrays) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:  # np.savez would take an input named "file" for its own
        for name, array in arrays.items():
            with archive.open(zipfile.ZipInfo(f"{name}.npy"), "w", force_zip64=True) as stream:
                np.lib.format.write_array(stream, array, allow_pickle=False)
    return buffer.getvalue()


def _unzipped(path: Path) -> Arrays:
    """Arrays of an .npz as edgeprune writes it: stored, so that nothing swells, and of plain numbers.

    Raises `InputError`, whatever the bytes are.
    """
    try:
        with path.open("rb") as stream:
            check_directory(stream)
            with zipfile.ZipFile(stream) as archive:
                entries = archive.infolist()
                if sum(entry.compress_size for entry in entries) > path.stat().st_size:
                    raise ValueError("the entries are larger than the file")
                if len({entry.filename for entry in entries}) < len(entries):
                    raise ValueError("an entry is there twice")
                return {entry.filename.removesuffix(".npy"): _array(archive, entry) for entry in entries}
    # Foreign bytes in the parsers of zipfile and of numpy, whose header is a Python literal: any error.
    except Exception as error:
        raise InputError(f"{path} cannot be read as golden vectors: {error}.", _HINT) from error


def _array(archive: zipfile.ZipFile, entry: zipfile.ZipInfo) -> NDArray[Any]:
    if not entry.filename.endswith(".npy"):
        raise ValueError(f"{entry.filename!r} is no array")
    if entry.compress_type != zipfile.ZIP_STORED or entry.file_size != entry.compress_size:
        raise ValueError(f"{entry.filename!r} is compressed")
    with archive.open(entry) as stream:
        version = np.lib.format.read_magic(stream)
        readers = {
            (1, 0): np.lib.format.read_array_header_1_0,
            (2, 0): np.lib.format.read_array_header_2_0,
        }
        if version not in readers:
            raise ValueError(f"{entry.filename!r} is of an unknown version {version}")
        shape, by_column, dtype = readers[version](stream, max_header_size=_MOST_HEADER)
        if dtype.kind not in "biuf" or not dtype.isnative:
            raise ValueError(f"{entry.filename!r} holds {dtype}, which are not plain numbers")
        size = dtype.itemsize * math.prod(shape)
        if min(shape, default=1) < 0 or size != entry.file_size - stream.tell():
            raise ValueError(f"{entry.filename!r} has not the {size} bytes of its shape")
        content = bytearray(stream.read())  # of one's own, so that the array can be written
    return np.frombuffer(content, dtype).reshape(shape, order="F" if by_column else "C")


def read_golden(path: Path) -> Golden:
    """Read golden.npz. Raises `InputError` when it is missing, holds anything but arrays, or rows differ."""
    arrays = dict(_unzipped(path))
    lengths = _row_lengths(path, arrays)
    inputs, outputs, reference = (
        {name[len(prefix) :]: arrays[name] for name in arrays if name.startswith(prefix)}
        for prefix in (GOLDEN_IN, GOLDEN_OUT, GOLDEN_REFERENCE)
    )
    rows = {array.shape[0] if array.ndim else 0 for array in arrays.values()}
    if not inputs or not outputs or len(inputs) + len(outputs) + len(reference) < len(arrays):
        raise InputError(
            f"{path} holds the arrays {sorted(arrays)}, expected {GOLDEN_IN}NAME and {GOLDEN_OUT}NAME.", _HINT
        )
    if reference and {name: array.shape for name, array in reference.items()} != {
        name: array.shape for name, array in outputs.items()
    }:
        raise InputError(f"{path}: the {GOLDEN_REFERENCE}NAME arrays are not shaped like the outputs.", _HINT)
    if len(rows) != 1 or 0 in rows:
        raise InputError(f"{path}: the arrays have {sorted(rows)} rows, expected one number of them.", _HINT)
    for name, array in (*inputs.items(), *outputs.items(), *reference.items()):
        if array.dtype.kind == "f" and not np.isfinite(array).all():
            raise InputError(f"{path}: the array {name} holds values that are not finite numbers.", _HINT)
    if lengths is not None and len(lengths.rows) not in rows:
        raise InputError(f"{path}: {len(lengths.rows)} rows have a length, of {rows.pop()}.", _HINT)
    return Golden(inputs, outputs, rows.pop(), reference, lengths)


def _row_lengths(path: Path, arrays: dict[str, NDArray[Any]]) -> RowLengths | None:
    """Lengths of the rows, taken out of the arrays; None where there are none. Raises `InputError`."""
    found = {name: arrays.pop(name) for name in tuple(arrays) if name.split(".")[0] == GOLDEN_LENGTH}
    if not found:
        return None
    rows = found.pop(GOLDEN_LENGTH, None)
    if rows is None or any(each.ndim != 1 or each.dtype != np.int64 for each in (rows, *found.values())):
        raise InputError(f"{path}: the lengths are no whole numbers, one for each row.", _HINT)
    dims = {name.split(".", 1)[1]: tuple(each.tolist()) for name, each in found.items()}
    for name, those in dims.items():
        whole = arrays.get(GOLDEN_IN + name)
        sizes = () if whole is None else tuple(whole.shape[dim] for dim in those if 0 < dim < whole.ndim)
        if (
            len(sizes) < len(those)
            or not len(rows)
            or rows.min() < 1
            or any(each != rows.max() for each in sizes)
        ):
            raise InputError(f"{path}: {name} is not padded to the longest of the lengths.", _HINT)
    return RowLengths(rows, dims)


def check_ports(
    golden: Golden,
    inputs: Sequence[Port],
    outputs: Sequence[Port],
    batch: int,
    lengths: Sequence[int] = (),
) -> None:
    """Refuse golden vectors that are not of a model's ports and lengths, or whose rows do not fill batches.

    Raises `InputError`.
    """
    _check_lengths(golden, inputs, batch, lengths)
    wanted = (("inputs", inputs, golden.inputs), ("outputs", outputs, golden.outputs))
    for what, ports, arrays in wanted:
        if {port.name for port in ports} != set(arrays):
            raise InputError(
                f"{GOLDEN} holds the {what} {sorted(arrays)}, the manifest says "
                f"{sorted(port.name for port in ports)}.",
                _HINT,
            )
        for port in ports:
            for array in (arrays[port.name], golden.reference.get(port.name)):
                if array is not None and array.shape[1:] != port.shape[1:]:
                    raise InputError(
                        f"{GOLDEN}: {port.name} has shape {list(array.shape)}, the manifest says "
                        f"{list(port.shape)}.",
                        _HINT,
                    )
            if str(arrays[port.name].dtype) != port.dtype:
                raise InputError(
                    f"{GOLDEN}: {port.name} is {arrays[port.name].dtype}, the manifest says {port.dtype}.",
                    _HINT,
                )
    if golden.rows % batch:
        raise InputError(f"{GOLDEN} has {golden.rows} rows, which do not fill batches of {batch}.", _HINT)


def _check_lengths(golden: Golden, inputs: Sequence[Port], batch: int, lengths: Sequence[int]) -> None:
    """Refuse golden vectors that are not of each of the lengths, or batches of several."""
    own = () if golden.lengths is None else tuple(sorted(set(golden.lengths.rows.tolist())))
    dims = {port.name: port.length_dims for port in inputs if port.length_dims}
    if own != tuple(lengths) or dims != ({} if golden.lengths is None else dict(golden.lengths.dims)):
        raise InputError(
            f"{GOLDEN} has the lengths {list(own)}, the manifest says {list(lengths)}, each in dimensions of "
            "its own.",
            _HINT,
        )
    if golden.lengths is not None and golden.rows % batch == 0:
        for rows in golden.lengths.rows.reshape(-1, batch):
            if len(set(rows.tolist())) > 1:
                raise InputError(f"{GOLDEN} has a batch of several lengths.", _HINT)


def serve(session: Session, golden: Golden, batch: int) -> dict[str, NDArray[Any]]:
    """Outputs of a session for the golden inputs, `batch` rows at a time, by output name."""
    answers = [session.predict(feeds) for feeds in golden.feeds(batch)]
    return {
        name: np.concatenate([answer[at] for answer in answers])
        for at, name in enumerate(session.output_names)
    }


def worst_difference(served: Arrays, golden: Arrays) -> tuple[str, float]:
    """Output that differs most, and its difference: largest |served - golden| over its largest |golden|.

    Infinite where names, shapes or finiteness differ. The runner in a bundle computes the same.
    """
    if set(served) != set(golden):
        return ", ".join(sorted(set(served) ^ set(golden))), float("inf")
    return max(((name, _difference(served[name], golden[name])) for name in golden), key=lambda pair: pair[1])


def write_reference(path: Path, outputs: Sequence[NDArray[Any]]) -> None:
    """Write reference.npz: the outputs in the model's order, named as exported models name them."""
    names = ["output", *(f"output_{at}" for at in range(1, len(outputs)))]
    write(path, _zipped(dict(zip(names, outputs, strict=False))))


def read_reference(path: Path) -> Arrays:
    """Arrays of reference.npz, by output name. Raises `InputError` when it cannot be read."""
    return _unzipped(path)


def ports(arrays: Arrays, batch: int, lengths: RowLengths | None = None) -> tuple[Port, ...]:
    """Ports of a model that takes or gives such arrays, `batch` rows at a time. lengths: of inputs."""
    dims: Mapping[str, tuple[int, ...]] = {} if lengths is None else lengths.dims
    return tuple(
        Port(name, str(a.dtype), (batch, *a.shape[1:]), dims.get(name, ())) for name, a in arrays.items()
    )


def _difference(served: NDArray[Any], golden: NDArray[Any]) -> float:
    if served.shape != golden.shape:
        return float("inf")
    wanted = golden.astype(np.float64)
    with np.errstate(all="ignore"):  # what a device answers may be as large as a float can be
        gap = float(np.max(np.abs(served.astype(np.float64) - wanted)))
    scale = float(np.max(np.abs(wanted)))
    if not np.isfinite(gap):
        return float("inf")
    return gap / scale if scale else gap


_HINT = "Run fit again: it writes golden.npz beside the artefact."

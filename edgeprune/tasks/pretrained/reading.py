"""Labelled rows from CSV, JSON, Parquet, folders of images and saved datasets, read by `datasets`."""

from __future__ import annotations

import csv
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgeprune.errors import InputError
from edgeprune.files import scratch
from edgeprune.tasks.pretrained.heads import Reads
from edgeprune.tasks.pretrained.loading import hushed

FILE_KINDS: Mapping[str, str] = {
    ".csv": "csv",
    ".tsv": "csv",
    ".jsonl": "json",
    ".json": "json",
    ".parquet": "parquet",
}
READ = "a .csv, .tsv, .jsonl, .json or .parquet file"
# Names of parts, as files and folders are called.
PARTS: Mapping[str, tuple[str, ...]] = {
    "train": ("train", "training"),
    "validation": ("validation", "valid", "val", "dev", "eval"),
    "test": ("test",),
}
_NUMBERED = re.compile(r"(.+?)[-_.]\d+([-_.]of[-_.]\d+)?")  # train-00000-of-00002
_PICTURES = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".tif", ".tiff", ".webp")


@dataclass(frozen=True)
class LabelledRows:
    """Rows of one part of the data. where: its file or folder, for sentences."""

    where: str
    folder: Path  # from which paths in cells are seen
    dataset: Any  # a datasets.Dataset

    def __len__(self) -> int:
        return len(self.dataset)

    @property
    def columns(self) -> tuple[str, ...]:
        return tuple(self.dataset.column_names)

    def cells(self, column: str) -> list[Any]:
        """Cells of a column; numbers of classes that the data itself names become those names."""
        cells = list(self.dataset[column])
        feature = self.dataset.features[column]
        inner = getattr(feature, "feature", None)  # of a list
        names = getattr(feature, "names", None) or getattr(inner, "names", None)
        if not names:
            return cells
        return [_named(cell, names) for cell in cells]

    def row(self, at: int) -> str:
        """Name of a row in sentences, counted from 1."""
        return f"{self.where}, row {at + 1}"


def _named(cell: Any, names: Sequence[str]) -> Any:
    if isinstance(cell, list):
        return [_named(one, names) for one in cell]
    return names[cell] if isinstance(cell, int) and 0 <= cell < len(names) else cell


def read_parts(path: Path, reads: Reads) -> dict[str, LabelledRows]:
    """Parts of the data at `path` by name: of one file "train" alone.

    path: a file; a folder with train, validation and test files; a folder of images or of WAV files, by
    class; or what `Dataset.save_to_disk` wrote. Raises `InputError`.
    """
    if not path.exists():
        raise InputError(
            f"{path} does not exist.", f"Give --data {READ} or a folder, seen from {Path.cwd()}."
        )
    if path.is_file():
        return {"train": _file_rows([path])}
    if (path / "dataset_dict.json").is_file() or (path / "state.json").is_file():
        return _saved(path)
    files = _part_files(path)
    if files:
        found = {part: _file_rows(paths) for part, paths in files.items()}
    elif reads == "audio" and any(_is_recording(each) for each in path.rglob("*")):
        found = _recordings(path)
    elif reads == "image" and any(each.suffix.lower() in _PICTURES for each in path.rglob("*")):
        found = _pictures(path)
    else:
        there = ", ".join(sorted(each.name for each in path.iterdir())[:8]) or "nothing"
        raise InputError(
            f"{path} has no file called train; it has {there}.",
            "Name the parts train, validation and test, such as train.csv, or give one file.",
        )
    if "train" not in found:
        raise InputError(
            f"{path} has {', '.join(found)} and no train part, which calibration and training read.",
            "Add it, or give one file as --data, which is then split.",
        )
    return found


def _part_files(folder: Path) -> dict[str, list[Path]]:
    found: dict[str, list[Path]] = {}
    for file in sorted(folder.iterdir()):
        stem = file.name[: -len(file.suffix)].lower() if file.suffix else file.name
        numbered = _NUMBERED.fullmatch(stem)
        stem = numbered[1] if numbered else stem
        part = next((part for part, names in PARTS.items() if stem in names), None)
        if part is not None and file.is_file() and file.suffix.lower() in FILE_KINDS:
            found.setdefault(part, []).append(file)
    return found


def _file_rows(paths: list[Path]) -> LabelledRows:
    suffixes = {path.suffix.lower() for path in paths}
    where = ", ".join(map(str, paths[:3]))
    (suffix, *others) = suffixes
    if others or suffix not in FILE_KINDS:
        raise InputError(f"{where} is of a kind that is not read.", f"Give {READ}.")
    options: dict[str, Any] = {}
    if FILE_KINDS[suffix] == "csv":
        options = _as_text(paths, "\t" if suffix == ".tsv" else ",")
    with _reading(where, suffix) as load:
        dataset = load(
            FILE_KINDS[suffix], data_files={"train": [str(path) for path in paths]}, split="train", **options
        )
    return _rows(where, paths[0].parent, dataset)


def _rows(where: str, folder: Path, dataset: Any) -> LabelledRows:
    """Rows whose images and recordings stay files or bytes until they are asked for."""
    from datasets import Audio, Image

    for name, feature in dataset.features.items():
        if isinstance(feature, Image | Audio):
            dataset = dataset.cast_column(name, type(feature)(decode=False))
    return LabelledRows(where, folder, dataset)


def _as_text(paths: list[Path], separator: str) -> dict[str, Any]:
    """Options that read every cell of a CSV file as the text that it is: "007" and "NA" are texts."""
    from datasets import Features, Value

    heads = []
    for path in paths:
        try:
            with path.open(encoding="utf-8-sig", newline="") as stream:
                heads.append(next(csv.reader(stream, delimiter=separator), []))
        except (UnicodeDecodeError, csv.Error) as error:
            raise InputError(
                f"{path} is not a CSV file in UTF-8: {error}.", "Write it again as UTF-8."
            ) from error
        if not heads[-1] or len(set(heads[-1])) < len(heads[-1]) or heads[-1] != heads[0]:
            raise InputError(
                f"{path} does not begin with one line of different column names: {heads[-1]!r:.100}.",
                "Begin each file with the same line, such as text,label.",
            )
    features = Features({name: Value("string") for name in heads[0]})
    return {"features": features, "keep_default_na": False, "sep": separator, "encoding": "utf-8-sig"}


def _pictures(folder: Path) -> dict[str, LabelledRows]:
    with _reading(str(folder), "folder of images") as load:
        found = load("imagefolder", data_dir=str(folder))
    return {name: _rows(f"{folder} ({name})", folder, each) for name, each in found.items()}


def _recordings(folder: Path) -> dict[str, LabelledRows]:
    """Rows of WAV files in a folder for each class, or in such folders of each part."""
    below = [each for each in sorted(folder.iterdir()) if each.is_dir()]
    known = {name: part for part, names in PARTS.items() for name in names}
    if below and all(each.name.lower() in known for each in below):
        return {known[each.name.lower()]: _by_class(each) for each in below}
    return {"train": _by_class(folder)}


def _by_class(folder: Path) -> LabelledRows:
    """Rows of the WAV files below a folder, whose classes are the names of the first folders below it."""
    from datasets import Dataset

    paths = [path for path in sorted(folder.absolute().rglob("*")) if _is_recording(path)]
    classes = [path.relative_to(folder.absolute()).parts[0] for path in paths]
    loose = next((path for path in paths if path.parent == folder.absolute()), None)
    if loose is not None:
        raise InputError(
            f"{loose} lies in no folder of a class.",
            "Put the WAV files of each class into a folder of its name, or give a .csv file with the columns "
            "audio and label.",
        )
    dataset = Dataset.from_dict({"audio": [str(path) for path in paths], "label": classes})
    return LabelledRows(str(folder), folder, dataset)


def _is_recording(path: Path) -> bool:
    return path.suffix.lower() == ".wav" and path.is_file()


def _saved(folder: Path) -> dict[str, LabelledRows]:
    import datasets

    with _reading(str(folder), "saved dataset"):
        found = datasets.load_from_disk(str(folder), keep_in_memory=True)
    if isinstance(found, datasets.Dataset):
        return {"train": _rows(str(folder), folder, found)}
    return {
        part: _rows(f"{folder} ({name})", folder, found[name])
        for part, names in PARTS.items()
        for name in names
        if name in found
    }


@contextmanager
def _reading(where: str, kind: str) -> Iterator[Any]:
    """`load_dataset` for files here, whose cache goes when they are read. Raises `InputError`."""
    import datasets

    datasets.disable_progress_bars()
    with scratch() as cache, hushed():

        def load(builder: str, **options: Any) -> Any:
            return datasets.load_dataset(builder, cache_dir=str(cache), keep_in_memory=True, **options)

        try:
            yield load
        except Exception as error:
            why = str(error.__cause__ or error).strip().splitlines()
            raise InputError(
                f"{where} cannot be read as a {kind.lstrip('.')}: {(why or [type(error).__name__])[0][:300]}",
                f"Give {READ}, or a folder of them or of images or WAV files by class.",
            ) from error

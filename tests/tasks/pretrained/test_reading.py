"""Rows are read as they are written, part by part, and what cannot be read is told."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from edgeprune.errors import InputError
from edgeprune.tasks.pretrained.loading import go_offline

go_offline()
datasets = pytest.importorskip("datasets")

from edgeprune.tasks.pretrained.reading import read_parts  # noqa: E402
from tests.support import pretrained  # noqa: E402


def test_cells_of_a_csv_file_are_texts_as_they_stand(tmp_path: Path) -> None:
    path = tmp_path / "data.csv"
    path.write_bytes('\ufefftext,label\n"good, ok",1\nNA,0\n007,x\n,\n'.encode())
    (rows,) = read_parts(path, "text").values()
    assert rows.columns == ("text", "label")
    assert rows.cells("text") == ["good, ok", "NA", "007", ""]
    assert rows.cells("label") == ["1", "0", "x", ""]
    assert rows.row(2) == f"{path}, row 3"


@pytest.mark.parametrize("suffix", [".jsonl", ".json", ".parquet", ".tsv"])
def test_the_other_kinds_of_files_are_read(suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"data{suffix}"
    columns = {"text": ["a", "b"], "label": ["x", "y"]}
    if suffix == ".parquet":
        datasets.Dataset.from_dict(columns).to_parquet(path)
    elif suffix == ".tsv":
        path.write_text("text\tlabel\na\tx\nb\ty\n")
    elif suffix == ".json":
        path.write_text('[{"text": "a", "label": "x"}, {"text": "b", "label": "y"}]')
    else:
        pretrained.write_jsonl(path, **columns)
    (rows,) = read_parts(path, "text").values()
    assert {name: rows.cells(name) for name in rows.columns} == columns


def test_files_of_a_folder_are_parts_by_their_names(tmp_path: Path) -> None:
    for name in ("train-00000-of-00002", "train-00001-of-00002", "dev", "test"):
        pretrained.write_csv(tmp_path / f"{name}.csv", text=[name], label=[0])
    (tmp_path / "README.md").touch()
    parts = read_parts(tmp_path, "text")
    assert {name: len(rows) for name, rows in parts.items()} == {"train": 2, "validation": 1, "test": 1}


def test_numbers_of_classes_that_the_data_names_become_those_names(tmp_path: Path) -> None:
    features = datasets.Features(
        {"text": datasets.Value("string"), "label": datasets.ClassLabel(names=["b", "a"])}
    )
    saved = datasets.Dataset.from_dict({"text": ["x", "y", "z"], "label": [0, 1, -1]}, features=features)
    saved.save_to_disk(tmp_path / "saved")
    (rows,) = read_parts(tmp_path / "saved", "text").values()
    assert rows.cells("label") == ["b", "a", -1]


def test_images_are_rows_by_the_folders_of_their_classes(tmp_path: Path) -> None:
    pytest.importorskip("PIL")
    for part in ("train", "test"):
        pretrained.pictures(tmp_path / part, 4)
    parts = read_parts(tmp_path, "image")
    assert parts["train"].cells("label") == ["dark", "dark", "light", "light"]
    assert [Path(cell["path"]).name for cell in parts["test"].cells("image")] == [
        "0000.png",
        "0002.png",
        "0001.png",
        "0003.png",
    ]


def no_rows(folder: Path, name: str, content: bytes) -> Path:
    (folder / name).write_bytes(content)
    return folder / name


@pytest.mark.parametrize(
    ("name", "content", "told"),
    [
        ("data.txt", b"", "is of a kind that is not read"),
        ("data.csv", b"\xff\xfe\x00", "is not a CSV file in UTF-8"),
        ("data.csv", b"", "does not begin with one line of different column names"),
        ("data.csv", b"a,a\n1,2\n", "does not begin with one line of different column names"),
        ("data.csv", b"a,b\n1,2\n1,2,3,4\n", "cannot be read as a csv"),
        ("data.jsonl", b"{", "cannot be read as a jsonl"),
        ("data.parquet", b"PAR1", "cannot be read as a parquet"),
    ],
)
def test_files_that_hold_no_rows_are_refused(name: str, content: bytes, told: str, tmp_path: Path) -> None:
    path = no_rows(tmp_path, name, content)
    with pytest.raises(InputError, match=told) as refused:
        read_parts(path, "text")
    assert str(path) in refused.value.what


@pytest.mark.parametrize(
    ("files", "told"),
    [
        ((), "has no file called train; it has nothing"),
        (("rows.csv",), "has no file called train; it has rows.csv"),
        (("test.csv",), "has test and no train part"),
    ],
)
def test_a_folder_without_a_train_part_is_refused(files: Any, told: str, tmp_path: Path) -> None:
    for name in files:
        pretrained.write_csv(tmp_path / name, text=["a"], label=[0])
    with pytest.raises(InputError, match=told):
        read_parts(tmp_path, "text")
    with pytest.raises(InputError, match="nowhere does not exist"):
        read_parts(tmp_path / "nowhere", "text")

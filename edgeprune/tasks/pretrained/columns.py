"""Columns of labelled rows by their roles, and the labels in the model's own numbers.

A column is found by its name only where one reading is possible; everything else is asked for.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeprune.errors import InputError
from edgeprune.tasks.pretrained.heads import Reads
from edgeprune.tasks.pretrained.reading import LabelledRows

ROLES: Mapping[Reads, tuple[str, ...]] = {
    "text": ("text", "pair", "label"),
    "words": ("words", "label"),
    "image": ("image", "label"),
    "audio": ("audio", "label"),
}
# Columns that a role is known by.
USUAL: Mapping[str, tuple[str, ...]] = {
    "text": ("text", "sentence", "review", "content", "comment", "message", "document"),
    "words": ("words", "tokens"),
    "image": ("image", "img"),
    "audio": ("audio", "path", "file", "file_name", "filename", "wav"),
    "label": ("label", "labels", "target", "class"),
}
USUAL_TAGS = ("ner_tags", "tags", "labels", "label")
USUAL_PAIRS = (
    ("text_a", "text_b"),
    ("text1", "text2"),
    ("sentence1", "sentence2"),
    ("question1", "question2"),
    ("premise", "hypothesis"),
)
MOST_LABELS_NAMED = 5  # of unknown labels in a sentence

Cells = Sequence[Any]
Placed = Callable[[int], str]  # number of a row -> its name in sentences


def said_columns(text: str | None, reads: Reads) -> dict[str, str]:
    """Columns by role of `--columns text=review,label=stars`. Raises `InputError`."""
    found: dict[str, str] = {}
    for part in () if text is None else text.split(","):
        role, equals, column = (each.strip() for each in part.partition("="))
        if not equals or not column or role not in ROLES[reads] or role in found:
            raise InputError(
                f"--columns {text} is not read: {part.strip()!r} names no column of the model's.",
                f"Say {', '.join(f'{role}=COLUMN' for role in ROLES[reads])}, each once; what is left out is "
                "found by its usual name.",
            )
        found[role] = column
    return found


def find_columns(rows: LabelledRows, said: Mapping[str, str], reads: Reads) -> dict[str, str]:
    """Column of each role: as said, else the one that has a usual name. Raises `InputError`."""
    for role, column in said.items():
        if column not in rows.columns:
            raise InputError(
                f"{rows.where} has no column {column!r} (--columns {role}={column}).",
                f"It has {', '.join(rows.columns)}.",
            )
    found = dict(said)
    given = ROLES[reads][0]
    if given not in found:
        readings = [{given: one} for one in _named_so(rows, USUAL[given])]
        if reads == "text":
            names = {name.casefold(): name for name in rows.columns}
            both = [pair for pair in USUAL_PAIRS if set(pair) <= set(names)]
            readings += [{"text": names[one], "pair": names[other]} for one, other in both]
        found |= _only(readings, given, rows, reads)
    if "label" not in found:
        usual = USUAL_TAGS if reads == "words" else USUAL["label"]
        readings = [{"label": one} for one in _named_so(rows, usual) if one not in found.values()]
        found |= _only(readings, "label", rows, reads)
    return found


def _named_so(rows: LabelledRows, usual: Sequence[str]) -> list[str]:
    return [column for column in rows.columns if column.casefold() in usual]


def _only(readings: Sequence[dict[str, str]], role: str, rows: LabelledRows, reads: Reads) -> dict[str, str]:
    if len(readings) == 1:
        return readings[0]
    problem = f"none of them is known to be the {role}" if not readings else f"several may be the {role}"
    example = {
        "text": "text=review,label=stars",
        "words": "words=tokens,label=tags",
        "audio": "audio=recording,label=kind",
    }
    raise InputError(
        f"{rows.where} has the columns {', '.join(rows.columns)}, and {problem}.",
        f"Say which: --columns {example.get(reads, 'image=picture,label=kind')}"
        + (" (of two texts: text=FIRST,pair=SECOND)." if reads == "text" else "."),
    )


def texts(cells: Cells, column: str, placed: Placed) -> list[str]:
    """Cells of a column of texts. Raises `InputError` for a cell that is none."""
    for at, cell in enumerate(cells):
        if not isinstance(cell, str):
            kind = "empty" if cell is None else f"{type(cell).__name__}, not a text"
            raise InputError(
                f"{placed(at)}: {column!r} is {kind}.", "Give every row a text, or leave it out."
            )
    return list(cells)


def class_numbers(cells: Cells, names: Sequence[str], placed: Placed) -> NDArray[np.int64]:
    """Class numbers of labels that are the model's numbers or names, [rows].

    Raises `InputError` for labels that the model does not know, and for those that both readings know and
    tell differently.
    """
    if not cells:
        return np.zeros(0, np.int64)
    kinds = set(map(_key, cells))
    by_name, by_number = _named_classes(names), {str(number): number for number in range(len(names))}
    readings = [known for known in (by_name, by_number) if kinds <= known.keys()]
    if not readings:
        best = max((by_name, by_number), key=lambda known: len(kinds & known.keys()))
        wrong = next(at for at, cell in enumerate(cells) if _key(cell) not in best)
        others = sorted(kinds - best.keys() - {_key(cells[wrong])})[: MOST_LABELS_NAMED - 1]
        more = f" (others: {', '.join(map(repr, others))})" if others else ""
        raise InputError(
            f"{placed(wrong)}: the label {str(cells[wrong])[:60]!r} is none of the model's{more}.",
            f"config.json names {', '.join(names[:20])}{' ...' if len(names) > 20 else ''}: give these, "
            f"or their numbers 0 to {len(names) - 1}, or correct id2label and label2id there.",
        )
    if len(readings) == 2 and any(by_name[kind] != by_number[kind] for kind in kinds):
        shown = ", ".join(sorted(kinds)[:MOST_LABELS_NAMED])
        raise InputError(
            f"{placed(0)}: the labels ({shown}) are names of classes in config.json and numbers of others.",
            "Write the labels as names that are no numbers, in the data and in config.json's id2label.",
        )
    return np.array([readings[0][_key(cell)] for cell in cells], np.int64)


def _named_classes(names: Sequence[str]) -> dict[str, int]:
    """Numbers by name, in small letters too where that is one name's alone."""
    small = [name.casefold() for name in names]
    known = {text: at for at, text in enumerate(small) if small.count(text) == 1}
    return {**known, **{name: at for at, name in enumerate(names)}}


def _key(cell: Any) -> str:
    """Text of a label: of "3", 3, 3.0 and True the number, of another text itself in its own letters."""
    if isinstance(cell, bool | int | np.integer):
        return str(int(cell))
    if isinstance(cell, float) and cell.is_integer():
        return str(int(cell))
    return str(cell).strip()


def values(cells: Cells, placed: Placed) -> NDArray[np.float32]:
    """Values to predict, [rows, 1]. Raises `InputError` for a cell that is no finite number."""
    found = []
    for at, cell in enumerate(cells):
        try:
            number = float(cell)
        except (TypeError, ValueError):
            number = math.nan
        if not math.isfinite(number):
            raise InputError(
                f"{placed(at)}: the label {str(cell)[:60]!r} is no number.",
                "The model predicts a value (regression): give every row a finite number.",
            )
        found.append(number)
    return np.array(found, np.float32)[:, None]


def label_vectors(cells: Cells, names: Sequence[str], placed: Placed) -> NDArray[np.float32]:
    """Zeros and ones, [rows, labels], of rows that list the names of their labels, or have a 0 or 1 for each.

    Raises `InputError` for any other cell.
    """
    known = _named_classes(names)
    found = np.zeros((len(cells), len(names)), np.float32)
    for at, cell in enumerate(cells):
        listed = list(cell) if isinstance(cell, list | tuple) else None
        if listed is not None and all(isinstance(one, str) and one in known for one in listed):
            found[at, [known[one] for one in listed]] = 1
        elif listed is not None and len(listed) == len(names) and all(one in (0, 1) for one in listed):
            found[at] = listed
        else:
            raise InputError(
                f"{placed(at)}: the labels {str(cell)[:60]!r} are no list of the model's.",
                f"Give a list of names ({', '.join(names[:20])}), or a list of {len(names)} numbers that are "
                "0 or 1; a CSV file holds no lists, a .jsonl file does.",
            )
    return found

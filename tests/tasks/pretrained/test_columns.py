"""Columns are found where one reading is possible, and labels become the model's numbers or are refused."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgeprune.errors import InputError
from edgeprune.tasks.pretrained.columns import (
    class_numbers,
    find_columns,
    label_vectors,
    said_columns,
    texts,
    values,
)
from edgeprune.tasks.pretrained.reading import LabelledRows

NAMES = ("NEGATIVE", "POSITIVE")


@dataclass(frozen=True)
class Named:
    """A dataset of which the columns' names alone are known."""

    column_names: list[str]


def rows(*columns: str) -> LabelledRows:
    return LabelledRows("data.csv", Path(), Named(list(columns)))


def placed(at: int) -> str:
    return rows().row(at)


@pytest.mark.parametrize(
    ("columns", "found"),
    [
        (("id", "text", "label"), {"text": "text", "label": "label"}),
        (("Review", "Target"), {"text": "Review", "label": "Target"}),
        (
            ("idx", "sentence1", "sentence2", "label"),
            {"text": "sentence1", "pair": "sentence2", "label": "label"},
        ),
        (("premise", "hypothesis", "labels"), {"text": "premise", "pair": "hypothesis", "label": "labels"}),
    ],
)
def test_columns_with_usual_names_are_found(columns: tuple[str, ...], found: dict[str, str]) -> None:
    assert find_columns(rows(*columns), {}, "text") == found


@pytest.mark.parametrize(
    ("columns", "problem"),
    [
        (("text", "comment", "label"), "several may be the text"),
        (("text", "text_a", "text_b", "label"), "several may be the text"),
        (("text", "label", "target"), "several may be the label"),
        (("body", "label"), "none of them is known to be the text"),
        (("text", "stars"), "none of them is known to be the label"),
    ],
)
def test_what_may_be_read_in_two_ways_or_in_none_is_asked_for(columns: tuple[str, ...], problem: str) -> None:
    with pytest.raises(InputError) as refused:
        find_columns(rows(*columns), {}, "text")
    assert refused.value.what == f"data.csv has the columns {', '.join(columns)}, and {problem}."
    assert "--columns text=review,label=stars" in refused.value.hint


def test_columns_that_are_said_come_first_and_the_rest_is_found() -> None:
    said = said_columns("text=comment, label=stars", "text")
    assert find_columns(rows("text", "comment", "stars"), said, "text") == said
    said = said_columns("text=comment", "text")
    assert find_columns(rows("text", "comment", "label"), said, "text") == {
        "text": "comment",
        "label": "label",
    }


def test_words_and_their_tags_are_found() -> None:
    assert find_columns(rows("id", "tokens", "ner_tags"), {}, "words") == {
        "words": "tokens",
        "label": "ner_tags",
    }


def test_a_column_that_is_not_there_is_refused_with_those_that_are() -> None:
    with pytest.raises(InputError, match="no column 'reviews'") as refused:
        find_columns(rows("review", "stars"), {"text": "reviews"}, "text")
    assert refused.value.hint == "It has review, stars."


@pytest.mark.parametrize("text", ["review", "text=", "image=picture", "text=a,text=b", ""])
def test_what_names_no_columns_is_refused(text: str) -> None:
    with pytest.raises(InputError, match="is not read") as refused:
        said_columns(text, "text")
    assert "text=COLUMN, pair=COLUMN, label=COLUMN" in refused.value.hint


@pytest.mark.parametrize(
    "cells", [["1", "0", "1"], [1, 0, 1], [1.0, 0.0, True], ["POSITIVE", "NEGATIVE", "positive "]]
)
def test_labels_are_numbers_or_names(cells: list[Any]) -> None:
    assert class_numbers(cells, NAMES, placed).tolist() == [1, 0, 1]


@pytest.mark.parametrize(
    ("cells", "told"),
    [
        (["0", "2", "1"], "data.csv, row 2: the label '2' is none of the model's."),
        (
            ["NEGATIVE", "neutral", "mixed"],
            "row 2: the label 'neutral' is none of the model's (others: 'mixed').",
        ),
        ([0, None], "row 2: the label 'None' is none of the model's."),
        ([0, -1], "row 2: the label '-1' is none of the model's."),
        ([0, 0.5], "row 2: the label '0.5' is none of the model's."),
        (["fraud", "fraud"], "row 1: the label 'fraud' is none of the model's."),
    ],
)
def test_labels_that_the_model_does_not_know_are_refused_with_their_row(cells: list[Any], told: str) -> None:
    with pytest.raises(InputError) as refused:
        class_numbers(cells, NAMES, placed)
    assert told in refused.value.what
    assert "NEGATIVE, POSITIVE" in refused.value.hint


def test_labels_that_are_names_of_some_classes_and_numbers_of_others_are_refused() -> None:
    stars = ("1", "2", "3", "4", "5")
    with pytest.raises(InputError, match="names of classes in config"):
        class_numbers(["1", "4", "2"], stars, placed)
    assert class_numbers(["1", "5"], stars, placed).tolist() == [0, 4]
    assert class_numbers(["0", "1"], ("0", "1"), placed).tolist() == [0, 1]


def test_values_are_finite_numbers() -> None:
    found = values(["0.5", 2, 3.0], placed)
    assert found.dtype == np.float32
    assert found.tolist() == [[0.5], [2.0], [3.0]]
    for wrong in ("many", None, "nan", "inf"):
        with pytest.raises(InputError, match=r"data\.csv, row 2: the label .* is no number"):
            values([1, wrong], placed)


def test_lists_of_labels_are_names_or_a_number_for_each() -> None:
    names = ("red", "green", "blue")
    assert label_vectors([["red", "blue"], [], [0, 1, 1]], names, placed).tolist() == [
        [1, 0, 1],
        [0, 0, 0],
        [0, 1, 1],
    ]
    for wrong in ([0, 1], [0, 1, 2], ["pink"], "red"):
        with pytest.raises(InputError, match=r"data\.csv, row 1: the labels"):
            label_vectors([wrong], names, placed)


def test_a_row_without_a_text_is_refused() -> None:
    assert texts(["good", ""], "text", placed) == ["good", ""]
    with pytest.raises(InputError, match=r"data\.csv, row 2: 'text' is empty"):
        texts(["good", None], "text", placed)

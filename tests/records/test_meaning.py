"""Words of `Task.outputs` are those that there are."""

from __future__ import annotations

from typing import Any

import pytest

from edgeprune.errors import InputError
from edgeprune.records.meaning import KINDS, Meaning, check_words


@pytest.mark.parametrize("kind", KINDS)
def test_a_word_is_read_and_written_the_same(kind: str) -> None:
    assert str(Meaning.read(kind)) == kind


@pytest.mark.parametrize("word", ["classes:1", "probabilities:-1", "values:2", "embeddings:3"])
def test_a_word_may_have_an_axis(word: str) -> None:
    assert str(Meaning.read(word)) == word


@pytest.mark.parametrize("said", ["classes", ("classes", "none"), {"a": "values:1"}, None])
def test_words_for_all_by_place_and_by_name_are_taken(said: Any) -> None:
    check_words(said)


@pytest.mark.parametrize(
    ("said", "sentence"),
    [
        ("logits", "'logits', which is no kind"),
        ("Classes", "'Classes', which is no kind"),
        (("classes", 3), "says 3, which is no kind"),
        ("labels:1", "labels have no axis"),
        ("classes:", "whose axis is no axis of a sample"),
        ("classes:0", "whose axis is no axis of a sample"),
        ("classes:last", "whose axis is no axis of a sample"),
        (7, "Task.outputs is int"),
    ],
    ids=str,
)
def test_anything_else_is_refused_with_the_words_that_there_are(said: Any, sentence: str) -> None:
    with pytest.raises(InputError, match=sentence) as refused:
        check_words(said)
    assert refused.value.hint

"""Lengths of sequences: what is stated of them, and what is refused."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest

from edgeprune.errors import InputError
from edgeprune.records.lengths import Lengths, stated_lengths

torch = pytest.importorskip("torch")

SHAPES = {"ids": (2, 16), "mask": (2, 16), "speaker": (2, 16, 16)}


def test_dimensions_are_of_every_input_or_of_those_that_are_named() -> None:
    shapes = {"ids": (2, 16), "mask": (2, 16)}
    assert stated_lengths((16, 8), 1, shapes) == Lengths((8, 16), ((1,), (1,)))
    named = stated_lengths([8, 16], {"ids": 1, "speaker": (1, 2)}, SHAPES)
    assert named == Lengths((8, 16), ((1,), (), (1, 2)))
    assert stated_lengths((8, 16), {0: 1}, {0: (2, 16), 1: (2, 3)}) == Lengths((8, 16), ((1,), ()))
    assert stated_lengths(None, None, SHAPES) is None


def test_a_query_is_of_one_length_in_all_its_inputs() -> None:
    lengths = Lengths((8, 16), ((1,), (), (1, 2)))
    assert lengths.of([(4, 8), (4, 9), (4, 8, 8)]) == 8
    assert lengths.of([(4, 8), (4, 9), (4, 8, 16)]) is None
    assert lengths.of([(4, 9), (4, 9), (4, 9, 9)]) is None, "not stated"
    assert lengths.told == "8 and 16"
    assert lengths.fixed(2, (4, 8, 8)) == (None, None, None)
    assert lengths.fixed(1, (4, 9)) == (None, 9)


def test_the_first_positions_stand_for_a_shorter_query() -> None:
    lengths = Lengths((2, 3), ((1,), (), (1, 2)))
    whole = (torch.arange(6).view(2, 3), torch.arange(2), torch.arange(18).view(2, 3, 3))
    ids, other, pairs = lengths.first(whole, 2)
    assert ids.tolist() == [[0, 1], [3, 4]]
    assert other is whole[1]
    assert pairs.tolist() == [[[0, 1], [3, 4]], [[9, 10], [12, 13]]]


@dataclass(frozen=True)
class Wrong:
    """What is stated, and a part of the sentence about it."""

    name: str
    lengths: Any
    dims: Any
    sentence: str


WRONG = (
    Wrong("no dimensions", (8, 16), None, "lengths 8, 16 are of no dimension"),
    Wrong("no lengths", None, 1, "length_dims was given without lengths"),
    Wrong("one length", (16,), 1, "one alone"),
    Wrong("a length of one", (1, 16), 1, r"\(1, 16\)"),
    Wrong("a length twice", (16, 16), 1, r"\(16, 16\)"),
    Wrong("a text", "8,16", 1, "lengths is '8,16'"),
    Wrong("no whole number", (8.0, 16), 1, r"\(8.0, 16\)"),
    Wrong("the batch", (8, 16), 0, "dimension 0 of input 'ids'"),
    Wrong("behind the last", (8, 16), {"ids": 2}, r"dimension 2 of input 'ids', whose shape is \[2, 16\]"),
    Wrong("no such input", (8, 16), {"tokens": 1}, "names the input 'tokens', and the example has 'ids'"),
    Wrong("no mapping", (8, 16), "ids", "length_dims is 'ids'"),
    Wrong("another example", (8, 12), 1, "has 16 positions in dimension 1, and the longest .* is 12"),
)


@pytest.mark.parametrize("wrong", WRONG, ids=lambda wrong: wrong.name)
def test_what_cannot_be_is_refused_with_what_was_given(wrong: Wrong) -> None:
    with pytest.raises(InputError, match=wrong.sentence):
        stated_lengths(wrong.lengths, wrong.dims, {"ids": (2, 16), "mask": (2, 16)})


def test_an_example_does_not_say_which_dimension_varies() -> None:
    with pytest.raises(InputError) as caught:
        stated_lengths((8, 16), None, SHAPES)
    assert "Nothing is guessed from an example" in caught.value.hint

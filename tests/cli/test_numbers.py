"""Flags of several numbers: what they are read as, and what is refused."""

from __future__ import annotations

import click
import pytest

from edgeprune.cli.numbers import WholeNumbers


def test_one_whole_number_is_one_and_several_are_several() -> None:
    read = WholeNumbers()
    assert read.convert("128", None, None) == 128
    assert read.convert("32,128", None, None) == (32, 128)
    assert read.convert((8, 16), None, None) == (8, 16)


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        pytest.param("32:0.7,128:0.3", "no rule bounds the latency of a mix", id="a mix"),
        pytest.param("32,", "is no whole number", id="nothing behind the comma"),
        pytest.param("1.5", "is no whole number", id="a share"),
    ],
)
def test_what_is_no_whole_number_is_refused(text: str, sentence: str) -> None:
    with pytest.raises(click.BadParameter, match=sentence):
        WholeNumbers().convert(text, None, None)

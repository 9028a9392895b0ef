"""Text from outside becomes one plain line, and a CI runner finds no command in it."""

from __future__ import annotations

import re
from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeprune.foreign import CUT, escaped, is_tame, last_lines, tame, tame_record

ANY = st.text(st.characters()) | st.text(":# \n\r\t\x1b[]aerro\u202e\ud800", max_size=40)
COMMAND = re.compile(r"^\s*::|##")


@dataclass(frozen=True)
class Wild:
    """A text from outside, and what becomes of it."""

    text: str
    tamed: str


CASES = {
    "an escape sequence": Wild("\x1b[31mred\x1b[0m", r"\x1b[31mred\x1b[0m"),
    "a title of the terminal": Wild("\x1b]0;mine\x07", r"\x1b]0;mine\x07"),
    "lines": Wild("one\r\n  two\u2028three\x85", "one two three"),
    "a workflow command": Wild("\n::error file=a::gone", ": :error file=a: :gone"),
    "an older workflow command": Wild("so ##[error]gone", "so # #[error]gone"),
    "a controller of direction": Wild("abc\u202ecba", r"abc\u202ecba"),
    "half a character": Wild("a\ud800", r"a\ud800"),
    "a plain sentence": Wild("Größe: 3 °C, ok.", "Größe: 3 °C, ok."),
    "nothing": Wild("", ""),
}


@pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
def test_what_is_wild_is_shown_harmless(case: Wild) -> None:
    assert tame(case.text) == case.tamed


@given(text=ANY, most=st.integers(4, 60))
def test_what_is_tamed_is_short_printable_without_commands_and_stays(text: str, most: int) -> None:
    tamed = tame(text, most)
    assert len(tamed) <= most
    assert tamed.isprintable()
    assert "::" not in tamed
    assert not COMMAND.search(tamed)
    assert tame(tamed, most) == tamed


def test_a_long_text_says_that_it_was_cut() -> None:
    assert tame("a" * 100, 10) == "a" * 7 + CUT
    assert tame("a" * 10, 10) == "a" * 10
    assert tame(" " * 1000 + "end", 10) == CUT


def test_names_that_taming_would_change_are_told() -> None:
    assert is_tame("Mein Modell 3", 20)
    for wild in ("", "a" * 21, "a::b", "a\n", " a", "a  b"):
        assert not is_tame(wild, 20)


def test_of_many_lines_the_last_are_kept() -> None:
    assert last_lines("one\n\ntwo\x07\n::three\n", 2) == [r"two\x07", ": :three"]


@given(text=ANY)
def test_a_line_of_ours_keeps_its_spaces_and_loses_its_commands(text: str) -> None:
    line = escaped(text)
    assert line.isprintable()
    assert not COMMAND.search(line)
    assert escaped("cannot be reached at ssh://[::1]:22:  no") == "cannot be reached at ssh://[::1]:22:  no"


@dataclass(frozen=True)
class _Record:
    name: str
    texts: tuple[tuple[str, int], ...]
    inner: _Record | None = None


def test_records_are_tamed_as_deep_as_they_are() -> None:
    wild = _Record("a\n", (("b\x07", 1),), _Record("::c", ()))
    assert tame_record(wild) == _Record("a", ((r"b\x07", 1),), _Record(": :c", ()))

"""The glossary, docs/words.md: sorted, one sentence for each word, and a module in which the word lives."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

import pytest

import edgeprune

PACKAGE = Path(edgeprune.__file__).parent
GLOSSARY = PACKAGE.parent / "docs" / "words.md"
# Words that their module writes in another form.
FORMS = {
    "dense model": "dense",
    "dynamic int8": "dynamic",
    "emission": "quantise",
    "equalisation": "equalise",
    "float layer": "float",
    "golden vectors": "golden",
    "int8 variant": "int8",
    "joint block": "joint",
    "latency table": "table",
    "reconstruction": "reconstruct",
    "speed-up": "speedup",
    "weight-only": "weight",
}


@dataclass(frozen=True)
class Entry:
    word: str
    meaning: str
    module: str

    @property
    def form(self) -> str:
        """The word as its module has it, without `(of something)` and in the singular."""
        word = self.word.partition(" (")[0].lower()
        return FORMS.get(word, word).removesuffix("s")


def entries(text: str) -> list[Entry]:
    rows = [line.strip("|").split("|") for line in text.splitlines() if line.startswith("| ")]
    return [Entry(*(cell.strip().strip("`") for cell in row)) for row in rows[1:]]


ENTRIES = entries(GLOSSARY.read_text("utf-8"))


def test_words_are_sorted_and_said_once() -> None:
    words = [entry.word.lower() for entry in ENTRIES]
    assert words == sorted(set(words))


@pytest.mark.parametrize("entry", ENTRIES, ids=lambda entry: entry.word)
def test_a_word_has_one_sentence_and_lives_in_its_module(entry: Entry) -> None:
    assert entry.meaning[0].isupper()
    assert len(re.findall(r"\.(?:\s|$)", entry.meaning)) == 1
    assert entry.meaning.endswith(".")
    source = (PACKAGE / entry.module).read_text("utf-8").lower()
    assert entry.form in f"{entry.module} {source}"


def test_every_form_is_that_of_a_word() -> None:
    assert FORMS.keys() <= {entry.word.lower() for entry in ENTRIES}

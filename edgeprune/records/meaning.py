"""Meaning of a model's output, as a task says it: a word, and the axis that the word is about."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal, get_args

from edgeprune.errors import InputError

OutputKind = Literal["classes", "labels", "values", "probabilities", "embeddings", "none"]
# What each word says, for messages and for docs/tasks.md, which repeats them.
KINDS: Mapping[OutputKind, str] = MappingProxyType(
    {
        "classes": "scores (logits) of classes that exclude each other",
        "labels": "one logit per label, each right or wrong by itself",
        "values": "numbers to predict, in any unit",
        "probabilities": "what a softmax or a sigmoid gave",
        "embeddings": "vectors whose direction counts",
        "none": "nothing that has to stay as it is",
    }
)
WITHOUT_AXIS = ("labels", "none")
_SAY = (
    f"Say {', '.join(map(repr, get_args(OutputKind)[:-1]))} or 'none', one for all outputs, a tuple of them "
    "or a dict by output name; an axis stands behind a colon, as in 'classes:1'."
)


@dataclass(frozen=True)
class Meaning:
    """Meaning of one output.

    kind: None where nobody said: then every difference from the original counts, as for values.
    axis: of the classes, of a vector, or of the quantities of which each has a scale. None where there is
        none, as for labels and for probabilities that stand alone, or where it is not known yet.
    """

    kind: OutputKind | None
    axis: int | None = None

    @classmethod
    def read(cls, word: object) -> Meaning:
        """Meaning that a word of `Task.outputs` says. Raises `InputError` for any other word."""
        kind, colon, axis = word.partition(":") if isinstance(word, str) else ("", "", "")
        kinds: dict[str, OutputKind] = {each: each for each in KINDS}
        if kind not in kinds:
            raise InputError(f"Task.outputs says {word!r:.60}, which is no kind of output.", _SAY)
        if not colon:
            return cls(kinds[kind])
        if kind in WITHOUT_AXIS:
            raise InputError(f"Task.outputs says {word!r:.60}, and {kind} have no axis.", f"Say {kind!r}.")
        try:
            number = int(axis)
        except ValueError:
            number = 0
        if number == 0:
            raise InputError(
                f"Task.outputs says {word!r:.60}, whose axis is no axis of a sample.",
                f"Give a whole number, as in '{kind}:1' or '{kind}:-1'; axis 0 is the batch.",
            )
        return cls(kinds[kind], number)

    def __str__(self) -> str:
        kind = "unsaid" if self.kind is None else self.kind
        return kind if self.axis is None else f"{kind}:{self.axis}"


@dataclass(frozen=True)
class SaidOutputs:
    """Words of `Task.outputs` by output, "" for one that they do not decide; none where they decide nothing.

    A run is resumed only with the same ones: its errors of outputs were measured by them.
    """

    words: tuple[str, ...] = ()


def check_words(said: object) -> None:
    """Raise `InputError` unless `said` is what `Task.outputs` may be."""
    if said is None or isinstance(said, str):
        words: list[object] = [] if said is None else [said]
    elif isinstance(said, Mapping):
        words = list(said.values())
    elif isinstance(said, tuple | list):
        words = list(said)
    else:
        raise InputError(f"Task.outputs is {type(said).__name__}, not words.", _SAY)
    for word in words:
        Meaning.read(word)

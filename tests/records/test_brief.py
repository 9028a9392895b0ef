"""What a notebook shows of a record is a glance, whatever the record holds."""

from __future__ import annotations

import pickle
from dataclasses import dataclass
from typing import Any

import numpy as np

from edgeprune.errors import BundleError, InputError, LostInt8
from edgeprune.records.brief import Brief
from edgeprune.records.trial import Candidate


@dataclass(frozen=True, repr=False)
class Record(Brief):
    name: str
    content: Any


def test_every_field_is_shown_and_none_at_length() -> None:
    units = tuple((f"layer{number}", tuple(range(1000))) for number in range(200))
    for record in (
        Record("many", units),
        Record("array", np.zeros((400, 3))),
        Record("text", "x" * 100_000),
        Record("nested", {"inside": [Record("more", units)] * 50}),
        Candidate(units, "int8", "minmax"),
    ):
        shown = repr(record)
        assert len(shown) < 600
        assert shown.startswith(type(record).__name__ + "(")
    assert repr(Record("array", np.zeros((400, 3)))) == "Record(name='array', content=<ndarray (400, 3)>)"
    assert repr(Record("a", (1, 2))) == "Record(name='a', content=(1, 2))"


def test_an_error_shows_what_to_do_and_survives_another_process() -> None:
    for error in (
        InputError("It is wrong.", "Do it right."),
        BundleError(3, "It is wrong.", "Do it right."),
        LostInt8(("first",), "It is wrong.", "Do it right."),
    ):
        again = pickle.loads(pickle.dumps(error))
        assert str(again) == str(error) == "It is wrong. Do it right."
        assert vars(again) == vars(error)

"""Predictions of a session, as a task's evaluation asks for them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from edgeprune.devices import Feeds, Session
from edgeprune.errors import InputError
from edgeprune.records.task import Predict


def predictor(session: Session, *, one_row: bool = False) -> Predict:
    """The function that `Task.evaluate` calls, on a session; one_row: its batch is fixed at one.

    It takes one array per model input, in the model's order, or one dict of them by name; it returns the
    output's array, or a tuple of them when the model has several.
    """

    def predict(*arrays: Any) -> Any:
        if len(arrays) == 1 and isinstance(arrays[0], Mapping):
            given = dict(arrays[0])
        elif len(arrays) == len(session.input_names):
            given = dict(zip(session.input_names, arrays, strict=True))
        else:
            raise InputError(
                f"predict got {len(arrays)} arrays; the model has {len(session.input_names)} inputs: "
                f"{', '.join(session.input_names)}.",
                "Pass one array per input, in this order, or one dict by name.",
            )
        if set(given) != set(session.input_names):
            raise InputError(
                f"predict got {', '.join(map(str, given))}; the model's inputs are "
                f"{', '.join(session.input_names)}.",
                "Pass each input once, by its name.",
            )
        outputs = _served(session, {name: np.asarray(value) for name, value in given.items()}, one_row)
        return outputs[0] if len(outputs) == 1 else tuple(outputs)

    return predict


def _served(session: Session, feeds: Feeds, one_row: bool) -> Sequence[Any]:
    """Outputs of a session for all rows at once, or for one after another."""
    rows = len(next(iter(feeds.values()))) if one_row else 1
    if rows == 1:
        return session.predict(feeds)
    answers = [
        session.predict({name: value[row : row + 1] for name, value in feeds.items()}) for row in range(rows)
    ]
    return [np.concatenate(parts) for parts in zip(*answers, strict=True)]

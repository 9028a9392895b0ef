"""What an output is, is said or certain; where neither helps, it stays open or is refused."""

from __future__ import annotations

import collections
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from edgeprune.errors import InputError
from edgeprune.graph.capture import capture
from edgeprune.meaning.kinds import Said, named, understood
from edgeprune.records.meaning import Meaning

Pair = collections.namedtuple("Pair", "boxes scores")


class Net(nn.Module):
    """One layer of 12 outputs, returned as `give` lays them out."""

    def __init__(self, give: Any) -> None:
        super().__init__()
        self.layer, self.give = nn.Linear(4, 12), give

    def forward(self, x: Tensor) -> Any:
        return self.give(self.layer(x))


@dataclass(frozen=True)
class Case:
    name: str
    give: Any
    said: Said
    expected: tuple[Meaning, ...]
    heard: tuple[Meaning | None, ...] = ()


CASES = (
    Case("nothing is known of a vector", lambda y: y, None, (Meaning(None),)),
    Case("one word", lambda y: y, "classes", (Meaning("classes", 1),)),
    Case("an axis from the end", lambda y: y.reshape(-1, 3, 4), "classes:-1", (Meaning("classes", 2),)),
    Case("the only axis that can be", lambda y: y[:, None], "embeddings", (Meaning("embeddings", 2),)),
    Case("a tuple", lambda y: (y, y * 2), ("values", "none"), (Meaning("values"), Meaning("none"))),
    Case("a dict", lambda y: {"a": y, "b": y}, {"b": "labels"}, (Meaning(None), Meaning("labels"))),
    Case(
        "a named tuple",
        lambda y: Pair(y, y * 2),
        {"scores": "classes"},
        (Meaning(None), Meaning("classes", 1)),
    ),
    Case(
        "a name for all that is below it",
        lambda y: {"logits": y, "states": (y, [y, y])},
        {"logits": "classes", "states": "none"},
        (Meaning("classes", 1), *[Meaning("none")] * 3),
    ),
    Case("a softmax of the graph", lambda y: y.softmax(-1), None, (Meaning("probabilities", 1),)),
    Case("a log-softmax of the graph", lambda y: y.log_softmax(1), None, (Meaning("classes", 1),)),
    Case("what is said, whatever the graph shows", lambda y: y.softmax(1), "values", (Meaning("values"),)),
    Case("decisions beside scores", lambda y: (y, y.argmax(1)), None, (Meaning(None), Meaning("none"))),
    Case("nothing beside something", lambda y: (y, y[:, :0]), "values", (Meaning("values"), Meaning("none"))),
    Case("decisions alone", lambda y: y.argmax(1), None, (Meaning(None),)),
    Case("the loss", lambda y: y, None, (Meaning("labels"),), (Meaning("labels"),)),
    Case(
        "the loss has the axis of what is said",
        lambda y: y.reshape(-1, 3, 4),
        "classes",
        (Meaning("classes", 2),),
        (Meaning("classes", 2),),
    ),
)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_an_output_is_what_is_said_or_certain(case: Case) -> None:
    captured = capture(Net(case.give).eval(), torch.randn(2, 4))
    found = understood(captured, captured.answer(torch.randn(3, 4)), case.said, case.heard)
    assert found.meanings == case.expected


@dataclass(frozen=True)
class Refused:
    name: str
    give: Any
    said: Said
    sentence: str


REFUSED = (
    Refused("classes along two axes", lambda y: y.reshape(-1, 3, 4), "classes", "axis 1 or 2"),
    Refused("embeddings along two axes", lambda y: y.reshape(-1, 3, 4), "embeddings", "axis 1 or 2"),
    Refused("classes of a single score", lambda y: y[:, :1], "classes", "holds no classes"),
    Refused("an axis that there is not", lambda y: y, "classes:2", r"shape \[N, 12\].*'classes:2'"),
    Refused("the batch", lambda y: y, "classes:-2", "Task.outputs says 'classes:-2'"),
    Refused(
        "another number of words", lambda y: (y, y), ("values",), "1 outputs are, and .* returns 2: 0, 1"
    ),
    Refused("nothing that counts", lambda y: (y, y), "none", "nothing tells a good model from a bad one"),
    Refused("another name", lambda y: {"a": y}, {"b": "values"}, "'b' is, and the model returns a"),
)


@pytest.mark.parametrize("case", REFUSED, ids=lambda case: case.name)
def test_what_cannot_be_is_refused_with_a_way_out(case: Refused) -> None:
    captured = capture(Net(case.give).eval(), torch.randn(2, 4))
    with pytest.raises(InputError, match=case.sentence) as refused:
        understood(captured, captured.answer(torch.randn(3, 4)), case.said)
    assert refused.value.hint


def test_outputs_are_named_as_the_model_names_them() -> None:
    x = torch.zeros(1)
    assert [name for name, _ in named({"a": x, "b": [x, (None, x)], "c": 3})] == ["a", "b.0", "b.1.1"]
    assert [name for name, _ in named(x)] == [""]

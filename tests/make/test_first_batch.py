"""A task is understood on its first batch: its outputs, its loss, and what training would stumble over."""

from __future__ import annotations

import collections
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from edgeprune import InputError, Task
from edgeprune.graph.capture import Captured
from edgeprune.make import Workshop
from edgeprune.pruning.criteria import TABLE
from edgeprune.quantize.dialects import dialect_for
from edgeprune.recover.recipe import TrainingOptions

pytestmark = pytest.mark.usefixtures("exports_once")

Answer = collections.namedtuple("Answer", "boxes scores")
X = torch.randn(64, 3, generator=torch.Generator().manual_seed(0))
NUMBERS, VALUES = X.argmax(1) + (X.sum(1) > 1), 5 * X[:, :2] + 1
HARD = (X[:, [0, 1, 2, 0]] > 0).float()


@dataclass
class Result:
    scores: Tensor
    boxes: Tensor


class Net(nn.Module):
    """Two heads behind one layer."""

    def __init__(self, give: Callable[[Tensor, Tensor], Any]) -> None:
        super().__init__()
        self.body, self.boxes, self.scores = nn.Linear(3, 8), nn.Linear(8, 2), nn.Linear(8, 4)
        self.give = give

    def forward(self, x: Tensor) -> Any:
        x = torch.relu(self.body(x))
        return self.give(self.boxes(x), self.scores(x))


SUPERVISED = replace(TABLE["taylor"], name="supervised", needs=frozenset({"gradients", "labels"}))


def workshop(give: Callable[[Tensor, Tensor], Any], target: Any, **fields: Any) -> Workshop:
    torch.manual_seed(0)
    task = Task(Net(give).eval(), X[:1], [X], lambda predict: 0.0, train=[(X, target)], **fields)
    return Workshop(task, dialect_for("onnxruntime-x86", "x86_64"))


def cross(out: Tensor, target: Tensor) -> Tensor:
    return F.cross_entropy(out, target)


def scores_alone(boxes: Tensor, scores: Tensor) -> Tensor:
    return scores


@dataclass(frozen=True)
class Case:
    name: str
    give: Callable[[Tensor, Tensor], Any]
    target: Any
    fields: dict[str, Any]
    meanings: tuple[str, ...]


CASES = (
    Case("a classifier", scores_alone, NUMBERS, {}, ("classes:1",)),
    Case("a forecaster", lambda boxes, scores: boxes, VALUES, {}, ("values",)),
    Case("many labels", scores_alone, HARD, {"outputs": "labels"}, ("labels",)),
    Case(
        "a tuple",
        lambda boxes, scores: (boxes, scores),
        (VALUES, NUMBERS),
        {"loss": lambda out, t: F.l1_loss(out[0], t[0]) + F.cross_entropy(out[1], t[1])},
        ("values", "classes:1"),
    ),
    Case(
        "a dict",
        lambda boxes, scores: {"boxes": boxes, "scores": scores},
        {"scores": NUMBERS, "boxes": VALUES},
        {},
        ("values", "classes:1"),
    ),
    Case(
        "a named tuple",
        Answer,
        {"b": VALUES, "s": NUMBERS},
        {"loss": lambda out, t: F.mse_loss(out.boxes, t["b"]) + F.cross_entropy(out.scores, t["s"])},
        ("values", "classes:1"),
    ),
    Case(
        "a dataclass",
        lambda boxes, scores: Result(scores, boxes),
        NUMBERS,
        {"loss": lambda out, t: F.cross_entropy(out.scores, t), "outputs": {"boxes": "none"}},
        ("classes:1", "none"),
    ),
    Case(
        "nothing to learn but the original",
        lambda boxes, scores: [boxes, {"deep": scores}],
        None,
        {"outputs": {"1.deep": "classes"}},
        ("unsaid", "classes:1"),
    ),
    Case(
        "a loss of one's own arithmetic",
        scores_alone,
        VALUES[:, 0],
        {"loss": lambda out, t: torch.maximum(0.9 * (t[:, None] - out), 0.1 * (out - t[:, None])).mean()},
        ("unsaid",),
    ),
)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_outputs_of_any_form_are_understood_and_trained(case: Case) -> None:
    shop = workshop(case.give, case.target, **case.fields)
    way = shop.highest_rung(None)
    assert way == ("distill" if case.target is None else "finetune")
    shop.rehearse(way, TrainingOptions())
    assert tuple(map(str, shop.yardstick.meanings)) == case.meanings
    assert bool(shop.understood.remarks) == ("unsaid" in case.meanings)
    kept = {"body": range(4)}
    pruned, _ = shop.prune(kept, way)
    better, (rung,) = shop.train(pruned, kept, way, TrainingOptions(40), None)
    assert rung.after < rung.before, "so many epochs teach four units something"
    assert type(better.answer(X)) is type(shop.task.model(X))


def test_a_forecaster_without_a_loss_is_trained_towards_its_targets() -> None:
    def give(boxes: Tensor, scores: Tensor) -> Tensor:
        return boxes

    with torch.no_grad():
        right = workshop(give, None).task.model(X)
    shop = workshop(give, right)
    kept = {"body": range(4)}
    pruned, _ = shop.prune(kept, "finetune")
    better, _ = shop.train(pruned, kept, "finetune", TrainingOptions(120), None)

    def error(network: Captured) -> float:
        with torch.no_grad():
            return float(F.mse_loss(network.answer(X), right))

    assert error(better) < 0.8 * error(pruned)


def test_an_answer_of_transformers_reaches_the_loss_as_it_is() -> None:
    outputs = pytest.importorskip("transformers.modeling_outputs")

    def give(boxes: Tensor, scores: Tensor) -> Any:
        return outputs.TokenClassifierOutput(logits=scores, hidden_states=(boxes, boxes))

    shop = workshop(
        give, NUMBERS, loss=lambda out, t: cross(out.logits, t), outputs={"hidden_states": "none"}
    )
    shop.rehearse("finetune", TrainingOptions())
    assert tuple(map(str, shop.yardstick.meanings)) == ("classes:1", "none", "none")
    assert type(shop.dense.answer(X)) is outputs.TokenClassifierOutput


@dataclass(frozen=True)
class Refused:
    name: str
    target: Any
    fields: dict[str, Any]
    sentence: str


REFUSED = (
    Refused("no loss for marks", HARD, {}, "between 0 and 1, and there is no loss"),
    Refused("no loss for another shape", VALUES, {}, "there is no loss"),
    Refused("a class too many", NUMBERS + 1, {}, "0 to 3 are possible"),
    Refused(
        "a loss that raises", NUMBERS, {"loss": lambda o, t: o.logits}, r"AttributeError.*batch\.py, line"
    ),
    Refused("a loss that is no scalar", NUMBERS, {"loss": lambda o, t: o}, r"\[64, 4\], not a scalar tensor"),
    Refused("a loss that is a float", NUMBERS, {"loss": lambda o, t: 0.5}, "float 0.5, not a scalar tensor"),
    Refused(
        "a loss that is no number",
        NUMBERS,
        {"loss": lambda o, t: cross(o, t) / (t * 0).sum()},
        "of the original model is inf",
    ),
    Refused(
        "a loss without a gradient",
        NUMBERS,
        {"loss": lambda o, t: cross(o.detach(), t)},
        "loss has no gradient",
    ),
    Refused(
        "a loss that gradients break",
        NUMBERS,
        {"loss": lambda o, t: torch.tensor(o.numpy()).mean()},
        r"RuntimeError: Can't call numpy.*batch\.py, line",
    ),
)


@pytest.mark.parametrize("case", REFUSED, ids=lambda case: case.name)
def test_what_training_would_stumble_over_is_refused_at_the_start(case: Refused) -> None:
    shop = workshop(scores_alone, case.target, **case.fields)
    with pytest.raises(InputError, match=case.sentence) as refused:
        shop.rehearse("finetune", TrainingOptions())
    assert refused.value.hint


def test_targets_of_none_are_no_labels() -> None:
    shop = workshop(scores_alone, None)
    with pytest.raises(InputError, match="or None for its targets"):
        shop.highest_rung("finetune")
    with pytest.raises(InputError, match="needs labelled data"):
        Workshop(shop.task, dialect_for("onnxruntime-x86", "x86_64"), criterion=SUPERVISED)


def test_the_users_model_gets_no_gradients() -> None:
    shop = workshop(scores_alone, NUMBERS)
    shop.rehearse("finetune", TrainingOptions())
    assert all(parameter.grad is None for parameter in shop.task.model.parameters())


@pytest.mark.filterwarnings("ignore:Using a target size")
def test_a_loss_that_broadcasts_rows_against_rows_is_refused_before_anything_is_measured() -> None:
    with pytest.raises(InputError, match=r"an output \[64, 1\] with targets \[64\] as \[64, 64\]"):
        _ = workshop(lambda boxes, scores: boxes[:, :1], VALUES[:, 0], loss=F.mse_loss).loss
    fine = workshop(lambda boxes, scores: boxes[:, :1], VALUES[:, :1], loss=F.mse_loss)
    assert fine.loss is not None

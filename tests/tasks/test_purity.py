"""A model that is no function of its inputs is refused in a sentence that names why."""

from __future__ import annotations

import random
import warnings
from collections import UserDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from edgeprune.errors import InputError
from edgeprune.tasks import capture_pure

X = torch.linspace(-1, 1, 16).reshape(2, 8)


class Through(nn.Module):
    """A linear layer with a function of its output behind it, which may use what the module stores."""

    def __init__(self, then: Callable[[Through, Tensor], Tensor]) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.net, self.norm, self.then = nn.Linear(8, 4), nn.BatchNorm1d(4), then
        self.seen = nn.Buffer(torch.zeros(1, 4))
        self.scale = nn.Parameter(torch.ones(4))
        self.memory, self.calls, self.kept = torch.zeros(4), 0, list[Tensor]()

    def forward(self, x: Tensor) -> Tensor:
        return self.then(self, self.net(x))


def counter(own: Through, y: Tensor) -> Tensor:
    own.seen.add_(1)
    return y + own.seen


def counter_without_use(own: Through, y: Tensor) -> Tensor:
    own.seen.add_(1)
    return y


def cache(own: Through, y: Tensor) -> Tensor:
    own.seen[:, 1:3] = y.mean(0, keepdim=True)[:, 1:3]
    return y + own.seen


def average(own: Through, y: Tensor) -> Tensor:
    own.seen = 0.9 * own.seen + 0.1 * y.mean(0, keepdim=True)
    return y + own.seen


def weight(own: Through, y: Tensor) -> Tensor:
    with torch.no_grad():
        own.scale.mul_(0.5)
    return y * own.scale


def norm_in_training(own: Through, y: Tensor) -> Tensor:
    own.norm.train()
    return own.norm(y)


def memory(own: Through, y: Tensor) -> Tensor:
    own.memory = own.memory + y.mean(0)
    return y + own.memory


def calls(own: Through, y: Tensor) -> Tensor:
    own.calls += 1
    return y * own.calls


def numpy_noise(own: Through, y: Tensor) -> Tensor:
    return y + float(np.random.default_rng().random())


def python_noise(own: Through, y: Tensor) -> Tensor:
    return y * random.SystemRandom().random()


def seeded(own: Through, y: Tensor) -> Tensor:
    torch.manual_seed(0)
    return y + torch.randn(4)


def weight_behind_the_graph(own: Through, y: Tensor) -> Tensor:
    own.scale.data.mul_(0.5)
    return y * own.scale


def buffer_behind_the_graph(own: Through, y: Tensor) -> Tensor:
    own.seen.data.add_(1)
    return y


def autocast(own: Through, y: Tensor) -> Tensor:
    with torch.autocast("cpu"):
        return (y @ y.T).float()


def once(own: Through, y: Tensor) -> Tensor:
    own.calls = min(own.calls + 1, 3)
    return y * (1 if own.calls < 3 else 2)


@dataclass(frozen=True)
class Impure:
    name: str
    then: Callable[[Through, Tensor], Tensor]
    says: str


IMPURE = [
    Impure("a counter", counter, "forward writes to the model's buffer 'seen'"),
    Impure(
        "a counter that nothing reads", counter_without_use, "forward writes to the model's buffer 'seen'"
    ),
    Impure("a cache", cache, "forward writes to the model's buffer 'seen'"),
    Impure("a moving average", average, "forward writes to the model's buffer 'seen'"),
    Impure("a weight", weight, "forward writes to the model's parameter 'scale'"),
    Impure(
        "BatchNorm in training mode",
        norm_in_training,
        "forward writes to the model's buffer 'norm.num_batches",
    ),
    Impure(
        "a tensor that is no buffer", memory, "Two runs of the model on the same input differ in output 0 by"
    ),
    Impure(
        "a weight's data", weight_behind_the_graph, "Two runs of the model on the same input differ in output"
    ),
    Impure("data that nothing reads", buffer_behind_the_graph, "forward changes the model's buffer 'seen'."),
    Impure("a number", calls, "Two runs of the model on the same input differ in output 0 by"),
    Impure("numpy's noise", numpy_noise, "Two runs of the model on the same input differ in output 0 by"),
    Impure("Python's noise", python_noise, "Two runs of the model on the same input differ in output 0 by"),
    Impure("a seed in forward", seeded, "forward draws random numbers with aten.randn"),
    Impure("a value of the third call", once, "The graph that torch.export makes of the model differs from"),
    Impure(
        "statistics of the batch",
        lambda own, y: F.batch_norm(y, None, None, training=True),
        "Layer batch_norm normalises by each batch's statistics",
    ),
    Impure(
        "randn", lambda own, y: y + torch.randn(y.shape[0], 4), "forward draws random numbers with aten.randn"
    ),
    Impure(
        "rand_like", lambda own, y: y + torch.rand_like(y), "forward draws random numbers with aten.rand_like"
    ),
    Impure(
        "bernoulli",
        lambda own, y: y * torch.bernoulli(y.sigmoid()),
        "forward draws random numbers with aten.bern",
    ),
    Impure(
        "dropout", lambda own, y: F.dropout(y, 0.5, True), "forward draws random numbers with aten.dropout"
    ),
    Impure(
        "normal_",
        lambda own, y: y + torch.empty_like(y).normal_(),
        "forward draws random numbers with aten.norm",
    ),
    Impure(
        "gumbel", lambda own, y: F.gumbel_softmax(y), "forward draws random numbers with aten.exponential_"
    ),
    Impure("rrelu", lambda own, y: F.rrelu(y, training=True), "forward draws random numbers with aten.rrelu"),
    Impure(
        "an order", lambda own, y: y[:, torch.randperm(4)], "forward draws random numbers with aten.randperm"
    ),
    Impure(
        "dropout of attention",
        lambda own, y: F.scaled_dot_product_attention(*[y[:, None]] * 3, dropout_p=0.5),
        "forward draws random numbers with aten.scaled_dot_product_attention",
    ),
    Impure("bfloat16", lambda own, y: y.bfloat16(), "forward computes in torch.bfloat16"),
    Impure(
        "float16 inside",
        lambda own, y: (y.half() * own.scale.half()).float(),
        "forward computes in torch.float16",
    ),
    Impure("autocast", autocast, "forward computes in torch.bfloat16"),
    Impure("complex", lambda own, y: torch.complex(y, y), "Output 0 of the model is torch.complex64."),
]


@pytest.mark.parametrize("impure", IMPURE, ids=lambda impure: impure.name)
def test_what_an_answer_depends_on_beside_its_input_is_named(impure: Impure) -> None:
    with pytest.raises(InputError) as refused:
        capture_pure(Through(impure.then), X)
    assert refused.value.what.startswith(impure.says)
    if refused.value.what.startswith(("forward writes", "forward draws", "forward computes", "Layer")):
        assert f"({__file__}, line " in refused.value.what
    assert refused.value.hint


@pytest.mark.parametrize(
    ("then", "named"),
    [
        (memory, "attribute 'memory'"),
        (calls, "attribute 'calls'"),
        (weight_behind_the_graph, "parameter 'scale'"),
    ],
)
def test_state_outside_the_graph_is_named(then: Any, named: str) -> None:
    with pytest.raises(InputError, match=f"{named} changed"):
        capture_pure(Through(then), X)


def table(own: Through, y: Tensor) -> Tensor:
    if not own.kept:
        own.kept.append(torch.arange(4.0))
    return y + own.kept[0]


PURE = [
    ("batch norm of running statistics", lambda own, y: own.norm(y)),
    ("dropout in evaluation mode", lambda own, y: F.dropout(y, 0.5, own.training)),
    ("dropout of nothing", lambda own, y: F.dropout(y, 0.0, True)),
    ("random numbers that nothing reads", lambda own, y: (torch.rand([]), y)[1]),
    ("values written in place", lambda own, y: y.clone().mul_(2).add_(own.seen)),
    ("a part written in place", lambda own, y: y.clone().index_fill_(1, torch.tensor([1]), 0.0)),
    ("a table that is made once", table),
    ("values that are not finite", lambda own, y: torch.where(y > 0, y, -torch.inf)),
    ("numbers of classes", lambda own, y: y.argmax(1)),
]


@pytest.mark.parametrize(("name", "then"), PURE, ids=[name for name, _ in PURE])
def test_a_function_of_its_inputs_is_captured(name: str, then: Any) -> None:
    model = Through(then)
    captured = capture_pure(model, X)
    with torch.no_grad():
        assert torch.equal(captured.run(X)[0], model.eval()(X))


def test_a_model_that_was_left_in_training_mode_is_captured_in_evaluation_mode_and_left_as_it_was() -> None:
    model = nn.Sequential(nn.Linear(8, 4), nn.BatchNorm1d(4), nn.Dropout(0.5)).train()
    model[1].eval()
    statistics = model[1].running_mean.clone()
    captured = capture_pure(model, X)
    assert torch.equal(model[1].running_mean, statistics)
    assert [module.training for module in model.modules()] == [True, True, False, True]
    with torch.no_grad():
        assert torch.equal(captured.run(X)[0], model.eval()(X))


def test_the_generator_of_random_numbers_stays() -> None:
    model = Through(lambda own, y: (torch.rand([]), y)[1])
    before = torch.random.get_rng_state()
    capture_pure(model, X)
    assert torch.equal(torch.random.get_rng_state(), before)


def test_inputs_by_name_and_several_outputs() -> None:
    class Two(nn.Module):
        def forward(self, a: Tensor, b: Tensor) -> dict[str, Tensor]:
            return {"sum": a + b, "noise": a * torch.rand(1)}

    for example in ({"b": X, "a": X}, UserDict(a=X, b=X), [X, X]):
        with pytest.raises(InputError, match=r"aten\.rand"):
            capture_pure(Two(), example)


def test_what_the_model_raises_is_told_with_its_line() -> None:
    def fails(own: Through, y: Tensor) -> Tensor:
        raise KeyError("no such head")

    with pytest.raises(
        InputError, match=r"The model raised KeyError: 'no such head' \(.*test_purity\.py, line"
    ):
        capture_pure(Through(fails), X)


def test_attention_over_padding_is_compared_as_it_is_captured() -> None:
    class Padded(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
            self.encoder = nn.TransformerEncoder(layer, 1)

        def forward(self, x: Tensor, padding: Tensor) -> Tensor:
            return self.encoder(x, src_key_padding_mask=padding)

    padding = torch.tensor([[False, False, True, True], [False, False, False, True]])
    model = Padded()
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch tells of its nested tensors
        own = model.eval()(torch.randn(2, 4, 8), padding)
    assert own.shape[1] < 4 or not own[0, 3].any(), "its quick kernel drops the padding, or leaves zeros"
    capture_pure(model, {"x": torch.randn(2, 4, 8), "padding": padding})


def own_way_for_one(own: Through, y: Tensor) -> Tensor:
    return y if y.shape[0] == 1 else y + 1


def counted(own: Through, y: Tensor) -> Tensor:
    return y.view(len(y), -1)


def counted_and_mixed(own: Through, y: Tensor) -> Tensor:
    return y.view(len(y), -1) - y.mean(0, keepdim=True) / 2


def in_one_row(own: Through, y: Tensor) -> Tensor:
    return y.view(1, -1)


@pytest.mark.parametrize(
    ("then", "given", "why"),
    [
        (own_way_for_one, 1, "it computes something else for one row than for several"),
        (counted, 2, "takes the batch, which may vary, for a number"),
        (counted_and_mixed, 1, "takes the batch, which may vary, for a number"),
        (in_one_row, 2, "it puts all rows into one"),
    ],
)
def test_a_model_of_one_row_is_captured_where_one_row_is_asked(
    then: Callable[[Through, Tensor], Tensor], given: int, why: str
) -> None:
    model = Through(then).eval()
    captured = capture_pure(model, X[:given], 1)
    assert why in captured.fixed_batch
    with torch.no_grad():
        assert torch.allclose(captured.run(X)[0], torch.cat([model(row[None]) for row in X]))


@pytest.mark.parametrize("then", [own_way_for_one, counted_and_mixed])
def test_rows_that_depend_on_each_other_are_not_taken_one_by_one(
    then: Callable[[Through, Tensor], Tensor],
) -> None:
    with pytest.raises(InputError, match="Several rows at once differ from one after another") as caught:
        capture_pure(Through(then).eval(), X, 1)
    assert "example of one row" in caught.value.hint


def test_an_output_that_loses_its_batch_for_one_row_is_refused_where_one_row_is_asked() -> None:
    model = Through(lambda own, y: y.squeeze()).eval()
    with pytest.raises(InputError, match=r"Output 0 of the model has shape \[4\] for one row"):
        capture_pure(model, X, 1)
    assert not capture_pure(model, X, 8).fixed_batch


def test_a_mean_over_several_given_rows_is_no_batch_of_one() -> None:
    model = Through(lambda own, y: y.mean(0, keepdim=True)).eval()
    assert capture_pure(model, X[:1], 1).fixed_batch
    assert not capture_pure(model, X, 1).fixed_batch

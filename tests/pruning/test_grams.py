"""Gram matrices are those of the inputs that the weights meet."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from edgeprune.graph.capture import capture
from edgeprune.graph.coupling import analyse
from edgeprune.graph.fx import attribute
from edgeprune.pruning import grams as room
from edgeprune.pruning.grams import Consumer, grams
from tests.support.pairs import CASES, WIDTH, Case, probed


@pytest.mark.parametrize("name", CASES)
def test_the_gram_matrix_is_that_of_the_inputs_that_the_weights_meet(name: str) -> None:
    captured, coupling, x = probed(CASES[name])
    (consumer,) = grams(captured, coupling, [(x,)]).values()
    weight = attribute(captured.module, consumer.weight).detach().double()
    full = weight.reshape(len(weight), -1)
    if consumer.bias is not None:
        full = torch.cat([full, attribute(captured.module, consumer.bias).detach().double()[:, None]], dim=1)
    with torch.no_grad():
        y = captured.run(x)[0].double()
    y = y.reshape(-1, 3) if "conv" not in name else y.movedim(1, -1).reshape(-1, 3)
    # y = rows W^T, so y^T y = W G W^T: wrong strides, paddings or feature orders would all show.
    torch.testing.assert_close(full @ consumer.gram @ full.T, y.T @ y, rtol=1e-4, atol=1e-4)


def test_a_gram_matrix_is_the_same_in_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    captured, coupling, x = probed(CASES["conv2d"])
    whole = grams(captured, coupling, [(x,)])["consumer.weight"].gram
    monkeypatch.setattr(room, "_BLOCK", 16)  # 73 features: the last block is a narrow one
    blocks = grams(captured, coupling, [(x,)])["consumer.weight"].gram
    torch.testing.assert_close(blocks, whole, rtol=1e-5, atol=1e-3)
    torch.testing.assert_close(blocks, blocks.T, rtol=1e-5, atol=1e-3)


def test_two_passes_over_half_the_data_give_the_gram_matrix_of_all_of_it() -> None:
    captured, coupling, x = probed(CASES["conv2d"])
    whole = grams(captured, coupling, [(x,)])["consumer.weight"].gram
    halves = grams(captured, coupling, [(x[:3],), (x[3:],)])["consumer.weight"].gram
    torch.testing.assert_close(halves, whole)


class Overwritten(nn.Module):
    """A value that is written over after its consumer has read it."""

    def __init__(self) -> None:
        super().__init__()
        self.producer = nn.Linear(5, WIDTH)
        self.consumer, self.other = nn.Linear(WIDTH, 3, bias=False), nn.Linear(WIDTH, 3, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        x = self.producer(x)
        y = self.consumer(x)
        return y + self.other(x.mul_(0.0))


def test_what_a_consumer_read_counts_and_not_what_the_graph_wrote_there_later() -> None:
    torch.manual_seed(0)
    x = torch.randn(6, 5)
    net = Overwritten()
    captured = capture(net, x)
    gram = grams(captured, analyse(captured), [(x,)])["consumer.weight"].gram
    read = net.producer(x).detach()
    torch.testing.assert_close(gram[:WIDTH, :WIDTH], (read.T @ read).double(), rtol=1e-5, atol=1e-5)


def test_a_grouped_convolution_is_left_alone() -> None:
    case = Case(lambda: nn.Conv2d(2, WIDTH, 3), lambda: nn.Conv2d(WIDTH, WIDTH, 3, groups=4), (2, 2, 9, 9))
    captured, coupling, x = probed(case)
    assert grams(captured, coupling, [(x,)]) == {}


def test_keyword_inputs_are_read_in_the_order_of_the_graph() -> None:
    class Keywords(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.producer, self.consumer = nn.Linear(5, WIDTH), nn.Linear(WIDTH, 3)

        def forward(self, left: Tensor, right: Tensor) -> Tensor:
            return self.consumer(torch.tanh(self.producer(left) - right))

    torch.manual_seed(0)
    captured = capture(Keywords(), {"right": torch.randn(16, 1), "left": torch.randn(16, 5)})
    coupling = analyse(captured)
    consumer: Consumer = grams(captured, coupling, [captured.inputs])["consumer.weight"]
    right, left = captured.inputs
    producer = attribute(captured.module, "producer")
    with torch.no_grad():
        rows = torch.tanh(left @ producer.weight.T + producer.bias - right).double()
    torch.testing.assert_close(consumer.gram[:-1, :-1], rows.T @ rows, rtol=1e-5, atol=1e-5)

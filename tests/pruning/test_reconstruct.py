"""Consumers that lost inputs get the best weights for what is left, and never worse ones."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from edgeprune.graph.capture import Captured, capture
from edgeprune.graph.coupling import Coupling, Kept, analyse
from edgeprune.graph.fx import attribute
from edgeprune.graph.surgery import cut
from edgeprune.pruning import reconstruct as room
from edgeprune.pruning.reconstruct import Consumer, grams, reconstruct

WIDTH = 8


class Pair(nn.Module):
    """A producer of `WIDTH` channels and the consumer under test."""

    def __init__(self, producer: nn.Module, consumer: nn.Module) -> None:
        super().__init__()
        self.producer, self.consumer = producer, consumer

    def forward(self, x: Tensor) -> Tensor:
        return self.consumer(torch.tanh(self.producer(x)))


@dataclass(frozen=True)
class Case:
    producer: Callable[[], nn.Module]
    consumer: Callable[[], nn.Module]
    shape: tuple[int, ...]


def linear(**options: bool) -> Case:
    return Case(lambda: nn.Linear(5, WIDTH), lambda: nn.Linear(WIDTH, 3, **options), (64, 5))


def conv1d(size: int, **options: object) -> Case:
    return Case(lambda: nn.Conv1d(2, WIDTH, 3), lambda: nn.Conv1d(WIDTH, 3, size, **options), (9, 2, 17))


def conv2d(size: object, **options: object) -> Case:
    return Case(lambda: nn.Conv2d(2, WIDTH, 3), lambda: nn.Conv2d(WIDTH, 3, size, **options), (6, 2, 11, 9))


CASES = {
    "linear": linear(),
    "linear without bias": linear(bias=False),
    "linear over time": Case(lambda: nn.Linear(5, WIDTH), lambda: nn.Linear(WIDTH, 3), (9, 7, 5)),
    "conv1d": conv1d(3, stride=2, padding=1),
    "conv1d dilated, same": conv1d(4, dilation=2, padding="same"),
    "conv2d": conv2d(3, padding=1),
    "conv2d 1x1 without bias": conv2d(1, bias=False),
    "conv2d valid": conv2d(3, padding="valid"),
    "conv2d strided, uneven": conv2d((3, 2), stride=(2, 1), padding=(0, 1), dilation=(1, 2)),
    "conv2d same, even kernel": conv2d((2, 4), padding="same", dilation=(3, 1)),
    "conv2d circular": conv2d(3, padding=1, padding_mode="circular"),
}


def probed(case: Case) -> tuple[Captured, Coupling, Tensor]:
    torch.manual_seed(0)
    x = torch.randn(case.shape)
    captured = capture(Pair(case.producer(), case.consumer()), x)
    return captured, analyse(captured), x


def rebuilt(captured: Captured, coupling: Coupling, kept: Kept, x: Tensor) -> tuple[Tensor, Tensor, int]:
    """Outputs of the cut model before and after reconstruction, and how many layers changed."""
    pruned = cut(captured, coupling, kept)
    with torch.no_grad():
        before = pruned.run(x)[0]
        changed = reconstruct(pruned, coupling, kept, grams(captured, coupling, [(x,)]), captured)
        return before, pruned.run(x)[0], changed


def squared(one: Tensor, other: Tensor) -> float:
    return float((one.double() - other.double()).square().sum())


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


@pytest.mark.parametrize("name", CASES)
def test_inputs_that_repeat_others_are_replaced(name: str) -> None:
    captured, coupling, x = probed(CASES[name])
    producer = attribute(captured.module, "producer")
    with torch.no_grad():
        for tensor in (producer.weight, producer.bias):
            tensor[5] = tensor[1]
            tensor[6] = -tensor[2]  # tanh is odd
        dense = captured.run(x)[0]
    kept = {"producer": [0, 1, 2, 3, 4, 7]}
    before, after, changed = rebuilt(captured, coupling, kept, x)
    assert changed == 1
    assert squared(before, dense) > 1e-2 * float(dense.square().sum())
    # Some weights W* reproduce the dense output exactly, so what is left of the damped problem is at most
    # damping * ||W* - W||^2, with a damping of 1e-4 times the inputs' mean square: about 1e-4 of `before`.
    assert squared(after, dense) < 1e-3 * squared(before, dense)


@pytest.mark.parametrize("name", ["linear", "linear over time", "conv2d valid", "conv2d circular"])
def test_an_input_that_never_changes_moves_into_the_bias(name: str) -> None:
    captured, coupling, x = probed(CASES[name])
    producer = attribute(captured.module, "producer")
    with torch.no_grad():
        producer.weight[4] = 0
        producer.bias[4] = 0.8
        dense = captured.run(x)[0]
    kept = {"producer": [0, 1, 2, 3, 5, 6, 7]}
    before, after, _ = rebuilt(captured, coupling, kept, x)
    assert squared(after, dense) < 1e-3 * squared(before, dense)


@pytest.mark.parametrize("name", CASES)
def test_a_consumer_is_never_worse_than_when_it_was_only_cut(name: str) -> None:
    captured, coupling, x = probed(CASES[name])
    with torch.no_grad():
        dense = captured.run(x)[0]
    random = np.random.default_rng(0)
    for width in (1, 3, 7):
        kept = {"producer": sorted(random.choice(WIDTH, width, replace=False).tolist())}
        before, after, _ = rebuilt(captured, coupling, kept, x)
        assert squared(after, dense) <= squared(before, dense)


def test_the_weights_are_the_least_squares_solution() -> None:
    captured, coupling, x = probed(CASES["linear"])
    kept = {"producer": [0, 2, 3, 7]}
    pruned = cut(captured, coupling, kept)
    reconstruct(pruned, coupling, kept, grams(captured, coupling, [(x,)]), captured)
    producer = attribute(captured.module, "producer")
    with torch.no_grad():
        inputs = torch.tanh(x @ producer.weight.T + producer.bias)[:, kept["producer"]]
        rows = torch.cat([inputs, torch.ones(len(x), 1)], dim=1)
        best = torch.linalg.lstsq(rows.double(), captured.run(x)[0].double()).solution
    weight, bias = (attribute(pruned.module, f"consumer.{part}").detach() for part in ("weight", "bias"))
    found = torch.cat([weight, bias[:, None]], dim=1).T
    torch.testing.assert_close(found.double(), best, rtol=5e-3, atol=5e-3)


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


@pytest.mark.parametrize("images", [1, 4], ids=["one image", "a batch"])
def test_of_large_images_patches_are_drawn_and_still_suffice(
    images: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(room, "_PATCHES_PER_BATCH", 200)
    case = CASES["conv2d"]
    torch.manual_seed(0)
    x = torch.randn(images, 2, 40, 40)
    captured = capture(Pair(case.producer(), case.consumer()), x)
    coupling = analyse(captured)
    gram = grams(captured, coupling, [(x,)])["consumer.weight"].gram
    assert gram[-1, -1] == 200  # the constant input counts the rows
    kept = {"producer": [0, 2, 3, 7]}
    with torch.no_grad():
        dense = captured.run(x)[0]
    before, after, _ = rebuilt(captured, coupling, kept, x)
    assert squared(after, dense) < squared(before, dense)


class Twice(nn.Module):
    """One linear layer at two places."""

    def __init__(self) -> None:
        super().__init__()
        self.producer, self.shared = nn.Linear(5, WIDTH), nn.Linear(WIDTH, WIDTH)
        self.consumer = nn.Linear(WIDTH, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.tanh(self.producer(x))
        return self.consumer(torch.tanh(self.shared(torch.tanh(self.shared(x)))))


class Tied(nn.Module):
    """The last layer's weight is the embedding's table; its inputs are the embedding's width."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(11, WIDTH)
        self.consumer = nn.Linear(WIDTH, WIDTH)
        self.shared = nn.Linear(WIDTH, 11, bias=False)
        self.shared.weight = self.embed.weight

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x)
        return self.shared(x + torch.tanh(self.consumer(x)))


class SharedBias(nn.Module):
    """Two consumers of one producer that add the same bias."""

    def __init__(self) -> None:
        super().__init__()
        self.producer = nn.Linear(5, WIDTH)
        self.consumer = nn.Linear(WIDTH, 3, bias=False)
        self.shared, self.other = nn.Linear(WIDTH, 3), nn.Linear(WIDTH, 3)
        self.other.bias = self.shared.bias

    def forward(self, x: Tensor) -> Tensor:
        x = torch.tanh(self.producer(x))
        return self.consumer(x) + self.shared(x) * self.other(x)


@pytest.mark.parametrize("model", [Twice, Tied, SharedBias])
def test_a_weight_or_bias_with_a_second_use_is_left_alone(model: type[nn.Module]) -> None:
    torch.manual_seed(0)
    x = torch.arange(44).reshape(4, 11) % 11 if model is Tied else torch.randn(32, 5)
    captured = capture(model(), x)
    coupling = analyse(captured)
    kept = {group.name: range(1, group.units) for group in coupling.groups}
    pruned, plain = cut(captured, coupling, kept), cut(captured, coupling, kept)
    reconstruct(pruned, coupling, kept, grams(captured, coupling, [(x,)]), captured)
    changed = {
        name.removesuffix(".weight").removesuffix(".bias")
        for name, parameter in pruned.module.named_parameters()
        if not torch.equal(parameter, attribute(plain.module, name))
    }
    assert changed == {"consumer"}


def test_a_grouped_convolution_is_left_alone() -> None:
    case = Case(lambda: nn.Conv2d(2, WIDTH, 3), lambda: nn.Conv2d(WIDTH, WIDTH, 3, groups=4), (2, 2, 9, 9))
    captured, coupling, x = probed(case)
    assert grams(captured, coupling, [(x,)]) == {}


def test_a_layer_that_lost_nothing_keeps_its_weights() -> None:
    captured, coupling, x = probed(CASES["linear"])
    kept: Kept = {"producer": range(WIDTH)}
    before, after, changed = rebuilt(captured, coupling, kept, x)
    assert changed == 0
    assert torch.equal(before, after)


def test_the_dense_model_keeps_its_weights() -> None:
    captured, coupling, x = probed(CASES["conv2d"])
    weights = {name: tensor.clone() for name, tensor in captured.module.state_dict().items()}
    rebuilt(captured, coupling, {"producer": [1, 2]}, x)
    for name, tensor in captured.module.state_dict().items():
        assert torch.equal(tensor, weights[name]), name


def test_inputs_that_are_always_zero_keep_their_weights() -> None:
    captured, coupling, x = probed(CASES["conv2d"])
    producer = attribute(captured.module, "producer")
    with torch.no_grad():
        producer.weight.zero_()
        producer.bias.zero_()
    kept = {"producer": [0, 4]}
    pruned = cut(captured, coupling, kept)
    plain = attribute(pruned.module, "consumer.weight").detach().clone()
    assert reconstruct(pruned, coupling, kept, grams(captured, coupling, [(x,)]), captured) == 1
    torch.testing.assert_close(attribute(pruned.module, "consumer.weight").detach(), plain)


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

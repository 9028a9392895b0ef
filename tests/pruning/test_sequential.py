"""Weights are solved for from what really arrives: each layer makes up for what was lost before it."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from edgeprune.graph.capture import Captured, capture
from edgeprune.graph.coupling import Coupling, Kept, analyse
from edgeprune.graph.fx import attribute
from edgeprune.graph.surgery import cut
from edgeprune.pruning import damped_pairs, sequential
from edgeprune.pruning.sequential import refit, rows_of
from tests.support.pairs import CASES, WIDTH, Pair, probed

Refit = tuple[Captured, Captured, int]  # the dense network, the refitted one, layers changed


class Chain(nn.Module):
    """Three linear layers."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two, self.three = nn.Linear(6, 10), nn.Linear(10, 8), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.three(torch.tanh(self.two(torch.tanh(self.one(x)))))


class Residual(nn.Module):
    """Two convolutional branches on a stream, each behind a BatchNorm that has seen data."""

    def __init__(self, *, inplace: bool = False) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1, bias=False)
        self.norms = nn.ModuleList(nn.BatchNorm2d(8) for _ in range(5))
        self.convs = nn.ModuleList(nn.Conv2d(8, 8, 3, padding=1, bias=False) for _ in range(4))
        self.head = nn.Linear(8, 4)
        self.inplace = inplace

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.norms[0](self.stem(x)), inplace=self.inplace)
        for at in (0, 2):
            y = F.relu(self.norms[at + 1](self.convs[at](x)), inplace=self.inplace)
            y = self.norms[at + 2](self.convs[at + 1](y))
            x = F.relu(x + y, inplace=self.inplace)
        return self.head(x.mean((2, 3)))


class Mobile(nn.Module):
    """An inverted residual: a depthwise convolution between two pointwise ones."""

    def __init__(self) -> None:
        super().__init__()
        self.wide = nn.Conv2d(3, 12, 1)
        self.depthwise = nn.Conv2d(12, 12, 3, padding=1, groups=12, bias=False)
        self.norm = nn.BatchNorm2d(12)
        self.narrow = nn.Conv2d(12, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.narrow(F.relu(self.norm(self.depthwise(F.relu(self.wide(x))))))


def settled(net: nn.Module, x: Tensor) -> nn.Module:
    """The network in evaluation mode, its BatchNorms with the statistics of the data."""
    with torch.no_grad():
        for _ in range(60):
            net.train()(x)
    return net.eval()


def refitted(net: nn.Module, kept: Kept, x: Tensor, **how: int) -> Refit:
    dense = capture(net, x[:2])
    coupling = analyse(dense)
    pruned = cut(dense, coupling, kept)
    return dense, pruned, refit(pruned, dense, coupling, kept, rows_of([(x,)], len(x)), **how)


def error(one: Captured, other: Captured, x: Tensor) -> float:
    with torch.no_grad():
        return float((one.run(x)[0] - other.run(x)[0]).square().mean())


def images(count: int) -> Tensor:
    torch.manual_seed(1)
    return torch.randn(count, 3, 7, 7)


def test_layers_get_the_least_squares_weights_for_what_the_pruned_network_feeds_them(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    torch.manual_seed(0)
    net, x = Chain(), torch.randn(400, 6)
    monkeypatch.setattr(damped_pairs, "DAMPINGS", (1e-9,))

    _, pruned, changed = refitted(net, {"one": (0, 2, 3, 5, 8), "two": (1, 2, 4, 6)}, x)

    assert changed == 2
    with torch.no_grad():
        hidden = torch.tanh(
            x @ attribute(pruned.module, "one.weight").T + attribute(pruned.module, "one.bias")
        )
        wanted = (torch.tanh(net.one(x)) @ net.two.weight.T + net.two.bias)[:, [1, 2, 4, 6]]
        best = np.linalg.lstsq(
            torch.cat([hidden, torch.ones(400, 1)], 1).numpy(), wanted.numpy(), rcond=None
        )[0]
    found = torch.cat([pruned.module.two.weight, pruned.module.two.bias[:, None]], 1)  # type: ignore[union-attr]
    assert found.detach().numpy() == pytest.approx(best.T, rel=1e-3, abs=1e-4)


def test_nothing_changes_where_nothing_was_cut() -> None:
    torch.manual_seed(0)
    dense, pruned, changed = refitted(Chain(), {}, torch.randn(100, 6))

    assert changed == 0
    for name, weight in dense.module.state_dict().items():
        assert torch.equal(weight, pruned.module.state_dict()[name])


def test_a_unit_that_another_repeats_is_lost_without_a_trace() -> None:
    torch.manual_seed(0)
    net, x = Chain(), torch.randn(300, 6)
    with torch.no_grad():
        net.one.weight[4], net.one.bias[4] = net.one.weight[7], net.one.bias[7]

    dense, pruned, _ = refitted(net, {"one": tuple(unit for unit in range(10) if unit != 4)}, x)

    fresh = torch.randn(50, 6)
    assert error(dense, pruned, fresh) < 1e-6


@pytest.mark.parametrize("inplace", [False, True])
def test_later_layers_make_up_for_earlier_ones(inplace: bool) -> None:
    x = images(96)
    torch.manual_seed(0)
    net = settled(Residual(inplace=inplace), x)
    dense = capture(net, x[:2])
    coupling = analyse(dense)
    kept = {"norms.1": (0, 3, 4), "norms.3": (1, 2, 6)}
    plain, walked = (cut(dense, coupling, kept) for _ in range(2))

    # The first branch loses inputs; the layers behind it read another stream.
    assert refit(walked, dense, coupling, kept, rows_of([(x,)], 96)) == 4

    fresh = torch.randn(64, 3, 7, 7)
    assert error(dense, walked, fresh) < 0.3 * error(dense, plain, fresh)


def test_what_is_left_makes_up_for_a_branch_that_was_dropped() -> None:
    x = images(96)
    torch.manual_seed(0)
    net = settled(Residual(), x)
    dense = capture(net, x[:2])
    kept: Kept = {analyse(dense).branches[0].name: ()}
    plain = cut(dense, analyse(dense), kept)

    _, pruned, changed = refitted(net, kept, x)

    fresh = torch.randn(64, 3, 7, 7)
    assert changed >= 2
    assert error(dense, pruned, fresh) < 0.6 * error(dense, plain, fresh)


def test_a_branch_aims_at_the_error_of_its_stream() -> None:
    """The stream loses a half that the branch still reads: an exact answer exists only with that aim."""

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = nn.Linear(4, 4, bias=False), nn.Linear(6, 4, bias=False)

        def forward(self, x: Tensor) -> Tensor:
            return self.first(x[:, :4]) + self.second(x)

    torch.manual_seed(0)
    net, x = Net(), torch.randn(200, 6)
    dense = capture(net, x[:2])
    broken = dense.copy()
    with torch.no_grad():
        attribute(broken.module, "first.weight")[0] += 1.0
    layers = sequential.layers_of

    def only_second(captured: Captured) -> object:
        return {name: layer for name, layer in layers(captured).items() if layer.weight == "second.weight"}

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sequential, "layers_of", only_second)
        assert refit(broken, dense, analyse(dense), {}, rows_of([(x,)], 200)) == 1

    assert error(dense, broken, torch.randn(20, 6)) < 1e-5


def test_a_convolution_without_a_bias_has_one_in_the_mean_of_its_norm() -> None:
    x = images(96)
    torch.manual_seed(0)
    net = settled(Residual(), x)
    with torch.no_grad():
        net.norms[1].bias[:] = 2.0  # units of a large constant part
    dense, pruned, _ = refitted(net, {"norms.1": (0, 3)}, x)

    assert not torch.equal(
        attribute(pruned.module, "norms.2.running_mean"), attribute(dense.module, "norms.2.running_mean")
    )
    fresh = torch.randn(64, 3, 7, 7)
    with torch.no_grad():
        attribute(pruned.module, "norms.2.running_mean").copy_(
            attribute(dense.module, "norms.2.running_mean")
        )
        without = error(dense, pruned, fresh)
    _, again, _ = refitted(net, {"norms.1": (0, 3)}, x)
    assert error(dense, again, fresh) < without


def test_depthwise_convolutions_are_solved_for_channel_by_channel() -> None:
    x = images(64)
    torch.manual_seed(0)
    net = settled(Mobile(), x)
    dense = capture(net, x[:2])
    coupling = analyse(dense)
    kept = {"wide": (0, 1, 4, 5, 7, 9, 11)}
    pruned = cut(dense, coupling, kept)
    with torch.no_grad():
        attribute(pruned.module, "wide.weight").mul_(0.7)  # a fault upstream, which channels can undo

    layers = sequential.layers_of(pruned)
    depthwise = next(layer for layer in layers.values() if layer.groups == 7)
    assert depthwise.weight == "depthwise.weight"
    refit(pruned, dense, coupling, kept, rows_of([(x,)], 64))

    lost = cut(dense, coupling, kept)
    refit(lost, dense, coupling, kept, rows_of([(x,)], 64))
    fresh = torch.randn(64, 3, 7, 7)
    assert error(dense, pruned, fresh) == pytest.approx(error(dense, lost, fresh), rel=0.1)


def test_rows_join_where_there_is_room_for_them(monkeypatch: pytest.MonkeyPatch) -> None:
    x = images(96)
    torch.manual_seed(0)
    net = settled(Residual(), x)
    kept = {"norms.1": (0, 3, 4)}
    dense, whole, _ = refitted(net, kept, x)
    monkeypatch.setattr(sequential, "NETWORK_BYTES", 1)  # one batch at a time is in

    _, little, _ = refitted(net, kept, x)
    monkeypatch.setattr(
        sequential, "NETWORK_BYTES", 2 * 96 * 8 * 7 * 7 * 4 * 2
    )  # all of them behind the pooling
    _, some, _ = refitted(net, kept, x)

    fresh = torch.randn(64, 3, 7, 7)
    errors = [error(dense, each, fresh) for each in (whole, some, little)]
    assert errors[0] <= 1.1 * errors[1] <= 1.2 * errors[2]
    assert errors[0] < errors[2] < error(dense, cut(dense, analyse(dense), kept), fresh)


def test_few_rows_move_no_weight_further_than_other_rows_bear_out() -> None:
    """8 rows for 200 inputs: without the check the layer would fit the 8 and nothing else."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(20, 200), nn.Tanh(), nn.Linear(200, 5))
    x = torch.randn(8, 20)
    dense = capture(net, x)
    kept = {analyse(dense).groups[0].name: tuple(range(0, 200, 2))}
    plain = cut(dense, analyse(dense), kept)

    _, pruned, _ = refitted(net, kept, x)

    fresh = torch.randn(200, 20)
    assert error(dense, pruned, fresh) < 1.1 * error(dense, plain, fresh)


def test_too_few_rows_to_check_with_change_nothing() -> None:
    torch.manual_seed(0)
    _, _, changed = refitted(Chain(), {"one": (0, 1, 2)}, torch.randn(1, 6))

    assert changed == 0


def test_rows_are_spread_over_the_data() -> None:
    batches = [(torch.arange(start, start + 50)[:, None],) for start in (0, 50)]

    found = rows_of(batches, 5, at_once=2)

    assert [batch[0][:, 0].tolist() for batch in found] == [[0, 25], [50, 74], [99]]
    assert [len(batch[0]) for batch in rows_of(batches, 0)] == [1]


def test_each_length_has_its_share_of_the_rows_in_batches_of_its_own() -> None:
    batches = [(torch.zeros(rows, length),) for rows, length in ((30, 8), (10, 16), (30, 8))]

    found = rows_of(batches, 14, at_once=8)

    assert [tuple(batch[0].shape) for batch in found] == [(8, 8), (4, 8), (2, 16)]
    assert [tuple(batch[0].shape) for batch in rows_of(batches, 1)] == [(1, 8), (1, 16)]


def test_a_network_of_one_row_at_a_time_is_refitted_row_by_row() -> None:
    class One(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = Chain()

        def forward(self, x: Tensor) -> Tensor:
            return self.net(x.reshape(1, 6))

    torch.manual_seed(0)
    net, x = One(), torch.randn(64, 6)
    dense = capture(net, x[:1], rows=1)
    assert dense.fixed_batch
    coupling = analyse(dense)
    kept: Kept = {coupling.groups[0].name: tuple(range(5))}
    plain, pruned = cut(dense, coupling, kept), cut(dense, coupling, kept)

    assert refit(pruned, dense, coupling, kept, rows_of([(x,)], 64)) >= 1

    fresh = torch.randn(40, 6)
    assert error(dense, pruned, fresh) < error(dense, plain, fresh)


def rebuilt(captured: Captured, coupling: Coupling, kept: Kept, x: Tensor) -> tuple[Tensor, Tensor, int]:
    """Outputs of the cut model before and after reconstruction, and how many layers changed."""
    pruned = cut(captured, coupling, kept)
    with torch.no_grad():
        before = pruned.run(x)[0]
        changed = refit(pruned, captured, coupling, kept, rows_of([(x,)], len(x)))
        return before, pruned.run(x)[0], changed


def squared(one: Tensor, other: Tensor) -> float:
    return float((one.double() - other.double()).square().sum())


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


class Twice(nn.Module):
    """One linear layer at two places."""

    def __init__(self) -> None:
        super().__init__()
        self.producer, self.shared = nn.Linear(5, WIDTH), nn.Linear(WIDTH, WIDTH)
        self.consumer = nn.Linear(WIDTH, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.tanh(self.producer(x))
        return self.consumer(torch.tanh(self.shared(torch.tanh(self.shared(x)))))


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


@pytest.mark.parametrize("images", [1, 4], ids=["one image", "a batch"])
def test_of_large_images_patches_are_drawn_and_still_suffice(
    images: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sequential, "MOST_ROWS_SOLVED", 200)
    case = CASES["conv2d"]
    torch.manual_seed(0)
    x = torch.randn(images, 2, 40, 40)
    captured = capture(Pair(case.producer(), case.consumer()), x)
    coupling = analyse(captured)
    kept = {"producer": [0, 2, 3, 7]}
    with torch.no_grad():
        dense = captured.run(x)[0]
    before, after, _ = rebuilt(captured, coupling, kept, x)
    assert squared(after, dense) < squared(before, dense)


@pytest.mark.parametrize("model", [Twice, Tied, SharedBias])
def test_a_weight_or_bias_with_a_second_use_is_left_alone(model: type[nn.Module]) -> None:
    torch.manual_seed(0)
    x = torch.arange(44).reshape(4, 11) % 11 if model is Tied else torch.randn(32, 5)
    captured = capture(model(), x)
    coupling = analyse(captured)
    kept = {group.name: range(1, group.units) for group in coupling.groups}
    pruned, plain = cut(captured, coupling, kept), cut(captured, coupling, kept)
    refit(pruned, captured, coupling, kept, rows_of([(x,)], len(x)))
    changed = {
        name.removesuffix(".weight").removesuffix(".bias")
        for name, parameter in pruned.module.named_parameters()
        if not torch.equal(parameter, attribute(plain.module, name))
    }
    assert changed == {"consumer"}


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
    refit(pruned, captured, coupling, kept, rows_of([(x,)], len(x)))
    torch.testing.assert_close(attribute(pruned.module, "consumer.weight").detach(), plain)

"""Training mode of an exported graph: dropout drops, BatchNorm learns, and evaluation gives back what was."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from edgeprune import InputError
from edgeprune.graph.capture import capture


class Trains(nn.Module):
    """Everything in torch that behaves differently while it trains, behind one convolution."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 8, 3)
        self.kind, self.change = kind, CHANGES[kind]()
        self.out = nn.Conv2d(8, 4, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.out(self.change(self.first(x)))


class Recurrent(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.cells = nn.LSTM(8, 8, 2, dropout=0.5, batch_first=True)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        rows = self.cells(x.flatten(2).transpose(1, 2))[0]
        return rows.transpose(1, 2).reshape(x.shape)


class Functional(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.dropout(x, 0.5, self.training)


CHANGES = {
    "dropout": lambda: nn.Dropout(0.5),
    "dropout of channels": lambda: nn.Dropout2d(0.5),
    "alpha dropout": lambda: nn.AlphaDropout(0.5),
    "dropout by the flag": Functional,
    "dropout between recurrent layers": Recurrent,
    "batch norm": lambda: nn.BatchNorm2d(8),
    "batch norm over all batches": lambda: nn.BatchNorm2d(8, momentum=None),
    "instance norm with statistics": lambda: nn.InstanceNorm2d(8, track_running_stats=True),
    "randomised leaks": lambda: nn.RReLU(),
}
NORMS = [kind for kind in CHANGES if "norm" in kind]


@pytest.mark.parametrize("kind", CHANGES)
def test_train_switches_and_eval_gives_back(kind: str) -> None:
    torch.manual_seed(0)
    x = torch.randn(4, 3, 8, 8)
    captured = capture(Trains(kind), x)
    module = captured.copy().module
    with torch.no_grad():
        before = module(x)
        module.train()
        assert module.training
        assert not torch.equal(module(x), before)
        assert (kind in NORMS) == torch.equal(module(x), module(x))
        state = {name: tensor.clone() for name, tensor in captured.module.state_dict().items()}
        module.eval()
        module.load_state_dict(state)
        assert not module.training
        assert torch.equal(module(x), before)


@pytest.mark.parametrize("kind", NORMS)
def test_a_norm_that_trains_learns_the_statistics_of_the_data(kind: str) -> None:
    torch.manual_seed(0)
    x = torch.randn(16, 3, 8, 8)
    model = Trains(kind)
    module = capture(model, x).module.train()
    for _ in range(100):
        module(x)
    means = F.conv2d(x, module.get_parameter("first.weight"), module.get_parameter("first.bias")).mean(
        (0, 2, 3)
    )
    assert torch.allclose(module.get_buffer("change.running_mean"), means, atol=1e-3)


class Standardised(nn.Module):
    """Weights of zero mean by a norm without statistics, which is the same in both modes."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.out = nn.Linear(8, 16), nn.Linear(16, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        weight = F.batch_norm(self.first.weight[None], None, None, training=True)[0]
        return self.out(F.linear(x, weight, self.first.bias))


def test_what_does_not_depend_on_the_mode_stays() -> None:
    x = torch.randn(4, 8)
    module = capture(Standardised(), x).module
    with torch.no_grad():
        assert torch.equal(module.train()(x), module.eval()(x))


def exported(model: nn.Module, x: torch.Tensor) -> nn.Module:
    batch = {0: torch.export.Dim.DYNAMIC}
    return torch.export.export(model, (x,), dynamic_shapes=(batch,)).module()


@pytest.mark.parametrize("kind", ["dropout", "batch norm"])
def test_a_graph_that_was_exported_in_training_mode_is_refused(kind: str) -> None:
    x = torch.randn(4, 3, 8, 8)
    with pytest.raises(InputError, match="in training mode"):
        capture(exported(Trains(kind).train(), x), x)


def test_a_graph_that_was_exported_in_evaluation_mode_is_captured_again() -> None:
    x = torch.randn(4, 8)
    module = exported(Standardised().eval(), x)
    with torch.no_grad():
        assert torch.equal(capture(module, x[:1]).run(x)[0], module(x))

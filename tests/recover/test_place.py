"""Recovery training computes on the device that was asked for, and on no two at once.

The device is the stand-in of tests/support/elsewhere.py: it computes as the processor does, and refuses
tensors of two devices as a GPU does.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from edgeprune.errors import InputError
from edgeprune.graph.capture import Captured, capture
from edgeprune.graph.moving import CPU, device_of
from edgeprune.make import Workshop
from edgeprune.options import FitOptions
from edgeprune.quantize.dialects import dialect_for
from edgeprune.records.task import Task
from edgeprune.records.trial import Candidate
from edgeprune.recover.ladder import Rung
from edgeprune.recover.place import Place, training_place
from edgeprune.recover.recipe import TrainingOptions
from edgeprune.tasks import GuardedLoss
from tests.support.elsewhere import ELSEWHERE, elsewhere

OPTIONS = TrainingOptions(epochs=2)
WEIGHT = torch.tensor([1.0, 2.0, 1.0])


class Net(nn.Module):
    """[N, 1, 6, 6] -> [N, 3], with BatchNorm, dropout and tensors that are made in `forward`."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(1, 8, 3, padding=1)
        self.norm = nn.BatchNorm2d(8)
        self.wide = nn.Conv2d(8, 24, 3, padding=1)
        self.narrow = nn.Conv2d(24, 8, 1)
        self.drop = nn.Dropout(0.1)
        self.head = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = x + torch.linspace(0, 0.1, x.shape[-1])
        x = torch.relu(self.norm(self.stem(x)))
        x = self.narrow(torch.relu(self.wide(x))) + x
        return self.head(self.drop(x.mean((2, 3)))) * torch.full((3,), 1.5)


def workshop(loss: Callable[[Any, Tensor], Tensor] | None = None) -> Workshop:
    torch.manual_seed(0)
    net = Net()
    inputs = [torch.randn(16, 1, 6, 6) for _ in range(6)]
    for x in inputs:
        net(x)
    net.eval()
    pairs = [(x, net(x).detach().argmax(1)) for x in inputs]
    task = Task(
        net,
        inputs[0][:1],
        inputs,
        lambda predict: 0.5,
        train=pairs,
        loss=loss,
        outputs="classes",
        earlier=net.state_dict(),
    )
    return Workshop(task, dialect_for("onnxruntime-x86", "x86_64"))


def recovered(shop: Workshop, way: str) -> tuple[Captured, Rung]:
    (name,) = [group.name for group in shop.coupling.groups if group.units == 24]
    kept = {name: range(12)}
    shop.rehearse(way, OPTIONS)
    pruned, _ = shop.prune(kept, way)
    trained, (rung,) = shop.train(pruned, kept, way, OPTIONS, None)
    return trained, rung


def trained_for_int8(shop: Workshop, way: str) -> tuple[Captured, Rung]:
    candidate = Candidate((), "int8", "minmax", recover=way, qat=True)
    trained, (rung,) = shop.train_aware(candidate, shop.dense, OPTIONS, None)
    return trained, rung


@pytest.fixture
def on_the_stand_in(monkeypatch: pytest.MonkeyPatch) -> None:
    """The stand-in in the place of whatever device was asked for."""
    for module in ("recover.ladder", "make.workshop"):
        monkeypatch.setattr(f"edgeprune.{module}.training_place", lambda name: Place(ELSEWHERE))


LOSSES = {
    "module": nn.CrossEntropyLoss(weight=WEIGHT),
    "partial": partial(cross_entropy, weight=WEIGHT),
    "function": lambda output, target: cross_entropy(output, target, WEIGHT.to(output.device)),
    "none": None,
}


@pytest.mark.parametrize(
    ("recover", "way", "loss"),
    [
        (recovered, "distill", "none"),
        (recovered, "finetune", "none"),
        (recovered, "finetune", "module"),
        (recovered, "finetune", "partial"),
        (recovered, "finetune", "function"),
        (recovered, "lora", "module"),
        (recovered, "rewind", "none"),
        (trained_for_int8, "finetune", "module"),
    ],
    ids=lambda value: getattr(value, "__name__", value),
)
def test_a_whole_recovery_computes_on_one_device_what_it_computes_on_another(
    recover: Callable[[Workshop, str], tuple[Captured, Rung]],
    way: str,
    loss: str,
    monkeypatch: pytest.MonkeyPatch,
    request: pytest.FixtureRequest,
) -> None:
    wanted, here = recover(workshop(LOSSES[loss]), way)
    shop = workshop(LOSSES[loss])
    request.getfixturevalue("on_the_stand_in")
    with elsewhere():
        found, there = recover(shop, way)
        assert device_of(found.module) == CPU
    assert there.training is not None
    assert there.training.place == "meta"
    assert (there.name, there.kept) == (here.name, here.kept)
    assert (there.before, there.after) == pytest.approx((here.before, here.after), rel=1e-4)
    torch.testing.assert_close(found.module.state_dict(), wanted.module.state_dict(), rtol=1e-3, atol=1e-4)
    assert {type(tensor) for tensor in found.module.state_dict().values()} == {Tensor}


def test_a_loss_that_holds_a_tensor_on_the_processor_is_refused_before_anything_is_measured(
    on_the_stand_in: None,
) -> None:
    shop = workshop(lambda output, target: cross_entropy(output, target, WEIGHT))
    with (
        elsewhere(),
        pytest.raises(InputError, match=r"loss raised RuntimeError: .* same device"),
    ):
        shop.rehearse("finetune", OPTIONS)


@pytest.mark.parametrize("half", [torch.bfloat16, None], ids=str)
def test_products_have_the_half_type_and_nothing_else_has(half: torch.dtype | None) -> None:
    torch.manual_seed(0)
    dense = capture(nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 3)).eval(), torch.randn(2, 4))
    place, x = Place(CPU, half), torch.randn(5, 4)
    exact, mixed = dense.run(x)[0], place.mixed(dense.run)(x)[0]
    assert mixed.dtype == torch.float32
    assert torch.equal(exact, mixed) == (half is None)
    assert torch.allclose(exact, mixed, atol=0.05)
    mixed.sum().backward()
    assert {p.grad.dtype for p in dense.module.parameters() if p.grad is not None} == {torch.float32}


def test_a_recovery_in_mixed_precision_recovers(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in ("recover.ladder", "make.workshop"):
        monkeypatch.setattr(f"edgeprune.{module}.training_place", lambda name: Place(CPU, torch.bfloat16))
    trained, rung = recovered(workshop(), "finetune")
    assert rung.kept
    assert rung.training is not None
    assert rung.training.place == "cpu, bfloat16"
    assert {p.dtype for p in trained.module.parameters()} == {torch.float32}


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("cuda", "--train-device is cuda, and PyTorch .* finds no CUDA device"),
        ("cuda:1", "--train-device is cuda:1, and PyTorch .* finds no CUDA device"),
        ("mps", "--train-device is mps, and PyTorch finds no Apple GPU"),
    ],
)
def test_a_device_that_is_not_there_is_refused(
    name: str, sentence: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    with pytest.raises(InputError, match=sentence):
        training_place(name)


@pytest.fixture
def two_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    """What PyTorch says of a machine with two GPUs."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 1)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: True)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "a GPU")


def test_a_gpu_multiplies_in_bfloat16(two_gpus: None) -> None:
    assert training_place("auto") == training_place("cuda") == Place(torch.device("cuda:1"), torch.bfloat16)
    assert training_place("cuda:0").words == "cuda:0 (a GPU), bfloat16"
    with pytest.raises(InputError, match="cuda:2, and PyTorch finds 2 CUDA devices here, counted from 0"):
        training_place("cuda:2")


def test_without_a_gpu_the_processor_trains(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    assert training_place("auto") == training_place("cpu") == Place(CPU)
    assert training_place("cpu").words == "cpu"
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    assert training_place("auto") == training_place("mps") == Place(torch.device("mps"))


@pytest.mark.parametrize("name", ["gpu", "cuda:", "cuda:x", "cuda:-1", "CPU", "", None, 0])
def test_what_names_no_device_is_refused(name: Any) -> None:
    with pytest.raises(InputError, match="--train-device is"):
        FitOptions(train_device=name)


def test_what_a_fit_is_asked_for_reaches_its_trainings() -> None:
    assert FitOptions(train_device="cuda:1").training.device == "cuda:1"
    assert FitOptions(processes=3).training.processes == 3
    assert FitOptions().training.device == "auto"


def test_a_loss_of_ones_own_is_not_moved_itself() -> None:
    own = nn.CrossEntropyLoss(weight=WEIGHT)
    with elsewhere():
        moved = Place(ELSEWHERE).loss(GuardedLoss(own))
        assert isinstance(moved, GuardedLoss)
        assert moved.own.weight.device == ELSEWHERE  # type: ignore[attr-defined]
    assert own.weight is not None
    assert own.weight.device == CPU
    guarded = GuardedLoss(own)
    assert Place(CPU).loss(guarded) is guarded

"""Training switches the graph's modes and back, lowers the loss, and repeats itself for a seed."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, mse_loss

from edgeprune.errors import InputError
from edgeprune.graph.capture import Captured, capture
from edgeprune.meaning.losses import Loss
from edgeprune.meaning.yardstick import Yardstick
from edgeprune.recover.objective import Objective, Pair
from edgeprune.recover.recipe import Recipe, TrainingOptions
from edgeprune.recover.train import Epochs, TrainingAccount, TrainingProgress, train, training_mode
from tests.support.yardsticks import yardstick_of


class Net(nn.Module):
    """Both kinds of dropout and a BatchNorm, which behave differently in training."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.norm = nn.Conv2d(2, 8, 3), nn.BatchNorm2d(8)
        self.drop, self.drop_maps = nn.Dropout(0.2), nn.Dropout2d(0.2)
        self.head = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.drop_maps(torch.relu(self.norm(self.stem(x))))
        return self.head(self.drop(x.mean((2, 3))))


@cache
def _captured(seed: int) -> Captured:
    torch.manual_seed(seed)
    return capture(Net().eval(), torch.randn(4, 2, 6, 6))


def net(seed: int = 0) -> Captured:
    return _captured(seed).copy()


@cache
def yards() -> Yardstick:
    return yardstick_of(_captured(0), "classes")


def learnable(count: int = 4, rows: int = 16) -> list[Pair]:
    """The class is the sign and the strength of the first channel's mean."""
    generator = torch.Generator().manual_seed(2)
    pairs: list[Pair] = []
    for _ in range(count):
        x = torch.randn(rows, 2, 6, 6, generator=generator)
        target = torch.randint(3, (rows,), generator=generator)
        pairs.append(((x + (target - 1)[:, None, None, None],), target))
    return pairs


def weights(captured: Captured) -> dict[str, Tensor]:
    return {name: tensor.detach().clone() for name, tensor in captured.module.state_dict().items()}


def taught(
    student: Captured,
    epochs: Epochs,
    batches: int = 4,
    loss: Loss | None = None,
    teacher: Captured | None = None,
    options: TrainingOptions | None = None,
    listen: Callable[[TrainingProgress], None] | None = None,
    **recipe: Any,
) -> TrainingAccount:
    """`train` with the recipe of these fields."""
    found = Recipe(options or TrainingOptions(1), **recipe)
    objective = Objective(teacher or net(), yards(), found, loss)
    return train(student, objective, epochs, batches, listen=listen)


def test_training_mode_uses_and_moves_the_statistics_of_the_batch() -> None:
    captured = net()
    x = torch.randn(8, 2, 6, 6) + 3
    before = weights(captured)
    with training_mode(captured):
        captured.run(x)
    after = weights(captured)
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed == {"norm.running_mean", "norm.running_var"}


def test_training_mode_drops_and_evaluation_does_not() -> None:
    captured = net()
    x = torch.randn(8, 2, 6, 6)
    with torch.no_grad(), training_mode(captured):
        one, other = captured.run(x)[0], captured.run(x)[0]
        assert not torch.equal(one, other)
    with torch.no_grad():
        assert torch.equal(captured.run(x)[0], captured.run(x)[0])


def test_leaving_training_mode_gives_the_graph_back_as_it_was() -> None:
    captured, other = net(), net()
    code = captured.module.code
    with training_mode(captured):
        assert captured.module.code != code
    assert captured.module.code == code
    with pytest.raises(ZeroDivisionError), training_mode(captured):
        raise ZeroDivisionError
    assert captured.module.code == code
    x = torch.randn(8, 2, 6, 6)
    with torch.no_grad():
        assert torch.equal(captured.run(x)[0], other.run(x)[0])


def test_a_norm_that_always_uses_its_batch_still_does_afterwards() -> None:
    model = nn.Sequential(nn.BatchNorm1d(3, track_running_stats=False)).eval()
    captured = capture(model, torch.randn(4, 3)).copy()
    code = captured.module.code
    with training_mode(captured):
        assert captured.module.code == code
    assert captured.module.code == code


def loss_of(captured: Captured, pairs: list[Pair]) -> float:
    with torch.no_grad():
        return sum(float(cross_entropy(captured.run(*x)[0], y)) for x, y in pairs if y is not None)


def test_fine_tuning_lowers_the_loss_of_the_task() -> None:
    student, pairs = net(), learnable()
    before = loss_of(student, pairs)
    options = TrainingOptions(epochs=15)
    taught(student, lambda _: pairs, 4, cross_entropy, options=options, learning_rate=1e-2, distillation=0.0)
    assert loss_of(student, pairs) < 0.7 * before


def test_distillation_brings_the_student_to_the_teacher_without_labels() -> None:
    student, teacher = net(seed=1), net(seed=0)
    pairs: list[Pair] = [(x, None) for x, _ in learnable()]

    def gap() -> float:
        with torch.no_grad():
            return sum(float(yards().distance(student.run(*x), teacher.run(*x))) for x, _ in pairs)

    before = gap()
    options = TrainingOptions(epochs=15)
    taught(student, lambda _: pairs, teacher=teacher, options=options, learning_rate=1e-2)
    assert gap() < 0.5 * before


def test_without_supervision_labels_are_not_looked_at() -> None:
    def trained(offset: int) -> dict[str, Tensor]:
        student = net(seed=1)
        pairs: list[Pair] = [(x, None if y is None else (y + offset) % 3) for x, y in learnable()]
        torch.manual_seed(0)
        taught(student, lambda _: pairs, 4, cross_entropy, supervised=False)
        return weights(student)

    one, other = trained(0), trained(1)
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_the_same_seed_gives_the_same_weights_to_the_bit() -> None:
    def trained(seed: int) -> dict[str, Tensor]:
        student, pairs = net(seed=1), learnable()
        torch.manual_seed(seed)
        taught(student, lambda _: pairs, 4, cross_entropy, options=TrainingOptions(2))
        return weights(student)

    one, again, other = trained(3), trained(3), trained(4)
    assert all(torch.equal(one[name], again[name]) for name in one)
    assert not torch.equal(one["head.weight"], other["head.weight"]), "dropout must draw from the seed"


def test_the_teacher_does_not_learn() -> None:
    teacher, pairs = net(), learnable()
    before = weights(teacher)
    taught(net(seed=1), lambda _: pairs, 4, cross_entropy, teacher, TrainingOptions(2))
    assert all(torch.equal(before[name], tensor) for name, tensor in weights(teacher).items())
    assert all(parameter.grad is None for parameter in teacher.module.parameters())


def test_progress_is_told_after_every_batch_and_epochs_are_numbered() -> None:
    told: list[TrainingProgress] = []
    numbers: list[int] = []

    def epochs(number: int) -> list[Pair]:
        numbers.append(number)
        return learnable(count=2)

    account = taught(net(), epochs, 2, options=TrainingOptions(epochs=3), listen=told.append)
    assert numbers == [0, 1, 2]
    assert [each.share for each in told] == pytest.approx([step / 6 for step in range(1, 7)])
    assert told[-1].seconds_left == 0
    assert (account.steps, account.epochs, len(account.losses)) == (6, 3, 6)


def test_the_loss_of_the_task_is_the_one_that_is_minimised() -> None:
    student = net()
    pairs: list[Pair] = [(x, torch.full((16, 3), 2.0)) for x, _ in learnable()]

    def error() -> float:
        with torch.no_grad():
            return sum(float(mse_loss(student.run(*x)[0], y)) for x, y in pairs if y is not None)

    before = error()
    options = TrainingOptions(epochs=15)
    taught(student, lambda _: pairs, 4, mse_loss, options=options, learning_rate=1e-2, distillation=0.0)
    assert error() < 0.3 * before


def test_parameters_that_the_user_froze_are_trained() -> None:
    student = net()
    student.module.requires_grad_(False)
    before = weights(student)
    taught(student, lambda _: learnable())
    assert not torch.equal(before["stem.weight"], weights(student)["stem.weight"])


def test_a_model_whose_outputs_have_no_gradient_is_refused() -> None:
    class Classes(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(4, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.layer(x).argmax(1)

    captured = capture(Classes(), torch.randn(2, 4))
    pairs: list[Pair] = [((torch.randn(8, 4),), None)]
    objective = Objective(captured, yardstick_of(captured), Recipe(TrainingOptions(1)))
    with pytest.raises(InputError, match="cannot be trained"):
        train(captured.copy(), objective, lambda epoch: pairs, 1)

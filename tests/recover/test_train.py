"""Training switches the graph's modes and back, lowers the loss, and repeats itself for a seed."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, mse_loss

from edgeprune.errors import InputError
from edgeprune.graph.capture import Captured, capture
from edgeprune.meaning.losses import Loss
from edgeprune.meaning.yardstick import Yardstick
from edgeprune.recover.checkpoint import Checkpoint, checkpoint_key
from edgeprune.recover.objective import Objective, Pair
from edgeprune.recover.rates import USUAL_RATE
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


# The budget -----------------------------------------------------------------------------------------------


class Clock:
    """Clock that goes on by a second whenever somebody looks."""

    def __init__(self) -> None:
        self.now = 0.0

    def monotonic(self) -> float:
        self.now += 1
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    found = Clock()
    monkeypatch.setattr("edgeprune.recover.train.time", found)
    return found


def test_minutes_end_a_training_inside_an_epoch_with_a_rate_near_zero(
    clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    rates: list[float] = []
    kept = torch.optim.AdamW.step

    def step(self: torch.optim.AdamW, *rest: Any) -> Any:
        rates.append(self.param_groups[0]["lr"])
        return kept(self, *rest)

    monkeypatch.setattr(torch.optim.AdamW, "step", step)
    told: list[TrainingProgress] = []
    options = TrainingOptions(epochs=1, minutes=5.0)
    account = taught(net(), lambda _: learnable(), options=options, learning_rate=1.0, listen=told.append)
    assert clock.now == pytest.approx(300, abs=10), "no longer than it was given"
    assert account.epochs > 3
    assert len(account.losses) % 4 != 0, "in the middle of an epoch"
    top = rates.index(max(rates))
    assert 0 < top < len(rates) // 5
    assert max(rates) > 0.95
    assert rates[-1] < 0.01
    assert told[-1].share == pytest.approx(1, abs=0.01)
    assert told[len(told) // 2].seconds_left == pytest.approx(150, abs=10)


def test_the_shortest_time_is_one_step(clock: Clock) -> None:
    account = taught(net(), lambda _: learnable(), options=TrainingOptions(minutes=1e-9))
    assert (account.steps, account.epochs) == (1, 1)


def test_gradients_of_several_batches_are_those_of_one(monkeypatch: pytest.MonkeyPatch) -> None:
    class Plain(nn.Module):  # without what depends on the batch
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(4, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.layer(x)

    torch.manual_seed(0)
    teacher, start = (capture(Plain(), torch.randn(2, 4)) for _ in range(2))
    parts: list[Pair] = [((torch.randn(8, 4),), None) for _ in range(6)]
    joined: list[Pair] = [
        ((torch.cat([parts[at][0][0], parts[at + 1][0][0]]),), None) for at in range(0, 6, 2)
    ]
    found = []
    for pairs, accumulate in ((parts, 2), (joined, 1)):
        student = start.copy()
        recipe = Recipe(TrainingOptions(2, accumulate=accumulate), learning_rate=0.1)
        objective = Objective(teacher, yardstick_of(teacher, "classes"), recipe)
        account = train(student, objective, lambda _, pairs=pairs: pairs, len(pairs))  # type: ignore[misc]
        assert account.steps == 6
        found.append(weights(student))
    for name, tensor in found[0].items():
        torch.testing.assert_close(tensor, found[1][name])


def test_the_last_batches_of_an_epoch_are_a_step_even_where_they_are_fewer() -> None:
    account = taught(net(), lambda _: learnable(5), 5, options=TrainingOptions(2, accumulate=3))
    assert (account.steps, len(account.losses)) == (4, 10)


# Held-back checks -----------------------------------------------------------------------------------------


def judged(errors: list[float], epochs: int = 40) -> tuple[TrainingAccount, Captured, list[Captured]]:
    """A training whose held-back checks find these errors, one after another; the networks they were of."""
    student, seen, left = net(seed=1), list[Captured](), iter(errors)

    def judge(network: Captured) -> float:
        seen.append(network.copy())
        return next(left)

    objective = Objective(net(), yards(), Recipe(TrainingOptions(epochs)))
    return train(student, objective, lambda _: learnable(1), 1, judge=judge), student, seen


def test_a_training_whose_error_falls_no_more_is_stopped_and_its_best_weights_stay() -> None:
    account, student, seen = judged([0.5, 0.3, *[0.4] * 40])
    assert account.stopped
    assert account.epochs == 2 + 10, "a quarter of forty epochs without a better one"
    assert (account.averaged, account.error) == (True, 0.3)
    assert all(torch.equal(tensor, weights(seen[1])[name]) for name, tensor in weights(student).items())


def test_a_short_training_is_not_stopped() -> None:
    account, _, _ = judged([0.3, *[0.4] * 5], epochs=5)
    assert (account.stopped, account.epochs) == (False, 5)


def test_the_last_weights_stay_where_they_are_better_than_every_average() -> None:
    account, student, seen = judged([0.5, 0.4, 0.35], epochs=2)
    assert (account.averaged, account.error) == (False, 0.35)
    assert all(torch.equal(tensor, weights(seen[-1])[name]) for name, tensor in weights(student).items())
    assert not torch.equal(weights(seen[-1])["head.weight"], weights(seen[-2])["head.weight"])


def test_a_learning_rate_is_found_and_leaves_training_to_the_seed() -> None:
    """The same weights come out where the rate that was found is given."""
    pairs = learnable()

    def trained(rate: float | None) -> tuple[TrainingAccount, Captured]:
        student = net(seed=1)
        torch.manual_seed(4)
        recipe = Recipe(TrainingOptions(epochs=100), learning_rate=rate)
        objective = Objective(net(), yards(), recipe, cross_entropy)
        judge = functools.partial(loss_of, pairs=pairs)
        return train(student, objective, lambda _: pairs, 4, judge=judge), student

    (account, one), (_, other) = trained(None), trained(None)
    assert account.learning_rate is not None
    assert account.learning_rate > USUAL_RATE, "the task is easy, and four hundred steps are few"
    _, given = trained(account.learning_rate)
    for name, tensor in weights(one).items():
        assert torch.equal(tensor, weights(other)[name])
        assert torch.equal(tensor, weights(given)[name])


def test_a_training_of_few_steps_takes_the_usual_rate() -> None:
    asked: list[Captured] = []

    def judge(network: Captured) -> float:
        asked.append(network)
        return 0.0

    objective = Objective(net(), yards(), Recipe(TrainingOptions(3)))
    account = train(net(seed=1), objective, lambda _: learnable(), 4, judge=judge)
    assert account.learning_rate == USUAL_RATE
    assert len(asked) == 3 + 1, "after each epoch and at the end"


# Checkpoints ----------------------------------------------------------------------------------------------


class Killed(BaseException):
    """The end of a process."""


@pytest.mark.parametrize("low_rank", [False, True], ids=["all weights", "low rank"])
@pytest.mark.parametrize("at", [1, 4, 7, 11, 12])
def test_a_training_that_is_killed_goes_on_to_the_same_weights(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at: int, low_rank: bool
) -> None:
    """Batches come shuffled and dropout draws, from torch's generator; a checkpoint is written every step."""
    monkeypatch.setattr("edgeprune.recover.train.EVERY_SECONDS", 0.0)

    def epochs(number: int) -> Iterator[Pair]:
        pairs = learnable()
        return (pairs[place] for place in torch.randperm(4).tolist())

    def run(folder: Path, end: int | None) -> tuple[Captured, TrainingAccount]:
        student = net(seed=1)
        recipe = Recipe(TrainingOptions(epochs=3), low_rank=low_rank)
        told: list[TrainingProgress] = []

        def listen(now: TrainingProgress) -> None:
            told.append(now)
            if len(told) == end:
                raise Killed

        torch.manual_seed(5)
        objective = Objective(net(), yards(), recipe, cross_entropy)
        checkpoint = Checkpoint(folder / "training.pt", checkpoint_key(student, recipe))
        account = train(
            *(student, objective, epochs, 4),
            judge=lambda network: loss_of(network, learnable(1)),
            listen=listen,
            checkpoint=checkpoint,
        )
        return student, account

    whole, expected = run(tmp_path / "whole", None)
    with pytest.raises(Killed):
        run(tmp_path / "killed", at)
    torch.rand(7)  # whatever else happened to the generator
    again, account = run(tmp_path / "killed", None)
    assert account == expected
    assert all(torch.equal(tensor, weights(whole)[name]) for name, tensor in weights(again).items())
    ended, account = run(tmp_path / "killed", None)
    assert account == expected, "what had ended is not trained on"
    assert all(torch.equal(tensor, weights(whole)[name]) for name, tensor in weights(ended).items())


def test_the_time_before_a_kill_counts(tmp_path: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edgeprune.recover.train.EVERY_SECONDS", 0.0)
    recipe = Recipe(TrainingOptions(minutes=10.0))

    def run(end: float) -> None:
        def listen(now: TrainingProgress) -> None:
            if now.share >= end:
                raise Killed

        student = net(seed=1)
        checkpoint = Checkpoint(tmp_path / "training.pt", checkpoint_key(student, recipe))
        train(
            *(student, Objective(net(), yards(), recipe), lambda _: learnable(), 4),
            listen=listen,
            checkpoint=checkpoint,
        )

    with pytest.raises(Killed):
        run(0.75)
    assert clock.now == pytest.approx(450, abs=10)
    run(2.0)
    assert clock.now == pytest.approx(600, abs=20)

"""A rung is kept when it helped on held-back data, and only then."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import cache

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, mse_loss

from edgeprune.graph.capture import Captured, capture
from edgeprune.meaning.losses import Loss
from edgeprune.meaning.yardstick import Yardstick
from edgeprune.records.codec import to_json
from edgeprune.recover.data import Split, split
from edgeprune.recover.ladder import NOT_FINITE, Judge, Rung, attempt, judge_of, still_falling, train_rungs
from edgeprune.recover.objective import Pair
from edgeprune.recover.recipe import TrainingOptions
from edgeprune.recover.train import TrainingProgress
from tests.support.yardsticks import yardstick_of


@cache
def _captured() -> Captured:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 12), nn.BatchNorm1d(12), nn.Tanh(), nn.Dropout(0.05), nn.Linear(12, 3))
    for _ in range(50):  # statistics that fit the data, as a trained model has
        model(torch.randn(64, 4))
    return capture(model.eval(), torch.randn(2, 4))


def original() -> Captured:
    return _captured().copy()


def damaged(by: float = 0.5) -> Captured:
    """The original with noise on its weights, as a cut leaves it."""
    student = original()
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in student.module.parameters():
            parameter += by * torch.randn(parameter.shape, generator=generator)
    return student


def labelled() -> list[Pair]:
    """Labels that the original gives."""
    generator = torch.Generator().manual_seed(2)
    inputs = [torch.randn(16, 4, generator=generator) for _ in range(24)]
    with torch.no_grad():
        return [((x,), original().run(x)[0].argmax(1)) for x in inputs]


def unlabelled() -> list[Pair]:
    return [(x, None) for x, _ in labelled()]


@cache
def yards() -> Yardstick:
    return yardstick_of(_captured(), "classes")


def judged(teacher: Captured, held_back: Sequence[Pair], loss: Loss | None = cross_entropy) -> Judge:
    return judge_of(teacher, yards(), held_back, loss)


def scaled(by: float) -> Captured:
    """The original with its answers multiplied."""
    student = original()
    with torch.no_grad():
        student.module.get_parameter("4.weight").mul_(by)
        student.module.get_parameter("4.bias").mul_(by)
    return student


def spoil(value: float) -> Callable[[Captured], None]:
    def step(student: Captured) -> None:
        with torch.no_grad():
            student.module.get_parameter("4.weight").fill_(value)

    return step


def repair(student: Captured) -> None:
    student.module.load_state_dict(original().module.state_dict())


def same(one: Captured, other: Captured) -> bool:
    ours, theirs = one.module.state_dict(), other.module.state_dict()
    return all(torch.equal(ours[name], theirs[name]) for name in ours)


def test_a_rung_that_helps_is_kept() -> None:
    judge = judged(original(), labelled())
    better, rung = attempt("repair", damaged(), judge, repair)
    assert rung.kept
    assert rung.name == "repair"
    assert rung.after < rung.before
    assert same(better, original())


@pytest.mark.parametrize("value", [5.0, math.nan, math.inf], ids=str)
def test_a_rung_that_harms_is_not_kept(value: float) -> None:
    judge = judged(original(), labelled())
    student = damaged(0.01)
    stayed, rung = attempt("spoil", student, judge, spoil(value))
    assert not rung.kept
    assert rung.after > rung.before
    assert stayed is student
    assert same(student, damaged(0.01)), "the step must work on a copy"


def test_a_rung_that_changes_nothing_is_not_kept() -> None:
    student = damaged()
    stayed, rung = attempt("idle", student, judged(original(), labelled()), lambda tried: None)
    assert not rung.kept
    assert rung.after == rung.before
    assert stayed is student


def test_a_rung_that_repairs_a_model_of_nan_is_kept() -> None:
    student = damaged()
    spoil(math.nan)(student)
    better, rung = attempt("repair", student, judged(original(), labelled()), repair)
    assert rung.kept
    assert rung.before == NOT_FINITE
    assert same(better, original())


def test_errors_that_are_not_finite_can_go_into_the_ledger() -> None:
    _, rung = attempt("spoil", damaged(), judged(original(), labelled()), spoil(math.nan))
    assert (rung.after, rung.kept) == (NOT_FINITE, False)
    assert to_json(rung)


def test_without_held_back_data_no_rung_is_kept() -> None:
    student = damaged()
    stayed, rung = attempt("repair", student, judged(original(), []), repair)
    assert not rung.kept
    assert stayed is student


def test_the_error_is_the_distance_to_the_original_plus_the_loss() -> None:
    teacher, student, pairs = original(), damaged(), labelled()
    (x,), target = pairs[0]
    assert target is not None
    with torch.no_grad():
        gap = float(yards().distance(student.run(x), teacher.run(x)))
        loss = float(cross_entropy(student.run(x)[0], target))
    assert judged(teacher, [((x,), None)]).error(student) == pytest.approx(gap)
    assert judged(teacher, [((x,), target)]).error(student) == pytest.approx(gap + loss)
    wanted = torch.zeros(16, 3)
    with torch.no_grad():
        loss = float(mse_loss(student.run(x)[0], wanted))
    assert judged(teacher, [((x,), wanted)], mse_loss).error(student) == pytest.approx(gap + loss)


def test_every_held_back_sample_weighs_the_same_however_they_are_batched() -> None:
    (x,), _ = labelled()[0]
    parts: list[Pair] = [((x[:1],), None), ((x[1:],), None)]
    whole = judged(original(), [((x,), None)]).error(damaged())
    assert judged(original(), parts).error(damaged()) == pytest.approx(whole)


def test_the_original_without_labels_has_no_error() -> None:
    judge = judged(original(), unlabelled())
    assert judge.error(original()) == pytest.approx(0, abs=1e-6)
    assert judge.error(scaled(1.5)) > 1e-3


def climb(
    highest: str, found: Split, judge: Judge, seed: int = 0, epochs: int = 2
) -> tuple[Captured, tuple[Rung, ...]]:
    options = TrainingOptions(epochs, seed=seed)
    return train_rungs(damaged(), original(), highest, found, judge, options)


@pytest.mark.parametrize("highest", ["distill", "finetune", "lora"])
def test_training_recovers_a_damaged_model(highest: str) -> None:
    found = split(labelled)
    judge = judged(original(), found.held_back)
    better, (rung,) = train_rungs(damaged(), original(), highest, found, judge, TrainingOptions(8))
    assert rung.name == highest
    assert rung.kept
    assert judge.error(better) == pytest.approx(rung.after)
    assert rung.after < 0.8 * rung.before
    assert rung.training is not None
    assert (rung.training.rung, rung.training.epochs, rung.training.steps) == (highest, 8, 8 * found.steps)


FLAT = [1.0, 1.1, 0.9, 1.05, 0.95] * 8


@pytest.mark.parametrize(
    ("losses", "falling"),
    [
        pytest.param([5.0 - 0.1 * step for step in range(40)], True, id="falls to the end"),
        pytest.param([5.0 * 0.8**step for step in range(60)] + [0.1] * 40, False, id="had ended"),
        pytest.param(FLAT, False, id="scatters"),
        pytest.param([loss - 0.03 * step for step, loss in enumerate(FLAT)], True, id="falls and scatters"),
        pytest.param([1.0 + 0.1 * step for step in range(40)], False, id="rises"),
        pytest.param([1.0, 2.0, 3.0], True, id="too few steps for an end"),
        pytest.param([*FLAT, math.nan], False, id="not finite"),
    ],
)
def test_whether_a_training_had_ended_is_seen_in_its_last_steps(losses: list[float], falling: bool) -> None:
    assert still_falling(losses) == falling


def test_distillation_needs_no_labels() -> None:
    found = split(unlabelled)
    judge = judged(original(), found.held_back)
    _, (rung,) = train_rungs(damaged(), original(), "distill", found, judge, TrainingOptions(8))
    assert rung.kept
    assert rung.after < 0.5 * rung.before


def test_labels_reach_only_the_rung_that_may_use_them() -> None:
    found, turned = split(labelled), split(lambda: [(x, (y + 1) % 3) for x, y in labelled() if y is not None])
    judge = judged(original(), split(unlabelled).held_back)
    (one, (rung,)), (other, _) = climb("distill", found, judge), climb("distill", turned, judge)
    assert rung.kept, "or both would be the damaged model"
    assert same(one, other)


@pytest.mark.parametrize("highest", ["none", "reconstruct"])
def test_lower_rungs_do_not_train(highest: str) -> None:
    student = damaged()
    found = split(labelled)
    judge = judged(original(), found.held_back)
    stayed, rungs = train_rungs(student, original(), highest, found, judge, TrainingOptions(5))
    assert stayed is student
    assert rungs == ()


def test_no_epochs_or_no_data_train_nothing() -> None:
    judge = judged(original(), labelled())
    assert climb("finetune", split(labelled), judge, epochs=0)[1] == ()
    assert climb("finetune", split(list), judge)[1] == ()


def test_the_same_seed_climbs_to_the_same_weights_and_leaves_the_generator_alone() -> None:
    loader = torch.utils.data.DataLoader(
        [(x, y) for (inputs,), target in labelled() for x, y in zip(inputs, target, strict=True)],  # type: ignore[arg-type]
        batch_size=16,
        shuffle=True,
    )
    found = split(lambda: (((x,), y) for x, y in loader))
    judge = judged(original(), found.held_back)
    torch.manual_seed(99)
    state = torch.get_rng_state()
    one = climb("finetune", found, judge, seed=3)[0]
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(100)
    assert same(one, climb("finetune", found, judge, seed=3)[0])
    assert not same(one, climb("finetune", found, judge, seed=4)[0])


def test_a_listener_hears_the_rung_and_the_held_back_error_after_an_epoch() -> None:
    heard: list[tuple[str, TrainingProgress]] = []
    found = split(labelled)
    judge = judged(original(), found.held_back)
    train_rungs(
        *(damaged(), original(), "finetune", found, judge, TrainingOptions(2)),
        listen=lambda rung, now: heard.append((rung, now)),
    )
    assert {rung for rung, _ in heard} == {"finetune"}
    assert [now.share for _, now in heard] == pytest.approx(
        [step / (2 * found.steps) for step in range(1, 2 * found.steps + 1)]
    )
    errors = [now.error for _, now in heard]
    assert errors[: found.steps] == [None] * found.steps
    assert all(error is not None and error < judge.error(damaged()) for error in errors[found.steps :])


def test_a_loss_that_diverges_is_not_kept() -> None:
    def broken(output: Tensor, target: Tensor) -> Tensor:
        return cross_entropy(output, target) * math.nan

    student, found = damaged(), split(labelled)
    judge = judged(original(), split(unlabelled).held_back, broken)
    stayed, (rung,) = train_rungs(student, original(), "finetune", found, judge, TrainingOptions(1))
    assert not rung.kept
    assert stayed is student

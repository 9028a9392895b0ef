"""A user's own training loop gets ordinary modules and batches, and what it leaves is checked and judged."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from edgeprune.errors import InputError
from edgeprune.graph.capture import Captured, capture
from edgeprune.records.task import Task, Trainer
from edgeprune.recover.data import Split, split
from edgeprune.recover.ladder import Judge, Rung, judge_of
from edgeprune.recover.train import TrainingProgress
from edgeprune.recover.trainer import own_rungs, trainer_of
from tests.support.yardsticks import yardstick_of

DOCUMENT = Path(__file__).parents[2] / "docs" / "tasks.md"


@cache
def original() -> Captured:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(4, 12), nn.BatchNorm1d(12), nn.Tanh(), nn.Linear(12, 3))
    for _ in range(50):
        net(torch.randn(64, 4))
    return capture(net.eval(), torch.randn(2, 4))


def damaged() -> Captured:
    """The original with noise on its weights, as a cut leaves it."""
    student = original().copy()
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in student.module.parameters():
            parameter += 0.5 * torch.randn(parameter.shape, generator=generator)
    return student


@cache
def data() -> tuple[Split, Judge]:
    generator = torch.Generator().manual_seed(2)
    inputs = [torch.randn(16, 4, generator=generator) for _ in range(24)]
    with torch.no_grad():
        pairs = [((x,), original().run(x)[0].argmax(1)) for x in inputs]
    divided = split(lambda: pairs)
    judge = judge_of(original(), yardstick_of(original(), "classes"), divided.held_back, cross_entropy)
    return divided, judge


def run(trainer: Trainer, heard: list[tuple[str, TrainingProgress]] | None = None) -> tuple[Captured, Rung]:
    tell = None if heard is None else lambda rung, now: heard.append((rung, now))
    better, (rung,) = own_rungs(
        *(damaged(), original(), trainer, *data()), example=torch.zeros(2, 4), seed=0, listen=tell
    )
    return better, rung


def plain(module: nn.Module, teacher: nn.Module, batches: Any, progress: Callable[..., None]) -> None:
    optimiser = torch.optim.Adam(module.parameters(), lr=1e-2)
    module.train()
    for epoch in range(10):
        for x, y in batches:
            optimiser.zero_grad()
            cross_entropy(module(x), y).backward()
            optimiser.step()
        progress(epoch + 1, 10)


def written(language: str) -> Trainer:
    """The training loop of a code block in the documentation, by a word in it."""
    blocks = re.findall(r"```python\n(.*?)```", DOCUMENT.read_text("utf-8"), re.DOTALL)
    (block,) = [block for block in blocks if "def train(" in block and language in block]
    names: dict[str, Any] = {"__name__": "of_the_document"}
    exec(compile(block, "tasks.md", "exec"), names)
    found: Trainer = names["train"]
    return found


def test_a_loop_that_helps_is_kept() -> None:
    heard: list[tuple[str, TrainingProgress]] = []
    better, rung = run(plain, heard)
    divided, judge = data()
    assert (rung.name, rung.kept) == ("trainer", True)
    assert judge.error(better) == rung.after < rung.before
    assert rung.training is not None
    assert (rung.training.epochs, rung.training.steps) == (10, 10 * divided.steps)
    assert rung.training.falling is None
    assert heard[-1] == ("trainer", TrainingProgress(1.0, None, None))
    assert not better.module.training
    assert {p.device.type for p in better.module.parameters()} == {"cpu"}


def test_a_loop_that_harms_is_not_kept() -> None:
    def harm(module: nn.Module, *_: Any) -> None:
        with torch.no_grad():
            for parameter in module.parameters():
                parameter.mul_(50)

    better, rung = run(harm)
    wanted = damaged().module.state_dict()
    assert not rung.kept
    assert all(torch.equal(value, wanted[name]) for name, value in better.module.state_dict().items())


@pytest.mark.skipif(not DOCUMENT.is_file(), reason="the docs are not beside the tests")
@pytest.mark.filterwarnings("default")  # of the other libraries
@pytest.mark.parametrize(
    ("word", "needs"),
    [("OneCycleLR", ()), ("lightning", ("lightning",)), ("transformers", ("transformers", "accelerate"))],
    ids=["plain", "lightning", "transformers"],
)
def test_the_loops_of_the_documentation_train(word: str, needs: tuple[str, ...]) -> None:
    for library in needs:
        pytest.importorskip(library)
    heard: list[tuple[str, TrainingProgress]] = []
    _, rung = run(written(word), heard)
    assert rung.kept
    assert rung.training is not None
    assert rung.training.epochs >= 3
    assert heard[-1][1].share == 1


def test_the_samples_held_back_are_not_handed_out() -> None:
    seen: list[bytes] = []

    def look(module: nn.Module, teacher: nn.Module, batches: Any, progress: Callable[..., None]) -> None:
        assert len(batches) == len(list(batches))
        for x, y in batches:
            assert len(x) == len(y)
            seen.extend(row.numpy().tobytes() for row in x)

    _, rung = run(look)
    held = {row.numpy().tobytes() for inputs, _ in data()[0].held_back for row in inputs[0]}
    assert rung.training is not None
    assert rung.training.epochs == 2
    assert seen
    assert held
    assert not held & set(seen)


def test_a_loop_gets_copies() -> None:
    def spoil(module: nn.Module, teacher: nn.Module, *_: Any) -> None:
        assert not any(parameter.requires_grad for parameter in teacher.parameters())
        assert all(parameter.requires_grad for parameter in module.parameters())
        with torch.no_grad():
            next(teacher.parameters()).fill_(7)

    student, before = damaged(), original().copy()
    own_rungs(*(student, original(), spoil, *data()), example=torch.zeros(2, 4), seed=0)
    now = original().module.state_dict()
    assert all(torch.equal(value, now[name]) for name, value in before.module.state_dict().items())


def test_another_number_type_and_a_hook_end_with_the_loop() -> None:
    def odd(module: nn.Module, teacher: nn.Module, batches: Any, progress: Callable[..., None]) -> None:
        plain(module, teacher, batches, progress)
        module.register_forward_hook(lambda *_: 1 / 0)
        module.double()

    better, rung = run(odd)
    assert rung.kept
    assert {p.dtype for p in better.module.parameters()} == {torch.float32}


def test_the_loop_draws_the_same_numbers_every_time() -> None:
    drawn: list[float] = []
    state = torch.get_rng_state()
    for _ in range(2):
        run(lambda *_: drawn.append(float(torch.rand(()))))
    assert drawn[0] == drawn[1]
    assert torch.equal(state, torch.get_rng_state())


def renamed(module: nn.Module, *_: Any) -> None:
    nn.utils.parametrizations.weight_norm(module.get_submodule("0"))


def reshaped(module: nn.Module, *_: Any) -> None:
    module.get_submodule("0").weight = nn.Parameter(torch.zeros(11, 4))


def lost(module: nn.Module, *_: Any) -> None:
    del module.get_submodule("0").bias


def infinite(module: nn.Module, *_: Any) -> None:
    with torch.no_grad():
        next(module.parameters()).fill_(torch.inf)


def another(module: nn.Module, *_: Any) -> nn.Module:
    return nn.Linear(4, 3)


def raising(module: nn.Module, *_: Any) -> None:
    raise ZeroDivisionError("no loss")


@pytest.mark.parametrize(
    ("trainer", "sentence"),
    [
        (renamed, "the module lost '0.weight'"),
        (reshaped, r"'0.weight' came back with the shape \[11, 4\], and had \[12, 4\]"),
        (lost, "the module lost '0.bias'"),
        (infinite, "'0.weight' came back with NaN or infinite values"),
        (another, "Task.trainer returned Linear, and not the module"),
        (raising, r"Task.trainer raised ZeroDivisionError: no loss \(.*test_trainer.py, line \d+\)"),
    ],
    ids=lambda value: value.__name__ if callable(value) else "",
)
def test_what_cannot_be_taken_back_is_refused(trainer: Trainer, sentence: str) -> None:
    with pytest.raises(InputError, match=sentence):
        run(trainer)


@pytest.mark.parametrize("layout", ["tuple", "dict"])
def test_inputs_are_laid_out_as_the_example(layout: str) -> None:
    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.head = nn.Linear(4, 3)

        def forward(self, a: Tensor, b: Tensor) -> Tensor:
            return self.head(a + b)

    pair = (torch.randn(2, 4), torch.randn(2, 4))
    example: Any = pair if layout == "tuple" else dict(zip("ab", pair, strict=True))
    dense = capture(Two().eval(), example)
    pairs = [((torch.randn(8, 4), torch.randn(8, 4)), None) for _ in range(4)]
    divided = split(lambda: pairs)
    judge = judge_of(dense, yardstick_of(dense, "values"), divided.held_back, None)
    asked: list[Any] = []

    def look(module: nn.Module, teacher: nn.Module, batches: Any, progress: Callable[..., None]) -> None:
        for inputs, target in batches:
            called = module(**inputs) if layout == "dict" else module(*inputs)
            asked.append((type(inputs).__name__, called.shape[1], target))

    own_rungs(*(dense.copy(), dense, look, divided, judge), example=example, seed=0)
    assert set(asked) == {(layout, 3, None)}


def test_a_task_without_a_loop_is_refused() -> None:
    task = Task(nn.Linear(1, 1), torch.zeros(1, 1), [torch.zeros(1, 1)], lambda predict: 0.0)
    with pytest.raises(InputError, match="no `trainer`"):
        trainer_of(task)
    with pytest.raises(InputError, match=r"Task\.trainer is int, which cannot be called"):
        replace(task, trainer=3)  # type: ignore[arg-type]
    assert trainer_of(replace(task, trainer=plain)) is plain

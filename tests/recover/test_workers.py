"""Two processes that share each batch train as one process does, and only the leader decides anything."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, distributed, nn
from torch.nn.functional import cross_entropy

import edgeprune
from edgeprune.errors import EdgepruneError, InputError
from edgeprune.graph.capture import Captured
from edgeprune.graph.moving import CPU
from edgeprune.make import Workshop
from edgeprune.options import FitOptions
from edgeprune.quantize.dialects import dialect_for
from edgeprune.records.task import Task
from edgeprune.recover import workers
from edgeprune.recover.ladder import Rung
from edgeprune.recover.objective import Objective
from edgeprune.recover.place import Place
from edgeprune.recover.recipe import Recipe, TrainingOptions
from edgeprune.recover.together import SharedObjective, check_rows
from edgeprune.recover.train import trained_parameters, training_mode

PACKAGE = Path(edgeprune.__file__).parent
TWO = TrainingOptions(epochs=2, processes=2)
ROWS = 15  # of a batch: two shares of other sizes


class Net(nn.Module):
    """[N, 1, 6, 6] -> [N, 3]; no bias in front of the BatchNorm, whose gradient would be rounding alone."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(1, 8, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(8)
        self.wide = nn.Conv2d(8, 24, 3, padding=1)
        self.narrow = nn.Conv2d(24, 8, 1)
        self.head = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.norm(self.stem(x)))
        x = self.narrow(torch.relu(self.wide(x))) + x
        return self.head(x.mean((2, 3)))


def of_pairs_of_rows(output: Tensor, target: Tensor) -> Tensor:
    """A loss that is no mean over rows: it compares each with the next one, over all that it is given."""
    return cross_entropy(output, target, ignore_index=0) + (output - output.roll(1, 0)).square().mean()


@pytest.fixture(scope="module")
def shop() -> Workshop:
    torch.manual_seed(0)
    net = Net()
    inputs = [torch.randn(ROWS, 1, 6, 6) for _ in range(6)]
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
        loss=of_pairs_of_rows,
        outputs="classes",
    )
    return Workshop(task, dialect_for("onnxruntime-x86", "x86_64"))


def gradients(objective: Objective, student: Captured, pair: Any) -> dict[str, Tensor]:
    """Of one batch by name, the objective's value beside them, and what the pass left in the statistics."""
    with training_mode(student), trained_parameters(student, objective.recipe) as parameters:
        value = objective.over(parameters)(student.run, pair)
        value.backward()  # type: ignore[no-untyped-call]
    found = {name: p.grad for name, p in student.module.named_parameters() if p.grad is not None}
    return {**found, **dict(student.module.named_buffers()), "value": value.detach()}


def test_two_processes_find_the_gradient_of_the_whole_batch(shop: Workshop) -> None:
    recipe, place, pair = Recipe(TWO), Place(CPU), shop.first
    told = (shop.dense, shop.yardstick, recipe, shop.loss)
    student = shop.dense.copy()
    with torch.no_grad():
        for parameter in student.module.parameters():
            parameter.mul_(0.9)
    one, two = student.copy(), student.copy()
    wanted = gradients(Objective(*told), one, pair)
    with workers.followers(student, shop.dense, recipe, place):
        found = gradients(SharedObjective(*told), two, pair)
        torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-6)
        few = (tuple(x[:1] for x in pair[0]), pair[1][:1])  # the leader's alone
        student.module.eval()
        alone = Objective(*told)(two.run, few).detach()
        assert torch.equal(SharedObjective(*told)(two.run, few).detach(), alone)
    assert not distributed.is_initialized()


def recovered(shop: Workshop, way: str, options: TrainingOptions) -> tuple[Captured, Rung]:
    (name,) = [group.name for group in shop.coupling.groups if group.units == 24]
    kept = {name: range(12)}
    pruned, _ = shop.prune(kept, way)
    trained, (rung,) = shop.train(pruned, kept, way, options, None)
    return trained, rung


@pytest.mark.parametrize("way", ["finetune", "lora"])
def test_a_recovery_by_two_processes_is_that_of_one(
    shop: Workshop, way: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("edgeprune.recover.train.whole_streams", lambda *_: ())  # one process compares them
    wanted, one = recovered(shop, way, replace(TWO, processes=1))
    found, two = recovered(shop, way, TWO)
    assert (two.name, two.kept) == (one.name, one.kept)
    assert (two.before, two.after) == pytest.approx((one.before, one.after), rel=1e-4)
    torch.testing.assert_close(found.module.state_dict(), wanted.module.state_dict(), rtol=1e-3, atol=2e-4)
    assert one.training is not None
    assert two.training == replace(one.training, place="cpu, 2 processes")


def test_a_process_of_a_launcher_follows_and_writes_nothing(
    shop: Workshop, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    told = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "GLOO_SOCKET_IFNAME": "lo"}
    environment = {**os.environ, **told, "RANK": "1", "PYTHONPATH": str(PACKAGE.parent)}
    command = [sys.executable, "-m", "edgeprune", "fit", "mytask.py", "--json"]  # a file that nobody reads
    follower = subprocess.Popen(
        command, cwd=tmp_path, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    try:
        for name, value in {**told, "RANK": "0"}.items():
            monkeypatch.setenv(name, value)
        with workers.joined() as processes:
            assert processes == 2
            assert workers.leads()
            _, first = recovered(shop, "finetune", TWO)
            _, again = recovered(shop, "finetune", TWO)
        said, wrong = follower.communicate(timeout=60)
    finally:
        follower.kill()
    assert first == again
    assert first.kept
    assert (follower.returncode, said) == (0, b""), wrong
    assert list(tmp_path.iterdir()) == []


def test_a_process_that_ends_is_an_error_of_the_training(
    shop: Workshop, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONWARNINGS", "ignore")
    monkeypatch.setattr(workers, "_written", lambda network: b"no program")
    with pytest.raises(EdgepruneError, match="A process of --processes ended in the middle of a training: "):
        recovered(shop, "finetune", TWO)
    assert not distributed.is_initialized()


def test_more_processes_than_gpus_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workers, "training_place", lambda name: Place(torch.device("cuda:0")))
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    with pytest.raises(InputError, match="--processes is 2, and PyTorch finds 1 cuda device here"):
        workers.check_processes(TWO)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    workers.check_processes(replace(TWO, device="cuda"))
    with pytest.raises(InputError, match="--train-device cuda:0 is one device, and --processes is 2"):
        workers.check_processes(replace(TWO, device="cuda:0"))


def test_outputs_that_are_not_one_for_each_row_are_refused() -> None:
    check_rows((torch.zeros(4, 2), torch.zeros(4)), 4)
    for output in (torch.zeros(()), torch.zeros(3, 2)):
        with pytest.raises(InputError, match=r"Output 1 of the model has the shape .* for 4 rows"):
            check_rows((torch.zeros(4, 2), output), 4)


@pytest.mark.parametrize("given", [0, -1, 1.5, 1025, True])
def test_what_is_no_number_of_processes_is_refused(given: Any) -> None:
    with pytest.raises(InputError, match="--processes is"):
        FitOptions(processes=given)

"""`python -m benchmarks.recovery`: the recipe of recovery training, and the cost of an epoch of it.

Recipes: pruned networks (a ResNet-20, a ViT, a BERT-like network; by global L2, with reconstruction) are
trained by a plain loop, each time with one thing other than in the default. Accuracy on the test samples.

Features (`--features`): the same networks, cut inside their branches alone, trained by
`edgeprune.recover.train` with and without the distance of the residual streams.

Epochs (`--epoch`): an epoch of `edgeprune.recover.train` in turn with plain PyTorch training of the same
pruned module plus the original's forward pass, on the same batches: the ratio of the medians. Ours divides
the data anew in each pass, averages the weights, and checks the held-back error at the end.
"""

from __future__ import annotations

import argparse
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import torch
import torch.nn.functional as F
from torch import nn

import edgeprune
from benchmarks.contract import tasks
from benchmarks.contract.__main__ import cache
from edgeprune.graph.capture import capture
from edgeprune.graph.coupling import analyse
from edgeprune.graph.surgery import cut
from edgeprune.make import Workshop
from edgeprune.meaning.kinds import understood
from edgeprune.meaning.yardstick import yardstick
from edgeprune.pruning.sequential import refit
from edgeprune.quantize.dialects import TABLE
from edgeprune.recover.objective import Objective
from edgeprune.recover.recipe import Recipe, TrainingOptions
from edgeprune.recover.streams import whole_streams
from edgeprune.recover.train import train

DATA = Path(__file__).parents[2] / "shared" / "data"
REMOVED = {"resnet20": 0.75, "vit": 0.6, "bert": 0.7}  # share of the prunable parameters


@dataclass(frozen=True)
class Variant:
    """A recipe; the default's fields are the defaults. cuts: in how many steps, with training in between."""

    name: str
    optimiser: str = "AdamW"
    rate: float = 3e-3
    clip: float = 1.0
    temperature: float = 4.0
    distillation: float = 1.0
    supervision: float = 1.0
    fixed_norms: bool = False
    averaged: bool = False
    cuts: int = 1


VARIANTS = (
    Variant("the default: AdamW, rate 3e-3, temperature 4, labels too"),
    Variant("rate 1e-3", rate=1e-3),
    Variant("rate 1e-2", rate=1e-2),
    Variant("SGD, momentum 0.9 (Nesterov), rate 0.05, clipped at 4", optimiser="SGD", rate=0.05, clip=4.0),
    Variant("SGD, rate 0.02, clipped at 4", optimiser="SGD", rate=0.02, clip=4.0),
    Variant("temperature 1", temperature=1.0),
    Variant("temperature 2", temperature=2.0),
    Variant("distillation alone", supervision=0.0),
    Variant("labels alone", distillation=0.0),
    Variant("BatchNorm statistics fixed", fixed_norms=True),
    Variant("averaged weights at the end", averaged=True),
    Variant("two cuts, training in between", cuts=2),
)


@dataclass(frozen=True)
class Case:
    """A trained network, its data and its answers to the training inputs."""

    name: str
    network: nn.Module
    inputs: torch.Tensor
    labels: torch.Tensor
    answers: torch.Tensor
    metric: Callable[[nn.Module], float]

    def pruned(self, network: nn.Module, removed: float) -> nn.Module:
        calibration = list(self.inputs[: tasks.CALIBRATION].split(tasks.BATCH))
        return edgeprune.prune(network, self.inputs[:2], removed, calibration=calibration).module


def case(name: str, data: Path, work: Path, samples: int) -> Case:
    torch.manual_seed(0)
    source = tasks.TABLE[name](data, work, samples)
    inputs, labels = (torch.from_numpy(part[:samples]) for part in source.training)
    task = tasks.as_task(source, samples, tasks.EVALUATED)
    with torch.no_grad():
        answers = torch.cat([source.network(part) for part in inputs.split(tasks.BATCH)])
    return Case(
        name, source.network, inputs, labels, answers, lambda net: task.evaluate(tasks.eager(net.eval()))
    )


def trained(found: Case, variant: Variant, epochs: int) -> float:
    """Accuracy after training; the epochs are divided among the cuts."""
    torch.manual_seed(0)
    network, removed = found.network, REMOVED[found.name]
    steps = epochs * len(found.labels) // tasks.BATCH
    for _ in range(variant.cuts):
        network = found.pruned(network, 1 - (1 - removed) ** (1 / variant.cuts))
        network = _taught(found, network, variant, steps // variant.cuts)
    return found.metric(network)


def _taught(found: Case, network: nn.Module, variant: Variant, steps: int) -> nn.Module:
    """The network, or the average of its weights, after so many steps."""
    network.train(not variant.fixed_norms)
    for parameter in network.parameters():
        parameter.requires_grad_(True)
    optimiser = _optimiser(network, variant)
    mean = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    order = torch.cat(
        [torch.randperm(len(found.labels)) for _ in range(1 + steps * tasks.BATCH // len(found.labels))]
    )
    for step, rows in zip(range(steps), order.split(tasks.BATCH), strict=False):
        share = (step + 0.5) / steps
        warm = share / 0.05 if share < 0.05 else 0.5 * (1 + math.cos(math.pi * (share - 0.05) / 0.95))
        for group in optimiser.param_groups:
            group["lr"] = variant.rate * warm
        loss = _loss(network(found.inputs[rows]), found.answers[rows], found.labels[rows], variant)
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(network.parameters(), variant.clip)
        optimiser.step()
        if variant.averaged:
            for name, tensor in network.state_dict().items():
                if tensor.is_floating_point():
                    mean[name].lerp_(tensor, 1 - (1 - 1 / (step + 1)) ** 17)
    if variant.averaged:
        network.load_state_dict(mean)
    return network.eval()


def _optimiser(network: nn.Module, variant: Variant) -> torch.optim.Optimizer:
    parameters = list(network.parameters())
    groups = [
        {"params": [p for p in parameters if p.dim() > 1]},
        {"params": [p for p in parameters if p.dim() <= 1], "weight_decay": 0.0},
    ]
    if variant.optimiser == "SGD":
        return torch.optim.SGD(groups, lr=variant.rate, momentum=0.9, nesterov=True, weight_decay=5e-4)
    return torch.optim.AdamW(groups, lr=variant.rate, weight_decay=1e-2)


def _loss(given: torch.Tensor, answer: torch.Tensor, label: torch.Tensor, variant: Variant) -> torch.Tensor:
    ours, theirs = (F.log_softmax(each / variant.temperature, 1) for each in (given, answer))
    divergence = F.kl_div(ours, theirs, log_target=True, reduction="batchmean")
    distilled = variant.distillation * variant.temperature**2 * divergence
    return distilled + variant.supervision * F.cross_entropy(given, label)


def recipes(cases: Sequence[Case], variants: Sequence[Variant], epochs: int) -> None:
    print("| recipe |", " | ".join(found.name for found in cases), "|")
    print("|---|" + "---|" * len(cases))
    before = [found.metric(found.pruned(found.network, REMOVED[found.name]).eval()) for found in cases]
    for name, values in (("original", [found.metric(found.network) for found in cases]), ("cut", before)):
        print(f"| {name} |", " | ".join(f"{value:.2%}" for value in values), "|", flush=True)
    for variant in variants:
        found = [trained(each, variant, epochs) for each in cases]
        print(f"| {variant.name} |", " | ".join(f"{value:.2%}" for value in found), "|", flush=True)


def features(found: Case, left: float, epochs: int, weights: Sequence[float]) -> None:
    """Accuracy by the weight of the residual streams. left: share of each group inside a branch."""
    dense = capture(found.network, found.inputs[:2])
    coupling = analyse(dense)
    kept = {group.name: range(max(1, int(group.units * left))) for group in coupling.groups}
    sums = whole_streams(dense, dense)
    inside = {
        name: units
        for name, units in kept.items()
        if whole_streams(cut(dense, coupling, {name: units}), dense) == sums
    }
    student = cut(dense, coupling, inside)
    batches = [(part,) for part in found.inputs[: tasks.CALIBRATION].split(tasks.BATCH)]
    refit(student, dense, coupling, inside, batches)
    with torch.no_grad():
        meanings = understood(dense, dense.answer(*dense.inputs), "classes")
        yards = yardstick(meanings, [dense.run(*inputs) for inputs in batches])
    pairs = [
        ((inputs,), labels)
        for inputs, labels in zip(
            found.inputs.split(tasks.BATCH), found.labels.split(tasks.BATCH), strict=True
        )
    ]
    told = [f"{found.metric(student.module):.2%}"]
    for weight in weights:
        tried = student.copy()
        recipe = Recipe(TrainingOptions(epochs), learning_rate=3e-3, features=weight)
        objective = Objective(dense, yards, recipe, F.cross_entropy)
        torch.manual_seed(0)
        train(tried, objective, lambda _: pairs, len(pairs))
        told.append(f"{found.metric(tried.module):.2%}")
    print(f"| {found.name}, {left:.0%} of the units inside branches | {' | '.join(told)} |", flush=True)


def epoch_ratio(data: Path, work: Path, images: int, rounds: int) -> None:
    """Processor seconds of an epoch of a ResNet-20 whose parameters are halved: plain, and ours, in turn."""
    source = tasks.TABLE["resnet20"](data, work, images)
    task = tasks.as_task(source, images, tasks.EVALUATED)
    shop = Workshop(task, TABLE["onnxruntime-x86"])
    pruned = edgeprune.prune(source.network, task.example, 0.5).captured
    options = TrainingOptions(epochs=2)
    objective = Objective(shop.dense, shop.yardstick, Recipe(options, learning_rate=3e-3), shop.loss)
    pairs = [(inputs[0], target) for inputs, target in shop.split.epoch(0)]
    error = shop.judge.error

    def ours() -> float:
        """From the end of the first epoch to that of the second, the check between them included."""
        ends = []
        train(
            *(pruned.copy(), objective, shop.split.epoch, shop.split.steps),
            judge=error,
            listen=lambda now: ends.append(time.process_time()),
        )
        return ends[-1] - ends[len(pairs) - 1]

    def plain() -> float:
        student = pruned.copy().module
        began = time.process_time()
        _plain_epoch(student, source.network, pairs)
        return time.process_time() - began

    rows = [(plain(), ours()) for _ in range(rounds)]
    one, other = (median(column) for column in zip(*rows, strict=True))
    print(f"plain {one:.2f} s, ours {other:.2f} s an epoch of {len(pairs)} batches: {other / one:.3f}x")


def _plain_epoch(student: nn.Module, teacher: nn.Module, pairs: Sequence[tuple[torch.Tensor, ...]]) -> None:
    student.train()
    optimiser = _optimiser(student, VARIANTS[0])
    for inputs, target in pairs:
        with torch.no_grad():
            answer = teacher(inputs)
        optimiser.zero_grad(set_to_none=True)
        _loss(student(inputs), answer, target, VARIANTS[0]).backward()
        nn.utils.clip_grad_norm_(student.parameters(), 1.0)
        optimiser.step()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, default=DATA)
    parser.add_argument("--work", type=Path, default=cache(), help="where weights are kept")
    parser.add_argument("--samples", type=int, default=6000)
    parser.add_argument("--epochs", type=int, default=1)
    parser.add_argument("--only", default="", help="cases whose name contains this word")
    parser.add_argument("--recipe", default="", help="recipes whose name contains this word")
    parser.add_argument("--features", type=float, metavar="SHARE", help="share of the units left in branches")
    parser.add_argument("--epoch", action="store_true", help="the seconds of an epoch instead")
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    torch.set_num_threads(1)
    if options.epoch:
        epoch_ratio(options.data, options.work, options.samples, options.rounds)
        return
    names = [name for name in REMOVED if options.only in name]
    cases = [case(name, options.data, options.work, options.samples) for name in names]
    if options.features is not None:
        print("| network | cut | without streams | weight 10 |\n|---|---|---|---|")
        for found in cases:
            features(found, options.features, options.epochs, (0.0, 10.0))
        return
    recipes(cases, [each for each in VARIANTS if options.recipe in each.name], options.epochs)


if __name__ == "__main__":
    main()
